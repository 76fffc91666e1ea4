"""What clients ask of ControlNet outside of a generation: listings, and maps on their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sdwebui_api.control.hint import shown_map
from sdwebui_api.control.preprocessor import Preprocessor
from sdwebui_api.control.preprocessors.table import PREPROCESSORS, find_preprocessor
from sdwebui_api.control.types import control_types, in_listing_order
from sdwebui_api.errors import BadRequest

if TYPE_CHECKING:
    from PIL import Image

    from sdwebui_api.catalog.controlnets import ControlModelCatalog
    from sdwebui_api.control.annotators import AnnotatorFolders
    from sdwebui_api.control.preprocessor import Picture, PreprocessorContext, PreprocessorResult

Sources = Sequence[tuple["Image.Image", "Image.Image | None"]]
"""Pictures with their masks (white: inside)."""


@dataclass(frozen=True)
class Detection:
    """images: a map (or what stands for it) per picture. poses: OpenPose JSON per picture, None for other maps."""

    images: list[Image.Image]
    poses: list[dict[str, Any]] | None = None


class ControlService:
    def __init__(
        self,
        models: ControlModelCatalog,
        annotators: AnnotatorFolders,
        preprocessors: Sequence[Preprocessor] = PREPROCESSORS,
    ) -> None:
        self._models = models
        self._annotators = annotators
        self._preprocessors = tuple(preprocessors)

    def with_models(self, models: ControlModelCatalog) -> ControlService:
        return ControlService(models, self._annotators, self._preprocessors)

    def model_list(self, *, refresh: bool = True) -> list[str]:
        if refresh:
            self._models.refresh()
        return [file.title for file in self._models.all()]

    def module_list(self, *, labels: bool = False) -> dict[str, Any]:
        """`{"module_list", "module_detail"}` by name, or by label."""
        ordered = in_listing_order(self._preprocessors)
        details = {one.label if labels else one.name: _detail(one) for one in ordered}
        return {"module_list": list(details), "module_detail": details}

    def control_types(self) -> dict[str, Any]:
        return {
            name: {
                "module_list": list(found.modules),
                "model_list": list(found.models),
                "default_option": found.default_module,
                "default_model": found.default_model,
            }
            for name, found in control_types(self._preprocessors, self.model_list(refresh=False)).items()
        }

    def preprocessor(self, name: str, field: str) -> Preprocessor:
        """One that makes pictures. Raises BadRequest(field)."""
        found = find_preprocessor(name, field=field, table=self._preprocessors)
        if not found.returns_image:
            raise BadRequest("Module not supported: it makes no picture", field=field)
        return found

    def detect(
        self,
        preprocessor: Preprocessor,
        sources: Sources,
        *,
        resolution: float,
        thresholds: tuple[float, float],
        field: str,
        low_vram: bool = False,
        check: Callable[[], None] = lambda: None,
    ) -> Detection:
        """The map of every picture. Numbers out of a slider's range mean its default.

        check: called before each picture; may raise Cancelled. Raises what the preprocessor raises.
        """
        context = self._annotators.context(field, low_vram=low_vram)
        images: list[Image.Image] = []
        poses: list[dict[str, Any]] = []
        for image, mask in sources:
            check()
            result = _run(preprocessor, image, mask, resolution, thresholds, context)
            images += [shown_map(shown) for shown in result.shown]
            poses += result.poses or []
        return Detection(images, poses or None)


def _run(
    preprocessor: Preprocessor,
    image: Image.Image,
    mask: Image.Image | None,
    resolution: float,
    thresholds: tuple[float, float],
    context: PreprocessorContext,
) -> PreprocessorResult:
    area: Picture | None = None
    if mask is not None and preprocessor.accepts_mask:
        area = np.array(mask.convert("L").resize(image.size))
    return preprocessor.run(
        np.array(image.convert("RGB")),
        resolution=preprocessor.choose_resolution(resolution),
        slider_1=preprocessor.choose_slider(0, thresholds[0]),
        slider_2=preprocessor.choose_slider(1, thresholds[1]),
        mask=area,
        context=context,
    )


def _detail(preprocessor: Preprocessor) -> dict[str, Any]:
    return {
        "model_free": preprocessor.model_free,
        "sliders": [
            {
                "name": slider.name,
                "value": slider.value,
                "min": slider.minimum,
                "max": slider.maximum,
                "step": slider.step,
            }
            for slider in preprocessor.listed_sliders
        ],
    }
