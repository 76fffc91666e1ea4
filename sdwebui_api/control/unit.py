"""One control unit of a request, ready for use: names looked up, pictures decoded, defaults filled in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING

from sdwebui_api.catalog.controlnets import NO_MODEL, ControlModelFile
from sdwebui_api.control.preprocessor import Preprocessor

if TYPE_CHECKING:
    from sdwebui_api.control.preprocessor import Picture


class ResizeMode(IntEnum):
    """How a map is brought to the picture's size; numbers and labels are the wire's."""

    JUST_RESIZE = 0
    CROP = 1
    FILL = 2

    @property
    def label(self) -> str:
        return ("Just Resize", "Crop and Resize", "Resize and Fill")[self]


class ControlMode(IntEnum):
    BALANCED = 0
    PROMPT = 1
    CONTROL = 2

    @property
    def label(self) -> str:
        return ("Balanced", "My prompt is more important", "ControlNet is more important")[self]


class HiresOption(Enum):
    """The passes that a unit takes part in."""

    BOTH = "Both"
    LOW = "Low res only"
    HIGH = "High res only"

    def includes(self, hires_pass: bool) -> bool:
        return self is HiresOption.BOTH or (self is HiresOption.HIGH) == hires_pass


@dataclass(frozen=True, eq=False)
class UnitImage:
    """image: uint8 `[H, W, 3]`; mask: uint8 `[H, W]`, as the client painted it, of the same size."""

    image: Picture
    mask: Picture | None = None


@dataclass(frozen=True, eq=False)
class ControlUnit:
    """An enabled unit. Without `images` (img2img only) the init image is the input.

    module_text, model_text: as the client wrote them, for the infotext. model: None for preprocessors that need none.
    processor_res, threshold_a, threshold_b: within the preprocessor's ranges. weight: [0, 2]; guidance_start and
    guidance_end: shares of the sampling steps. advanced_weighting: one factor per residual, instead of `weight`.
    effective_region_mask: uint8 `[H, W]`, 255 where the unit counts. field: the unit's place in the request.
    """

    module: Preprocessor
    module_text: str
    model: ControlModelFile | None
    model_text: str = NO_MODEL
    images: tuple[UnitImage, ...] = ()
    weight: float = 1.0
    resize_mode: ResizeMode = ResizeMode.CROP
    low_vram: bool = False
    processor_res: float = 512
    threshold_a: float = 0.5
    threshold_b: float = 0.5
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    control_mode: ControlMode = ControlMode.BALANCED
    pixel_perfect: bool = False
    save_detected_map: bool = True
    advanced_weighting: tuple[float, ...] | None = None
    effective_region_mask: Picture | None = None
    inpaint_crop_input_image: bool = True
    hr_option: HiresOption = HiresOption.BOTH
    union_control_type: str = "Unknown"
    field: str = ""

    @property
    def infotext(self) -> str:
        """The value of the entry `ControlNet N`."""
        entries = {
            "Module": self.module_text,
            "Model": self.model_text,
            "Weight": self.weight,
            "Resize Mode": self.resize_mode.label,
            "Processor Res": self.processor_res,
            "Threshold A": self.threshold_a,
            "Threshold B": self.threshold_b,
            "Guidance Start": self.guidance_start,
            "Guidance End": self.guidance_end,
            "Pixel Perfect": self.pixel_perfect,
            "Control Mode": self.control_mode.label,
        }
        return ", ".join(f"{name}: {value}" for name, value in entries.items())
