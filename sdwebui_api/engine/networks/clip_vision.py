"""CLIP's image encoder (Radford et al. 2021), read from whatever file holds it, of any size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdwebui_api.engine.families.base import Assembly
from sdwebui_api.engine.ldm_names import indices
from sdwebui_api.engine.libraries import IMPORTING
from sdwebui_api.engine.reading import Shapes, read_tensors, shapes_of
from sdwebui_api.errors import UnusableModel

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
_HEADS = 16
"""Of ViT-L, ViT-H and ViT-bigG alike."""
_USUAL = {(1024, None): "clip_vitl.pth", (1664, None): "clip_g.pth", (None, 1280): "clip_g.pth"}
"""(width, projection) to the extension's name of the file."""


def find_encoder(folders: Sequence[Path], *, width: int | None = None, projection: int | None = None) -> Path:
    """The first file in `folders` with an encoder `width` wide, or with a `projection` that wide.

    Raises UnusableModel that names the folder when there is none.
    """
    for path in (path for folder in folders for path in sorted(folder.glob("*")) if path.suffix in SUFFIXES):
        shapes = shapes_of(read_tensors(path))
        fits_width = width is None or _dimension(shapes, "vision_model.embeddings.class_embedding") == width
        if fits_width and (projection is None or _dimension(shapes, "visual_projection.weight") == projection):
            return path
    wanted = f"{width} wide" if width else f"with embeddings {projection} wide"
    usual = _USUAL.get((width, projection), "clip_h.pth")
    raise UnusableModel(
        f"it needs a CLIP image encoder {wanted} (usually {usual}); put one into {folders[0] if folders else ''}"
    )


def _dimension(shapes: Shapes, name: str) -> int:
    return shapes.get(name, (0,))[0]


def assemble_clip_vision(tensors: Mapping[str, Tensor]) -> Assembly:
    """A transformers CLIPVisionModelWithProjection of the dimensions that the weights have. Raises UnusableModel."""
    with IMPORTING:
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
    named = {
        name: tensor
        for name, tensor in tensors.items()
        if name.startswith(("vision_model.", "visual_projection.")) and not name.endswith("position_ids")
    }
    shapes = shapes_of(named)
    try:
        width, patch = (shapes["vision_model.embeddings.patch_embedding.weight"][axis] for axis in (0, 2))
        positions = shapes["vision_model.embeddings.position_embedding.weight"][0]
        config = CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=shapes["vision_model.encoder.layers.0.mlp.fc1.weight"][0],
            projection_dim=shapes["visual_projection.weight"][0],
            num_hidden_layers=len(indices(shapes, "vision_model.encoder.layers.")),
            num_attention_heads=_HEADS,
            image_size=math.isqrt(positions - 1) * patch,
            patch_size=patch,
            # OpenAI's own (ViT-L, 1024 wide) has another activation than the LAION ones
            hidden_act="quick_gelu" if width == 1024 else "gelu",
        )
        with torch.device("meta"):
            module: Any = CLIPVisionModelWithProjection(config)
    except (KeyError, IndexError, ValueError) as error:
        raise UnusableModel(f"this is no CLIP image encoder ({error})") from None
    module.vision_model.embeddings.position_ids = torch.arange(positions).expand((1, -1))
    return Assembly(module, named)


def as_input(images: Tensor, side: int) -> Tensor:
    """`[N, 3, H, W]` in [0, 1] to `[N, 3, side, side]`, squeezed to a square, normalised as in training.

    As the extension (annotator/clipvision), which cuts nothing off.
    """
    smaller = min(images.shape[-2:]) > side
    mode = {"mode": "area"} if smaller else {"mode": "bilinear", "align_corners": False}
    images = nn.functional.interpolate(images, size=(side, side), **mode)
    mean, deviation = (torch.tensor(values)[None, :, None, None].to(images) for values in (_MEAN, _DEVIATION))
    return (images - mean) / deviation
