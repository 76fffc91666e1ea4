"""The dimensions of a network, read off the shapes of its weights (original LDM layout, prefixes removed).

Everything but the number of attention heads can be inferred this way.
"""

from __future__ import annotations

from dataclasses import dataclass

from sdwebui_api.engine.ldm_names import indices
from sdwebui_api.engine.reading import Shapes
from sdwebui_api.errors import UnusableModel

LABEL = "label_emb.0.0.weight"


@dataclass(frozen=True)
class UNetStructure:
    in_channels: int
    out_channels: int
    channels: tuple[int, ...]
    """Per level, finest first (SD1: 320, 640, 1280, 1280)."""
    res_blocks: int
    depths: tuple[int, ...]
    """Transformer blocks per level; 0: a level without attention."""
    middle_depth: int
    context_dim: int
    linear_projection: bool
    label_width: int = 0
    """Of the label embedding's input; 0: there is none."""


@dataclass(frozen=True)
class VaeStructure:
    channels: tuple[int, ...]
    """Per level, finest first (SD1: 128, 256, 512, 512)."""
    res_blocks: int
    latent_channels: int
    image_channels: int
    quant_conv: bool
    middle_attention: bool


@dataclass(frozen=True)
class TextStructure:
    width: int
    layers: int
    vocabulary: int
    positions: int
    hidden: int


def _size(shapes: Shapes, name: str, axis: int = 0) -> int:
    try:
        return shapes[name][axis]
    except (KeyError, IndexError):
        raise UnusableModel(f"the model's weights lack {name!r}, or it has an unexpected shape") from None


def unet_structure(shapes: Shapes) -> UNetStructure:
    """Raises UnusableModel when the tensors do not form a UNet of this kind."""
    levels = _unet_levels(shapes)
    counts = {len(level) for level in levels}
    if len(counts) != 1:
        raise UnusableModel(f"the UNet's levels have different numbers of residual blocks {sorted(counts)}")
    attention = [name for name in shapes if name.endswith("transformer_blocks.0.attn2.to_k.weight")]
    if not attention:
        raise UnusableModel("the UNet has no cross-attention")
    projection = attention[0].replace("transformer_blocks.0.attn2.to_k", "proj_in")
    return UNetStructure(
        in_channels=_size(shapes, "input_blocks.0.0.weight", 1),
        out_channels=_size(shapes, "out.2.weight"),
        channels=tuple(_size(shapes, f"input_blocks.{level[0]}.0.out_layers.3.weight") for level in levels),
        res_blocks=counts.pop(),
        depths=tuple(_depth(shapes, f"input_blocks.{level[0]}.1") for level in levels),
        middle_depth=_depth(shapes, "middle_block.1"),
        context_dim=_size(shapes, attention[0], 1),
        linear_projection=len(shapes.get(projection, ())) == 2,
        label_width=_size(shapes, LABEL, 1) if LABEL in shapes else 0,
    )


def _unet_levels(shapes: Shapes) -> list[list[int]]:
    """Input block numbers of each level's residual blocks; a downsampler (`op`) ends a level."""
    blocks = indices(shapes, "input_blocks.")
    if blocks[:1] != [0] or len(blocks) < 2:
        raise UnusableModel("the UNet's input blocks are incomplete")
    levels: list[list[int]] = [[]]
    for block in blocks[1:]:
        if f"input_blocks.{block}.0.op.weight" in shapes:
            levels.append([])
        else:
            levels[-1].append(block)
    return levels


def _depth(shapes: Shapes, prefix: str) -> int:
    return len(indices(shapes, f"{prefix}.transformer_blocks."))


def vae_structure(shapes: Shapes) -> VaeStructure:
    """Raises UnusableModel when the tensors do not form an autoencoder of this kind."""
    levels = indices(shapes, "encoder.down.")
    if not levels:
        raise UnusableModel("the VAE has no encoder")
    return VaeStructure(
        channels=tuple(_size(shapes, f"encoder.down.{level}.block.0.conv1.weight") for level in levels),
        res_blocks=len(indices(shapes, "encoder.down.0.block.")),
        latent_channels=_size(shapes, "decoder.conv_in.weight", 1),
        image_channels=_size(shapes, "encoder.conv_in.weight", 1),
        quant_conv="quant_conv.weight" in shapes,
        middle_attention="encoder.mid.attn_1.q.weight" in shapes,
    )


def diffusers_vae_structure(shapes: Shapes) -> VaeStructure:
    """The same of a VAE whose tensors carry diffusers names."""
    levels = indices(shapes, "encoder.down_blocks.")
    if not levels:
        raise UnusableModel("the VAE has no encoder")
    return VaeStructure(
        channels=tuple(_size(shapes, f"encoder.down_blocks.{level}.resnets.0.conv1.weight") for level in levels),
        res_blocks=len(indices(shapes, "encoder.down_blocks.0.resnets.")),
        latent_channels=_size(shapes, "decoder.conv_in.weight", 1),
        image_channels=_size(shapes, "encoder.conv_in.weight", 1),
        quant_conv="quant_conv.weight" in shapes,
        middle_attention="encoder.mid_block.attentions.0.to_q.weight" in shapes,
    )


def text_structure(shapes: Shapes) -> TextStructure:
    """Of a CLIP text model whose names start at `embeddings.`, `encoder.`, `final_layer_norm.`."""
    return TextStructure(
        width=_size(shapes, "embeddings.token_embedding.weight", 1),
        layers=len(indices(shapes, "encoder.layers.")),
        vocabulary=_size(shapes, "embeddings.token_embedding.weight"),
        positions=_size(shapes, "embeddings.position_embedding.weight"),
        hidden=_size(shapes, "encoder.layers.0.mlp.fc1.weight"),
    )
