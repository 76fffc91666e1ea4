"""Poor man's outpainting: a larger canvas around the picture, inpainted tile by tile."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from PIL import Image, ImageDraw

from sdwebui_api.errors import BadRequest
from sdwebui_api.generation.request import GeneratedImage, InpaintMask
from sdwebui_api.imaging.canvas import DIRECTIONS, Margins, margins_for
from sdwebui_api.imaging.inpaint import FILL_UNNAMED
from sdwebui_api.imaging.tiles import Corner, Tiling, cut
from sdwebui_api.scripting.checks import whole
from sdwebui_api.scripting.hooks import (
    Argument,
    Arguments,
    GenerationRequest,
    GenerationResult,
    Script,
    ScriptContext,
)
from sdwebui_api.scripting.results import Collected, pictures, start_of

FILLS = ("fill", "original", "latent noise", "latent nothing")


class PoorMansOutpainting(Script):
    title = "Poor man's outpainting"
    kinds = ("img2img",)
    args = (
        Argument("pixels", 128, "Pixels to expand", 8, 256, 8),
        Argument("mask_blur", 4, "Mask blur", 0, 64, 1),
        Argument("inpainting_fill", "fill", "Masked content", choices=FILLS),
        Argument("direction", DIRECTIONS, "Outpainting direction", choices=DIRECTIONS),
    )

    def run(self, request: GenerationRequest, args: Arguments, context: ScriptContext) -> GenerationResult:
        blur, fill = whole(args.mask_blur, 0, 512, "Mask blur"), _fill(args.inpainting_fill)
        image = start_of(request).images[0].convert("RGB")
        margins = margins_for(image.size, args.pixels, args.direction, "script_args")
        canvas = Image.new("RGB", margins.canvas(image.size))
        canvas.paste(image, (margins.left, margins.up))
        mask = InpaintMask(_mask(canvas.size, margins, blur * 2), blur * 2, blur * 2, fill=fill, full_resolution=False)
        tiling = cut(canvas.width, canvas.height, request.width, request.height, args.pixels)
        latent_mask = _mask(canvas.size, margins, blur // 2)
        return _Outpainting(request, canvas, tiling, margins, mask, latent_mask, context).run()


def _mask(size: tuple[int, int], margins: Margins, inset: int) -> Image.Image:
    """White where to paint: the margins, and `inset` pixels of the picture beside each of them."""
    mask = Image.new("L", size, "white")
    left = margins.left + (inset if margins.left else 0)
    top = margins.up + (inset if margins.up else 0)
    right = size[0] - margins.right - (inset if margins.right else 0)
    bottom = size[1] - margins.down - (inset if margins.down else 0)
    if left <= right and top <= bottom:
        ImageDraw.Draw(mask).rectangle((left, top, right, bottom), fill="black")
    return mask


@dataclass
class _Outpainting:
    """The tiles that have something to paint, one after the other. Masks are the canvas's."""

    request: GenerationRequest
    canvas: Image.Image
    tiling: Tiling
    margins: Margins
    mask: InpaintMask
    latent_mask: Image.Image
    context: ScriptContext
    collected: Collected = field(default_factory=Collected)

    def run(self) -> GenerationResult:
        corners = [corner for corner in self.tiling.corners if not self._untouched(corner)]
        self.context.set_total(len(corners))
        tiles = self.tiling.tiles(self.canvas)
        for index, corner in enumerate(corners):
            if self.context.job.interrupted and self.collected.results:
                break
            self.context.job.start_batch(f"Batch {index + 1} out of {len(corners)}", self.request.steps)
            painted = pictures(self.collected.add(self.context.generate(self._request(index, corner, tiles[corner]))))
            tiles |= dict(zip([corner], painted, strict=False))
        image = GeneratedImage(self.tiling.combine(tiles), self.collected.infotext, described=False)
        if self.request.options.samples_save and not self.request.do_not_save_samples:
            image.saved_path = self.context.save(image.image, self.request, image.infotext)
        return self.collected.answer([image])

    def _untouched(self, corner: Corner) -> bool:
        """The tile lies inside the picture."""
        x, y = corner
        right, bottom = self.canvas.width - self.margins.right, self.canvas.height - self.margins.down
        inside_x = x >= self.margins.left and x + self.tiling.tile_width <= right
        return inside_x and y >= self.margins.up and y + self.tiling.tile_height <= bottom

    def _request(self, index: int, corner: Corner, tile: Image.Image) -> GenerationRequest:
        init = replace(
            start_of(self.request),
            images=(tile,),
            mask=replace(self.mask, image=self.tiling.tile(self.mask.image, corner)),
            latent_mask=self.tiling.tile(self.latent_mask, corner),
            posterior_seed=self.collected.last_seed,
        )
        return replace(
            self.request,
            seed=self.request.seed + index,
            init=init,
            n_iter=1,
            batch_size=1,
            do_not_save_samples=True,
            do_not_save_grid=True,
        )


def _fill(value: object) -> int:
    """By name or by index. A1111's page sends the index, its API takes "fill" and then names it nowhere."""
    names = {"fill": FILL_UNNAMED, **{name: index for index, name in enumerate(FILLS) if index}}
    if isinstance(value, str) and value in names:
        return names[value]
    if isinstance(value, int):
        return whole(value, 0, len(FILLS) - 1, "Masked content")
    raise BadRequest("no such masked content", field="script_args[2]", choices=FILLS)
