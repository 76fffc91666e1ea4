"""What scripts ask of their arguments beyond the type: ranges and choices, refused by the argument's label."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from sdwebui_api.errors import BadRequest

MAX_MARGIN = 1000
"""Pixels between the pictures of a grid."""


def whole(value: Any, low: int, high: int, label: str, field: str = "script_args") -> int:
    """`value` if it is an integer from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise BadRequest(f"{label} is a whole number from {low} to {high}", field=field)
    return value


def number(value: Any, low: float, high: float, label: str, field: str = "script_args") -> float:
    """`value` if it is a number from `low` to `high`."""
    valid = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not valid or not low <= value <= high:
        raise BadRequest(f"{label} is a number from {low:g} to {high:g}", field=field)
    return float(value)


def one_of(value: Any, choices: Collection[str], label: str, field: str = "script_args") -> str:
    """`value` if it is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise BadRequest(f"{label} is one of {', '.join(choices)}", field=field, choices=choices)
    return value
