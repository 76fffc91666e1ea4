"""How an extension brings a tab of the page.

A file `scripts/*.py` of the extension defines

    def page_tab() -> PageTab: ...

It is called once, after every script has been loaded, and only where there is a page. The file must not import gradio
before `build` is called. Routes come by `app_started(app)`, defined in the same file; `app.state.services` has what
they need.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sdwebui_api.config.flags import Flags


def always(flags: Flags) -> bool:
    return True


@dataclass(frozen=True)
class PageTab:
    """One tab beside the page's own."""

    id: str
    """In elem_ids (`tab_<id>`) and addresses: lower case, underscores."""
    label: str
    """In English; translated like every text of the page."""
    build: Callable[[Any], None]
    """Makes the components, given the `webui.context.PageBuilder`; called inside of the tab."""
    shown: Callable[[Flags], bool] = always
