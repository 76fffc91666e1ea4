"""Random checkpoints in the original LDM layout, of any size, for tests of loading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Size:
    """The defaults are tiny; `SD15` is the real thing."""

    channels: int = 32
    mult: Sequence[int] = (1, 2)
    res_blocks: int = 1
    attention_levels: Sequence[int] = (1,)
    depth: int = 1
    context: int = 32
    in_channels: int = 4
    vae_channels: int = 32
    vae_mult: Sequence[int] = (1, 1, 1, 2)
    vae_res_blocks: int = 1
    text_layers: int = 2
    text_hidden: int = 64
    vocabulary: int = 49408


SD15 = Size(320, (1, 2, 4, 4), 2, (0, 1, 2), 1, 768, 4, 128, (1, 2, 4, 4), 2, 12, 3072)


def unet_shapes(size: Size) -> Shapes:
    """Names without prefix."""
    shapes: Shapes = {}
    base, embed = size.channels, size.channels * 4
    _linear(shapes, "time_embed.0", embed, base)
    _linear(shapes, "time_embed.2", embed, embed)
    _conv(shapes, "input_blocks.0.0", base, size.in_channels)
    skips, now, block = [base], base, 1
    for level, mult in enumerate(size.mult):
        for _ in range(size.res_blocks):
            _resnet(shapes, f"input_blocks.{block}.0", now, base * mult, embed)
            now = base * mult
            if level in size.attention_levels:
                _transformer(shapes, f"input_blocks.{block}.1", now, size)
            skips.append(now)
            block += 1
        if level < len(size.mult) - 1:
            _conv(shapes, f"input_blocks.{block}.0.op", now, now)
            skips.append(now)
            block += 1
    _resnet(shapes, "middle_block.0", now, now, embed)
    _transformer(shapes, "middle_block.1", now, size)
    _resnet(shapes, "middle_block.2", now, now, embed)
    block = 0
    for level, mult in reversed(list(enumerate(size.mult))):
        for index in range(size.res_blocks + 1):
            _resnet(shapes, f"output_blocks.{block}.0", now + skips.pop(), base * mult, embed)
            now, sub = base * mult, 1
            if level in size.attention_levels:
                _transformer(shapes, f"output_blocks.{block}.1", now, size)
                sub = 2
            if level and index == size.res_blocks:
                _conv(shapes, f"output_blocks.{block}.{sub}.conv", now, now)
            block += 1
    _norm(shapes, "out.0", base)
    _conv(shapes, "out.2", 4, base)
    return shapes


def vae_shapes(size: Size) -> Shapes:
    """Names without prefix."""
    shapes: Shapes = {}
    widths = [size.vae_channels * mult for mult in size.vae_mult]
    _conv(shapes, "encoder.conv_in", widths[0], 3)
    now = widths[0]
    for level, width in enumerate(widths):
        for block in range(size.vae_res_blocks):
            _vae_resnet(shapes, f"encoder.down.{level}.block.{block}", now, width)
            now = width
        if level < len(widths) - 1:
            _conv(shapes, f"encoder.down.{level}.downsample.conv", now, now)
    _vae_middle(shapes, "encoder", now)
    _norm(shapes, "encoder.norm_out", now)
    _conv(shapes, "encoder.conv_out", 8, now)
    _conv(shapes, "decoder.conv_in", now, 4)
    _vae_middle(shapes, "decoder", now)
    for level in reversed(range(len(widths))):
        for block in range(size.vae_res_blocks + 1):
            _vae_resnet(shapes, f"decoder.up.{level}.block.{block}", now, widths[level])
            now = widths[level]
        if level:
            _conv(shapes, f"decoder.up.{level}.upsample.conv", now, now)
    _norm(shapes, "decoder.norm_out", now)
    _conv(shapes, "decoder.conv_out", 3, now)
    _conv(shapes, "quant_conv", 8, 8, 1)
    _conv(shapes, "post_quant_conv", 4, 4, 1)
    return shapes


def text_shapes(size: Size) -> Shapes:
    """Names from `embeddings.` on."""
    width = size.context
    shapes: Shapes = {
        "embeddings.token_embedding.weight": (size.vocabulary, width),
        "embeddings.position_embedding.weight": (77, width),
    }
    for layer in range(size.text_layers):
        prefix = f"encoder.layers.{layer}"
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            _linear(shapes, f"{prefix}.self_attn.{name}", width, width)
        _norm(shapes, f"{prefix}.layer_norm1", width)
        _linear(shapes, f"{prefix}.mlp.fc1", size.text_hidden, width)
        _linear(shapes, f"{prefix}.mlp.fc2", width, size.text_hidden)
        _norm(shapes, f"{prefix}.layer_norm2", width)
    _norm(shapes, "final_layer_norm", width)
    return shapes


def fill(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Tensor]:
    """Random values at a scale that keeps activations finite; norms are near one."""
    generator = torch.Generator().manual_seed(seed)
    return {name: _values(name, shape, generator).to(dtype) for name, shape in shapes.items()}


def _values(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=generator)
    if name.endswith("bias"):
        return noise * 0.02
    if len(shape) == 1:
        return 1 + noise * 0.02
    fan_in = shape[1] * (shape[2] * shape[3] if len(shape) == 4 else 1)
    return noise * fan_in**-0.5


def checkpoint(size: Size = Size(), dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Tensor]:
    """A complete checkpoint with A1111's prefixes."""
    parts = [
        ("model.diffusion_model.", unet_shapes(size)),
        ("first_stage_model.", vae_shapes(size)),
        ("cond_stage_model.transformer.text_model.", text_shapes(size)),
    ]
    return fill({prefix + name: shape for prefix, part in parts for name, shape in part.items()}, dtype, seed)


def _linear(shapes: Shapes, name: str, out: int, into: int, *, bias: bool = True) -> None:
    shapes[f"{name}.weight"] = (out, into)
    if bias:
        shapes[f"{name}.bias"] = (out,)


def _conv(shapes: Shapes, name: str, out: int, into: int, kernel: int = 3) -> None:
    shapes[f"{name}.weight"] = (out, into, kernel, kernel)
    shapes[f"{name}.bias"] = (out,)


def _norm(shapes: Shapes, name: str, width: int) -> None:
    shapes[f"{name}.weight"] = (width,)
    shapes[f"{name}.bias"] = (width,)


def _resnet(shapes: Shapes, name: str, into: int, out: int, embed: int) -> None:
    _norm(shapes, f"{name}.in_layers.0", into)
    _conv(shapes, f"{name}.in_layers.2", out, into)
    _linear(shapes, f"{name}.emb_layers.1", out, embed)
    _norm(shapes, f"{name}.out_layers.0", out)
    _conv(shapes, f"{name}.out_layers.3", out, out)
    if into != out:
        _conv(shapes, f"{name}.skip_connection", out, into, 1)


def _transformer(shapes: Shapes, name: str, width: int, size: Size) -> None:
    _norm(shapes, f"{name}.norm", width)
    _conv(shapes, f"{name}.proj_in", width, width, 1)
    for block in range(size.depth):
        prefix = f"{name}.transformer_blocks.{block}"
        for attention, source in (("attn1", width), ("attn2", size.context)):
            _linear(shapes, f"{prefix}.{attention}.to_q", width, width, bias=False)
            _linear(shapes, f"{prefix}.{attention}.to_k", width, source, bias=False)
            _linear(shapes, f"{prefix}.{attention}.to_v", width, source, bias=False)
            _linear(shapes, f"{prefix}.{attention}.to_out.0", width, width)
        _linear(shapes, f"{prefix}.ff.net.0.proj", width * 8, width)
        _linear(shapes, f"{prefix}.ff.net.2", width, width * 4)
        for index in (1, 2, 3):
            _norm(shapes, f"{prefix}.norm{index}", width)
    _conv(shapes, f"{name}.proj_out", width, width, 1)


def _vae_resnet(shapes: Shapes, name: str, into: int, out: int) -> None:
    _norm(shapes, f"{name}.norm1", into)
    _conv(shapes, f"{name}.conv1", out, into)
    _norm(shapes, f"{name}.norm2", out)
    _conv(shapes, f"{name}.conv2", out, out)
    if into != out:
        _conv(shapes, f"{name}.nin_shortcut", out, into, 1)


def _vae_middle(shapes: Shapes, half: str, width: int) -> None:
    _vae_resnet(shapes, f"{half}.mid.block_1", width, width)
    _norm(shapes, f"{half}.mid.attn_1.norm", width)
    for name in ("q", "k", "v", "proj_out"):
        _conv(shapes, f"{half}.mid.attn_1.{name}", width, width, 1)
    _vae_resnet(shapes, f"{half}.mid.block_2", width, width)
