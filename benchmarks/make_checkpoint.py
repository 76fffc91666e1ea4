"""Checkpoints of random weights in the true original layouts, full size or small.

    python -m benchmarks.make_checkpoint sdxl FILE [--dtype float16] [--width 1.0|small] [--seed 0]

Real checkpoints cannot be shipped with a test; what loading, speed and memory depend on are names, shapes and dtypes,
and those are here as in the files people download: LDM names for the UNet and the VAE, transformers' or open_clip's
for the text encoders, sgm's `conditioner.embedders` for SDXL, and the keys nobody needs beside them. Weights keep
activations near unit variance, so half precision stays finite; pictures are noise.

Written from the published architectures, not from `engine/ldm_names.py`, so that a test of one proves the other.
Tensors are made and written one by one: RAM stays small whatever the size of the file.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

VOCABULARY = 49408
POSITIONS = 77
BLOCK = 4_194_319
"""Random numbers made once and used over again; a prime, so that rows of a matrix do not repeat."""
HEAD = 64
"""Channels of an attention head where the family fixes those, and in every text encoder."""
SIZE_EMBEDDING = 256
NAMES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.int64: "I64"}


@dataclass(frozen=True)
class Text:
    """One text encoder: `clip` (transformers' names) or `open_clip`."""

    prefix: str
    kind: str
    width: int
    layers: int


@dataclass(frozen=True)
class Layout:
    """The dimensions of a family. depths: transformer blocks per level, 0 for none; vector: size conditionings."""

    unet_width: int
    multipliers: tuple[int, ...]
    depths: tuple[int, ...]
    middle_depth: int
    texts: tuple[Text, ...]
    in_channels: int = 4
    linear: bool = True
    """Whether proj_in and proj_out are matrices; SD1 has 1x1 convolutions."""
    sizes: int = 0
    """Numbers (picture size, crop, …) embedded beside the pooled text; 0: the family has no such input."""
    vae_width: int = 128
    tables: bool = True
    """Whether the file carries the noise schedule's tables (LDM: yes, sgm: no)."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    markers: tuple[str, ...] = ()
    """Empty tensors whose names are the message."""

    @property
    def context(self) -> int:
        return sum(text.width for text in self.texts)

    @property
    def vector(self) -> int:
        """Width of the label embedding's input: pooled text of the last encoder, then the embedded sizes."""
        return self.texts[-1].width + self.sizes * SIZE_EMBEDDING if self.sizes else 0

    @property
    def levels(self) -> tuple[int, ...]:
        return tuple(self.unet_width * factor for factor in self.multipliers)


_LDM = "cond_stage_model"
_SGM = "conditioner.embedders"
_CLIP_L = Text(f"{_LDM}.transformer.text_model", "clip", 768, 12)
_SD1 = Layout(320, (1, 2, 4, 4), (1, 1, 1, 0), 1, (_CLIP_L,), linear=False)
_SD2 = replace(_SD1, texts=(Text(f"{_LDM}.model", "open_clip", 1024, 24),), linear=True)
_SDXL_TEXTS = (
    replace(_CLIP_L, prefix=f"{_SGM}.0.transformer.text_model"),
    Text(f"{_SGM}.1.model", "open_clip", 1280, 32),
)
_SDXL = Layout(
    320, (1, 2, 4), (0, 2, 10), 10, _SDXL_TEXTS, sizes=6, tables=False,
    metadata={"modelspec.architecture": "stable-diffusion-xl-v1-base"},
)  # fmt: skip
_REFINER = Layout(
    384, (1, 2, 4, 4), (0, 4, 4, 0), 4, (replace(_SDXL_TEXTS[1], prefix=f"{_SGM}.0.model"),), sizes=5, tables=False,
    metadata={"modelspec.architecture": "stable-diffusion-xl-v1-refiner"},
)  # fmt: skip

FAMILIES: Mapping[str, Layout] = {
    "sd1": _SD1,
    "sd1-inpainting": replace(_SD1, in_channels=9),
    "sd1-edit": replace(_SD1, in_channels=8),
    "sd2": _SD2,
    "sd2-v": replace(_SD2, metadata={"modelspec.prediction_type": "v"}),
    "sd2-inpainting": replace(_SD2, in_channels=9),
    "sdxl": _SDXL,
    "sdxl-v": replace(_SDXL, markers=("v_pred", "ztsnr")),
    "sdxl-refiner": _REFINER,
    "sdxl-inpainting": replace(_SDXL, in_channels=9),
}


def layout_of(family: str, width: float | str = 1.0) -> Layout:
    """A family's dimensions, its widths times `width`; `small`: the narrowest that the family's rules allow.

    Head sizes, vocabulary and the number of levels stay as they are.
    """
    layout = FAMILIES[family]
    if width == "small":
        texts = tuple(replace(text, width=HEAD * (2 + i), layers=3) for i, text in enumerate(layout.texts))
        depths = tuple(min(depth, 2) for depth in layout.depths)
        middle = min(layout.middle_depth, 2)
        return replace(layout, unet_width=HEAD, depths=depths, middle_depth=middle, texts=texts, vae_width=32)
    factor = float(width)
    texts = tuple(replace(text, width=_rounded(text.width * factor, HEAD)) for text in layout.texts)
    vae_width = _rounded(layout.vae_width * factor, 32)
    return replace(layout, unet_width=_rounded(layout.unet_width * factor, HEAD), texts=texts, vae_width=vae_width)


def _rounded(width: float, unit: int) -> int:
    return max(unit, round(width / unit) * unit)


@dataclass(frozen=True)
class Weight:
    """A tensor to be. std 0 and mean 0: exact zeros, such as a schedule's table has not; `values` goes before both."""

    shape: tuple[int, ...]
    std: float = 0.0
    mean: float = 0.0
    values: Tensor | None = None


Weights = dict[str, Weight]


def _affine(name: str, out: int, *fan_in: int, gain: float = 1.0, bias: bool = True) -> Weights:
    """A matrix or convolution that keeps unit variance (times `gain`) of what it is given."""
    weights = {f"{name}.weight": Weight((out, *fan_in), gain / math.sqrt(math.prod(fan_in)))}
    return weights | ({f"{name}.bias": Weight((out,), 0.05)} if bias else {})


def _norm(name: str, channels: int) -> Weights:
    return {f"{name}.weight": Weight((channels,), 0.1, 1.0), f"{name}.bias": Weight((channels,), 0.05)}


def _conv(name: str, out: int, channels: int, gain: float = 1.0, side: int = 3) -> Weights:
    return _affine(name, out, channels, side, side, gain=gain)


# --- UNet -----------------------------------------------------------------------------------------------------


def unet_weights(layout: Layout) -> Weights:
    """The tensors of `openaimodel.UNetModel`, without a prefix."""
    width, embedding = layout.unet_width, 4 * layout.unet_width
    weights = _affine("time_embed.0", embedding, width) | _affine("time_embed.2", embedding, embedding)
    if layout.vector:
        weights |= _affine("label_emb.0.0", embedding, layout.vector) | _affine("label_emb.0.2", embedding, embedding)
    weights |= _conv("input_blocks.0.0", width, layout.in_channels)
    down, skips = _down(layout)
    deepest = layout.levels[-1]
    weights |= down | _res_block("middle_block.0", deepest, deepest, embedding)
    weights |= _transformer("middle_block.1", deepest, layout.middle_depth, layout)
    weights |= _res_block("middle_block.2", deepest, deepest, embedding) | _up(layout, skips)
    return weights | _norm("out.0", width) | _conv("out.2", 4, width)


def _down(layout: Layout) -> tuple[Weights, list[int]]:
    """The input blocks after the first, and the channels of every skip connection."""
    weights: Weights = {}
    channels, skips, block = layout.unet_width, [layout.unet_width], 1
    for level, (out, depth) in enumerate(zip(layout.levels, layout.depths, strict=True)):
        for _ in range(2):
            weights |= _res_block(f"input_blocks.{block}.0", channels, out, 4 * layout.unet_width)
            weights |= _transformer(f"input_blocks.{block}.1", out, depth, layout)
            channels, block = out, block + 1
            skips.append(channels)
        if level < len(layout.levels) - 1:
            weights |= _conv(f"input_blocks.{block}.0.op", channels, channels)
            skips.append(channels)
            block += 1
    return weights, skips


def _up(layout: Layout, skips: list[int]) -> Weights:
    weights: Weights = {}
    channels, block = layout.levels[-1], 0
    for level in reversed(range(len(layout.levels))):
        out, depth = layout.levels[level], layout.depths[level]
        for index in range(3):
            weights |= _res_block(f"output_blocks.{block}.0", channels + skips.pop(), out, 4 * layout.unet_width)
            weights |= _transformer(f"output_blocks.{block}.1", out, depth, layout)
            if index == 2 and level:
                weights |= _conv(f"output_blocks.{block}.{2 if depth else 1}.conv", out, out)
            channels, block = out, block + 1
    return weights


def _res_block(name: str, channels: int, out: int, embedding: int) -> Weights:
    weights = _norm(f"{name}.in_layers.0", channels) | _conv(f"{name}.in_layers.2", out, channels, gain=1.5)
    weights |= _affine(f"{name}.emb_layers.1", out, embedding) | _norm(f"{name}.out_layers.0", out)
    weights |= _conv(f"{name}.out_layers.3", out, out, gain=0.7)
    return weights | (_conv(f"{name}.skip_connection", out, channels, side=1) if channels != out else {})


def _transformer(name: str, channels: int, depth: int, layout: Layout) -> Weights:
    if not depth:
        return {}
    square = (channels,) if layout.linear else (channels, 1, 1)
    weights = _norm(f"{name}.norm", channels) | _affine(f"{name}.proj_in", channels, *square)
    for block in range(depth):
        inner = f"{name}.transformer_blocks.{block}"
        weights |= _attention(f"{inner}.attn1", channels, channels) | _attention(
            f"{inner}.attn2", channels, layout.context
        )
        weights |= _affine(f"{inner}.ff.net.0.proj", 8 * channels, channels)
        weights |= _affine(f"{inner}.ff.net.2", channels, 4 * channels, gain=0.5)
        for norm in ("norm1", "norm2", "norm3"):
            weights |= _norm(f"{inner}.{norm}", channels)
    return weights | _affine(f"{name}.proj_out", channels, *square, gain=0.5)


def _attention(name: str, channels: int, context: int) -> Weights:
    weights = _affine(f"{name}.to_q", channels, channels, bias=False)
    for layer in ("to_k", "to_v"):
        weights |= _affine(f"{name}.{layer}", channels, context, bias=False)
    return weights | _affine(f"{name}.to_out.0", channels, channels, gain=0.5)


# --- VAE ------------------------------------------------------------------------------------------------------


def vae_weights(width: int) -> Weights:
    """The tensors of `AutoencoderKL` with channel multipliers 1, 2, 4, 4, without a prefix."""
    levels = [width, 2 * width, 4 * width, 4 * width]
    weights = (
        _conv("encoder.conv_in", width, 3) | _vae_middle("encoder", levels[-1]) | _norm("encoder.norm_out", levels[-1])
    )
    weights |= _conv("encoder.conv_out", 8, levels[-1], gain=0.5)
    channels = width
    for level, out in enumerate(levels):
        for block in range(2):
            weights |= _vae_block(f"encoder.down.{level}.block.{block}", channels, out)
            channels = out
        if level < 3:
            weights |= _conv(f"encoder.down.{level}.downsample.conv", out, out)
    weights |= _conv("decoder.conv_in", channels, 4) | _vae_middle("decoder", channels)
    for level, out in reversed(list(enumerate(levels))):
        for block in range(3):
            weights |= _vae_block(f"decoder.up.{level}.block.{block}", channels, out)
            channels = out
        if level:
            weights |= _conv(f"decoder.up.{level}.upsample.conv", out, out)
    weights |= _norm("decoder.norm_out", width) | _conv("decoder.conv_out", 3, width, gain=0.5)
    return weights | _conv("quant_conv", 8, 8, side=1) | _conv("post_quant_conv", 4, 4, side=1)


def _vae_middle(half: str, channels: int) -> Weights:
    weights = _vae_block(f"{half}.mid.block_1", channels, channels) | _vae_block(
        f"{half}.mid.block_2", channels, channels
    )
    weights |= _norm(f"{half}.mid.attn_1.norm", channels)
    for layer, gain in (("q", 1.0), ("k", 1.0), ("v", 1.0), ("proj_out", 0.5)):
        weights |= _conv(f"{half}.mid.attn_1.{layer}", channels, channels, gain, side=1)
    return weights


def _vae_block(name: str, channels: int, out: int) -> Weights:
    weights = _norm(f"{name}.norm1", channels) | _conv(f"{name}.conv1", out, channels, gain=1.5)
    weights |= _norm(f"{name}.norm2", out) | _conv(f"{name}.conv2", out, out, gain=0.7)
    return weights | (_conv(f"{name}.nin_shortcut", out, channels, side=1) if channels != out else {})


# --- text encoders --------------------------------------------------------------------------------------------


def _clip(text: Text) -> Weights:
    """transformers' CLIPTextModel."""
    name, width = text.prefix, text.width
    weights = {
        f"{name}.embeddings.position_ids": Weight((1, POSITIONS), values=torch.arange(POSITIONS)[None]),
        f"{name}.embeddings.token_embedding.weight": Weight((VOCABULARY, width), 0.03),
        f"{name}.embeddings.position_embedding.weight": Weight((POSITIONS, width), 0.02),
    }
    for index in range(text.layers):
        layer = f"{name}.encoder.layers.{index}"
        for matrix in ("q_proj", "k_proj", "v_proj"):
            weights |= _affine(f"{layer}.self_attn.{matrix}", width, width)
        weights |= _affine(f"{layer}.self_attn.out_proj", width, width, gain=0.5)
        weights |= _affine(f"{layer}.mlp.fc1", 4 * width, width) | _affine(
            f"{layer}.mlp.fc2", width, 4 * width, gain=0.5
        )
        weights |= _norm(f"{layer}.layer_norm1", width) | _norm(f"{layer}.layer_norm2", width)
    return weights | _norm(f"{name}.final_layer_norm", width)


def _open_clip(text: Text) -> Weights:
    """open_clip's text tower: one matrix for queries, keys and values; a projection that is applied from the left."""
    name, width = text.prefix, text.width
    weights = {
        f"{name}.logit_scale": Weight((), mean=4.6055),
        f"{name}.positional_embedding": Weight((POSITIONS, width), 0.02),
        f"{name}.text_projection": Weight((width, width), 1 / math.sqrt(width)),
        f"{name}.token_embedding.weight": Weight((VOCABULARY, width), 0.03),
    }
    for index in range(text.layers):
        block = f"{name}.transformer.resblocks.{index}"
        weights[f"{block}.attn.in_proj_weight"] = Weight((3 * width, width), 1 / math.sqrt(width))
        weights[f"{block}.attn.in_proj_bias"] = Weight((3 * width,), 0.05)
        weights |= _affine(f"{block}.attn.out_proj", width, width, gain=0.5)
        weights |= _affine(f"{block}.mlp.c_fc", 4 * width, width) | _affine(
            f"{block}.mlp.c_proj", width, 4 * width, gain=0.5
        )
        weights |= _norm(f"{block}.ln_1", width) | _norm(f"{block}.ln_2", width)
    return weights | _norm(f"{name}.ln_final", width)


# --- the rest of a file ---------------------------------------------------------------------------------------


def schedule_tables() -> Weights:
    """What LDM's DDPM registers as buffers: linear in the root of beta, 0.00085 to 0.012, 1000 timesteps."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = (1 - betas).cumprod(0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
    variance = betas * (1 - before) / (1 - kept)
    tables = {
        "betas": betas,
        "alphas_cumprod": kept,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": kept.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - kept).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - kept).log(),
        "sqrt_recip_alphas_cumprod": kept.rsqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / kept - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
        "posterior_mean_coef1": betas * before.sqrt() / (1 - kept),
        "posterior_mean_coef2": (1 - before) * (1 - betas).sqrt() / (1 - kept),
    }
    return {name: Weight((1000,), values=table.float()) for name, table in tables.items()}


def checkpoint_weights(layout: Layout) -> Weights:
    """Every tensor of the file, under its full name."""
    weights = {f"model.diffusion_model.{name}": weight for name, weight in unet_weights(layout).items()}
    weights |= {f"first_stage_model.{name}": weight for name, weight in vae_weights(layout.vae_width).items()}
    for text in layout.texts:
        weights |= _clip(text) if text.kind == "clip" else _open_clip(text)
    if layout.tables:
        weights |= schedule_tables()
    return weights | {name: Weight((0,)) for name in layout.markers}


def write_checkpoint(
    path: Path,
    family: str,
    dtype: torch.dtype = torch.float16,
    width: float | str = 1.0,
    *,
    seed: int = 0,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a safetensors file of `family` (see FAMILIES) and answer its path.

    `metadata` in place of the family's own: `{}` for a file that says nothing about itself, as most do.
    """
    layout = layout_of(family, width)
    weights = checkpoint_weights(layout)
    stated = layout.metadata if metadata is None else metadata
    # As the safetensors library does: wide types first, so that every tensor is aligned.
    ordered = sorted(weights.items(), key=lambda item: (-_stored(item[1], dtype).itemsize, item[0]))
    numbers = torch.rand(BLOCK, generator=torch.Generator().manual_seed(seed)).sub_(0.5).mul_(math.sqrt(12))
    with open(path, "wb") as file:
        file.write(_header(ordered, dtype, stated))
        for name, weight in ordered:
            for chunk in _chunks(weight, dtype, numbers, zlib.crc32(name.encode()) % BLOCK):
                file.write(chunk.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return path


def _stored(weight: Weight, dtype: torch.dtype) -> torch.dtype:
    return dtype if weight.values is None else weight.values.dtype


def _header(ordered: list[tuple[str, Weight]], dtype: torch.dtype, metadata: Mapping[str, str]) -> bytes:
    """Length (8 bytes, little-endian), then names, dtypes, shapes and offsets as JSON, padded to 8 bytes."""
    content: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, weight in ordered:
        kind = _stored(weight, dtype)
        end = offset + math.prod(weight.shape) * kind.itemsize
        content[name] = {"dtype": NAMES[kind], "shape": list(weight.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _chunks(weight: Weight, dtype: torch.dtype, numbers: Tensor, start: int) -> Iterator[Tensor]:
    """A tensor's numbers in pieces, uniform with its mean and standard deviation."""
    if weight.values is not None:
        yield weight.values
        return
    left = math.prod(weight.shape)
    while left > 0:
        piece = numbers[start : start + left]
        yield piece.mul(weight.std).add_(weight.mean).to(dtype)
        left -= len(piece)
        start = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=sorted(FAMILIES))
    parser.add_argument("path", type=Path)
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="float16")
    parser.add_argument("--width", default="1.0", help="factor on all widths, or `small`")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    begin = time.perf_counter()
    write_checkpoint(
        arguments.path, arguments.family, getattr(torch, arguments.dtype), arguments.width, seed=arguments.seed
    )
    size = arguments.path.stat().st_size
    print(f"{arguments.path}: {size / 1e9:.2f} GB in {time.perf_counter() - begin:.1f} s")


if __name__ == "__main__":
    main()
