"""What weights cannot tell: attention heads, prediction type, noise schedule; from the `.yaml` beside a checkpoint."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sdwebui_api.errors import UnusableModel

PREDICTION_TYPES = {
    "eps": "epsilon",
    "epsilon": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "v-prediction": "v_prediction",
}


@dataclass(frozen=True)
class ModelConfig:
    """None: not stated; the family's value or what the weights imply applies."""

    unet_heads: int | tuple[int, ...] | None = None
    """For all levels, or one number for each."""
    text_heads: int | None = None
    prediction_type: str | None = None
    scale_factor: float | None = None
    linear_start: float | None = None
    linear_end: float | None = None


def read_config(path: Path | None, metadata: Mapping[str, str] | None = None) -> ModelConfig:
    """From an A1111 `.yaml` (may be None) and a safetensors file's metadata (`modelspec.prediction_type`, or what
    `modelspec.architecture` says of it).

    Raises UnusableModel when the yaml is broken.
    """
    params = _params(path) if path is not None else {}
    unet = _section(params, "unet_config")
    stated = params.get("parameterization") or _stated_prediction(metadata or {})
    return ModelConfig(
        unet_heads=positive_whole(unet.get("num_heads")),
        text_heads=_text_heads(params, path),
        prediction_type=PREDICTION_TYPES.get(str(stated).lower()) if stated else None,
        scale_factor=positive(params.get("scale_factor")),
        linear_start=beta(params.get("linear_start")),
        linear_end=beta(params.get("linear_end")),
    )


def _stated_prediction(metadata: Mapping[str, str]) -> str | None:
    """ModelSpec knows the architectures stable-diffusion-v2-768-v and stable-diffusion-v2-512, suffix or none."""
    found = re.match(r"stable-diffusion-v2-(?:768-(v)|512)(?![\w-])", metadata.get("modelspec.architecture", ""))
    implied = ("v" if found[1] else "epsilon") if found else None
    return metadata.get("modelspec.prediction_type") or implied


def _params(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    # PyYAML raises ValueError for a day that no month has, and knows no limit for brackets in brackets
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UnusableModel(f"the configuration {path.name} cannot be read: {error}") from error
    return _object(_object(_object(content).get("model")).get("params"))


def _section(params: Mapping[str, Any], name: str) -> dict[str, Any]:
    return _object(_object(params.get(name)).get("params"))


def _text_heads(params: Mapping[str, Any], path: Path | None) -> int | None:
    """`cond_stage_config.params.num_attention_heads`, or the same in the `config.json` of the CLIP folder that
    `version` there names, beside the yaml."""
    section = _section(params, "cond_stage_config")
    if stated := positive_whole(section.get("num_attention_heads")):
        return stated
    version = section.get("version")
    if path is None or not isinstance(version, str):
        return None
    config = path.parent / version / "config.json"
    if not os.path.isfile(config):
        return None
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UnusableModel(f"{config} cannot be read: {error}") from error
    for inner in (_object(content).get("text_config"), content):
        if stated := positive_whole(_object(inner).get("num_attention_heads")):
            return stated
    return None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def positive_whole(value: Any) -> int | None:
    """None for anything but a whole number above 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def positive(value: Any) -> float | None:
    """None for anything but a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        return None
    return float(value)


def beta(value: Any) -> float | None:
    """None for anything but a number between 0 and 1."""
    found = positive(value)
    return found if found is not None and found < 1 else None
