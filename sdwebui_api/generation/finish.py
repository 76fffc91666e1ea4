"""From decoded tensors to the pictures of the answer: overlays, colour correction, saving, grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from sdwebui_api.generation import describe
from sdwebui_api.generation.keeping import PictureKeeper
from sdwebui_api.generation.latents import tensor_to_images
from sdwebui_api.generation.plan import Batch
from sdwebui_api.generation.request import GeneratedImage
from sdwebui_api.generation.run import Run
from sdwebui_api.imaging.color import apply_color_correction
from sdwebui_api.imaging.grid import image_grid
from sdwebui_api.imaging.inpaint import PreparedInit
from sdwebui_api.imaging.masks import apply_overlay, mask_composite


@dataclass(frozen=True)
class Finisher:
    """Turns what the workflows return into finished pictures, in A1111's order. `prepared` is img2img's."""

    run: Run
    keeper: PictureKeeper
    prepared: PreparedInit | None

    def batch(self, batch: Batch, decoded: Tensor) -> list[GeneratedImage]:
        """The pictures of one batch: each sample, followed by its mask and mask composite where asked for."""
        finished: list[GeneratedImage] = []
        for position, image in enumerate(tensor_to_images(decoded)):
            finished += self._picture(batch, position, image)
        return finished

    def grid(self, images: list[GeneratedImage]) -> GeneratedImage | None:
        """The contact sheet, saved and returned as the options say. None when it is not part of the answer."""
        options = self.run.request.options
        wanted = options.return_grid or options.grid_save
        too_few = len(images) < 2 and options.grid_only_if_multiple
        if not images or self.run.request.do_not_save_grid or not wanted or too_few:
            return None
        sheet = image_grid(
            [image.image for image in images],
            self.run.plan.batch_size,
            n_rows=options.n_rows,
            prevent_empty_spots=options.grid_prevent_empty_spots,
            background=options.grid_background_color,
        )
        grid = GeneratedImage(sheet, describe.infotext(self.run, 0), "grid")
        if options.grid_save:
            grid.saved_path = self.keeper.save(grid.image, 0, grid.infotext, grid=True)
        return grid if options.return_grid else None

    def _picture(self, batch: Batch, position: int, image: Image.Image) -> list[GeneratedImage]:
        index = batch.index * self.run.plan.batch_size + position
        infotext = describe.infotext(self.run, index)
        image = self._colour_corrected(image, position, index, infotext)
        image, denoised = self._overlaid(image, position)
        sample = GeneratedImage(image, infotext)
        if self.keeper.keeps_samples:
            sample.saved_path = self.keeper.save(image, index, infotext)
        return [sample, *self._masks(denoised, index, infotext)]

    def _overlaid(self, image: Image.Image, position: int) -> tuple[Image.Image, Image.Image]:
        """The picture with what inpainting keeps laid over it, and the repainted picture alone at the same size."""
        prepared = self.prepared
        if prepared is None or not self.run.request.options.overlay_inpaint:
            return apply_overlay(image, None)
        return apply_overlay(image, _of(prepared.overlays, position), prepared.paste_to, prepared.upscaler)

    def _colour_corrected(self, image: Image.Image, position: int, index: int, infotext: str) -> Image.Image:
        target = _of(self.prepared.color_targets, position) if self.prepared else None
        if target is None:
            return image
        if self.run.request.options.save_images_before_color_correction and self.keeper.keeps_samples:
            overlaid, _ = self._overlaid(image, position)
            self.keeper.save(overlaid, index, infotext, suffix="-before-color-correction")
        return apply_color_correction(target, image)

    def _masks(self, denoised: Image.Image, index: int, infotext: str) -> list[GeneratedImage]:
        """The mask and the repainted part alone; each is saved and returned as its two options say."""
        mask = self.prepared.mask_for_overlay if self.prepared else None
        if mask is None:
            return []
        options, saves = self.run.request.options, self.keeper.keeps_samples
        found: list[GeneratedImage] = []
        if options.return_mask or options.save_mask:
            image = mask.convert("RGB")
            if options.save_mask and saves:
                self.keeper.save(image, index, infotext, suffix="-mask")
            if options.return_mask:
                found.append(GeneratedImage(image, "", "mask"))
        if options.return_mask_composite or options.save_mask_composite:
            image = mask_composite(denoised, mask)
            if options.save_mask_composite and saves:
                self.keeper.save(image, index, infotext, suffix="-mask-composite")
            if options.return_mask_composite:
                found.append(GeneratedImage(image, "", "mask_composite"))
        return found


def _of(values: tuple[Any, ...], position: int) -> Any:
    """One value per picture; a single one serves them all."""
    if not values:
        return None
    return values[0] if len(values) == 1 else values[position]
