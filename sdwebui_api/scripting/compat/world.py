"""What A1111 keeps in globals, as one object per server, shown through `modules.*`.

- `World` holds what the extensions of one server registered: script classes, callbacks, options.
- `JobView` is what they see of the job that runs in their thread: its options, model, progress. It is set in a context
  variable for the time of a job, so two jobs side by side each see their own.

The modules of the package `modules` here are thin: they look things up in `world()` and `view()`.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdwebui_api.config.flags import Flags, default_data_dir
from sdwebui_api.config.option_table import OptionSpec
from sdwebui_api.config.options import Options, OptionStore
from sdwebui_api.config.paths import Paths
from sdwebui_api.generation.request import GenerationRequest
from sdwebui_api.scripting.chain import Part
from sdwebui_api.scripting.compat import xyz_grid
from sdwebui_api.scripting.compat.callbacks import Callback, Callbacks
from sdwebui_api.scripting.extensions import ExtensionFolder
from sdwebui_api.scripting.hooks import Files, Running, ScriptContext

if TYPE_CHECKING:
    from sdwebui_api.engine.model import DiffusionModel

log = logging.getLogger(__name__)

_view: ContextVar[JobView | None] = ContextVar("sdwebui_job", default=None)
_worlds: list[World] = []


class NotOffered(AttributeError):
    """Something of A1111 that this server does not have. An AttributeError, so that `hasattr` answers False."""


@dataclass
class JobView:
    """The running job as `modules.shared` shows it. `options`: the request's, with what scripts set on `opts`."""

    context: ScriptContext
    request: GenerationRequest
    options: Options
    model: DiffusionModel | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    """What scripts put on `shared.state` beyond what a job has."""
    callbacks: Callbacks = field(default_factory=Callbacks)
    """Registered while the job runs: until it ends for this job alone."""
    removed: list[Callable[[Callback], bool]] = field(default_factory=list)
    """What the job took away of those that every job has; until it ends for itself alone."""
    script_state: dict[int, dict[str, Any]] = field(default_factory=dict)
    """What scripts set on themselves (`job_local`), by their `id`."""
    opts_attributes: dict[str, Any] = field(default_factory=dict)
    """What scripts put on `shared.opts` that is no setting."""
    warnings: list[str] = field(default_factory=list)
    """Lines for the client, from scripts that run outside of the pipeline."""
    native_parts: Callable[[GenerationRequest, Running], list[Part]] = lambda _request, _run: []

    def set_options(self, values: dict[str, Any]) -> None:
        """For this job alone, as `override_settings` would."""
        self.options = self.options.with_values(values)

    @contextmanager
    def within(self, request: GenerationRequest, model: DiffusionModel | None) -> Iterator[None]:
        """The view of one run of the pipeline; runs may be nested."""
        before = self.request, self.options, self.model
        self.request, self.model, self.options = request, model, request.options
        try:
            yield
        finally:
            self.request, self.options, self.model = before


@dataclass
class World:
    """The extensions' side of one server. Filled while they are loaded, only read afterwards."""

    flags: Flags
    paths: Paths
    store: OptionStore
    files: Files
    extensions: list[ExtensionFolder] = field(default_factory=list)
    callbacks: Callbacks = field(default_factory=Callbacks)
    option_infos: dict[str, Any] = field(default_factory=dict)
    """name → OptionInfo, of those that extensions added."""
    script_classes: list[ScriptClass] = field(default_factory=list)
    postprocessing_classes: list[ScriptClass] = field(default_factory=list)
    runners: dict[str, Any] = field(default_factory=dict)
    """`ScriptRunner`s of `txt2img` and `img2img`."""
    extra_flags: argparse.Namespace = field(default_factory=argparse.Namespace)
    """Flags that `preload.py` files declared."""
    extra_networks: dict[str, Any] = field(default_factory=dict)
    """Kinds of `<kind:…>` tags that extensions registered."""
    xyz_grid: Any = field(default_factory=xyz_grid.make_module)
    """Stands in for A1111's plot, to which extensions add axes."""
    parse_infotext: Callable[[str], dict[str, Any]] = lambda _text: {}
    opts_attributes: dict[str, Any] = field(default_factory=dict)
    """What scripts put on `shared.opts` that is no setting."""
    current_basedir: str = ""
    announced_model: Path | None = None

    @property
    def script_path(self) -> Path:
        return Path(default_data_dir())

    def add_option(self, name: str, info: Any) -> None:
        """An extension's setting becomes one of the server's: stored, listed and overridable like ours."""
        self.option_infos[name] = info
        self.store.extend({name: _spec(info)})


@dataclass(frozen=True)
class ScriptClass:
    """One `Script` class of an extension."""

    script_class: type
    path: str
    basedir: str
    module: Any


def _spec(info: Any) -> OptionSpec:
    """How an OptionInfo's values are read: by its default's type, and freely where that says nothing."""
    default = info.default
    arguments = info.component_args if isinstance(info.component_args, dict) else {}
    whole_step = not isinstance(arguments.get("step", 1), float)
    if isinstance(default, bool):
        return OptionSpec("switch", default)
    if isinstance(default, int) and whole_step:
        return OptionSpec("whole", default)
    if isinstance(default, (int, float)):
        return OptionSpec("real", float(default))
    return OptionSpec("text", default) if isinstance(default, str) else OptionSpec("any", default)


def enter(world: World) -> None:
    """Makes `world` the one that `modules.*` shows; the newest, where tests start several in one process."""
    _worlds[:] = [world]


def world() -> World:
    if not _worlds:
        raise RuntimeError("modules.* works only in extensions that this server has loaded")
    return _worlds[0]


def view() -> JobView | None:
    """The job of this thread; None outside of jobs."""
    return _view.get()


def job_view(what: str) -> JobView:
    """The job of this thread. Raises RuntimeError naming `what` outside of jobs."""
    found = _view.get()
    if found is None:
        raise RuntimeError(f"{what} is there only while a job runs, in the job's own thread")
    return found


@contextmanager
def viewing(found: JobView) -> Iterator[JobView]:
    token = _view.set(found)
    try:
        yield found
    finally:
        _view.reset(token)


def current_options() -> Options:
    """The running request's; outside of jobs the stored ones."""
    found = _view.get()
    return found.options if found is not None else world().store.snapshot()


def current_device() -> Any:
    """The device of the running job's model; outside of jobs the one a model would be on."""
    import torch

    found = _view.get()
    if found is not None and found.model is not None:
        return found.model.device
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def callbacks_of(category: str) -> list[Callback]:
    """Every job's callbacks and those of this one."""
    found = _view.get()
    everyone = world().callbacks
    return everyone.of(category) if found is None else everyone.joined(category, found.callbacks, found.removed)


def add_callback(category: str, callback: Callable[..., Any], name: str | None = None) -> None:
    """While extensions are loaded: for every job; in a job: for that one, and for every job once it has ended."""
    found = _view.get()
    (world().callbacks if found is None else found.callbacks).add(category, callback, name)


def remove_callbacks(where: Callable[[Callback], bool]) -> None:
    """Likewise."""
    found = _view.get()
    if found is None:
        world().callbacks.remove(where)
        return
    found.callbacks.remove(where)
    found.removed.append(where)
