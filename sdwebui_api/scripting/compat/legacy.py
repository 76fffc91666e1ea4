"""Loading A1111's extensions and putting them before the host: the `host.Legacy` of this server."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sdwebui_api.generation.request import GenerationRequest
from sdwebui_api.scripting.arguments import Arguments
from sdwebui_api.scripting.chain import Part
from sdwebui_api.scripting.compat import finder, world
from sdwebui_api.scripting.compat.adapter import LegacyHooks
from sdwebui_api.scripting.compat.headless_gradio import as_gradio, make_modules
from sdwebui_api.scripting.compat.job_local import keep_state
from sdwebui_api.scripting.compat.legacy_script import LegacyScript, script_args
from sdwebui_api.scripting.compat.runner import ScriptRunner
from sdwebui_api.scripting.compat.world import JobView, ScriptClass, World, viewing
from sdwebui_api.scripting.extensions import ExtensionFolder, ScriptFile
from sdwebui_api.scripting.hooks import Kind, Running, Script, ScriptContext
from sdwebui_api.scripting.loading import on_import_path, run_file

log = logging.getLogger(__name__)

NativeParts = Callable[[GenerationRequest, Running], list[Part]]


class LegacyWorld:
    """The extensions of one server, from their files to their part in a request."""

    def __init__(self, made: World) -> None:
        self.world = made
        self._gradio = make_modules()
        self._keeping = threading.Lock()
        world.enter(made)
        finder.install()
        self._preload(made.extensions)

    def load(self, file: ScriptFile) -> None:
        """Runs the file and remembers its classes; the scripts are made by `scripts`, once all files have run."""
        made = self.world
        made.current_basedir = str(file.base)
        try:
            with self._building():
                module = run_file(file, f"scripts.{file.path.stem}")
        finally:
            made.current_basedir = str(made.script_path)
        from sdwebui_api.scripting.compat.modules import scripts, scripts_postprocessing

        for value in list(vars(module).values()):
            if not isinstance(value, type) or not self._belongs_to(value, module.__name__):
                continue
            row = ScriptClass(value, str(file.path), str(file.base), module)
            if issubclass(value, scripts.Script):
                made.script_classes.append(row)
            elif issubclass(value, scripts_postprocessing.ScriptPostprocessing):
                made.postprocessing_classes.append(row)

    def _belongs_to(self, value: type, module: str) -> bool:
        """Whether a file brings this class: it defines it, or imports it from a package of its extension.

        What other script files define they bring themselves, and bases without a title are nobody's script.
        """
        if value.__module__ == module:
            return True
        if value.__module__.partition(".")[0] in ("scripts", "modules", "sdwebui_api"):
            return False
        return "title" in vars(value) and all(row.script_class is not value for row in self.world.script_classes)

    def scripts(self) -> Sequence[Script]:
        """Makes every script once for each endpoint; settings of the extensions become the server's."""
        from sdwebui_api.scripting.compat.modules import scripts as module

        found: list[Script] = []
        with self._building():
            self.world.callbacks.call("before_ui")
            settings = len(self.world.callbacks.of("ui_settings"))
            self.world.callbacks.call("ui_settings")
            kinds: tuple[Kind, Kind] = ("txt2img", "img2img")
            for kind in kinds:
                runner = self.world.runners[kind] = ScriptRunner(kind == "img2img")
                runner.initialize(self.world.script_classes)
                found += [LegacyScript(script, kind, runner) for script in runner.scripts]
            # Some register their settings only when the script is made, which in A1111 a reload of the page catches.
            for late in self.world.callbacks.of("ui_settings")[settings:]:
                late.run("ui_settings")
        module.show_runners(self.world)
        return found

    def app_started(self, app: Any) -> None:
        """`on_app_started(demo, app)`; there is no page, so `demo` is None as with A1111's `--nowebui`."""
        with self._building():
            self.world.callbacks.call("app_started", None, app)

    def infotext_pasted(self, infotext: str, parameters: dict[str, Any]) -> None:
        self.world.callbacks.call("infotext_pasted", infotext, parameters)

    @contextmanager
    def running(self, request: GenerationRequest, context: ScriptContext, native_parts: NativeParts) -> Iterator[None]:
        """What scripts set and registered stays when the job ends; of a job that fails nothing does, for its scripts
        had no occasion to take back what was for that job alone."""
        found = JobView(context, request, request.options, native_parts=native_parts)
        try:
            with viewing(found):
                yield
        finally:
            for warning in found.warnings:
                context.warn(warning)
        scripts = [script for runner in self.world.runners.values() for script in runner.scripts]
        with self._keeping:
            self.world.callbacks.adopt(found.callbacks, found.removed)
            self.world.opts_attributes.update(found.opts_attributes)
            keep_state(found, scripts)

    def parts(self, request: GenerationRequest, calls: Mapping[str, Arguments], run: Running) -> list[Part]:
        runner = self.world.runners[request.kind]
        return [Part("extensions", LegacyHooks(self.world, runner, tuple(script_args(runner, dict(calls)))))]

    @contextmanager
    def _building(self) -> Iterator[None]:
        """Extensions find the headless gradio, unless they imported another before."""
        with as_gradio(self._gradio):
            yield

    def _preload(self, extensions: Sequence[ExtensionFolder]) -> None:
        """`preload.py` files declare flags; they are read from the command line beside ours."""
        parser = argparse.ArgumentParser(add_help=False)
        for extension in extensions:
            path = extension.path / "preload.py"
            if not extension.enabled or not path.is_file():
                continue
            try:
                with on_import_path(extension.path):
                    module = run_file(ScriptFile(path, extension.path, extension), f"sdwebui_preload.{extension.name}")
                module.preload(parser)
            except Exception as error:
                log.error("%s failed", path, exc_info=error)
        with contextlib.suppress(SystemExit):
            self.world.extra_flags = parser.parse_known_args(sys.argv[1:])[0]
