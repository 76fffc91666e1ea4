"""`script_name` and `alwayson_scripts`: which names exist, and what their arguments mean.

There is no script host yet. What A1111 shows as always-on sections and answers without a script is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdwebui_api.errors import BadRequest

WITHOUT_EFFECT = frozenset({"seed", "sampler"})
"""Built-in sections whose arguments A1111 accepts and does not use: the request's own fields hold."""
REFINER = "refiner"
ALWAYS_ON = (REFINER, "sampler", "seed")
"""Titles in lower case, in the order of GET /scripts."""


class UnknownScript(BadRequest):
    """Answered with a plain text as `detail`, in A1111's wording, which clients look for."""


def read_scripts(script_name: str | None, alwayson: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the request that the scripts' arguments replace. Raises BadRequest (422) for unknown names."""
    if script_name:
        raise _not_found(script_name, "script_name")
    replaced: dict[str, Any] = {}
    for name, entry in alwayson.items():
        title = name.strip().lower()
        if title not in ALWAYS_ON:
            raise _not_found(name, "alwayson_scripts")
        # As there: an entry that is no object, or has no arguments, is as good as none.
        if isinstance(entry, Mapping) and entry.get("args") is not None:
            args = entry["args"]
            if not isinstance(args, list):
                raise BadRequest("args is a list", field=f"alwayson_scripts.{name}.args")
            if title == REFINER:
                replaced |= _refiner(args, f"alwayson_scripts.{name}.args")
    return replaced


def _refiner(args: list[Any], field: str) -> dict[str, Any]:
    """[enabled, checkpoint, switch at]; missing ones have the section's defaults."""
    enabled, checkpoint, switch_at = [*args, *(False, "", 0.8)[len(args) :]][:3]
    if not enabled or not checkpoint:
        return {}
    if not isinstance(checkpoint, str):
        raise BadRequest("The checkpoint is a text", field=f"{field}[1]")
    if not isinstance(switch_at, (int, float)) or not 0 <= switch_at <= 1:
        raise BadRequest("The time to switch is a number from 0 to 1", field=f"{field}[2]")
    return {"refiner_checkpoint": checkpoint, "refiner_switch_at": float(switch_at)}


def _not_found(name: str, field: str) -> UnknownScript:
    return UnknownScript(f"Script '{name[:200]}' not found", field=field, choices=ALWAYS_ON)
