"""`modules.infotext_utils`: reading infotexts. The page's buttons are remembered and not shown."""

from __future__ import annotations

from typing import Any

from sdwebui_api.scripting.compat.world import current_options, world

registered_param_bindings: list[Any] = []
paste_fields: dict[str, Any] = {}


class ParamBinding:
    def __init__(self, paste_button: Any = None, tabname: Any = None, **values: Any) -> None:
        self.paste_button, self.tabname = paste_button, tabname
        self.__dict__.update(values)


class PasteField(tuple):
    def __new__(cls, component: Any, target: Any, *, api: str | None = None) -> PasteField:
        field = super().__new__(cls, (component, target))
        field.component, field.label, field.api = component, target, api  # type: ignore[attr-defined]
        field.function = target if callable(target) else None  # type: ignore[attr-defined]
        return field


def parse_generation_parameters(x: str, skip_fields: Any = None) -> dict[str, Any]:
    """Prompt and parameters of an infotext by their labels, with A1111's defaults for old ones."""
    found = world().parse_infotext(x)
    return {name: value for name, value in found.items() if name not in (skip_fields or ())}


def quote(text: Any) -> str:
    from sdwebui_api.imaging.metadata import quote as quoted

    return quoted(text)


def unquote(text: str) -> Any:
    import json

    try:
        return json.loads(text) if text.startswith('"') and text.endswith('"') else text
    except ValueError:
        return text


def create_override_settings_dict(text_pairs: Any) -> dict[str, Any]:
    """`["Clip skip: 2", …]` to settings, for those labels that are names of settings."""
    pairs = (pair.split(":", 1) for pair in text_pairs if ":" in pair)
    return {name.strip(): value.strip() for name, value in pairs if name.strip() in current_options()}


def register_paste_params_button(binding: ParamBinding) -> None:
    registered_param_bindings.append(binding)


def add_paste_fields(tabname: str, init_img: Any, fields: Any, override_settings_component: Any = None) -> None:
    paste_fields[tabname] = {"init_img": init_img, "fields": fields}


def connect_paste_params_buttons() -> None:
    return


def create_buttons(tabs_list: list[str]) -> dict[str, Any]:
    from sdwebui_api.scripting.compat.headless_gradio import widget

    return {name: widget("Button")(value=name) for name in tabs_list}


def bind_buttons(buttons: Any, send_image: Any, send_generate_info: Any) -> None:
    return


def reset() -> None:
    paste_fields.clear()
    registered_param_bindings.clear()


def image_from_url_text(filedata: Any) -> Any:
    """A picture sent as base64 text."""
    from sdwebui_api.imaging.codec import decode_image

    text = filedata[0] if isinstance(filedata, list) and filedata else filedata
    return decode_image(text, "image") if isinstance(text, str) else None
