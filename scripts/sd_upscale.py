"""SD upscale: enlarge a picture, then repaint it tile by tile."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from PIL import Image

from sdwebui_api.errors import BadRequest
from sdwebui_api.generation.request import GeneratedImage
from sdwebui_api.imaging.resize import flatten
from sdwebui_api.imaging.tiles import Tiling, cut
from sdwebui_api.imaging.upscale import Upscaler, find_upscaler
from sdwebui_api.scripting.checks import number, whole
from sdwebui_api.scripting.hooks import (
    Argument,
    Arguments,
    Files,
    GenerationRequest,
    GenerationResult,
    Kind,
    Script,
    ScriptContext,
)
from sdwebui_api.scripting.results import Collected, pictures, start_of

MAX_PIXELS = 2**28
_HINT = (
    '<p style="margin-bottom:0.75em">Will upscale the image by the selected scale factor; '
    "use width and height sliders to set tile size</p>"
)


class SdUpscale(Script):
    title = "SD upscale"
    kinds = ("img2img",)

    def arguments_for(self, kind: Kind, files: Files) -> tuple[Argument, ...]:
        names = tuple(row.name for row in files.upscalers.rows())
        return (
            Argument("hint", _HINT),
            Argument("overlap", 64, "Tile overlap", 0, 256, 16),
            Argument("upscaler", "None", "Upscaler", choices=names),
            Argument("scale_factor", 2.0, "Scale Factor", 1.0, 4.0, 0.05),
        )

    def run(self, request: GenerationRequest, args: Arguments, context: ScriptContext) -> GenerationResult:
        upscaler = find_upscaler(self._upscaler_name(args.upscaler, context), "script_args[2]", context.upscalers)
        image = _enlarged(request, upscaler, args.scale_factor)
        whole(args.overlap, 0, 4096, "Tile overlap")
        tiling = cut(image.width, image.height, request.width, request.height, args.overlap)
        infotext = {"SD upscale overlap": args.overlap, "SD upscale upscaler": upscaler.name}
        return _Tiles(request, image, tiling, infotext, context).run()

    def _upscaler_name(self, wanted: object, context: ScriptContext) -> str:
        """By name, or by its place in the list."""
        names = [row.name for row in context.files.upscalers.rows()]
        if isinstance(wanted, int) and not isinstance(wanted, bool):
            return names[whole(wanted, 0, len(names) - 1, "Upscaler")]
        return str(wanted)


def _enlarged(request: GenerationRequest, upscaler: Upscaler, scale: float) -> Image.Image:
    image = flatten(start_of(request).images[0], request.options.img2img_background_color)
    number(scale, 0.1, 16, "Scale Factor")
    if image.width * image.height * scale * scale > MAX_PIXELS:
        raise BadRequest(f"{image.width}x{image.height} times {scale} is too large", field="script_args[3]")
    return image if upscaler.name == "None" else upscaler.upscale(image, scale)


@dataclass
class _Tiles:
    request: GenerationRequest
    image: Image.Image
    tiling: Tiling
    infotext: dict[str, object]
    context: ScriptContext
    collected: Collected = field(default_factory=Collected)

    def run(self) -> GenerationResult:
        count = self.request.n_iter
        self.context.set_total(self._batches * count)
        finished = []
        for turn in range(count):
            finished.append(self._repainted(turn))
            if self.context.job.interrupted:
                break
        text = self.collected.infotext
        images = [GeneratedImage(image, text, described=False) for image in finished]
        if self.request.options.samples_save and not self.request.do_not_save_samples:
            for turn, image in enumerate(images):
                start = replace(self.request, seed=self.request.seed + turn)
                image.saved_path = self.context.save(image.image, start, text)
        return self.collected.answer(images)

    @property
    def _batches(self) -> int:
        return math.ceil(len(self.tiling.corners) / self.request.batch_size)

    def _repainted(self, turn: int) -> Image.Image:
        """The whole picture, all tiles repainted; those after an interrupt stay as they were."""
        tiles = self.tiling.tiles(self.image)
        corners, size = self.tiling.corners, self.request.batch_size
        for batch in range(self._batches):
            if self.context.job.interrupted and self.collected.results:
                break
            part = corners[batch * size : (batch + 1) * size]
            done = self._generate([tiles[corner] for corner in part], turn, batch)
            tiles |= dict(zip(part, done, strict=False))
        return self.tiling.combine(tiles)

    def _generate(self, tiles: list[Image.Image], turn: int, batch: int) -> list[Image.Image]:
        request = self.request
        index, total = batch + turn * self._batches, self._batches * request.n_iter
        self.context.job.start_batch(f"Batch {index + 1} out of {total}", request.steps)
        wanted = replace(
            request,
            seed=request.seed + turn + batch,
            init=replace(start_of(request), images=tuple(tiles), posterior_seed=self.collected.last_seed),
            # A single tile would be painted as often as the batch is large.
            batch_size=1 if len(tiles) == 1 else request.batch_size,
            n_iter=1,
            do_not_save_samples=True,
            do_not_save_grid=True,
        )
        return pictures(self.collected.add(self.context.generate(wanted, infotext=self.infotext)))
