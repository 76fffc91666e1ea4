"""Tensor names of the original layout (LDM, `input_blocks.1.0…`) and their counterparts in diffusers.

Pure string tables, free of tensors, so that networks trained against either layout can use them too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

# LDM resnet layer -> diffusers
_UNET_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_UNET_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "class_embedding.linear_1",
    "label_emb.0.2": "class_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}

_VAE_ENDS = {
    "norm_out": "conv_norm_out",
    "conv_in": "conv_in",
    "conv_out": "conv_out",
}
_VAE_ATTENTION = {
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
}
# diffusers before 0.18 -> today
_OLD_DIFFUSERS_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def unet_to_diffusers(name: str, res_blocks: int) -> str | None:
    """The diffusers name of a UNet tensor, e.g. `input_blocks.1.0.in_layers.0.weight`; None when it has none.

    `res_blocks`: residual blocks per level (`num_res_blocks`; 2 in SD1).
    """
    module, _, leaf = name.rpartition(".")
    if module in _UNET_ENDS:
        return f"{_UNET_ENDS[module]}.{leaf}"
    parts = name.split(".")
    if parts[0] == "middle_block" and parts[1] in _MIDDLE:
        return _inside_block(f"mid_block.{_MIDDLE[parts[1]]}", parts[2:])
    if parts[0] == "input_blocks":
        return _down_name(int(parts[1]), parts[2], parts[3:], res_blocks)
    if parts[0] == "output_blocks":
        return _up_name(int(parts[1]), parts[3:], res_blocks, sub=parts[2])
    return None


def _down_name(index: int, sub: str, rest: list[str], res_blocks: int) -> str | None:
    level, layer = divmod(index - 1, res_blocks + 1)
    if rest[0] == "op":
        return ".".join([f"down_blocks.{level}.downsamplers.0.conv", *rest[1:]])
    kind = {"0": "resnets", "1": "attentions"}.get(sub)
    return _inside_block(f"down_blocks.{level}.{kind}.{layer}", rest) if kind else None


def _up_name(index: int, rest: list[str], res_blocks: int, *, sub: str) -> str | None:
    level, layer = divmod(index, res_blocks + 1)
    if rest[0] == "conv":
        return ".".join([f"up_blocks.{level}.upsamplers.0.conv", *rest[1:]])
    kind = {"0": "resnets", "1": "attentions"}.get(sub)
    return _inside_block(f"up_blocks.{level}.{kind}.{layer}", rest) if kind else None


def _inside_block(prefix: str, rest: list[str]) -> str | None:
    """Attention blocks keep their inner names; residual blocks are renamed layer by layer."""
    if ".attentions." in prefix:
        return ".".join([prefix, *rest])
    layer = _UNET_RESNET.get(".".join(rest[:-1]))
    return f"{prefix}.{layer}.{rest[-1]}" if layer else None


_RESNET_TO_LDM = {new: old for old, new in _UNET_RESNET.items()}
_ENDS_TO_LDM = {new: old for old, new in _UNET_ENDS.items()}
_MIDDLE_TO_LDM = {new: old for old, new in _MIDDLE.items()}


def unet_to_ldm(module: str, res_blocks: int, *, attention_levels: Collection[int]) -> str | None:
    """The LDM name of a diffusers UNet module, the inverse of `unet_to_diffusers`; None when it has none.

    `attention_levels`: indices of the up blocks with attention, after which LDM counts an upsampler.
    """
    if module in _ENDS_TO_LDM:
        return _ENDS_TO_LDM[module]
    if found := re.fullmatch(r"mid_block\.((?:resnets|attentions)\.\d+)\.(.+)", module):
        return _ldm_layer(f"middle_block.{_MIDDLE_TO_LDM[found[1]]}", found[2]) if found[1] in _MIDDLE_TO_LDM else None
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", module)
    if found is None:
        return None
    down, level, kind, rest = found[1] == "down", int(found[2]), found[3], found[5]
    if kind == "downsamplers":
        return f"input_blocks.{(level + 1) * (res_blocks + 1)}.0.op"
    if kind == "upsamplers":
        sub = 2 if level in attention_levels else 1
        return f"output_blocks.{level * (res_blocks + 1) + res_blocks}.{sub}.conv"
    index = level * (res_blocks + 1) + int(found[4]) + (1 if down else 0)
    block = f"{'input' if down else 'output'}_blocks.{index}.{0 if kind == 'resnets' else 1}"
    return _ldm_layer(block, rest)


def _ldm_layer(block: str, rest: str) -> str | None:
    """Layers of residual blocks (sub-block 0, or 2 of the middle) are renamed, those of attention blocks are not."""
    if block.endswith(".1"):
        return f"{block}.{rest}"
    return f"{block}.{_RESNET_TO_LDM[rest]}" if rest in _RESNET_TO_LDM else None


def vae_to_diffusers(name: str, levels: int) -> str | None:
    """The diffusers name of a VAE tensor, e.g. `decoder.up.3.block.0.norm1.weight`; None when it has none.

    `levels`: resolution levels (`len(ch_mult)`; 4 in SD1). LDM counts the decoder's from the last, diffusers from
    the first.
    """
    if name.startswith(("quant_conv.", "post_quant_conv.")):
        return name
    half, _, inner = name.partition(".")
    if half not in ("encoder", "decoder"):
        return None
    module, _, leaf = inner.rpartition(".")
    if module in _VAE_ENDS:
        return f"{half}.{_VAE_ENDS[module]}.{leaf}"
    if found := re.fullmatch(r"mid\.block_([12])\.(.+)", inner):
        return f"{half}.mid_block.resnets.{int(found[1]) - 1}.{_shortcut(found[2])}"
    if found := re.fullmatch(r"mid\.attn_1\.(\w+)\.(\w+)", inner):
        layer = _VAE_ATTENTION.get(found[1])
        return f"{half}.mid_block.attentions.0.{layer}.{found[2]}" if layer else None
    return _vae_level_name(half, inner, levels)


def _vae_level_name(half: str, inner: str, levels: int) -> str | None:
    found = re.fullmatch(r"(down|up)\.(\d+)\.(block\.(\d+)|downsample|upsample)\.(.+)", inner)
    if not found:
        return None
    direction, index, what, block, rest = found.groups()
    level = int(index) if direction == "down" else levels - 1 - int(index)
    if block is not None:
        return f"{half}.{direction}_blocks.{level}.resnets.{block}.{_shortcut(rest)}"
    return f"{half}.{direction}_blocks.{level}.{what}rs.0.{rest}"


def _shortcut(name: str) -> str:
    return name.replace("nin_shortcut", "conv_shortcut")


def modern_diffusers_vae(name: str) -> str:
    """Today's name of a tensor in a VAE file of any diffusers age."""
    for old, new in _OLD_DIFFUSERS_ATTENTION.items():
        name = name.replace(f"attentions.0.{old}.", f"attentions.0.{new}.")
    return name


# --- EMA weights: LitEma drops every dot of the name ---------------------------------------------------------

_LEAF = r"(weight|bias)"
_EMA_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(rf"(in_layers|emb_layers|out_layers)(\d){_LEAF}"), r"\1.\2.\3"),
    (re.compile(rf"(skip_connection|norm|proj_in|proj_out|op|conv){_LEAF}"), r"\1.\2"),
    (re.compile(rf"transformer_blocks(\d+)(attn[12])(to_[qkv]){_LEAF}"), r"transformer_blocks.\1.\2.\3.\4"),
    (re.compile(rf"transformer_blocks(\d+)(attn[12])to_out0{_LEAF}"), r"transformer_blocks.\1.\2.to_out.0.\3"),
    (re.compile(rf"transformer_blocks(\d+)ffnet0proj{_LEAF}"), r"transformer_blocks.\1.ff.net.0.proj.\2"),
    (re.compile(rf"transformer_blocks(\d+)ffnet2{_LEAF}"), r"transformer_blocks.\1.ff.net.2.\2"),
    (re.compile(rf"transformer_blocks(\d+)(norm[123]){_LEAF}"), r"transformer_blocks.\1.\2.\3"),
)


def ema_to_ldm(flat: str) -> str | None:
    """The dotted UNet name behind a flattened EMA name (`input_blocks10in_layers0weight`); None when unknown.

    The last digit before the layer's name is the index inside a block, the digits before it the block's.
    """
    if found := re.fullmatch(rf"(time_embed|out)(\d){_LEAF}", flat):
        return f"{found[1]}.{found[2]}.{found[3]}"
    if found := re.fullmatch(rf"input_blocks00{_LEAF}", flat):
        return f"input_blocks.0.0.{found[1]}"
    if found := re.fullmatch(rf"label_emb0(\d){_LEAF}", flat):
        return f"label_emb.0.{found[1]}.{found[2]}"
    head = re.match(r"(input_blocks|output_blocks)(\d+)(\d)(?=\D)|(middle_block)(\d)(?=\D)", flat)
    if not head:
        return None
    prefix = f"{head[1]}.{head[2]}.{head[3]}" if head[1] else f"{head[4]}.{head[5]}"
    rest = flat[head.end() :]
    for pattern, dotted in _EMA_PATTERNS:
        if pattern.fullmatch(rest):
            return f"{prefix}.{pattern.sub(dotted, rest)}"
    return None


def indices(names: Iterable[str], prefix: str) -> list[int]:
    """The sorted numbers N of names `prefix` + `N.…`."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return sorted({int(found[1]) for name in names if (found := pattern.match(name))})
