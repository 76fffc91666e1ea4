"""What weights cannot tell: attention heads, prediction type, noise schedule; from the `.yaml` beside a checkpoint."""

from __future__ import annotations

import json
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
        unet_heads=_positive(unet.get("num_heads")),
        text_heads=_text_heads(params, path),
        prediction_type=PREDICTION_TYPES.get(str(stated).lower()) if stated else None,
        scale_factor=_number(params.get("scale_factor")),
        linear_start=_number(params.get("linear_start")),
        linear_end=_number(params.get("linear_end")),
    )


def _stated_prediction(metadata: Mapping[str, str]) -> str | None:
    """ModelSpec knows the architectures stable-diffusion-v2-768-v and stable-diffusion-v2-512, suffix or none."""
    found = re.match(r"stable-diffusion-v2-(?:768-(v)|512)(?![\w-])", metadata.get("modelspec.architecture", ""))
    implied = ("v" if found[1] else "epsilon") if found else None
    return metadata.get("modelspec.prediction_type") or implied


def _params(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UnusableModel(f"the configuration {path.name} cannot be read: {error}") from error
    model = content.get("model") if isinstance(content, dict) else None
    params = model.get("params") if isinstance(model, dict) else None
    return params if isinstance(params, dict) else {}


def _section(params: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = params.get(name)
    inner = section.get("params") if isinstance(section, dict) else None
    return inner if isinstance(inner, dict) else {}


def _text_heads(params: Mapping[str, Any], path: Path | None) -> int | None:
    """`cond_stage_config.params.num_attention_heads`, or the same in the `config.json` of the CLIP folder that
    `version` there names, beside the yaml."""
    section = _section(params, "cond_stage_config")
    if stated := _positive(section.get("num_attention_heads")):
        return stated
    version = section.get("version")
    if path is None or not isinstance(version, str):
        return None
    config = path.parent / version / "config.json"
    if not config.is_file():
        return None
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnusableModel(f"{config} cannot be read: {error}") from error
    inner = content.get("text_config") or content
    return _positive(inner.get("num_attention_heads"))


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
