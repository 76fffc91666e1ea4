"""Settings for the next pictures alone: what a picture's parameters say, where the server's settings say otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from sdwebui_api.errors import BadRequest
from sdwebui_api.generation.infotext_request import SETTING_OF_ENTRY
from sdwebui_api.webui.generation.form import Body, Form
from sdwebui_api.webui.localization import t

SETTINGS: Mapping[str, str] = {**SETTING_OF_ENTRY, "Model hash": "sd_model_checkpoint"}
"""Name in an infotext → the setting."""
ENTRIES = {setting: entry for entry, setting in SETTINGS.items()}


def id_of(tab: str) -> str:
    return f"{tab}_override_settings"


def build(form: Form) -> None:
    """Hidden while it is empty."""
    chosen = form.add(
        gr.Dropdown(
            [], value=[], multiselect=True, allow_custom_value=True, visible=False, label=t("Override settings"),
            info=t("For these pictures alone; take away what should follow the server's settings"),
            elem_id=id_of(form.kind),
        )
    )  # fmt: skip
    form.contribute([chosen], _write)


def update_for(settings: Mapping[str, Any]) -> Any:
    """Shows `settings` (setting → value) in the form "Clip skip: 2"."""
    shown = [f"{ENTRIES[name]}: {value}" for name, value in settings.items() if name in ENTRIES]
    return gr.update(choices=shown, value=shown, visible=bool(shown))


def _write(body: Body, shown: list[str] | None) -> None:
    for line in shown or []:
        entry, colon, value = line.partition(":")
        if not colon or entry.strip() not in SETTINGS:
            raise BadRequest(f"{line[:100]!r} overrides no setting", field="override_settings")
        body.setdefault("override_settings", {})[SETTINGS[entry.strip()]] = value.strip()
