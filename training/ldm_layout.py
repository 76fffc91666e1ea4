"""The original single-file key layout of SD1 checkpoints, to and from our networks.

`model.diffusion_model.*` is the UNet, `first_stage_model.*` the VAE, `cond_stage_model.transformer.text_model.*` the
text encoder. Names follow CompVis's latent-diffusion classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from training.models import TOKENS, Architecture, Networks, build_text_encoder, build_unet, build_vae

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."
POSITION_IDS = TEXT + "embeddings.position_ids"

_UNET_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def to_ldm(networks: Networks, architecture: Architecture) -> dict[str, Tensor]:
    """All weights under their original names, as they are (no dtype change), plus `position_ids`."""
    state: dict[str, Tensor] = {}
    for network, key_of in _parts(networks, architecture):
        for name, weight in network.state_dict().items():
            key = key_of(name)
            state[key] = weight[:, :, None, None] if _is_flat_convolution(key, weight) else weight
    state[POSITION_IDS] = torch.arange(TOKENS).unsqueeze(0)
    return state


def from_ldm(state: Mapping[str, Tensor], architecture: Architecture) -> Networks:
    """float32 networks with the weights of `state`; other keys are ignored. Raises KeyError for a missing one."""
    rows = state[TEXT + "embeddings.token_embedding.weight"].shape[0]
    networks = Networks(build_vae(architecture), build_text_encoder(architecture, rows), build_unet(architecture))
    for network, key_of in _parts(networks, architecture):
        own = network.state_dict()
        network.load_state_dict({name: state[key_of(name)].float().reshape(own[name].shape) for name in own})
        network.eval()
    return networks


def architecture_of(state: Mapping[str, Tensor], heads: int = 4) -> Architecture:
    """Sizes read off the weights. The number of heads cannot be seen in them."""
    depth = 1 + max(int(m[1]) for key in state if (m := re.match(re.escape(UNET) + r"input_blocks\.(\d+)\.", key)))
    downs = [i for i in range(depth) if f"{UNET}input_blocks.{i}.0.op.weight" in state]
    per_level = downs[0] if downs else depth
    channels = state[UNET + "input_blocks.0.0.weight"].shape[0]
    resnets = range(1, depth, per_level)
    widths = [state[f"{UNET}input_blocks.{i}.0.in_layers.2.weight"].shape[0] for i in resnets]
    levels = _count(state, VAE + "encoder.down.{}.block.0.conv1.weight")
    vae_widths = [state[f"{VAE}encoder.down.{i}.block.0.conv1.weight"].shape[0] for i in range(levels)]
    vocabulary, text_width = state[TEXT + "embeddings.token_embedding.weight"].shape
    return Architecture(
        unet_channels=channels,
        unet_multipliers=tuple(width // channels for width in widths),
        unet_blocks=per_level - 1,
        heads=heads,
        vae_channels=vae_widths[0],
        vae_multipliers=tuple(width // vae_widths[0] for width in vae_widths),
        vae_blocks=_count(state, VAE + "encoder.down.0.block.{}.conv1.weight"),
        text_width=text_width,
        text_layers=_count(state, TEXT + "encoder.layers.{}.layer_norm1.weight"),
        vocabulary=vocabulary,
    )


def _count(state: Mapping[str, Tensor], template: str) -> int:
    count = 0
    while template.format(count) in state:
        count += 1
    return count


def _parts(networks: Networks, architecture: Architecture) -> list[tuple[Any, Callable[[str], str]]]:
    levels = len(architecture.vae_multipliers)
    attending = set(range(len(architecture.unet_multipliers) - 1))
    return [
        (networks.unet, lambda name: UNET + unet_key(name, architecture.unet_blocks, attending)),
        (networks.vae, lambda name: VAE + vae_key(name, levels)),
        (networks.text_encoder, lambda name: TEXT + name.removeprefix("text_model.")),
    ]


def _is_flat_convolution(key: str, weight: Tensor) -> bool:
    """The VAE's attention is linear layers in diffusers, 1x1 convolutions in the original."""
    return weight.ndim == 2 and ".mid.attn_1." in key


def unet_key(name: str, blocks: int, attending_up_blocks: set[int]) -> str:
    """The original name of a diffusers UNet weight; `blocks` is the original's num_res_blocks."""
    stem, _, leaf = name.rpartition(".")
    if stem in _UNET_ENDS:
        return f"{_UNET_ENDS[stem]}.{leaf}"
    side, *rest = name.split(".", 1)
    if side == "mid_block":
        kind, index, tail = rest[0].split(".", 2)
        position = 1 if kind == "attentions" else 2 * int(index)
        return f"middle_block.{position}.{_unet_tail(kind, tail)}"
    level, kind, index, tail = rest[0].split(".", 3)
    first = (blocks + 1) * int(level)
    if side == "down_blocks":
        if kind == "downsamplers":
            return f"input_blocks.{first + blocks + 1}.0.{tail.replace('conv', 'op')}"
        return f"input_blocks.{first + int(index) + 1}.{_slot(kind)}.{_unet_tail(kind, tail)}"
    if kind == "upsamplers":
        return f"output_blocks.{first + blocks}.{2 if int(level) in attending_up_blocks else 1}.{tail}"
    return f"output_blocks.{first + int(index)}.{_slot(kind)}.{_unet_tail(kind, tail)}"


def _slot(kind: str) -> int:
    return {"resnets": 0, "attentions": 1}[kind]


def _unet_tail(kind: str, tail: str) -> str:
    if kind == "attentions":
        return tail
    layer, leaf = tail.rsplit(".", 1)
    return f"{_UNET_RESNET[layer]}.{leaf}"


def vae_key(name: str, levels: int) -> str:
    """The original name of a diffusers VAE weight."""
    key = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    if "mid_block.attentions.0" in key:
        key = key.replace("mid_block.attentions.0", "mid.attn_1")
        for ours, original in _VAE_ATTENTION.items():
            key = key.replace(ours, original)
    key = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", key)
    key = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}.block.{m[2]}", key)
    return re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", key)
