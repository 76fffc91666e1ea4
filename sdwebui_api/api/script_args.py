"""`script_name` and `alwayson_scripts`: which sections and scripts a request names, with which arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdwebui_api.api.eas_extras import EXTRA_KEYS
from sdwebui_api.errors import BadRequest
from sdwebui_api.scripting.arguments import unknown_script

if TYPE_CHECKING:
    from sdwebui_api.scripting.hooks import Kind
    from sdwebui_api.scripting.host import ScriptHost

REFINER = "refiner"
SECTIONS = ("extra options", "hypertile", REFINER, "sampler", "seed")
"""Always-on titles that are no scripts here, in lower case. A1111 takes the arguments of all but the refiner and does
not use them: the request's own fields hold."""
LISTED = {"hypertile": "Hypertile"}
"""Those that GET /scripts of A1111 does not write in lower case."""


def titles(scripts: ScriptHost, kind: Kind) -> list[str]:
    """The answer of GET /scripts: selectable scripts, always-on ones, sections."""
    sections = [LISTED.get(name, name) for name in SECTIONS]
    return [*scripts.titles(kind, always_on=False), *scripts.titles(kind, always_on=True), *sections]


def read_sections(scripts: ScriptHost, kind: Kind, alwayson: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the request that the sections' arguments replace.

    Raises BadRequest (422) for names that are neither a section nor a script.
    """
    replaced: dict[str, Any] = {}
    for name, entry in alwayson.items():
        title = name.strip().lower()
        if title not in SECTIONS:
            if scripts.find(kind, title) is None:
                choices = [*scripts.titles(kind, always_on=True), *SECTIONS, *EXTRA_KEYS]
                raise unknown_script(name, "alwayson_scripts", choices)
            continue
        # As there: an entry that is no object, or has no arguments, is as good as none.
        if isinstance(entry, Mapping) and entry.get("args") is not None:
            args = entry["args"]
            if not isinstance(args, list):
                raise BadRequest("args is a list", field=f"alwayson_scripts.{name}.args")
            if title == REFINER:
                replaced |= _refiner(args, f"alwayson_scripts.{name}.args")
    return replaced


def without_sections(alwayson: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that name scripts."""
    return {name: entry for name, entry in alwayson.items() if name.strip().lower() not in SECTIONS}


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
