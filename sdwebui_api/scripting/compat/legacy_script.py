"""A script of A1111 as the host lists and runs it."""

from __future__ import annotations

import logging
from typing import Any

from sdwebui_api.errors import SdWebUIError
from sdwebui_api.generation.request import GenerationRequest, GenerationResult
from sdwebui_api.sampling.guidance import SamplingStopped
from sdwebui_api.scripting.arguments import Argument, Arguments
from sdwebui_api.scripting.compat.processing import make_p, result_from
from sdwebui_api.scripting.compat.run import process_images
from sdwebui_api.scripting.compat.runner import ScriptRunner, declared_arguments, passed
from sdwebui_api.scripting.compat.world import job_view
from sdwebui_api.scripting.hooks import Files, Kind, Script, ScriptContext

log = logging.getLogger(__name__)


class LegacyScript(Script):
    """A script of A1111 as the host lists and runs it: one for each endpoint. Always-on ones run in `LegacyHooks`."""

    def __init__(self, script: Any, kind: Kind, runner: ScriptRunner) -> None:
        self.title = script.title()  # type: ignore[misc]
        self.kinds = (kind,)  # type: ignore[misc]
        self.always_on = bool(script.alwayson)  # type: ignore[misc]
        self.args = declared_arguments(script)  # type: ignore[misc]
        self._script = script
        self._runner = runner

    def arguments_for(self, kind: Kind, files: Files) -> tuple[Argument, ...]:
        return tuple(self.args)

    def run(self, request: GenerationRequest, args: Arguments, context: ScriptContext) -> GenerationResult:
        given = {call.title.lower(): Arguments(call.args) for call in request.always_on}
        script = self._script
        values = script_args(self._runner, given)
        values[0] = self._runner.selectable_scripts.index(script) + 1
        own = _own_args(script, args)
        values[script.args_from : script.args_to] = own
        p = make_p(request, self._runner, tuple(values))
        p.sdwebui_warnings = job_view("a script").warnings
        try:
            processed = script.run(p, *own)
        except (SdWebUIError, SamplingStopped):
            raise
        except Exception as error:
            log.error("script %s failed", self.title, exc_info=error)
            raise SdWebUIError(f"script {self.title!r} failed: {type(error).__name__}: {error}") from error
        return result_from(processed if processed is not None else process_images(p))


def script_args(runner: ScriptRunner, given: dict[str, Arguments]) -> list[Any]:
    """The flat list of all scripts' arguments: defaults, and what the client gave."""
    values = runner.defaults()
    for script in runner.scripts:
        args = given.get(script.title().lower())
        if args is not None:
            values[script.args_from : script.args_to] = _own_args(script, args)
    return values


def _own_args(script: Any, args: Arguments) -> list[Any]:
    return [passed(control, value) for control, value in zip(script.controls, args.positional(), strict=True)]
