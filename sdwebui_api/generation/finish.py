"""From decoded tensors to the pictures of the answer: overlays, colour correction, saving, grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
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
from sdwebui_api.scripting.hooks import MaskOverlay, PicturePlace


@dataclass(frozen=True)
class Finisher:
    """Turns what the workflows return into finished pictures, in A1111's order. `prepared` is img2img's."""

    run: Run
    keeper: PictureKeeper
    prepared: PreparedInit | None

    def batch(self, batch: Batch, decoded: Tensor) -> list[GeneratedImage]:
        """The pictures of one batch: each sample, followed by its mask and mask composite where asked for."""
        if self.run.hooks.has("postprocess_batch"):
            pictures = list(torch.clamp((decoded.float() + 1.0) / 2.0, 0.0, 1.0))
            pictures = self.run.hooks.postprocess_batch(pictures, batch)
            images = [image for picture in pictures for image in tensor_to_images(picture[None] * 2.0 - 1.0)]
        else:
            images = tensor_to_images(decoded)
        finished: list[GeneratedImage] = []
        for position, image in enumerate(images):
            finished += self._picture(batch, position, self.run.censor(image))
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
        # A script may have added pictures: they are described as the last planned one.
        index = min(batch.index * self.run.plan.batch_size + position, self.run.plan.image_count - 1)
        place = PicturePlace(batch, position, index)
        image = self._with_restored_faces(image, index)
        image = self.run.hooks.postprocess_image(image, place)
        overlay = self._overlay(place)
        image = self._colour_corrected(image, overlay, place)
        image, denoised = self._overlaid(image, overlay)
        image = self.run.hooks.postprocess_image_after_composite(image, place)
        infotext = describe.infotext(self.run, index)
        sample = GeneratedImage(image, infotext)
        if self.keeper.keeps_samples:
            sample.saved_path = self.keeper.save(image, index, infotext)
        return [sample, *self._masks(denoised, overlay.mask, index, infotext)]

    def _with_restored_faces(self, image: Image.Image, index: int) -> Image.Image:
        request, restore = self.run.request, self.run.restore_faces
        if not request.restore_faces or restore is None:
            return image
        if request.options.save_images_before_face_restoration and self.keeper.keeps_samples:
            infotext = describe.infotext(self.run, index)
            self.keeper.save(image, index, infotext, suffix="-before-face-restoration")
        return restore(image, float(request.options.code_former_weight))

    def _overlay(self, place: PicturePlace) -> MaskOverlay:
        """What inpainting lays over this picture."""
        prepared = self.prepared
        if prepared is None:
            return MaskOverlay(None, None)
        kept = _of(prepared.overlays, place.position) if self.run.request.options.overlay_inpaint else None
        return self.run.hooks.postprocess_maskoverlay(MaskOverlay(prepared.mask_for_overlay, kept), place)

    def _overlaid(self, image: Image.Image, overlay: MaskOverlay) -> tuple[Image.Image, Image.Image]:
        """The picture with what inpainting keeps laid over it, and the repainted picture alone at the same size."""
        if self.prepared is None:
            return apply_overlay(image, None)
        return apply_overlay(image, overlay.overlay, self.prepared.paste_to, self.prepared.upscaler)

    def _colour_corrected(self, image: Image.Image, overlay: MaskOverlay, place: PicturePlace) -> Image.Image:
        target = _of(self.prepared.color_targets, place.position) if self.prepared else None
        if target is None:
            return image
        if self.run.request.options.save_images_before_color_correction and self.keeper.keeps_samples:
            overlaid, _ = self._overlaid(image, overlay)
            infotext = describe.infotext(self.run, place.index)
            self.keeper.save(overlaid, place.index, infotext, suffix="-before-color-correction")
        return apply_color_correction(target, image)

    def _masks(
        self, denoised: Image.Image, mask: Image.Image | None, index: int, infotext: str
    ) -> list[GeneratedImage]:
        """The mask and the repainted part alone; each is saved and returned as its two options say."""
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
    """One value per picture; a single one serves them all. None for a picture beyond them, which a script added."""
    if len(values) == 1:
        return values[0]
    return values[position] if position < len(values) else None
