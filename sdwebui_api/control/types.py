"""The control types that clients sort preprocessors and models by (`/controlnet/control_types`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sdwebui_api.control.preprocessor import Preprocessor

ALL = "All"
NONE_MODULE, NONE_MODEL = "none", "None"

MODEL_WORDS: dict[str, tuple[str, ...]] = {
    "Canny": ("canny",),
    "Depth": ("depth",),
    "IP-Adapter": ("ip-adapter", "ip_adapter"),
    "Inpaint": ("inpaint",),
    "Instant-ID": ("instant-id", "instant_id", "instantid"),
    "InstructP2P": ("ip2p",),
    "Lineart": ("lineart",),
    "MLSD": ("mlsd",),
    "NormalMap": ("normal",),
    "OpenPose": ("openpose", "densepose"),
    "Recolor": ("recolor",),
    "Reference": (),
    "Scribble": ("scribble",),
    "Segmentation": ("seg",),
    "Shuffle": ("shuffle",),
    "SoftEdge": ("softedge", "hed", "pidi"),
    "T2I-Adapter": ("t2iadapter", "t2i-adapter", "t2i_adapter", "t2ia"),
    "Tile": ("tile", "blur"),
}
"""Type to what names of its models hold, one of them, letter case ignored. Unions of all types hold "union"."""


@dataclass(frozen=True)
class ControlType:
    modules: tuple[str, ...]
    models: tuple[str, ...]
    default_module: str
    default_model: str


def in_listing_order(preprocessors: Iterable[Preprocessor]) -> list[Preprocessor]:
    """`none`, then by priority, then backwards by label, as the extension lists them."""
    return sorted(preprocessors, key=lambda one: (one.name == NONE_MODULE, one.sort_priority, one.label), reverse=True)


def control_types(preprocessors: Sequence[Preprocessor], models: Sequence[str]) -> dict[str, ControlType]:
    """Every type with its preprocessors' labels and its models' titles, `All` first."""
    ordered = in_listing_order(preprocessors)
    labels = tuple(one.label for one in ordered)
    found = {ALL: ControlType(labels, (NONE_MODEL, *models), NONE_MODULE, NONE_MODEL)}
    for name, words in MODEL_WORDS.items():
        found[name] = _one_type([one for one in ordered if name in one.tags], _fitting(models, words))
    return found


def _one_type(preprocessors: Sequence[Preprocessor], models: Sequence[str]) -> ControlType:
    labels = [one.label for one in preprocessors]
    best = labels[0] if labels else NONE_MODULE
    return ControlType((NONE_MODULE, *labels), (NONE_MODEL, *models), best, models[0] if models else NONE_MODEL)


def _fitting(models: Sequence[str], words: Sequence[str]) -> list[str]:
    if not words:
        return []
    return [title for title in models if any(word in title.lower() for word in (*words, "union"))]
