"""The scripts of one endpoint, made and called as A1111's `ScriptRunner` does."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from sdwebui_api.errors import SdWebUIError
from sdwebui_api.sampling.guidance import SamplingStopped
from sdwebui_api.scripting.arguments import Argument
from sdwebui_api.scripting.chain import report_error
from sdwebui_api.scripting.compat.headless_gradio import Block
from sdwebui_api.scripting.compat.job_local import make_job_local
from sdwebui_api.scripting.compat.script_base import AlwaysVisible, Script
from sdwebui_api.scripting.compat.world import ScriptClass

log = logging.getLogger(__name__)


class ScriptRunner:
    """Scripts of txt2img or of img2img; `p.scripts`. Extensions copy it and filter its lists."""

    def __init__(self, is_img2img: bool = False) -> None:
        self.is_img2img = is_img2img
        self.scripts: list[Any] = []
        self.selectable_scripts: list[Any] = []
        self.alwayson_scripts: list[Any] = []
        self.titles: list[str] = []
        self.infotext_fields: list[Any] = []
        self.paste_field_names: list[str] = []
        self.inputs: list[Any] = [None]
        """The flat list of all widgets, of which every script has a slice; the first is the choice of the script."""

    def initialize(self, classes: Sequence[ScriptClass]) -> None:
        """One instance of every class that shows itself here. One that fails is left out."""
        for row in classes:
            try:
                script = row.script_class()
                script.filename = row.path
                script.is_txt2img, script.is_img2img = not self.is_img2img, self.is_img2img
                script.tabname = "img2img" if self.is_img2img else "txt2img"
                self._admit(script)
                make_job_local(script)
            except Exception as error:
                log.error("script %s of %s is left out", row.script_class.__name__, row.path, exc_info=error)

    def _admit(self, script: Any) -> None:
        shown = script.show(script.is_img2img)
        if not shown:
            return
        script.name = (script.title() or "").lower()
        script.alwayson = shown == AlwaysVisible
        self._build(script)
        self.scripts.append(script)
        (self.alwayson_scripts if script.alwayson else self.selectable_scripts).append(script)
        self.titles = [other.title() for other in self.selectable_scripts]

    def _build(self, script: Any) -> None:
        """Runs `ui` on widgets that only remember, and gives the script its slice of the flat list."""
        controls = script.ui(script.is_img2img)
        if controls is None:
            controls = []
        elif isinstance(controls, Block):
            controls = [controls]
        script.controls = list(controls)
        script.args_from = len(self.inputs)
        self.inputs += script.controls
        script.args_to = len(self.inputs)
        self.infotext_fields += list(script.infotext_fields or [])
        self.paste_field_names += list(script.paste_field_names or [])

    # -- arguments ---------------------------------------------------------------------------------------------------

    def defaults(self) -> list[Any]:
        return [0, *(passed(control, getattr(control, "value", None)) for control in self.inputs[1:])]

    def script(self, title: str) -> Any:
        """The script of that title in lower case, as `p.scripts.script("…")`."""
        return next((script for script in self.scripts if script.title().lower() == title.lower()), None)

    # -- calls -------------------------------------------------------------------------------------------------------

    def call(self, method: str, p: Any, *args: Any, with_args: bool = True, **kwargs: Any) -> None:
        """`method` of every always-on script; an error in one is reported and the next one is called."""
        for script in self.alwayson_scripts:
            function = getattr(script, method, None)
            if function is None or not overrides(script, method):
                continue
            own = p.script_args[script.args_from : script.args_to] if with_args else ()
            try:
                function(p, *args, *own, **kwargs)
            except (SdWebUIError, SamplingStopped):
                raise
            except Exception as error:
                report_error(p.sdwebui_warnings, script.title(), method, error)

    def has(self, *methods: str) -> bool:
        return any(overrides(script, method) for script in self.alwayson_scripts for method in methods)

    def run(self, p: Any, *args: Any) -> Any:
        """The selectable script that `args[0]` names by its number; None: no script."""
        number = args[0] if args else 0
        if not number:
            return None
        script = self.selectable_scripts[number - 1]
        return script.run(p, *args[script.args_from : script.args_to])

    def __getattr__(self, name: str) -> Any:
        """`p.scripts.process(p)` and the like, which some extensions call themselves."""
        if name.startswith("_"):
            raise AttributeError(name)
        if not hasattr(Script, name):
            raise AttributeError(name)
        return lambda p, *args, **kwargs: self.call(name, p, *args, **kwargs)


def overrides(script: Any, method: str) -> bool:
    """Whether a script does anything there."""
    own = getattr(type(script), method, None)
    return (own is not None and own is not getattr(Script, method, None)) or method in vars(script)


def passed(control: Any, value: Any) -> Any:
    """What a script gets for a widget's value: the number of the choice where it asked for that (`type="index"`)."""
    choices = getattr(control, "choices", None)
    if not choices or getattr(control, "type", None) != "index":
        return value
    if isinstance(value, list):
        return [passed(control, one) for one in value]
    return choices.index(value) if isinstance(value, str) and value in choices else value


def declared_arguments(script: Any) -> tuple[Argument, ...]:
    """The script's widgets as arguments. Names are the labels, made unique; texts and buttons count, as in A1111."""
    found: list[Argument] = []
    for index, control in enumerate(script.controls):
        label = getattr(control, "label", None) or ""
        name = label if label and label not in {row.name for row in found} else f"{label or 'arg'} {index}"
        choices = getattr(control, "choices", None)
        found.append(
            Argument(
                name=name,
                default=getattr(control, "value", None),
                label=label,
                minimum=getattr(control, "minimum", None),
                maximum=getattr(control, "maximum", None),
                step=getattr(control, "step", None),
                choices=tuple(str(choice) for choice in choices) if isinstance(choices, (list, tuple)) else None,
                typed=False,
            )
        )
    return tuple(found)
