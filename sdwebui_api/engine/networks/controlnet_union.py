"""ControlNet-union (xinsir6/ControlNetPlus): one network for many kinds of hints, told which kind it gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sdwebui_api.engine.families.base import Assembly
from sdwebui_api.engine.ldm_names import indices
from sdwebui_api.engine.libraries import IMPORTING
from sdwebui_api.engine.networks.control import Hint
from sdwebui_api.engine.networks.controlnet import ControlNet, controlnet_arguments, with_label_embedding
from sdwebui_api.engine.reading import reading_structure, shapes_of

MARK = "task_embedding"
"""Name of a tensor that only these have."""


class ControlNetUnion(ControlNet):
    """A `ControlNetwork`; its hint is (what the first convolutions make of the picture, `[N, kinds]` of one 1 each)."""

    kind = "controlnet_union"

    @property
    def kinds(self) -> int:
        """How many kinds of hints it knows."""
        return len(self._module.task_embedding)

    def embed_as(self, hint: Tensor, kind: int) -> Hint:
        """`embed` for a hint of the kind with this number (0 pose, 1 depth, 2 soft and 3 hard edges, 4 normals, …)."""
        (seen,) = self.embed(hint)
        told = torch.zeros(len(seen), self.kinds, dtype=seen.dtype, device=seen.device)
        told[:, kind] = 1.0
        return seen, told

    def _entry(self, x: Tensor, t: Tensor, hint: Hint) -> tuple[Tensor, Tensor]:
        module, (seen, told) = self._module, hint
        kinds = module.control_type_proj(told.flatten()).reshape(len(told), -1).to(x.dtype)
        embedding = module.time_embedding(module.time_proj(t).to(x.dtype)) + module.control_add_embedding(kinds)
        sample = module.conv_in(x)
        features = seen.mean(dim=(2, 3)) + told @ module.task_embedding
        for layer in module.transformer_layes:
            features = _transformed(layer, features)
        return sample + seen + module.spatial_ch_projs(features)[:, :, None, None], embedding


def _transformed(layer: Any, features: Tensor) -> Tensor:
    """A residual attention block in which every row attends to itself alone.

    The authors' code attends across the rows of the batch. Theirs are a prompt's and its negative prompt's, whose
    features are equal, so that this is the same; here rows of other pictures may stand beside them.
    """
    value = layer.ln_1(features)
    _, _, weight = layer.attn.in_proj_weight.chunk(3)
    _, _, bias = layer.attn.in_proj_bias.chunk(3)
    features = features + layer.attn.out_proj(torch.nn.functional.linear(value, weight, bias))
    changed: Tensor = features + layer.mlp(layer.ln_2(features))
    return changed


@reading_structure("the ControlNet-union")
def assemble_union(tensors: Mapping[str, Tensor], heads: int | list[int]) -> Assembly:
    """A diffusers ControlNetUnionModel of the dimensions that the weights have, under its names.

    `heads`: attention heads, those of the UNet it is for. Raises UnusableModel.
    """
    with IMPORTING:
        from diffusers import ControlNetUnionModel
    tensors = with_label_embedding(tensors)
    shapes = shapes_of(tensors)
    kinds, width = shapes[MARK]
    arguments = {
        **controlnet_arguments(shapes, heads),
        "num_control_type": kinds,
        "num_trans_channel": width,
        "num_trans_layer": len(indices(shapes, "transformer_layes.")),
        "num_proj_channel": shapes["spatial_ch_projs.weight"][0],
        "addition_time_embed_dim": shapes["control_add_embedding.linear_1.weight"][1] // kinds,
    }
    with torch.device("meta"):
        module = ControlNetUnionModel(**arguments)
    return Assembly(module, tensors)
