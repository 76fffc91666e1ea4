"""What a preprocessor is: a picture in, the map that a control network reads out.

Modules of `control/preprocessors` define them and list them in a tuple `PREPROCESSORS`; `preprocessors.table` puts
the tuples together and finds one by any of its names. Running one never depends on the request's size: `resolution`
is the length of the map's shorter side, and the control unit fits the map to the picture afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]

UNUSED_VALUE = 0.5
"""What infotexts show for a threshold that the preprocessor does not have."""


@dataclass(frozen=True)
class Slider:
    """A number that a preprocessor takes, as clients list it. `value` is the default."""

    name: str
    value: float
    minimum: float
    maximum: float
    step: float = 1

    def choose(self, wanted: float | None) -> float:
        """`wanted`, or the default when it is None or out of range (clients send -1 for "the default")."""
        if wanted is None or not self.minimum <= wanted <= self.maximum:
            return self.value
        return wanted


RESOLUTION = Slider("Resolution", 512, 64, 2048, 8)


@dataclass(frozen=True)
class PreprocessorContext:
    """What running needs besides the picture.

    folders: where weights are looked for (`model_store/annotators/<kind>`, …), first hit wins.
    device: a torch device name. low_vram: give the memory of the weights back after the run.
    field: the request's field that named the preprocessor, for errors.
    models: the engine, which loads networks and keeps them (`engine.auxiliary`); None where none is needed.
    """

    folders: Sequence[Path] = ()
    device: str = "cpu"
    low_vram: bool = False
    field: str = "module"
    models: Any = None


@dataclass(frozen=True)
class PreprocessorResult:
    """map: what the control network reads, uint8 `[h, w, 3]` (`[h, w, 4]`: the fourth channel is a mask, 255 inside).

    Preprocessors that return no picture (`Preprocessor.returns_image` False) put their own value there.
    display: what clients are shown instead of the map, when that differs. poses: OpenPose JSON of each picture.
    """

    map: Any
    display: Sequence[Picture] = ()
    poses: Sequence[dict[str, Any]] | None = None

    @property
    def shown(self) -> Sequence[Picture]:
        """The pictures for the client."""
        return self.display or (self.map,)


class RunPreprocessor(Protocol):
    def __call__(
        self,
        image: Picture,
        *,
        resolution: int,
        slider_1: float,
        slider_2: float,
        mask: Picture | None,
        context: PreprocessorContext,
    ) -> PreprocessorResult:
        """image: uint8 `[H, W, 3]` or `[H, W, 4]` (fourth channel: the unit's mask, 255 inside); mask: uint8 `[H, W]`.

        Raises NotFound(context.field) when weights are missing, naming the file and the folder.
        """
        ...


@dataclass(frozen=True)
class Preprocessor:
    """name: as the API lists it. label: as the page shows it (infotexts and clients may send either). aliases: older
    names. sliders: thresholds A and B, if any. resolution: None where the map keeps the picture's size. tags: the
    control types that offer it (`/controlnet/control_types`). model_free: works without a control model.
    returns_image: False for embeddings (CLIP vision, face identities).
    """

    name: str
    label: str
    run: RunPreprocessor
    aliases: tuple[str, ...] = ()
    sliders: tuple[Slider, ...] = ()
    resolution: Slider | None = RESOLUTION
    tags: tuple[str, ...] = ()
    model_free: bool = False
    returns_image: bool = True
    accepts_mask: bool = False
    requires_mask: bool = False
    sort_priority: int = field(default=0, compare=False)
    """Higher is listed first within a control type."""

    @property
    def listed_sliders(self) -> tuple[Slider, ...]:
        """As `/controlnet/module_list` shows them."""
        return (self.resolution, *self.sliders) if self.resolution is not None else self.sliders

    def choose_resolution(self, wanted: float | None) -> int:
        return int((self.resolution or RESOLUTION).choose(wanted))

    def choose_slider(self, index: int, wanted: float | None) -> float:
        """Threshold A (0) or B (1): what was asked for, or the default."""
        return self.sliders[index].choose(wanted) if index < len(self.sliders) else UNUSED_VALUE


Detector = Callable[["Picture"], "Picture"]
