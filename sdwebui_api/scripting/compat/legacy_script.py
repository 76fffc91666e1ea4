"""A script of A1111 as the host lists and runs it."""

from __future__ import annotations

from typing import Any

from sdwebui_api.generation.request import GenerationRequest, GenerationResult
from sdwebui_api.scripting.arguments import Argument, Arguments
from sdwebui_api.scripting.compat.processing import make_p, result_from
from sdwebui_api.scripting.compat.run import process_images
from sdwebui_api.scripting.compat.runner import ScriptRunner, declared_arguments
from sdwebui_api.scripting.compat.world import job_view
from sdwebui_api.scripting.hooks import Files, Kind, Script, ScriptContext


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
        values[script.args_from : script.args_to] = args.positional()
        p = make_p(request, self._runner, tuple(values))
        p.sdwebui_warnings = job_view("a script").warnings
        processed = script.run(p, *args.positional())
        return result_from(processed if processed is not None else process_images(p))


def script_args(runner: ScriptRunner, given: dict[str, Arguments]) -> list[Any]:
    """The flat list of all scripts' arguments: defaults, and what the client gave."""
    values = runner.defaults()
    for script in runner.scripts:
        args = given.get(script.title().lower())
        if args is not None:
            values[script.args_from : script.args_to] = args.positional()
    return values
