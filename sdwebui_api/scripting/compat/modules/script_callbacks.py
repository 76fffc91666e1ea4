"""`modules.script_callbacks`: functions that extensions register."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sdwebui_api.scripting.compat.callbacks import CATEGORIES
from sdwebui_api.scripting.compat.params import (
    AfterCFGCallbackParams,
    BeforeTokenCounterParams,
    CFGDenoisedParams,
    CFGDenoiserParams,
    ExtraNoiseParams,
    ImageGridLoopParams,
    ImageSaveParams,
    UiTrainTabParams,
)
from sdwebui_api.scripting.compat.world import add_callback as _add
from sdwebui_api.scripting.compat.world import callbacks_of, remove_callbacks, world

__all__ = [
    "AfterCFGCallbackParams",
    "BeforeTokenCounterParams",
    "CFGDenoisedParams",
    "CFGDenoiserParams",
    "ExtraNoiseParams",
    "ImageGridLoopParams",
    "ImageSaveParams",
    "UiTrainTabParams",
]


def add_callback(
    callbacks: Any, fun: Callable[..., Any], *, name: str | None = None, category: str = "unknown"
) -> None:
    _add(category.removeprefix("on_"), fun, name)


def _registers(category: str) -> Callable[..., None]:
    def on(callback: Callable[..., Any], *, name: str | None = None) -> None:
        _add(category, callback, name)

    on.__name__ = f"on_{category.removeprefix('on_')}"
    on.__doc__ = f"Have `callback` called at {category}."
    return on


on_app_started = _registers("app_started")
on_model_loaded = _registers("model_loaded")
on_ui_tabs = _registers("ui_tabs")
on_ui_train_tabs = _registers("ui_train_tabs")
on_ui_settings = _registers("ui_settings")
on_before_image_saved = _registers("before_image_saved")
on_image_saved = _registers("image_saved")
on_extra_noise = _registers("extra_noise")
on_cfg_denoiser = _registers("cfg_denoiser")
on_cfg_denoised = _registers("cfg_denoised")
on_cfg_after_cfg = _registers("cfg_after_cfg")
on_before_component = _registers("before_component")
on_after_component = _registers("after_component")
on_image_grid = _registers("image_grid")
on_infotext_pasted = _registers("infotext_pasted")
on_script_unloaded = _registers("script_unloaded")
on_before_ui = _registers("before_ui")
on_before_reload = _registers("on_reload")
on_list_optimizers = _registers("list_optimizers")
on_list_unets = _registers("list_unets")
on_before_token_counter = _registers("before_token_counter")


def clear_callbacks() -> None:
    remove_callbacks(lambda _callback: True)


def remove_current_script_callbacks() -> None:
    import traceback

    file = next(
        (f.filename for f in reversed(traceback.extract_stack()) if "scripting/compat" not in f.filename),
        "unknown file",
    )
    remove_callbacks(lambda callback: callback.script == file)


def remove_callbacks_for_function(callback_func: Callable[..., Any]) -> None:
    remove_callbacks(lambda callback: callback.callback == callback_func)


def ordered_callbacks(category: str, *, unordered: Any = None, enable_user_sort: bool = True) -> list[Any]:
    return list(callbacks_of(category))


def __getattr__(name: str) -> Any:
    """`callback_map`, and `cfg_denoiser_callback(params)` and the like, with which extensions call each other."""
    if name == "callback_map":
        return {f"callbacks_{category}": callbacks_of(category) for category in CATEGORIES}
    category = name.removesuffix("_callback")
    if name.endswith("_callback") and category in CATEGORIES:
        return lambda *args: world().callbacks.call(category, *args)
    raise AttributeError(f"modules.script_callbacks.{name} is not offered by this server")
