"""open_clip's text models, read into transformers' modules: the "bigG" of SDXL, the "H" of SD2."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from sdwebui_api.engine.families.base import Assembly
from sdwebui_api.engine.libraries import IMPORTING
from sdwebui_api.engine.reading import reading_structure, shapes_of
from sdwebui_api.engine.structure import TextStructure, text_structure
from sdwebui_api.errors import UnusableModel

HEAD = 64
"""Channels per attention head, in every text model of open_clip that a family uses."""

_ENDS = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_LAYERS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_PROJECTION = "text_projection"


@reading_structure("the text encoder")
def assemble_open_clip(tensors: Mapping[str, Tensor], *, projection: bool) -> Assembly:
    """Of tensors with open_clip's names (`transformer.resblocks.0.…`) or transformers' (`text_model.…`).

    A CLIPTextModelWithProjection with `projection`, else a CLIPTextModel. Raises UnusableModel.
    """
    with IMPORTING:
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection
    named = dict(_renamed(tensors))
    structure = text_structure(shapes_of(named))
    projected = tensors.get(_PROJECTION)
    matrix = projected.T if projected is not None else tensors.get(f"{_PROJECTION}.weight")
    if projection and matrix is None:
        raise UnusableModel("the text encoder has no projection for the pooled text (text_projection)")
    config = CLIPTextConfig(**_sizes(structure, structure.width if matrix is None else matrix.shape[0]))
    with torch.device("meta"):
        module = CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)
    inner = module.text_model if projection else module
    inner.embeddings.position_ids = torch.arange(structure.positions).expand((1, -1))
    if not projection or matrix is None:
        return Assembly(module, named)
    inside = {f"text_model.{name}": tensor for name, tensor in named.items()}
    return Assembly(module, inside | {f"{_PROJECTION}.weight": matrix})


def _sizes(structure: TextStructure, projected: int) -> dict[str, Any]:
    if structure.width % HEAD:
        raise UnusableModel(f"the text encoder is {structure.width} wide, which is no multiple of {HEAD}")
    return {
        "vocab_size": structure.vocabulary,
        "hidden_size": structure.width,
        "intermediate_size": structure.hidden,
        "num_hidden_layers": structure.layers,
        "num_attention_heads": structure.width // HEAD,
        "max_position_embeddings": structure.positions,
        "hidden_act": "gelu",
        "projection_dim": projected,
    }


def _renamed(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Names from `embeddings.` on; what is not part of the text model is left out."""
    for name, tensor in tensors.items():
        if name.startswith("text_model."):
            yield name.removeprefix("text_model."), tensor
        elif name in _ENDS:
            yield _ENDS[name], tensor
        elif found := re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", name):
            yield from _in_layer(f"encoder.layers.{found[1]}", found[2], tensor)


def _in_layer(layer: str, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """open_clip keeps the projections of queries, keys and values in one matrix."""
    if name in ("attn.in_proj_weight", "attn.in_proj_bias"):
        for part, rows in zip("qkv", tensor.chunk(3), strict=False):
            yield f"{layer}.self_attn.{part}_proj.{name.rpartition('_')[2]}", rows
        return
    module, _, leaf = name.rpartition(".")
    if module in _LAYERS:
        yield f"{layer}.{_LAYERS[module]}.{leaf}", tensor
