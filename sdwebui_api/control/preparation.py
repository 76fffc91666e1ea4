"""From a unit to the maps of each pass: which picture it reads, what the preprocessor makes of it, at which size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from sdwebui_api.control.hint import (
    Size,
    crop_to_masked_area,
    fit_map,
    has_content,
    inpaint_mask,
    pixel_perfect_resolution,
)
from sdwebui_api.control.preprocessor import PreprocessorContext
from sdwebui_api.control.unit import ControlUnit, ResizeMode
from sdwebui_api.errors import BadRequest

if TYPE_CHECKING:
    from PIL import Image

    from sdwebui_api.control.preprocessor import Picture
    from sdwebui_api.imaging.inpaint import MaskSpec


@dataclass(frozen=True)
class Surroundings:
    """What the request around a unit says.

    size: of the first pass in pixels, multiples of 8. init_image, mask, init_resize_mode: img2img's.
    """

    size: Size
    init_image: Image.Image | None = None
    mask: MaskSpec | None = None
    init_resize_mode: int = 0


@dataclass(frozen=True, eq=False)
class UnitMaps:
    """What the preprocessor made of each of a unit's pictures, uint8 `[H, W, 3]` (4: with a mask), and how it fits."""

    detected: tuple[tuple[Picture, ResizeMode], ...]
    _fitted: dict[Size, tuple[Picture, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, unit: ControlUnit, around: Surroundings, context: PreprocessorContext) -> UnitMaps:
        """Runs the preprocessor. Raises BadRequest naming the unit's field."""
        return cls(
            tuple(
                (_run_preprocessor(unit, _cropped(unit, picture, around, mode), around, mode, context), mode)
                for picture, mode in _inputs(unit, around)
            )
        )

    def at(self, size: Size) -> tuple[Picture, ...]:
        """The maps of a pass of `size`, one per picture that the unit was given."""
        if size not in self._fitted:
            self._fitted[size] = tuple(fit_map(found, size, mode) for found, mode in self.detected)
        return self._fitted[size]

    def shown(self, sizes: Sequence[Size]) -> list[Picture]:
        """Picture by picture, at each of `sizes`."""
        return [self.at(size)[index] for index in range(len(self.detected)) for size in sizes]


def _run_preprocessor(
    unit: ControlUnit, picture: Picture, around: Surroundings, mode: ResizeMode, context: PreprocessorContext
) -> Picture:
    if "+lama" in unit.module.name and mode == ResizeMode.FILL:
        picture = fit_map(picture, around.size, mode)  # the border is what is to be filled in
    resolution = unit.processor_res
    if unit.pixel_perfect:
        resolution = pixel_perfect_resolution(picture, around.size, mode)
    result = unit.module.run(
        picture,
        resolution=int(resolution),
        slider_1=unit.threshold_a,
        slider_2=unit.threshold_b,
        mask=picture[:, :, 3] if picture.shape[2] == 4 else None,
        context=context,
    )
    found: Picture = result.map
    return found


def _inputs(unit: ControlUnit, around: Surroundings) -> Sequence[tuple[Picture, ResizeMode]]:
    """The pictures to preprocess, with how each is to be fitted: the unit's own, else img2img's."""
    inpaints = reads_mask(unit)
    if unit.images:
        return [(_with_mask(one.image, one.mask, inpaints), unit.resize_mode) for one in unit.images]
    if around.init_image is None:
        raise BadRequest("The unit is enabled but has no picture", field=f"{unit.field}.image")
    picture = np.array(around.init_image.convert("RGB"))
    # Mode 3 (latent) has no counterpart for maps.
    mode = ResizeMode(around.init_resize_mode if around.init_resize_mode < 3 else 0)
    mask = None
    if inpaints and around.mask is not None:
        mask = np.array(inpaint_mask(around.mask))
        mask = mask if mask.shape == picture.shape[:2] else None
    return [(_with_mask(picture, mask, inpaints), mode)]


def reads_mask(unit: ControlUnit) -> bool:
    """Whether the mask belongs to the map, as inpainting's does."""
    return "inpaint" in unit.module.name


def _with_mask(picture: Picture, mask: Picture | None, inpaints: bool) -> Picture:
    """For inpainting the mask becomes the fourth channel; for everything else a painted mask is the picture."""
    painted = mask if has_content(mask) else None
    if inpaints:
        alpha = np.zeros(picture.shape[:2], dtype=np.uint8) if painted is None else painted
        return np.dstack([picture, alpha])
    return picture if painted is None else np.repeat(painted[:, :, None], 3, axis=2)


def _cropped(unit: ControlUnit, picture: Picture, around: Surroundings, mode: ResizeMode) -> Picture:
    """Inpainting "only masked" shows the unit the part that is generated, unless the client wants otherwise."""
    mask = around.mask
    if mask is None or not mask.full_resolution or not unit.inpaint_crop_input_image:
        return picture
    if "reference" in unit.module.name:
        return picture
    return crop_to_masked_area(picture, mask, around.size, mode)
