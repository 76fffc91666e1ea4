"""`ui-config.json`: the page's defaults, in A1111's form (`"txt2img/Sampling steps/value": 20`)."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from sdwebui_api.config.flags import Flags
from sdwebui_api.config.paths import Paths

log = logging.getLogger(__name__)

LIMITS = ("minimum", "maximum", "step")


class UiConfig:
    """Reads the file once, when the page is built; `save` writes what visitors chose as new defaults."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values = _read(path)
        self._known: dict[str, Component] = {}
        self.changed: dict[Component, Any] = {}
        """What differs from the page as it was built."""

    def of_user(self, path: Path) -> UiConfig:
        """One user's own defaults above these."""
        return _OwnDefaults(path, self)

    def apply(self, key: str, component: Component) -> None:
        """Gives the component what the file says of it. A value that does not fit is logged and left out."""
        self._known[key] = component
        for limit in LIMITS:
            number = self._values.get(f"{key}/{limit}")
            if hasattr(component, limit) and isinstance(number, (int, float)) and not isinstance(number, bool):
                setattr(component, limit, number)
        value = self._values.get(f"{key}/value")
        if value is not None:
            if fits(component, value):
                component.value = value
            else:
                log.warning("%s: %s/value: %r does not fit", self._path.name, key, value)
        visible = self._values.get(f"{key}/visible")
        if isinstance(visible, bool):
            component.visible = visible

    @property
    def components(self) -> dict[str, Component]:
        """Key → component, of all whose values are kept."""
        return self._known

    def save(self, values: dict[str, Any]) -> None:
        """`values`: key → value. Other entries of the file stay. Raises OSError."""
        current = _read(self._path) | {f"{key}/value": value for key, value in values.items()}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        written = self._path.with_suffix(".tmp")
        written.write_text(json.dumps(current, indent=4, ensure_ascii=False), encoding="utf-8")
        os.replace(written, self._path)
        self._values = current
        self._take(values)

    def _take(self, values: dict[str, Any]) -> None:
        for key, value in values.items():
            self._known[key].value = self.changed[self._known[key]] = value


class _OwnDefaults(UiConfig):
    """Components are everybody's: what is saved here is told to the user's page when it opens."""

    def __init__(self, path: Path, shared: UiConfig) -> None:
        super().__init__(path)
        self._known = shared._known
        own = {
            component: self._values[f"{key}/value"] for key, component in self._known.items()
            if f"{key}/value" in self._values
        }  # fmt: skip
        self.changed = shared.changed | own

    def _take(self, values: dict[str, Any]) -> None:
        self.changed |= {self._known[key]: value for key, value in values.items()}


def written_value(component: Component, value: Any) -> Any:
    """What a handler was given of the component, as the component itself holds it."""
    if isinstance(component, gr.Dropdown) and component.type == "index" and isinstance(value, int):
        return component.choices[value][1]
    return value


def defaults_file(flags: Flags) -> Path:
    given = flags.ui_config_file
    return Path(given).expanduser().absolute() if given else Paths.from_flags(flags).data_dir / "ui-config.json"


def fits(component: Component, value: Any, choices: Sequence[Any] | None = None) -> bool:
    """Whether the component can have this value. `choices`: those of now, where they come and go."""
    if isinstance(component, gr.Dropdown) and component.allow_custom_value:
        return all(isinstance(one, str) for one in (value if isinstance(value, list) else [value]))
    if isinstance(component, gr.Dropdown | gr.Radio | gr.CheckboxGroup):
        offered = choices if choices is not None else [choice for _, choice in component.choices]
        return all(one in offered for one in (value if isinstance(value, list) else [value]))
    if isinstance(component, gr.Checkbox):
        return isinstance(value, bool)
    if isinstance(component, (gr.Slider, gr.Number)):
        least = component.minimum if component.minimum is not None else -math.inf
        most = component.maximum if component.maximum is not None else math.inf
        return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most
    return isinstance(value, str)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read: %s", path, error)
        return {}
    return found if isinstance(found, dict) else {}
