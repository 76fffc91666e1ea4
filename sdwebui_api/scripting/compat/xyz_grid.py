"""A stand-in for the module of A1111's X/Y/Z plot: extensions look for it and add axes to it.

The axes are remembered and not offered: the plot of this server has its own (`scripting.xyz`).
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from sdwebui_api.scripting.compat.script_base import Script

MODULE = "scripts.xyz_grid"


class AxisOption:
    """One axis: `apply(p, value, values)` before a picture."""

    is_img2img: bool | None = None

    def __init__(
        self,
        label: str,
        type: Any,
        apply: Callable[..., Any],
        format_value: Callable[..., Any] | None = None,
        confirm: Callable[..., Any] | None = None,
        cost: float = 0.0,
        choices: Callable[[], Any] | None = None,
        prepare: Callable[..., Any] | None = None,
    ) -> None:
        self.label, self.type, self.apply, self.cost = label, type, apply, cost
        self.format_value = format_value or format_value_add_label
        self.confirm, self.choices, self.prepare = confirm, choices, prepare


class AxisOptionImg2Img(AxisOption):
    is_img2img = True


class AxisOptionTxt2Img(AxisOption):
    is_img2img = False


def apply_field(field: str) -> Callable[..., None]:
    """Sets an attribute of p."""

    def apply(p: Any, x: Any, xs: Any) -> None:
        setattr(p, field, x)

    return apply


def apply_override(field: str, boolean: bool = False) -> Callable[..., None]:
    """Sets an entry of `p.override_settings`."""

    def apply(p: Any, x: Any, xs: Any) -> None:
        p.override_settings[field] = str(x).lower() == "true" if boolean else x

    return apply


def boolean_choice(reverse: bool = False) -> Callable[[], list[str]]:
    return lambda: ["False", "True"] if reverse else ["True", "False"]


def format_value_add_label(p: Any, opt: Any, x: Any) -> str:
    return f"{opt.label}: {format_value(p, opt, x)}"


def format_value(p: Any, opt: Any, x: Any) -> Any:
    return round(x, 8) if isinstance(x, float) else x


def format_nothing(p: Any, opt: Any, x: Any) -> str:
    return ""


def str_permutations(x: Any) -> Any:
    return x


class _Plot(Script):
    """Whom `scripts_data` names as the class of the file."""


_Plot.__module__ = MODULE
_Plot.__name__ = _Plot.__qualname__ = "Script"


def make_module() -> Any:
    """`scripts.xyz_grid` with a list of axes of its own."""
    names = (
        AxisOption, AxisOptionImg2Img, AxisOptionTxt2Img, apply_field, apply_override, boolean_choice,
        format_value_add_label, format_value, format_nothing, str_permutations,
    )  # fmt: skip
    found: dict[str, Any] = {one.__name__: one for one in names}
    return SimpleNamespace(**found, axis_options=[], Script=_Plot, __name__=MODULE)
