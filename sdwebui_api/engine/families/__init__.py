"""Checkpoint families: one file each, all of it data. A new family is a new file and a row here."""

from __future__ import annotations

from sdwebui_api.engine.families.base import Family
from sdwebui_api.engine.families.sd1 import SD1
from sdwebui_api.engine.families.sd2 import SD2
from sdwebui_api.engine.families.sdxl import SDXL, SDXL_REFINER
from sdwebui_api.engine.families.unsupported import another_file, unsupported_checkpoint
from sdwebui_api.engine.reading import Shapes
from sdwebui_api.errors import UnusableModel

FAMILIES: tuple[Family, ...] = (SD1, SD2, SDXL, SDXL_REFINER)


def recognise(shapes: Shapes) -> Family:
    """The family whose key and shape pattern the file has; raises UnusableModel when there is none."""
    if (kind := unsupported_checkpoint(shapes)) is not None:
        raise UnusableModel(kind)
    for family in FAMILIES:
        if family.recognise(shapes):
            return family
    if (kind := another_file(shapes)) is not None:
        raise UnusableModel(kind)
    known = ", ".join(family.title for family in FAMILIES)
    raise UnusableModel(f"not a checkpoint of a supported family ({known})")
