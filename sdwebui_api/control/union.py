"""Which kind of hint a unit gives to a ControlNet-union: what it says, else what its preprocessor is for."""

from __future__ import annotations

from sdwebui_api.control.unit import ControlUnit
from sdwebui_api.errors import BadRequest

UNION_KINDS = ("OpenPose", "Depth", "Soft Edge", "Hard Edge", "Normal Map", "Segmentation", "Tile", "Inpaint")
"""The networks' numbering; those of before ProMax know the first six."""
UNKNOWN = "Unknown"

_BY_TAG = {
    "OpenPose": "OpenPose",
    "Depth": "Depth",
    "SoftEdge": "Soft Edge",
    "Scribble": "Soft Edge",
    "Canny": "Hard Edge",
    "Lineart": "Hard Edge",
    "MLSD": "Hard Edge",
    "NormalMap": "Normal Map",
    "Segmentation": "Segmentation",
    "Tile": "Tile",
    "Inpaint": "Inpaint",
}


def union_kind(unit: ControlUnit, known: int) -> int:
    """The number of the unit's kind for a network that knows the first `known`. Raises BadRequest."""
    name = unit.union_control_type
    if name == UNKNOWN:
        name = next((_BY_TAG[tag] for tag in unit.module.tags if tag in _BY_TAG), UNKNOWN)
    choices = UNION_KINDS[:known]
    if name not in choices:
        what = f"the kind {name!r}" if name != UNKNOWN else "a map whose kind is not told"
        raise BadRequest(
            f"This ControlNet-union does not know {what}", field=f"{unit.field}.union_control_type", choices=choices
        )
    return choices.index(name)
