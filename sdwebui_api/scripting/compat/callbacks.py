"""The callbacks that extensions register with `script_callbacks.on_…`, by the file that registered them."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger(__name__)

CATEGORIES = (
    "app_started", "model_loaded", "ui_tabs", "ui_train_tabs", "ui_settings", "before_image_saved", "image_saved",
    "extra_noise", "cfg_denoiser", "cfg_denoised", "cfg_after_cfg", "before_component", "after_component", "image_grid",
    "infotext_pasted", "script_unloaded", "before_ui", "on_reload", "list_optimizers", "list_unets",
    "before_token_counter",
)  # fmt: skip

NEVER_CALLED = frozenset(
    ("ui_tabs", "ui_train_tabs", "extra_noise", "before_component", "after_component", "image_grid",
     "script_unloaded", "on_reload", "list_optimizers", "list_unets", "before_token_counter")
)  # fmt: skip
"""Registered and forgotten: most belong to a page that extensions have no part in."""


@dataclass(frozen=True)
class Callback:
    script: str
    """The file that registered it."""
    callback: Callable[..., Any]
    name: str = "unnamed"

    def run(self, category: str, *args: Any) -> Exception | None:
        """Calls it; an error is logged and returned."""
        try:
            self.callback(*args)
        except Exception as error:
            log.error("callback %s of %s failed", category, self.script, exc_info=error)
            return error
        return None


@dataclass
class Callbacks:
    """Lists by category, in the order of registration. Changed while extensions are loaded, rarely later."""

    by_category: dict[str, list[Callback]] = field(default_factory=lambda: {name: [] for name in CATEGORIES})

    def add(self, category: str, callback: Callable[..., Any], name: str | None = None) -> None:
        file = next(
            (frame.filename for frame in reversed(traceback.extract_stack(limit=12)) if _is_foreign(frame.filename)),
            "unknown file",
        )
        if category in NEVER_CALLED:
            log.info("%s registers on_%s, which this server does not call", file, category.removeprefix("on_"))
        self.by_category[category] = [*self.by_category[category], Callback(file, callback, name or "unnamed")]

    def of(self, category: str) -> list[Callback]:
        return self.by_category[category]

    def remove(self, where: Callable[[Callback], bool]) -> None:
        for category, found in self.by_category.items():
            self.by_category[category] = [callback for callback in found if not where(callback)]

    def adopt(self, more: Callbacks, without: list[Callable[[Callback], bool]]) -> None:
        """What a job registered and took away counts for every job from here on.

        A function that is there already is not taken twice: two first requests side by side both register it.
        """
        for test in without:
            self.remove(test)
        for category, found in more.by_category.items():
            known = self.by_category[category]
            new = [one for one in found if all(one.callback != other.callback for other in known)]
            self.by_category[category] = [*known, *new]

    def joined(self, category: str, more: Callbacks, without: list[Callable[[Callback], bool]]) -> list[Callback]:
        """These and those of `more`, less what one of `without` picks out of these."""
        own = [found for found in self.by_category[category] if not any(test(found) for test in without)]
        return [*own, *more.by_category[category]]

    def call(self, category: str, *args: Any) -> list[Exception]:
        """Calls all; one that fails is logged and does not keep the others from being called."""
        errors = [callback.run(category, *args) for callback in self.of(category)]
        return [error for error in errors if error is not None]


def _is_foreign(filename: str) -> bool:
    return "scripting/compat" not in filename.replace("\\", "/")
