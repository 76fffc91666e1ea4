"""The base class of A1111's scripts. Which hooks exist and when they are called: `scripting.hooks`, `adapter`."""

from __future__ import annotations

import re
from typing import Any


class _AlwaysVisible:
    def __repr__(self) -> str:
        return "AlwaysVisible"


AlwaysVisible = _AlwaysVisible()


class Script:
    """A script of A1111. Which hooks exist and when they are called: `scripting.hooks`, `scripting.compat.adapter`."""

    name: Any = None
    section: Any = None
    filename: Any = None
    args_from: Any = None
    args_to: Any = None
    alwayson = False
    is_txt2img = False
    is_img2img = False
    tabname: Any = None
    group: Any = None
    create_group = True
    infotext_fields: Any = None
    paste_field_names: Any = None
    api_info: Any = None
    controls: Any = None
    setup_for_ui_only = False
    load_script_priority = 0
    on_before_component_elem_id: Any = None
    on_after_component_elem_id: Any = None

    def title(self) -> str:
        raise NotImplementedError

    def ui(self, is_img2img: bool) -> Any:
        """Widgets whose values become the arguments of the other methods."""
        return None

    def show(self, is_img2img: bool) -> Any:
        return True

    def run(self, p: Any, *args: Any) -> Any:
        return None

    def setup(self, p: Any, *args: Any) -> None: ...
    def before_process(self, p: Any, *args: Any) -> None: ...
    def process(self, p: Any, *args: Any) -> None: ...
    def before_process_batch(self, p: Any, *args: Any, **kwargs: Any) -> None: ...
    def after_extra_networks_activate(self, p: Any, *args: Any, **kwargs: Any) -> None: ...
    def process_before_every_sampling(self, p: Any, *args: Any, **kwargs: Any) -> None: ...
    def process_batch(self, p: Any, *args: Any, **kwargs: Any) -> None: ...
    def postprocess_batch(self, p: Any, *args: Any, **kwargs: Any) -> None: ...
    def postprocess_batch_list(self, p: Any, pp: Any, *args: Any, **kwargs: Any) -> None: ...
    def on_mask_blend(self, p: Any, mba: Any, *args: Any) -> None: ...
    def post_sample(self, p: Any, ps: Any, *args: Any) -> None: ...
    def postprocess_image(self, p: Any, pp: Any, *args: Any) -> None: ...
    def postprocess_maskoverlay(self, p: Any, ppmo: Any, *args: Any) -> None: ...
    def postprocess_image_after_composite(self, p: Any, pp: Any, *args: Any) -> None: ...
    def postprocess(self, p: Any, processed: Any, *args: Any) -> None: ...
    def before_hr(self, p: Any, *args: Any) -> None: ...

    # The page's components: there is no page yet, so these are inherited but not called.
    def before_component(self, component: Any, **kwargs: Any) -> None: ...
    def after_component(self, component: Any, **kwargs: Any) -> None: ...
    def on_before_component(self, callback: Any, *, elem_id: str) -> None: ...
    def on_after_component(self, callback: Any, *, elem_id: str) -> None: ...

    def describe(self) -> str:
        return ""

    def elem_id(self, item_id: Any) -> str:
        """A name for a widget, as the page's styles expect it."""
        tab = "img2img" if self.is_img2img else "txt2img"
        title = re.sub(r"[^a-z_0-9]", "", re.sub(r"\s", "_", (self.title() or "").lower()))
        return f"script_{tab}_{title}_{item_id}"


class ScriptBuiltinUI(Script):
    setup_for_ui_only = True

    def elem_id(self, item_id: Any) -> str:
        return f"{'img2img' if self.is_img2img else 'txt2img'}_{item_id}"
