"""The scripts of this server: loaded once, looked up by title, asked for their part in every request."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from sdwebui_api.config.flags import Flags
from sdwebui_api.errors import SdWebUIError
from sdwebui_api.generation.request import GenerationRequest, GenerationResult, ScriptCall
from sdwebui_api.scripting.arguments import Argument, Arguments, UnknownScript, unknown_script
from sdwebui_api.scripting.chain import Part, report_error
from sdwebui_api.scripting.extensions import ExtensionFolder, ScriptFile
from sdwebui_api.scripting.hooks import Files, Kind, Running, Script, ScriptContext
from sdwebui_api.scripting.loading import NativeFile, load_native_file, needs_legacy
from sdwebui_api.scripting.page_hooks import PageTab

log = logging.getLogger(__name__)


NativeParts = Callable[[GenerationRequest, Running], list[Part]]


class Legacy(Protocol):
    """The world of A1111's extensions (`scripting.compat`), made when the first of them is loaded."""

    def load(self, file: ScriptFile) -> None:
        """Runs the file. Raises whatever the file raises."""
        ...

    def scripts(self) -> Sequence[Script]:
        """What the files brought, as scripts of ours; called once, after the last file."""
        ...

    def running(self, request: GenerationRequest, context: ScriptContext, native_parts: NativeParts) -> Any:
        """A context in which `modules.shared` and the like show this job."""
        ...

    def parts(self, request: GenerationRequest, calls: Mapping[str, Arguments], run: Running) -> list[Part]: ...

    def app_started(self, app: Any) -> None: ...

    def infotext_pasted(self, infotext: str, parameters: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Chosen:
    """The scripts that a client named."""

    script: ScriptCall | None = None
    always_on: tuple[ScriptCall, ...] = ()


@dataclass
class ScriptHost:
    """Loads and finds scripts. After `load` nothing changes; requests may ask from any thread.

    files: in loading order; legacy: makes the world of A1111's extensions, called for the first file that needs it.
    """

    script_files: Sequence[ScriptFile] = ()
    extensions: Sequence[ExtensionFolder] = ()
    make_legacy: Callable[[], Legacy] | None = None
    scripts: list[Script] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    """Path → why the file could not be loaded."""
    legacy: Legacy | None = None
    native_files: dict[str, NativeFile] = field(default_factory=dict)
    """Path → what the file brought, of those that are written for this server."""

    def load(self) -> None:
        """Runs every file. One that fails is logged and left out; the server starts all the same."""
        for extension in self.extensions:
            if extension.enabled and extension.needs_installing:
                log.info("extension %s: install.py and requirements are not run; install them yourself", extension.name)
        for file in self.script_files:
            try:
                found = self._load(file)
            except (Exception, SystemExit) as error:
                self.failures[str(file.path)] = f"{type(error).__name__}: {error}"
                log.error("%s could not be loaded", file.path, exc_info=error)
                continue
            self.scripts += [script for script in found if self._is_new(script, str(file.path))]
        if self.legacy is not None:
            self.scripts += [script for script in self.legacy.scripts() if self._is_new(script, script.title)]
        self.scripts.sort(key=lambda script: (script.always_on, script.order if script.always_on else 0))

    def _load(self, file: ScriptFile) -> Sequence[Script]:
        if not needs_legacy(file):
            native = load_native_file(file)
            self.native_files[str(file.path)] = native
            return native.scripts
        if self.legacy is None:
            if self.make_legacy is None:
                raise SdWebUIError("this server does not load extensions of A1111")
            self.legacy = self.make_legacy()
        self.legacy.load(file)
        return ()

    def _is_new(self, script: Script, place: str) -> bool:
        """Titles are how clients name scripts: of two equal ones the first is kept."""
        taken = {kind for other in self.scripts for kind in other.kinds if other.title.lower() == script.title.lower()}
        if taken & set(script.kinds):
            self.failures[place] = f"there is another script {script.title!r}"
            log.error("%s: there is another script %r already", place, script.title)
            return False
        return True

    def add(self, script: Script) -> None:
        """A script of the program's own, which is made with what it needs. Call before requests are served."""
        if self._is_new(script, script.title):
            self.scripts.append(script)
            self.scripts.sort(key=lambda one: (one.always_on, one.order if one.always_on else 0))

    # -- what there is ---------------------------------------------------------------------------------------------

    def offered(self, kind: Kind, *, always_on: bool) -> list[Script]:
        return [script for script in self.scripts if kind in script.kinds and script.always_on == always_on]

    def find(self, kind: Kind, title: str) -> Script | None:
        """Letter case and surrounding blanks do not matter."""
        wanted = title.strip().lower()
        return next((s for s in self.scripts if kind in s.kinds and s.title.strip().lower() == wanted), None)

    def titles(self, kind: Kind, *, always_on: bool) -> list[str]:
        """In lower case, as clients compare them."""
        return [script.title.lower() for script in self.offered(kind, always_on=always_on)]

    def rows(self, kind: Kind, files: Files, *, always_on: bool) -> list[dict[str, Any]]:
        """As GET /script-info answers them."""
        return [
            {
                "name": script.title.lower(),
                "is_alwayson": always_on,
                "is_img2img": kind == "img2img",
                "args": [argument.row() for argument in self._declared(script, kind, files)],
            }
            for script in self.offered(kind, always_on=always_on)
        ]

    @staticmethod
    def _declared(script: Script, kind: Kind, files: Files) -> Sequence[Argument]:
        try:
            return script.arguments_for(kind, files)
        except Exception as error:
            log.error("script %s does not say its arguments", script.title, exc_info=error)
            return ()

    # -- what a client names -----------------------------------------------------------------------------------------

    def read(
        self, kind: Kind, files: Files, script_name: str | None, script_args: object, always_on: Mapping[str, Any]
    ) -> Chosen:
        """Raises UnknownScript, or BadRequest (422) for a wrong kind of script and for wrong arguments."""
        script = self._read_selectable(kind, files, script_name, script_args) if script_name else None
        calls = [self._read_always_on(kind, files, name, entry) for name, entry in always_on.items()]
        return Chosen(script, tuple(call for call in calls if call is not None))

    def _read_selectable(self, kind: Kind, files: Files, name: str, args: object) -> ScriptCall:
        script = self.find(kind, name)
        if script is None or script.always_on:
            raise unknown_script(name, "script_name", self.titles(kind, always_on=False))
        return ScriptCall(script.title, script.read(args, kind, files, "script_args"))

    def _read_always_on(self, kind: Kind, files: Files, name: str, entry: object) -> ScriptCall | None:
        script = self.find(kind, name)
        if script is None:
            raise unknown_script(name, "alwayson_scripts", self.titles(kind, always_on=True))
        if not script.always_on:
            raise UnknownScript(
                "Cannot have a selectable script in the always on scripts params",
                field="alwayson_scripts",
                choices=self.titles(kind, always_on=True),
            )
        # As A1111: an entry that is no object, or has no arguments, is as good as none.
        if not isinstance(entry, Mapping) or entry.get("args") is None:
            return None
        return ScriptCall(script.title, script.read(entry["args"], kind, files, f"alwayson_scripts.{name}.args"))

    # -- what runs ---------------------------------------------------------------------------------------------------

    @contextmanager
    def running(self, request: GenerationRequest, context: ScriptContext) -> Iterator[None]:
        """The job in which A1111's extensions see themselves."""
        if self.legacy is None:
            yield
            return
        with self.legacy.running(request, context, self.native_parts):
            yield

    def run(self, request: GenerationRequest, context: ScriptContext) -> GenerationResult:
        """The request's selectable script, or the plain pipeline."""
        if request.script is None:
            return self.finished(context.generate(request))
        script = self.find(request.kind, request.script.title)
        if script is None:
            raise unknown_script(request.script.title, "script_name", self.titles(request.kind, always_on=False))
        return self.finished(script.run(request, Arguments(request.script.args), context))

    def finished(self, result: GenerationResult) -> GenerationResult:
        """`result` with nothing in its `info` that is no JSON: extensions put anything there."""
        if self.legacy is not None:
            result.info = {str(name): _plain(value) for name, value in result.info.items()}
        return result

    def parts(self, request: GenerationRequest, run: Running) -> list[Part]:
        """What the always-on scripts do in this run; nothing when there are none."""
        native = self.native_parts(request, run)
        return native + (self.legacy.parts(request, _given(request), run) if self.legacy is not None else [])

    def native_parts(self, request: GenerationRequest, run: Running) -> list[Part]:
        """Without those of A1111's extensions."""
        given = _given(request)
        parts = []
        for script in self.offered(request.kind, always_on=True):
            try:
                args = given.get(script.title.lower())
                hooks = script.hooks(request, Arguments(_defaults(script)) if args is None else args)
            except SdWebUIError:
                raise
            except Exception as error:
                report_error(run.warnings, script.title, "hooks", error)
                continue
            if hooks is not None:
                parts.append(Part(script.title, hooks))
        return parts

    def app_started(self, app: Any) -> None:
        """The application with all of our routes exists: extensions may add theirs."""
        for path, native in self.native_files.items():
            if native.app_started is not None:
                try:
                    native.app_started(app)
                except Exception as error:
                    self.failures[path] = f"{type(error).__name__}: {error}"
                    log.error("%s: app_started failed", path, exc_info=error)
        if self.legacy is not None:
            self.legacy.app_started(app)

    def infotext_pasted(self, infotext: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """What was read from `infotext`, as A1111's extensions read their parts of it."""
        if self.legacy is None:
            return parameters
        changed = dict(parameters)
        self.legacy.infotext_pasted(infotext, changed)
        return {str(name): _plain(value) for name, value in changed.items()}

    def page_tabs(self, flags: Flags) -> list[PageTab]:
        """The tabs that extensions bring and that `flags` allow, in loading order."""
        tabs = []
        for path, native in self.native_files.items():
            if native.page_tab is None:
                continue
            try:
                tab = native.page_tab()
                if tab.shown(flags):
                    tabs.append(tab)
            except Exception as error:
                self.failures[path] = f"{type(error).__name__}: {error}"
                log.error("%s: page_tab failed", path, exc_info=error)
        return tabs


def _plain(value: Any) -> Any:
    """`value` as JSON can say it; None for what it cannot, as A1111 answers."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None


def _given(request: GenerationRequest) -> dict[str, Arguments]:
    return {call.title.lower(): Arguments(call.args) for call in request.always_on}


def _defaults(script: Script) -> dict[str, Any]:
    return {argument.name: argument.default for argument in script.args}
