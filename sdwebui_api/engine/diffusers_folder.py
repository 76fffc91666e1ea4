"""A checkpoint folder of diffusers, read into the names of the original single-file layout.

So every room that knows single files (families, merging, sizes) knows folders too. Nothing is ever fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sdwebui_api.catalog.diffusers_folders import MODEL_INDEX, PARTS, part_files, read_json
from sdwebui_api.engine.ldm_names import unet_to_ldm
from sdwebui_api.engine.model_config import PREDICTION_TYPES, ModelConfig, beta, positive, positive_whole
from sdwebui_api.errors import UnusableModel

ReadFile = Callable[[Path], Mapping[str, Tensor]]

_SIZE_EMBEDDING = {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
_LDM_TEXT = {"text_encoder": "cond_stage_model.transformer."}
_SDXL_TEXT = {"text_encoder": "conditioner.embedders.0.transformer."}
_SDXL_TEXT_2 = "conditioner.embedders.{}.transformer."


def read_folder(folder: Path, read: ReadFile) -> dict[str, Tensor]:
    """All tensors of the folder's UNet, text encoders and VAE, if it has one; `read` opens one safetensors file.

    Raises UnusableModel for another kind of pipeline, or one without safetensors.
    """
    config = _unet_config(folder)
    parts = [_unet(_read_part(folder, "unet", read), config)]
    if (folder / "vae").is_dir():
        parts.append(_vae(_read_part(folder, "vae", read)))
    for part, prefix in _text_prefixes(folder, config).items():
        parts.append(_text(_read_part(folder, part, read), prefix))
    return {name: tensor for part in parts for name, tensor in part}


def read_folder_config(folder: Path) -> ModelConfig:
    """What the weights cannot tell, from the parts' `config.json` and the diffusers scheduler's."""
    unet, text = read_json(folder / "unet" / "config.json"), read_json(folder / "text_encoder" / "config.json")
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    if str(scheduler.get("_class_name")).startswith("EDM"):
        raise UnusableModel(f"{folder.name}: models trained with EDM's preconditioning are not supported")
    stated = scheduler.get("prediction_type")
    if stated is not None and stated not in PREDICTION_TYPES:
        raise UnusableModel(f"{folder.name}: a model that predicts {stated!r} is not supported")
    return ModelConfig(
        unet_heads=_heads(unet.get("num_attention_heads") or unet.get("attention_head_dim")),
        text_heads=positive_whole(text.get("num_attention_heads")),
        prediction_type=PREDICTION_TYPES[stated] if stated is not None else None,
        scale_factor=positive(read_json(folder / "vae" / "config.json").get("scaling_factor")),
        linear_start=beta(scheduler.get("beta_start")),
        linear_end=beta(scheduler.get("beta_end")),
    )


def _heads(value: Any) -> int | tuple[int, ...] | None:
    if isinstance(value, list | tuple):
        heads = tuple(positive_whole(one) or 0 for one in value)
        return heads if heads and all(heads) else None
    return positive_whole(value)


def _unet_config(folder: Path) -> dict[str, Any]:
    index = read_json(folder / MODEL_INDEX)
    config = read_json(folder / "unet" / "config.json")
    if not config and "unet" in index:
        raise UnusableModel(f"{folder.name}/unet/config.json is missing or cannot be read")
    if config.get("_class_name") != "UNet2DConditionModel":
        kind = index.get("_class_name") or "its kind"
        raise UnusableModel(f"{folder.name}: {kind} is not supported, only folders of SD1, SD2 and SDXL pipelines are")
    if config.get("time_cond_proj_dim") is not None:
        raise UnusableModel(f"{folder.name}: distilled models with an embedded guidance scale are not supported")
    return config


def _read_part(folder: Path, part: str, read: ReadFile) -> dict[str, Tensor]:
    files = part_files(folder, part)
    if not files:
        raise UnusableModel(f"{folder.name}/{part} has no {PARTS[part]}.safetensors; other formats are not read")
    return {name: tensor for file in files for name, tensor in read(file).items()}


def _unet(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    res_blocks = config.get("layers_per_block", 2)
    if not isinstance(res_blocks, int):
        raise UnusableModel("a UNet with different numbers of residual blocks per level is not supported")
    types = config.get("up_block_types") or ()
    attention = [level for level, kind in enumerate(types) if "CrossAttn" in str(kind)]
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        found = _SIZE_EMBEDDING.get(module) or unet_to_ldm(module, res_blocks, attention_levels=attention)
        if found is not None:
            yield f"model.diffusion_model.{found}.{leaf}", tensor


def _vae(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """diffusers' own names: families take either."""
    for name, tensor in tensors.items():
        yield f"first_stage_model.{name}", tensor


def _text_prefixes(folder: Path, unet: Mapping[str, Any]) -> dict[str, str]:
    if unet.get("addition_embed_type") != "text_time":
        return _LDM_TEXT
    first = _SDXL_TEXT if (folder / "text_encoder").is_dir() else {}
    return first | {"text_encoder_2": _SDXL_TEXT_2.format(len(first))}


def _text(tensors: Mapping[str, Tensor], prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Some files lack the `text_model.` level."""
    for name, tensor in tensors.items():
        inner = name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"
        yield f"{prefix}{inner}", tensor
