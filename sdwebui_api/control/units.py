"""From `alwayson_scripts.controlnet.args` to `ControlUnit`s: every name, default and historic form of a unit.

The fields are those of the ControlNet extension 1.1.455; older names and forms are read too (its README and
`internal_controlnet/external_code.py` of earlier versions). What cannot be meant is a BadRequest naming the field.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from sdwebui_api.catalog.controlnets import ControlModelFile
from sdwebui_api.control.preprocessor import UNUSED_VALUE, Preprocessor, Slider
from sdwebui_api.control.preprocessors.table import find_preprocessor
from sdwebui_api.control.union import UNION_KINDS, UNKNOWN
from sdwebui_api.control.unit import ControlMode, ControlUnit, HiresOption, ResizeMode, UnitImage
from sdwebui_api.errors import BadRequest
from sdwebui_api.imaging.codec import decode_image

if TYPE_CHECKING:
    from sdwebui_api.control.preprocessor import Picture

T = TypeVar("T")

MAX_UNITS = 10
"""As many as the extension's setting `control_net_unit_count` allows."""

_DEEPEST = 4
"""Lists within lists of pictures; nobody means more, and JSON may nest a thousand."""

MODEL_FREE = ("reference_only", "reference_adain", "reference_adain+attn")
"""Preprocessors that work without a control model."""

_RENAMED = {
    "input_image": "image",
    "mask_image": "mask",
    "lowvram": "low_vram",
    "guidance": "guidance_end",
    "guidance_strength": "guidance_end",
    "rgbbgr_mode": None,
    "invert_image": None,
    "guess_mode": None,
}
"""Older names, and their name today; None: a switch that no longer exists."""

_WITHOUT_EFFECT = frozenset(
    {
        "input_mode", "batch_images", "batch_image_dir", "batch_mask_dir", "batch_mask_gallery", "batch_input_gallery",
        "batch_image_files", "batch_modifiers", "animatediff_batch", "output_dir", "loopback", "is_ui",
        "use_preview_as_input", "generated_image", "pulid_mode",
    }
)  # fmt: skip
"""Fields of the extension's page; an API client's value changes nothing, there as here."""

_RESIZE_MODES = {
    "just resize": ResizeMode.JUST_RESIZE,
    "resize": ResizeMode.JUST_RESIZE,
    "crop and resize": ResizeMode.CROP,
    "inner fit (scale to fit)": ResizeMode.CROP,
    "scale to fit (inner fit)": ResizeMode.CROP,
    "inner_fit": ResizeMode.CROP,
    "resize and fill": ResizeMode.FILL,
    "outer fit (shrink to fit)": ResizeMode.FILL,
    "envelope (outer fit)": ResizeMode.FILL,
    "outer_fit": ResizeMode.FILL,
}
_CONTROL_MODES = {mode.label.lower(): mode for mode in ControlMode} | {mode.name.lower(): mode for mode in ControlMode}
_HIRES_OPTIONS = {option.value.lower(): option for option in HiresOption}
UNION_CONTROL_TYPES = (*UNION_KINDS, UNKNOWN)


@dataclass(frozen=True)
class ReadUnits:
    """The enabled units, in order, and what was ignored, in words."""

    units: tuple[ControlUnit, ...] = ()
    warnings: tuple[str, ...] = ()


def read_units(
    given: object, field: str, *, init_image: bool, find_model: Callable[[str, str], ControlModelFile]
) -> ReadUnits:
    """`given`: the wire's list of units, or one unit. Entries that are no objects and disabled units count for nothing.

    init_image: a unit without a picture takes the init image (img2img). find_model: `ControlModelCatalog.find`.
    Raises BadRequest (422) naming `field[index].name`, PayloadTooLarge.
    """
    if given is None:
        return ReadUnits()
    if isinstance(given, Mapping):
        given = [given]
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise BadRequest("The units are a list", field=field)
    units, warnings = [], []
    for index, entry in enumerate(given):
        if isinstance(entry, Mapping):
            reader = _UnitReader(entry, f"{field}[{index}]", init_image, find_model)
            unit = reader.read()
            warnings += reader.warnings
            units += [unit] if unit is not None else []
    if len(units) > MAX_UNITS:
        raise BadRequest(f"{len(units)} units are enabled, at most {MAX_UNITS} can be", field=field)
    return ReadUnits(tuple(units), tuple(warnings))


@dataclass
class _UnitReader:
    """Takes one unit's fields; what is left over at the end is unknown."""

    entry: Mapping[str, Any]
    place: str
    init_image: bool
    find_model: Callable[[str, str], ControlModelFile]
    warnings: list[str] = field(default_factory=list)

    def read(self) -> ControlUnit | None:
        if not self._switch("enabled", False):
            return None
        self.values = self._named_as_today()
        module_text = self._text("module", "none")
        module = find_preprocessor(module_text, field=self._field("module"))
        model_text, model = self._model(module)
        start, end = self._share("guidance_start", 0.0), self._share("guidance_end", 1.0)
        if start > end:
            raise BadRequest(
                f"guidance_start ({start}) is after guidance_end ({end})", field=self._field("guidance_start")
            )
        unit = ControlUnit(
            module=module,
            module_text=module_text,
            model=model,
            model_text=model_text,
            images=self._images(),
            weight=self._number("weight", 1.0, 0.0, 2.0),
            resize_mode=self._choice("resize_mode", ResizeMode.CROP, _RESIZE_MODES, tuple(ResizeMode)),
            low_vram=self._switch("low_vram", False),
            processor_res=self._resolution(module),
            threshold_a=self._threshold(module, 0),
            threshold_b=self._threshold(module, 1),
            guidance_start=start,
            guidance_end=end,
            control_mode=self._choice("control_mode", ControlMode.BALANCED, _CONTROL_MODES, tuple(ControlMode)),
            pixel_perfect=self._switch("pixel_perfect", False),
            save_detected_map=self._switch("save_detected_map", True),
            advanced_weighting=self._weighting(),
            effective_region_mask=self._region(),
            inpaint_crop_input_image=self._switch("inpaint_crop_input_image", True),
            hr_option=self._choice("hr_option", HiresOption.BOTH, _HIRES_OPTIONS, tuple(HiresOption)),
            union_control_type=self._union_type(),
            field=self.place,
        )
        self._refuse_unsupported()
        self._report_unknown()
        return unit

    # -- names -----------------------------------------------------------------------------------------------------

    def _named_as_today(self) -> dict[str, Any]:
        """The fields under their present names; the present name wins over an older one beside it."""
        values = {str(name): value for name, value in self.entry.items() if name not in _RENAMED}
        for old, new in _RENAMED.items():
            if old in self.entry and new is not None and values.get(new) is None:
                values[new] = self.entry[old]
        return values

    def _report_unknown(self) -> None:
        known = {*ControlUnit.__dataclass_fields__, *_WITHOUT_EFFECT, *_RENAMED, "enabled", "image", "mask"}
        known |= {"image_link", "ipadapter_input"}
        for name in self.entry:
            if name not in known or name in ("module_text", "model_text", "images", "field"):
                self.warnings.append(f"{self._field(str(name)[:100])} is unknown and was ignored")

    def _refuse_unsupported(self) -> None:
        if self.values.get("ipadapter_input"):
            raise BadRequest(
                "Prepared embeddings are not supported: give the unit a picture", field=self._field("ipadapter_input")
            )

    def _model(self, module: Preprocessor) -> tuple[str, ControlModelFile | None]:
        text = self._text("model", "None")
        if module.name in MODEL_FREE:
            return text, None
        if module.model_free:
            raise BadRequest(f"Preprocessor '{module.name}' is not supported in units", field=self._field("module"))
        if text.strip().lower() in ("", "none"):
            raise BadRequest("The unit is enabled but names no model", field=self._field("model"))
        return text, self.find_model(text, self._field("model"))

    # -- values ----------------------------------------------------------------------------------------------------

    def _field(self, name: str) -> str:
        return f"{self.place}.{name}"

    def _given(self, name: str) -> Any:
        return self.entry.get(name) if name == "enabled" else self.values.get(name)

    def _text(self, name: str, default: str) -> str:
        value = self._given(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise BadRequest("Expected a text", field=self._field(name))
        return value or default

    def _switch(self, name: str, default: bool) -> bool:
        value = self._given(name)
        if value is None:
            return default
        if isinstance(value, str) and value.strip().lower() in ("true", "false"):
            return value.strip().lower() == "true"
        if value in (0, 1) and isinstance(value, (bool, int, float)):
            return bool(value)
        raise BadRequest("Expected true or false", field=self._field(name))

    def _number(self, name: str, default: float, low: float = -math.inf, high: float = math.inf) -> float:
        value = self._given(name)
        if value is None:
            return default
        number = _as_number(value)
        if number is None:
            raise BadRequest("Expected a number", field=self._field(name))
        if not low <= number <= high:
            raise BadRequest(f"Expected a number from {low:g} to {high:g}", field=self._field(name))
        return number

    def _share(self, name: str, default: float) -> float:
        return self._number(name, default, 0.0, 1.0)

    def _choice(self, name: str, default: T, by_text: Mapping[str, T], by_number: Sequence[T]) -> T:
        value = self._given(name)
        if value is None:
            return default
        if isinstance(value, str) and value.strip().lower() in by_text:
            return by_text[value.strip().lower()]
        number = None if isinstance(value, str) and not value.strip().isdigit() else _as_number(value)
        if number is not None and number.is_integer() and 0 <= number < len(by_number):
            return by_number[int(number)]
        labels = [str(getattr(choice, "label", getattr(choice, "value", choice))) for choice in by_number]
        raise BadRequest(f"No such {name}: {str(value)[:100]!r}", field=self._field(name), choices=labels)

    def _union_type(self) -> str:
        by_text = {kind.lower(): kind for kind in UNION_CONTROL_TYPES}
        return self._choice("union_control_type", "Unknown", by_text, UNION_CONTROL_TYPES)

    def _resolution(self, module: Preprocessor) -> float:
        wanted = self._number("processor_res", -1)
        if module.resolution is None:
            return UNUSED_VALUE
        return int(module.resolution.choose(wanted))

    def _threshold(self, module: Preprocessor, index: int) -> float:
        wanted = self._number(("threshold_a", "threshold_b")[index], -1)
        if index >= len(module.sliders):
            return UNUSED_VALUE
        slider: Slider = module.sliders[index]
        return slider.choose(wanted)

    def _weighting(self) -> tuple[float, ...] | None:
        value = self._given("advanced_weighting")
        if value is None or value == []:
            return None
        numbers = [_as_number(item) for item in value] if isinstance(value, (list, tuple)) else [None]
        if any(number is None for number in numbers):
            raise BadRequest("Expected a list of numbers", field=self._field("advanced_weighting"))
        return tuple(number for number in numbers if number is not None)

    # -- pictures --------------------------------------------------------------------------------------------------

    def _images(self) -> tuple[UnitImage, ...]:
        link = self._given("image_link")
        images = self._image_list(self._given("image")) if link in (None, "") else self._linked(link)
        mask_text = self._given("mask")
        if mask_text not in (None, ""):
            mask = self._decode(mask_text, "mask")
            images = tuple(UnitImage(one.image, _mask_for(one.image, mask)) for one in images)
            if not images:
                raise BadRequest("A mask without a picture", field=self._field("mask"))
        if not images and not self.init_image:
            raise BadRequest("The unit is enabled but has no picture", field=self._field("image"))
        return images

    def _linked(self, value: Any) -> tuple[UnitImage, ...]:
        """The picture that the door has fetched from `image_link`, in place of the unit's `image`."""
        return (UnitImage(np.array(self._decode(value, "image_link").convert("RGB"))),)

    def _image_list(self, value: Any, depth: int = 0) -> tuple[UnitImage, ...]:
        """A text, `{"image", "mask"}`, `[image, mask]`, or a list of any of them."""
        if value is None or value == "" or value == []:
            return ()
        if isinstance(value, (str, bytes, Mapping)):
            one = self._image(value)
            return () if one is None else (one,)
        if not isinstance(value, (list, tuple)) or depth > _DEEPEST:
            raise BadRequest("An image is a text, an object or a list", field=self._field("image"))
        if len(value) == 2 and all(item is None or isinstance(item, (str, bytes)) for item in value):
            one = self._image({"image": value[0], "mask": value[1]})
            return () if one is None else (one,)
        lists = (
            self._image_list(item, depth + 1) if isinstance(item, (list, tuple)) else (self._image(item),)
            for item in value
        )
        return tuple(one for images in lists for one in images if one is not None)

    def _image(self, value: Any) -> UnitImage | None:
        if isinstance(value, Mapping):
            text, mask_text = value.get("image"), value.get("mask")
        else:
            text, mask_text = value, None
        if text is None or text == "":
            return None
        image = np.array(self._decode(text, "image").convert("RGB"))
        if mask_text is None or mask_text == "":
            return UnitImage(image)
        return UnitImage(image, _mask_for(image, self._decode(mask_text, "image")))

    def _region(self) -> Picture | None:
        value = self._given("effective_region_mask")
        if value is None or value == "":
            return None
        return np.array(self._decode(value, "effective_region_mask").convert("RGB"))[:, :, 0]

    def _decode(self, value: Any, name: str) -> Image.Image:
        if not isinstance(value, (str, bytes)):
            raise BadRequest("An image is a text: base64, a data URI or a URL", field=self._field(name))
        return decode_image(value, self._field(name))


def _mask_for(image: Picture, mask: Image.Image) -> Picture:
    """The first channel of `mask`, at the picture's size."""
    height, width = image.shape[:2]
    if mask.size != (width, height):
        mask = mask.resize((width, height), Image.Resampling.NEAREST)
    return np.array(mask.convert("RGB"))[:, :, 0]


def _as_number(value: Any) -> float | None:
    """Numbers, and texts that hold one; None for anything else, not-a-number included."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
