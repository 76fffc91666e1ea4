"""How a script takes part in a generation. Everything a script author needs is here.

Two kinds of script, both subclasses of `Script` in a file `scripts/*.py` (ours, or an extension's):

- **selectable** (`script_name` names it): `run` replaces the generation. It calls `context.generate(request)` as
  often as it likes, with changed copies of the request, and returns one `GenerationResult`.
- **always on** (`always_on = True`; `alwayson_scripts` may bring arguments): `hooks` looks at every request and
  returns a `Hooks` object for it, or None when it has nothing to do. That object belongs to the request alone and
  may keep state on itself; the script must not.

Hooks get frozen values and return them, changed (`dataclasses.replace`) or not. Tensors and pictures may be changed
in place where the hook owns them: what is passed is not used elsewhere. `run` (a `Running`) is the request's company:
job, options, infotext, warnings.

Order for one call of the pipeline:

    before_process → process → for each batch: before_process_batch → process_batch
      → before_sampling → [cfg_denoiser → (UNet) → cfg_denoised → blend → after_cfg]*
      → (hires pass: before_hires → before_sampling → […]*) → blend (final) → post_sample → (VAE)
      → postprocess_batch → for each picture: postprocess_image → postprocess_maskoverlay → (overlay)
      → postprocess_image_after_composite → before_save → (saved) → saved
    → (grid) → postprocess
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

from sdwebui_api.errors import Unavailable
from sdwebui_api.generation.plan import Batch, GenerationPlan
from sdwebui_api.generation.request import GenerationRequest, GenerationResult
from sdwebui_api.scripting.arguments import Argument, Arguments, Listed, read_arguments

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image
    from torch import Tensor

    from sdwebui_api.catalog.checkpoints import CheckpointCatalog
    from sdwebui_api.catalog.controlnets import ControlModelCatalog
    from sdwebui_api.catalog.networks import HypernetworkCatalog, LoraCatalog
    from sdwebui_api.catalog.styles import StyleCatalog
    from sdwebui_api.catalog.upscalers import UpscalerCatalog
    from sdwebui_api.catalog.vaes import VaeCatalog
    from sdwebui_api.config.options import Options
    from sdwebui_api.engine.devices import Device, DevicePlan
    from sdwebui_api.engine.model import DiffusionModel
    from sdwebui_api.engine.networks.control import ControlNetwork
    from sdwebui_api.imaging.inpaint import PreparedInit
    from sdwebui_api.imaging.upscale import Upscaler
    from sdwebui_api.jobs.job import Job
    from sdwebui_api.sampling.evaluation import Combined, Denoised, EvaluationInputs, Guided
    from sdwebui_api.sampling.guidance import Conditioning
    from sdwebui_api.sampling.settings import SamplingSettings

__all__ = [
    "Argument",
    "Arguments",
    "Batch",
    "Blend",
    "Draft",
    "GenerationPlan",
    "GenerationRequest",
    "GenerationResult",
    "Hooks",
    "LendsNetworks",
    "Listed",
    "MaskOverlay",
    "PictureFile",
    "PicturePlace",
    "Running",
    "Sampled",
    "SamplingStart",
    "Script",
    "ScriptContext",
    "lends_nothing",
]

Kind = Literal["txt2img", "img2img"]

T = TypeVar("T")


class LendsNetworks(Protocol):
    """The engine's way to hold networks of a script's own: loaded once for all, dropped when others need the room."""

    def __call__(
        self,
        path: Path,
        load: Callable[[Path, DevicePlan, Device], T],
        kind: type[T],
        on_progress: Callable[[str], None] | None = None,
        *,
        keep: bool = True,
    ) -> AbstractContextManager[T]:
        """What `load(path, plan, device)` makes of a file or folder, a `kind`, while the context lasts.

        `keep` False: its memory is given back then. Raises what `load` raises (UnusableModel), and OutOfMemory.
        """
        ...


def lends_nothing(*asked: Any, **more: Any) -> AbstractContextManager[Any]:
    """In place of `LendsNetworks` where there is no engine."""
    raise Unavailable("this server loads no networks of scripts")


class Running(Protocol):
    """The generation that a hook takes part in. Attributes may be read at any time from `process` on.

    request and plan: as the hooks before this one left them; infotext: entries for the pictures' infotext in order
    (A1111 `extra_generation_params`), to be added to; warnings: lines for the client (`info.warnings`), likewise;
    model: what the request runs on; prepared: img2img's geometry, None in txt2img and before the first batch.
    """

    request: GenerationRequest
    plan: GenerationPlan
    infotext: dict[str, Any]
    warnings: list[str]
    prepared: PreparedInit | None

    @property
    def job(self) -> Job: ...

    @property
    def model(self) -> DiffusionModel: ...

    def model_for(self, *, hires_pass: bool) -> DiffusionModel:
        """What a pass runs on: the hires pass may have a checkpoint of its own."""
        ...

    def control_network(self, path: Path, model: DiffusionModel, *, keep: bool = True) -> ControlNetwork:
        """The control model in `path` for `model`, until the request ends. Raises UnusableModel."""
        ...

    @property
    def files(self) -> Files: ...

    @property
    def lend_network(self) -> LendsNetworks: ...


@dataclass(frozen=True)
class Draft:
    """What is about to be generated. `batch` is set in the hooks of one batch, and says what that batch draws.

    Changing `request.checkpoint` or `request.vae` has an effect in `before_process` only; the batch size and the
    number of batches are fixed after `process`.
    """

    request: GenerationRequest
    plan: GenerationPlan
    batch: Batch | None = None


@dataclass(frozen=True)
class SamplingStart:
    """One sampling pass about to begin.

    noise: `[B, 4, h, w]`, unit variance: what txt2img starts from, what img2img and the hires pass add.
    latent: `[B, 4, h, w]`, what those two start from; None in txt2img's first pass.
    """

    noise: Tensor
    latent: Tensor | None
    conditioning: Conditioning
    settings: SamplingSettings
    batch: Batch
    hires_pass: bool = False


@dataclass(frozen=True)
class Blend:
    """Inpainting puts the start image back outside the mask, in every evaluation and once at the end.

    blended: `[B, 4, h, w]`, the plain result, which the hook may replace. current: what was just computed.
    keep: `[h, w]` or `[B, 4, h, w]`, 1 where the start image stays. level: sigma (or timestep); None at the end.
    """

    blended: Tensor
    current: Tensor
    init_latent: Tensor
    keep: Tensor
    level: float | None

    @property
    def is_final(self) -> bool:
        return self.level is None


@dataclass(frozen=True)
class Sampled:
    """A batch after its last pass. latent `[B, 4, h, w]`; init_latent and keep only when inpainting (see `Blend`)."""

    latent: Tensor
    batch: Batch
    init_latent: Tensor | None = None
    keep: Tensor | None = None


@dataclass(frozen=True)
class PicturePlace:
    """Which picture: its position in the batch, and its index in the whole request."""

    batch: Batch
    position: int
    index: int


@dataclass(frozen=True)
class MaskOverlay:
    """What will be laid over an inpainted picture: RGBA `overlay` at `paste_to`, and the mask as it is returned."""

    mask: Image.Image | None
    overlay: Image.Image | None


@dataclass(frozen=True)
class PictureFile:
    """A picture that is saved: as it will be (`path` None), or as it was."""

    image: Image.Image
    infotext: str
    path: str | None = None


class Hooks:
    """One script's part in one request. Override what is needed; a method that is not overridden costs nothing.

    An exception leaves the picture as it was without that hook: it is logged and becomes a line of `info.warnings`.
    Our own errors (`sdwebui_api.errors`: BadRequest …) end the request.
    """

    def takes_part_in(self, name: str) -> bool:
        """Whether the method `name` is to be called at all: by default, when the class overrides it."""
        return getattr(type(self), name) is not getattr(Hooks, name)

    def before_process(self, request: GenerationRequest, run: Running) -> GenerationRequest:
        """Before prompts and seeds are laid out; no model is there yet: `run.model` and `run.plan` must not be read."""
        return request

    def process(self, draft: Draft, run: Running) -> Draft:
        """Prompts and seeds of all pictures are known and may be changed."""
        return draft

    def before_process_batch(self, draft: Draft, run: Running) -> Draft:
        """Before the networks (`<lora:…>`) of this batch's prompts are read."""
        return draft

    def process_batch(self, draft: Draft, run: Running) -> Draft:
        """After that, before the prompts are encoded."""
        return draft

    def before_hires(self, draft: Draft, run: Running) -> Draft:
        """Before the second pass of a batch."""
        return draft

    def before_sampling(self, start: SamplingStart, run: Running) -> SamplingStart:
        """Before every pass."""
        return start

    def cfg_denoiser(self, inputs: EvaluationInputs, run: Running) -> EvaluationInputs:
        """Before every evaluation of the UNet."""
        return inputs

    def cfg_denoised(self, denoised: Denoised, run: Running) -> Denoised:
        """After it, before guidance combines the predictions."""
        return denoised

    def combine(self, combined: Combined, run: Running) -> Combined:
        """How guidance combines the predictions; change `guided`."""
        return combined

    def after_cfg(self, guided: Guided, run: Running) -> Guided:
        """What the sampler will be given."""
        return guided

    def blend(self, blend: Blend, run: Running) -> Blend:
        """Inpainting's blend with the start image; change `blended`."""
        return blend

    def post_sample(self, sampled: Sampled, run: Running) -> Sampled:
        """Before the VAE decodes."""
        return sampled

    def postprocess_batch(self, pictures: list[Tensor], batch: Batch, run: Running) -> list[Tensor]:
        """Decoded pictures, each [3, H, W] in [0, 1]. Pictures may be added or taken away; see `run.plan`."""
        return pictures

    def postprocess_image(self, image: Image.Image, place: PicturePlace, run: Running) -> Image.Image:
        """Every picture, before colour correction and overlay."""
        return image

    def postprocess_maskoverlay(self, overlay: MaskOverlay, place: PicturePlace, run: Running) -> MaskOverlay:
        """Inpainting: what is laid over this picture."""
        return overlay

    def postprocess_image_after_composite(self, image: Image.Image, place: PicturePlace, run: Running) -> Image.Image:
        """Every picture, finished, before it is saved."""
        return image

    def before_save(self, picture: PictureFile, run: Running) -> PictureFile:
        """Every picture, grid or mask that is saved: what the file will hold. The answer is not touched."""
        return picture

    def saved(self, picture: PictureFile, run: Running) -> PictureFile:
        """The file exists. What is returned makes no difference."""
        return picture

    def postprocess(self, result: GenerationResult, run: Running) -> GenerationResult:
        """The whole answer, grid included."""
        return result


class Files(Protocol):
    """The model files, to look names up (X/Y/Z axes)."""

    @property
    def checkpoints(self) -> CheckpointCatalog: ...

    @property
    def vaes(self) -> VaeCatalog: ...

    @property
    def styles(self) -> StyleCatalog: ...

    @property
    def upscalers(self) -> UpscalerCatalog: ...

    @property
    def loras(self) -> LoraCatalog: ...

    @property
    def hypernetworks(self) -> HypernetworkCatalog: ...

    @property
    def control_models(self) -> ControlModelCatalog: ...

    @property
    def models_dirs(self) -> Sequence[Path]:
        """The folders of models; a script keeps files of its own in a folder of its own below each."""
        ...


class SamplerNames(Protocol):
    def __call__(
        self, sampler: str, schedule: str | None, *, sampler_field: str = ..., schedule_field: str = ...
    ) -> tuple[str, str]:
        """(canonical sampler, canonical schedule label) of any spelling. Raises BadRequest."""
        ...


class ScriptContext(Protocol):
    """What a selectable script works with. All of it belongs to the job that runs the script."""

    @property
    def job(self) -> Job:
        """`job.interrupted`: end the loop and return what there is; `job.set_text` for the waiting client."""
        ...

    @property
    def files(self) -> Files: ...

    @property
    def sampler_names(self) -> SamplerNames: ...

    @property
    def upscaler_names(self) -> Sequence[str]:
        """What `hires.upscaler` accepts."""
        ...

    @property
    def upscalers(self) -> Mapping[str, Upscaler]:
        """By name, to enlarge pictures with (`imaging.upscale.find_upscaler`); networks are loaded when they run."""
        ...

    def interrogate(self, image: Image.Image, model: str, options: Options) -> str:
        """What `image` shows, by `model` "clip" or "deepdanbooru". Raises NotFound naming where its files belong."""
        ...

    def set_total(self, passes: int) -> None:
        """How many sampling passes the whole script makes, for the progress; the pipeline then leaves it alone."""
        ...

    def generate(
        self,
        request: GenerationRequest,
        *,
        hooks: Sequence[Hooks] = (),
        infotext: Mapping[str, Any] | None = None,
        parts: Callable[[GenerationRequest, Running], list[Any]] | None = None,
    ) -> GenerationResult:
        """Runs the pipeline, always-on scripts included, and waits for it.

        hooks: a part of the script's own in this run, after those of the always-on scripts; infotext: entries that
        the pictures' infotext begins with (A1111: `p.extra_generation_params` before `process_images`). The options
        `do_not_save_samples`, `do_not_save_grid` and so on are the request's. parts: who else takes part, in place of
        the request's always-on scripts (`chain.Part`). Raises Cancelled.
        """
        ...

    def infotext(
        self, request: GenerationRequest, *, extra: Mapping[str, Any] | None = None, prompt: str | None = None
    ) -> str:
        """The infotext that a picture of `request` would have, for grids. `prompt` in place of the request's."""
        ...

    def save(
        self, image: Image.Image, request: GenerationRequest, infotext: str, *, grid: bool = False, suffix: str = ""
    ) -> str:
        """Saves as the options of the request say, whether it wants to or not; returns the path."""
        ...

    def warn(self, text: str) -> None:
        """A line of `info.warnings`."""
        ...


class Script:
    """A script, made once when its file is loaded; without state of its own.

    title: as clients name it, letter case ignored; unique among the scripts of a kind.
    args: in the order of the wire; may also be a property where choices depend on the request's kind (see
        `arguments_for`).
    kinds: the endpoints that offer it.
    order: always-on scripts are called from the lowest to the highest, equal ones in the order of their files.
    """

    title: ClassVar[str] = ""
    args: ClassVar[Sequence[Argument]] = ()
    kinds: ClassVar[Sequence[Kind]] = ("txt2img", "img2img")
    always_on: ClassVar[bool] = False
    order: ClassVar[int] = 0

    def arguments_for(self, kind: Kind, files: Files) -> Sequence[Argument]:
        """`args`, unless they differ between the endpoints or name model files as choices."""
        return self.args

    def listed(self, argument: str, chosen: str, kind: Kind, files: Files) -> Sequence[str]:
        """The choices of an argument declared with `listed`, while that other argument has the value `chosen`.

        None of them: there is a text to write into only.
        """
        return ()

    def read(self, given: object, kind: Kind, files: Files, field: str) -> Arguments:
        """What the wire's `args` mean: by position or by name, unless the script has a form of its own.

        Raises BadRequest naming the part of `field` that is at fault.
        """
        return read_arguments(self.arguments_for(kind, files), given, field)

    def run(self, request: GenerationRequest, args: Arguments, context: ScriptContext) -> GenerationResult:
        """Selectable scripts: the generation. Raises BadRequest for arguments that make no sense."""
        return context.generate(request)

    def hooks(self, request: GenerationRequest, args: Arguments) -> Hooks | None:
        """Always-on scripts: their part in `request`, or None. Called once per run of the pipeline."""
        return None
