"""The always-on script "ControlNet": units of the wire become control networks in every pass."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from sdwebui_api.control.finishing import PictureFinish, Restoration, latent_finish, picture_finish
from sdwebui_api.control.hint import shown_map
from sdwebui_api.control.passes import ActiveUnit, PassControl
from sdwebui_api.control.preparation import Surroundings, UnitMaps
from sdwebui_api.control.preprocessor import PreprocessorContext
from sdwebui_api.control.preprocessors.faces import identity_in
from sdwebui_api.control.preprocessors.ip_adapter import FOR_STYLES
from sdwebui_api.control.union import union_kind
from sdwebui_api.control.unit import ControlMode, ControlUnit
from sdwebui_api.control.units import read_units
from sdwebui_api.engine.networks.controlnet import ControlNet
from sdwebui_api.engine.networks.controlnet_union import ControlNetUnion
from sdwebui_api.engine.networks.face_adapter import INSTANT_ID, FaceAdapter
from sdwebui_api.engine.networks.ip_adapter import IPAdapter
from sdwebui_api.engine.networks.reference import Reference
from sdwebui_api.engine.networks.style_adapter import StyleAdapter
from sdwebui_api.errors import BadRequest, SdWebUIError, UnusableModel
from sdwebui_api.generation.request import GeneratedImage
from sdwebui_api.scripting.arguments import Argument, Arguments
from sdwebui_api.scripting.hooks import (
    Batch,
    Draft,
    Files,
    GenerationRequest,
    GenerationResult,
    Hooks,
    Kind,
    Running,
    SamplingStart,
    Script,
)

if TYPE_CHECKING:
    from torch import Tensor

    from sdwebui_api.control.preprocessor import Picture
    from sdwebui_api.engine.model import DiffusionModel
    from sdwebui_api.engine.networks.control import ControlNetwork, Hint

log = logging.getLogger(__name__)

Size = tuple[int, int]
ContextFor = Callable[[ControlUnit], PreprocessorContext]


class ControlNetScript(Script):
    title: ClassVar[str] = "ControlNet"
    args: ClassVar[Sequence[Argument]] = tuple(Argument(f"unit_{n}", None, f"ControlNet Unit {n}") for n in range(3))
    always_on: ClassVar[bool] = True

    def __init__(self, context_for: ContextFor) -> None:
        """`context_for`: what a unit's preprocessor runs with."""
        self._context_for = context_for

    def read(self, given: object, kind: Kind, files: Files, field: str) -> Arguments:
        """Any number of units, in any of their historic forms. Raises BadRequest naming a unit's field."""
        read = read_units(given, field, init_image=kind == "img2img", find_model=files.control_models.find)
        return Arguments({"units": read.units, "warnings": read.warnings})

    def hooks(self, request: GenerationRequest, args: Arguments) -> Hooks | None:
        units, warnings = args.get("units", ()), args.get("warnings", ())
        return ControlHooks(units, warnings, self._context_for) if units or warnings else None


@dataclass
class _UnitState:
    """A unit in one request: its maps by pass size, made when first needed."""

    unit: ControlUnit
    maps: UnitMaps
    context: PreprocessorContext
    _identities: list[Tensor] = field(default_factory=list)

    def hints(self, size: Size) -> Tensor:
        """`[N, 3|4, H, W]` in [0, 1]."""
        stacked = np.stack([picture for picture in self.maps.at(size)])
        return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255.0

    def pictures(self) -> list[Tensor]:
        """Each `[1, 3, H, W]` in [0, 1], at its own size."""
        found = [picture[None, :, :, :3] for picture, _ in self.maps.detected]
        return [torch.from_numpy(np.ascontiguousarray(one)).permute(0, 3, 1, 2).float() / 255.0 for one in found]

    def identities(self, recogniser: str) -> list[Tensor]:
        """Whose the face in each picture is, `[1, 512]`. Raises BadRequest when there is none."""
        if not self._identities:
            found = [identity_in(picture[:, :, :3], recogniser, self.context) for picture, _ in self.maps.detected]
            self._identities = [torch.from_numpy(one)[None] for one in found]
        return self._identities


def _average(hints: Sequence[Hint]) -> Hint:
    """Of several pictures, one hint (the extension's `ImageEmbed.average_of`)."""
    return tuple(torch.cat(tensors).mean(dim=0, keepdim=True) for tensors in zip(*hints, strict=True))


class ControlHooks(Hooks):
    """The units of one request."""

    def __init__(self, units: Sequence[ControlUnit], warnings: Sequence[str], context_for: ContextFor) -> None:
        self._units = tuple(units)
        self._warnings = warnings
        self._context_for = context_for
        self._states: list[_UnitState] = []
        self._active_units: dict[tuple[bool, Size], list[ActiveUnit]] = {}
        self._sizes: list[Size] = []
        """Of the passes, in their order."""

    def process(self, draft: Draft, run: Running) -> Draft:
        run.warnings.extend(self._warnings)
        for index, unit in enumerate(self._units):
            run.infotext[f"ControlNet {index}"] = unit.infotext
            averages = unit.module.name.startswith("ip-adapter")
            if len(unit.images) > draft.request.batch_size and not averages:
                run.warnings.append(
                    f"{unit.field}.image: {len(unit.images)} pictures for a batch of {draft.request.batch_size}; "
                    "the others had no effect"
                )
        return draft

    def before_sampling(self, start: SamplingStart, run: Running) -> SamplingStart:
        if not self._units:
            return start
        height, width = (side * run.model.latent_scale for side in start.noise.shape[-2:])
        with _failing_loudly():
            control = self._control((width, height), start.hires_pass, start.batch.seeds[0], run)
        start = replace(start, conditioning=replace(start.conditioning, control=control))
        return start if start.hires_pass else replace(start, noise=self._guided(start.noise, (width, height)))

    def _guided(self, noise: Tensor, size: Size) -> Tensor:
        """The first pass's noise, with LaMa's guess in it where a unit has one."""
        for active in self._active_units[False, size]:
            if "+lama" in active.unit.module.name and isinstance(active.finish, Restoration):
                noise = active.finish.noised(noise)
        return noise

    def postprocess_batch(self, pictures: list[Tensor], batch: Batch, run: Running) -> list[Tensor]:
        finishes = [finish for state in self._states if (finish := self._picture_finish(state, run)) is not None]
        for finish in finishes:
            pictures = [finish(picture) for picture in pictures]
        return pictures

    def postprocess(self, result: GenerationResult, run: Running) -> GenerationResult:
        """The maps go behind the pictures: unit by unit, the hires pass's before the first pass's."""
        if run.request.options.get("control_net_no_detectmap", False):
            return result
        maps = [
            GeneratedImage(shown_map(picture), "", "detected_map")
            for state in self._states
            if state.unit.save_detected_map
            for picture in state.maps.shown(list(reversed(self._sizes)))
        ]
        return replace(result, images=[*result.images, *maps])

    # -- passes ----------------------------------------------------------------------------------------------------

    def _control(self, size: Size, hires_pass: bool, seed: int, run: Running) -> PassControl:
        if not self._states:
            around = _surroundings(run.request, size)
            self._states = [
                _UnitState(unit, UnitMaps.of(unit, around, self._context_for(unit)), self._context_for(unit))
                for unit in self._units
            ]
        if size not in self._sizes:
            self._sizes.append(size)
        key = hires_pass, size
        if key not in self._active_units:
            model = run.model_for(hires_pass=hires_pass)
            self._active_units[key] = _told_the_face(
                [
                    self._active(state, size, hires_pass, model, run)
                    for state in self._states
                    if state.unit.hr_option.includes(hires_pass) or run.request.hires is None
                ]
            )
        return PassControl(self._active_units[key], hires_pass=hires_pass, seed=seed)

    def _active(
        self, state: _UnitState, size: Size, hires_pass: bool, model: DiffusionModel, run: Running
    ) -> ActiveUnit:
        unit = state.unit
        hints = state.hints(size)
        finish = latent_finish(unit, hints, model, hires_pass=hires_pass)
        if unit.module.name.startswith("reference"):
            network: ControlNetwork = _reference(unit, model, hires_pass=hires_pass)
            return ActiveUnit(unit, network, network.embed(model.encode(hints[:, :3] * 2.0 - 1.0, None)))
        network = self._network(unit, model, run)
        if isinstance(network, FaceAdapter):
            faces = state.identities(network.recogniser)
            seen = [network.embed_face(*one) for one in zip(state.pictures(), faces, strict=True)]
            return ActiveUnit(unit, network, _average(seen))
        if isinstance(network, IPAdapter):
            return ActiveUnit(unit, network, _average([network.embed(one) for one in state.pictures()]))
        if isinstance(network, StyleAdapter):
            words = [network.embed(one)[0] for one in state.pictures()]
            return ActiveUnit(unit, network, (torch.cat(words),))
        if not unit.module.returns_image:
            kind = "T2I style adapters" if unit.module.name == FOR_STYLES else "IP-Adapters"
            raise BadRequest(f"This preprocessor is for {kind}, the model is none", field=f"{unit.field}.module")
        region = None
        if unit.effective_region_mask is not None:
            region = torch.from_numpy(unit.effective_region_mask.astype(np.float32) / 255.0)[None, None]
        return ActiveUnit(unit, network, _hint(unit, network, hints), region, finish)

    @staticmethod
    def _network(unit: ControlUnit, model: DiffusionModel, run: Running) -> ControlNetwork:
        assert unit.model is not None
        try:
            return run.control_network(unit.model.path, model, keep=not unit.low_vram)
        except UnusableModel as error:
            raise BadRequest(error.message, field=f"{unit.field}.model") from error

    def _picture_finish(self, state: _UnitState, run: Running) -> PictureFinish | None:
        blur = int(run.request.options.get("control_net_inpaint_blur_sigma", 7))
        return picture_finish(state.unit, state.maps.at(self._sizes[-1])[0], blur)


def _surroundings(request: GenerationRequest, size: Size) -> Surroundings:
    init = request.init
    if init is None:
        return Surroundings(size)
    return Surroundings(size, init.images[0], init.mask, init.resize_mode)


def _told_the_face(units: list[ActiveUnit]) -> list[ActiveUnit]:
    """InstantID's ControlNet reads the face that another unit's adapter found, not the prompt."""
    faces = [one.hint for one in units if isinstance(one.network, FaceAdapter) and one.network.recogniser == INSTANT_ID]
    if not faces:
        return units
    return [replace(one, words=faces[0]) if _places_a_face(one) else one for one in units]


def _places_a_face(active: ActiveUnit) -> bool:
    model = active.unit.model.path.stem.lower().replace("_", "").replace("-", "") if active.unit.model else ""
    by_name = active.unit.module.name == "instant_id_face_keypoints" or "instantid" in model
    return by_name and isinstance(active.network, ControlNet)


def _reference(unit: ControlUnit, model: DiffusionModel, *, hires_pass: bool) -> Reference:
    if unit.control_mode == ControlMode.CONTROL:
        fidelity = 1.0
    elif unit.control_mode == ControlMode.PROMPT or hires_pass:
        fidelity = 0.0
    else:
        fidelity = min(max(float(unit.threshold_a), 0.0), 1.0)
    name = unit.module.name
    attention, statistics = name in ("reference_only", "reference_adain+attn"), "adain" in name
    return Reference(attention, statistics, unit.weight, fidelity, model.alphas_cumprod)


def _hint(unit: ControlUnit, network: ControlNetwork, hints: Tensor) -> Hint:
    """Raises BadRequest when the network has to know what kind of map it gets, and cannot."""
    hints = _masked_out(hints)
    if isinstance(network, ControlNetUnion):
        return network.embed_as(hints, union_kind(unit, network.kinds))
    return network.embed(hints)


def _masked_out(hints: Tensor) -> Tensor:
    """Inpainting networks read -1 where the mask, the fourth channel, is."""
    if hints.shape[1] == 3:
        return hints
    mask = (hints[:, 3:4] > 0.5).float()
    return hints[:, :3] * (1 - mask) - mask


@contextmanager
def _failing_loudly() -> Iterator[None]:
    """A picture without the control that was asked for is wrong, so whatever fails here ends the request."""
    try:
        yield
    except SdWebUIError:
        raise
    except Exception as error:
        log.exception("a control unit failed")
        raise SdWebUIError(f"ControlNet failed: {type(error).__name__}: {error}") from error


__all__ = ["ControlHooks", "ControlNetScript", "Picture"]
