"""All preprocessors, and how to find one by what clients call it."""

from __future__ import annotations

from sdwebui_api.control.preprocessor import Preprocessor
from sdwebui_api.control.preprocessors import (
    colour,
    densepose,
    depth,
    dwpose,
    edges,
    faces,
    filters,
    inpaint,
    ip_adapter,
    lama,
    leres,
    lines,
    normals,
    openpose,
    reference,
    segmentation,
    simple,
)
from sdwebui_api.errors import BadRequest, nearest

PREPROCESSORS: tuple[Preprocessor, ...] = (
    *simple.PREPROCESSORS,
    *filters.PREPROCESSORS,
    *colour.PREPROCESSORS,
    *inpaint.PREPROCESSORS,
    *reference.PREPROCESSORS,
    *ip_adapter.PREPROCESSORS,
    *edges.PREPROCESSORS,
    *depth.PREPROCESSORS,
    *segmentation.PREPROCESSORS,
    *lines.PREPROCESSORS,
    *normals.PREPROCESSORS,
    *leres.PREPROCESSORS,
    *lama.PREPROCESSORS,
    *openpose.PREPROCESSORS,
    *dwpose.PREPROCESSORS,
    *densepose.PREPROCESSORS,
    *faces.PREPROCESSORS,
)


def preprocessor_names(preprocessor: Preprocessor) -> tuple[str, ...]:
    return (preprocessor.name, preprocessor.label, *preprocessor.aliases)


def find_preprocessor(
    name: str, *, field: str = "module", table: tuple[Preprocessor, ...] = PREPROCESSORS
) -> Preprocessor:
    """By name, label or alias, letter case ignored. Raises BadRequest(field) with the nearest names."""
    wanted = name.strip().lower()
    for preprocessor in table:
        if any(wanted == known.lower() for known in preprocessor_names(preprocessor)):
            return preprocessor
    choices = nearest(name, [preprocessor.name for preprocessor in table])
    raise BadRequest(f"Preprocessor '{name}' not found", field=field, choices=choices)
