"""Outpainting mk2: the picture grows side by side, over noise that continues it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from sdwebui_api.generation.request import GeneratedImage, InpaintMask
from sdwebui_api.imaging.canvas import DIRECTIONS, STEP, Margins, margins_for
from sdwebui_api.imaging.grid import image_grid
from sdwebui_api.imaging.inpaint import ORIGINAL
from sdwebui_api.imaging.matched_noise import matched_noise
from sdwebui_api.scripting.checks import number, whole
from sdwebui_api.scripting.hooks import (
    Argument,
    Arguments,
    GenerationRequest,
    GenerationResult,
    Script,
    ScriptContext,
)
from sdwebui_api.scripting.results import Collected, pictures, start_of

Side = Literal["left", "right", "up", "down"]
BLUR_FACTOR = 4
_HINT = (
    '<p style="margin-bottom:0.75em">Recommended settings: Sampling Steps: 80-100, '
    "Sampler: Euler a, Denoising strength: 0.8</p>"
)


class OutpaintingMk2(Script):
    title = "Outpainting mk2"
    kinds = ("img2img",)
    args = (
        Argument("hint", _HINT),
        Argument("pixels", 128, "Pixels to expand", 8, 256, 8),
        Argument("mask_blur", 8, "Mask blur", 0, 64, 1),
        Argument("direction", DIRECTIONS, "Outpainting direction", choices=DIRECTIONS),
        Argument("noise_q", 1.0, "Fall-off exponent (lower=higher detail)", 0.0, 4.0, 0.01),
        Argument("color_variation", 0.05, "Color variation", 0.0, 1.0, 0.01),
    )

    def run(self, request: GenerationRequest, args: Arguments, context: ScriptContext) -> GenerationResult:
        _check(args)
        image = start_of(request).images[0].convert("RGB")
        margins = margins_for(image.size, args.pixels, args.direction, "script_args")
        context.set_total(request.n_iter * margins.sides)
        return _Outpainting(request, image, margins, args, context).run()


def _check(args: Arguments) -> None:
    whole(args.mask_blur, 0, 256, "Mask blur")
    number(args.noise_q, 0, 4, "Fall-off exponent")
    number(args.color_variation, 0, 1, "Color variation")


@dataclass(frozen=True)
class _Growth:
    """One step: `pixels` more on `side`, blending over `blur` (x, y) pixels of the picture."""

    side: Side
    pixels: int
    blur: tuple[int, int]

    @property
    def horizontal(self) -> bool:
        return self.side in ("left", "right")

    def grown(self, size: tuple[int, int]) -> tuple[int, int]:
        width, height = size
        return (width + self.pixels, height) if self.horizontal else (width, height + self.pixels)

    def kept(self, size: tuple[int, int], canvas: tuple[int, int], blurs: int) -> tuple[int, int, int, int]:
        """The box of a canvas that stays as it is: without the new side and `blurs` blur widths beside it."""
        x, y = self.pixels + self.blur[0] * blurs, self.pixels + self.blur[1] * blurs
        return (
            x if self.side == "left" else 0,
            y if self.side == "up" else 0,
            canvas[0] - x if self.side == "right" else size[0],
            canvas[1] - y if self.side == "down" else size[1],
        )


@dataclass
class _Outpainting:
    request: GenerationRequest
    image: Image.Image
    margins: Margins
    args: Arguments
    context: ScriptContext
    collected: Collected = field(default_factory=Collected)

    def run(self) -> GenerationResult:
        finished: list[Image.Image] = []
        for batch in range(self.request.n_iter):
            images = [self.image] * self.request.batch_size
            title = f"Batch {batch + 1} out of {self.request.n_iter}"
            for growth in self._growths():
                if self.context.job.interrupted and self.collected.results:
                    break
                self.context.job.start_batch(title, self.request.steps)
                images = self._grow(images, growth)
            finished += images
            if self.context.job.interrupted:
                break
        return self._answer(finished)

    def _growths(self) -> list[_Growth]:
        margins, blur = self.margins, self.args.mask_blur
        blurs = (blur if margins.left or margins.right else 0, blur if margins.up or margins.down else 0)
        sides: tuple[tuple[Side, int], ...] = (
            ("left", margins.left),
            ("right", margins.right),
            ("up", margins.up),
            ("down", margins.down),
        )
        return [_Growth(side, pixels, blurs) for side, pixels in sides if pixels]

    def _grow(self, images: list[Image.Image], growth: _Growth) -> list[Image.Image]:
        """`images`, all of one size, larger on one side; only the part next to it goes through the model."""
        size = growth.grown(images[0].size)
        canvas = (math.ceil(size[0] / STEP) * STEP, math.ceil(size[1] / STEP) * STEP)
        box = self._worked_on(growth, size, canvas)
        mask = _painted(Image.new("RGB", canvas, "white"), growth.kept(size, canvas, 1))
        noised = [self._with_noise(image, growth, mask) for image in images]
        request = self._request([image.crop(box) for image in noised], mask.crop(box), growth, size, box)
        done = pictures(self.collected.add(self.context.generate(request)))
        for image, part in zip(noised, done, strict=False):
            image.paste(part, box[:2])
        return [image.crop((0, 0, *size)) for image in noised]

    def _worked_on(self, growth: _Growth, size: tuple[int, int], canvas: tuple[int, int]) -> tuple[int, int, int, int]:
        """The box of the canvas at its growing side, as large as the request's pictures."""
        width = min(self.request.width, size[0]) if growth.horizontal else canvas[0]
        height = canvas[1] if growth.horizontal else min(self.request.height, size[1])
        left = 0 if growth.side == "left" else canvas[0] - width
        top = 0 if growth.side == "up" else canvas[1] - height
        return left, top, left + width, top + height

    def _with_noise(self, image: Image.Image, growth: _Growth, mask: Image.Image) -> Image.Image:
        canvas = Image.new("RGB", mask.size)
        left, top = growth.pixels * (growth.side == "left"), growth.pixels * (growth.side == "up")
        canvas.paste(image, (left, top))
        source, hidden = (np.asarray(picture, dtype=np.float64) / 255.0 for picture in (canvas, mask))
        filled = matched_noise(source, hidden, self.args.noise_q, self.args.color_variation)
        return Image.fromarray(np.clip(filled * 255.0, 0.0, 255.0).astype(np.uint8))

    def _request(
        self,
        parts: list[Image.Image],
        mask: Image.Image,
        growth: _Growth,
        size: tuple[int, int],
        box: tuple[int, int, int, int],
    ) -> GenerationRequest:
        width, height = box[2] - box[0], box[3] - box[1]
        latent_mask = _painted(Image.new("RGB", (width, height), "white"), growth.kept(size, (width, height), 2))
        blur_x, blur_y = (blur * BLUR_FACTOR for blur in growth.blur)
        init = replace(
            start_of(self.request),
            images=tuple(parts),
            mask=InpaintMask(mask, blur_x, blur_y, fill=ORIGINAL, full_resolution=False),
            latent_mask=latent_mask,
            posterior_seed=self.collected.last_seed,
        )
        return replace(
            self.request,
            width=width,
            height=height,
            init=init,
            n_iter=1,
            batch_size=len(parts),
            do_not_save_samples=True,
            do_not_save_grid=True,
        )

    def _answer(self, finished: list[Image.Image]) -> GenerationResult:
        options, text = self.request.options, self.collected.infotext
        images = [GeneratedImage(image, text, described=False) for image in finished]
        if options.samples_save and not self.request.do_not_save_samples:
            for image in images:
                image.saved_path = self.context.save(image.image, self.request, text)
        if len(finished) > 1 or not options.grid_only_if_multiple:
            grid = GeneratedImage(image_grid(finished), text, "grid", described=False)
            if options.grid_save and not self.request.do_not_save_grid:
                grid.saved_path = self.context.save(grid.image, self.request, text, grid=True)
            if options.return_grid:
                images.insert(0, grid)
        return self.collected.answer(images)


def _painted(mask: Image.Image, kept: tuple[int, int, int, int]) -> Image.Image:
    left, top, right, bottom = kept
    if left <= right and top <= bottom:
        ImageDraw.Draw(mask).rectangle(kept, fill="black")
    return mask
