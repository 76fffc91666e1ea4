"""`modules.ui_common`: helpers of the page."""

from __future__ import annotations

import html
from typing import Any

from sdwebui_api.scripting.compat.modules.ui_components import ToolButton
from sdwebui_api.scripting.compat.world import NotOffered

refresh_symbol = "🔄"
folder_symbol = "📂"


def plaintext_to_html(text: str, classname: str | None = None) -> str:
    content = "<br>\n".join(html.escape(line) for line in text.split("\n"))
    return f"<p class='{classname}'>{content}</p>" if classname else f"<p>{content}</p>"


def create_refresh_button(refresh_component: Any, refresh_method: Any, refreshed_args: Any, elem_id: Any) -> Any:
    return ToolButton(value=refresh_symbol, elem_id=elem_id)


def setup_dialog(button_show: Any, dialog: Any, *, button_close: Any = None) -> None:
    return


def save_files(js_data: Any, images: Any, do_make_zip: Any, index: Any) -> Any:
    raise NotOffered("ui_common.save_files belongs to the page")
