"""Everything in a picture cut out: MobileSAM (Zhang et al. 2023, arXiv 2306.14289; Kirillov et al. 2023, 2304.02643).

A grid of points is laid over the picture; for every point the network draws three masks of what might be meant, and
says how sure it is. Sure and stable ones stay, of those that cover the same the surest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sdwebui_api.engine.annotators.layers import Layers
from sdwebui_api.engine.annotators.tiny_vit import ChannelNorm, TinyVit
from sdwebui_api.imaging.boxes import without_overlaps

SIDE = 1024
"""Of the square that the network looks at; the picture lies in its corner."""
POINTS = 32
"""Per side of the grid."""
_AT_ONCE, _FITTED_AT_ONCE = 64, 32
_HEADS = 8
_SURE, _STABLE, _MARGIN, _OVERLAP = 0.88, 0.95, 1.0, 0.7
_MEAN, _DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class _Attention(nn.Module):
    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            layers.linear(f"{name}_proj") for name in ("q", "k", "v", "out")
        )

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        projected = (self.q_proj(query), self.k_proj(key), self.v_proj(value))
        split = (tensor.unflatten(-1, (_HEADS, -1)).transpose(1, 2) for tensor in projected)
        seen = nn.functional.scaled_dot_product_attention(*split)
        found: Tensor = self.out_proj(seen.transpose(1, 2).flatten(2))
        return found


class _TwoWay(nn.Module):
    """Tokens look at each other and at the picture, then the picture at them."""

    def __init__(self, layers: Layers, *, first: bool) -> None:
        super().__init__()
        self.self_attn, self.cross_attn_token_to_image, self.cross_attn_image_to_token = (
            _Attention(layers.at(name))
            for name in ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")
        )
        self.norm1, self.norm2, self.norm3, self.norm4 = (layers.layer_norm(f"norm{n}") for n in (1, 2, 3, 4))
        self.mlp = nn.ModuleDict({name: layers.linear(f"mlp.{name}") for name in ("lin1", "lin2")})
        self._first = first

    def forward(self, tokens: Tensor, picture: Tensor, places: Tensor, picture_places: Tensor) -> tuple[Tensor, Tensor]:
        placed = tokens if self._first else tokens + places
        seen = self.self_attn(placed, placed, tokens)
        tokens = self.norm1(seen if self._first else tokens + seen)
        key = picture + picture_places
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + places, key, picture))
        tokens = self.norm3(tokens + self.mlp["lin2"](self.mlp["lin1"](tokens).relu()))
        picture = self.norm4(picture + self.cross_attn_image_to_token(key, tokens + places, tokens))
        return tokens, picture


class _Transformer(nn.Module):
    def __init__(self, layers: Layers) -> None:
        super().__init__()
        inner = layers.at("layers")
        self.layers = nn.ModuleList(_TwoWay(inner.at(number), first=number == 0) for number in inner.numbers())
        self.final_attn_token_to_image = _Attention(layers.at("final_attn_token_to_image"))
        self.norm_final_attn = layers.layer_norm("norm_final_attn")

    def forward(self, tokens: Tensor, picture: Tensor, picture_places: Tensor) -> tuple[Tensor, Tensor]:
        places = tokens
        for layer in self.layers:
            tokens, picture = layer(tokens, picture, places, picture_places)
        seen = self.final_attn_token_to_image(tokens + places, picture + picture_places, picture)
        return self.norm_final_attn(tokens + seen), picture


class _Perceptron(nn.Module):
    def __init__(self, layers: Layers) -> None:
        super().__init__()
        inner = layers.at("layers")
        self.layers = nn.ModuleList(inner.linear(str(number)) for number in inner.numbers())

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        found: Tensor = self.layers[-1](x)
        return found


class _MaskDecoder(nn.Module):
    """Points and the picture's features to masks a quarter of the square's side, and how good each is."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.transformer = _Transformer(layers.at("transformer"))
        self.iou_token, self.mask_tokens = (_embedding(layers.at(name)) for name in ("iou_token", "mask_tokens"))
        up = layers.at("output_upscaling")
        self.output_upscaling = nn.Sequential(
            up.upconv("0", stride=2, padding=0), ChannelNorm(up.at(1)), nn.GELU(), up.upconv("3", stride=2, padding=0),
            nn.GELU(),
        )  # fmt: skip
        inner = layers.at("output_hypernetworks_mlps")
        self.output_hypernetworks_mlps = nn.ModuleList(_Perceptron(inner.at(number)) for number in inner.numbers())
        self.iou_prediction_head = _Perceptron(layers.at("iou_prediction_head"))

    def forward(self, points: Tensor, features: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """points `[B, 2, C]`, features and places `[1, C, h, w]` → masks `[B, 3, 4h, 4w]`, scores `[B, 3]`."""
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(len(points), -1, -1), points], dim=1)
        picture, picture_places = (
            tensor.flatten(2).transpose(1, 2).expand(len(points), -1, -1) for tensor in (features, places)
        )
        tokens, picture = self.transformer(tokens, picture, picture_places)
        fine = self.output_upscaling(picture.transpose(1, 2).unflatten(2, features.shape[-2:]))
        count = len(self.output_hypernetworks_mlps)
        weights = [make(tokens[:, 1 + n]) for n, make in enumerate(self.output_hypernetworks_mlps)]
        masks = torch.einsum("bmc,bchw->bmhw", torch.stack(weights, 1), fine)
        scores = self.iou_prediction_head(tokens[:, 0])
        return masks[:, 1:count], scores[:, 1:count]  # the first is for prompts that leave no doubt


class _PromptEncoder(nn.Module):
    """Points as vectors. The parts for boxes and masks are in the file and stay unused."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        name = "positional_encoding_gaussian_matrix"
        self.pe_layer = nn.Module()
        self.pe_layer.register_buffer(name, torch.empty(layers.shape(f"pe_layer.{name}")))
        inner = layers.at("point_embeddings")
        self.point_embeddings = nn.ModuleList(_embedding(inner.at(number)) for number in inner.numbers())
        self.not_a_point_embed, self.no_mask_embed = (
            _embedding(layers.at(f"{name}_embed")) for name in ("not_a_point", "no_mask")
        )
        masks = layers.at("mask_downscaling")
        self.mask_downscaling = nn.Sequential(
            masks.conv("0", stride=2, padding=0), ChannelNorm(masks.at(1)), nn.GELU(),
            masks.conv("3", stride=2, padding=0), ChannelNorm(masks.at(4)), nn.GELU(), masks.conv("6"),
        )  # fmt: skip

    def places(self, points: Tensor) -> Tensor:
        """Points `[…, 2]` (x, y) in [0, 1] → `[…, C]`."""
        waves = self.pe_layer.get_buffer("positional_encoding_gaussian_matrix")
        phases = 2 * math.pi * ((2 * points - 1) @ waves)
        return torch.cat([phases.sin(), phases.cos()], dim=-1)

    def prompts(self, points: Tensor) -> Tensor:
        """`[B, 2]` → `[B, 2, C]`: each point says "this", and beside it stands one that says nothing."""
        said = self.places(points) + self.point_embeddings[1].weight  # type: ignore[operator]
        return torch.stack([said, self.not_a_point_embed.weight.expand_as(said)], dim=1)


def _embedding(layers: Layers) -> nn.Embedding:
    count, width = layers.shape("weight")
    return nn.Embedding(count, width)


@dataclass(frozen=True)
class _Found:
    """masks `[N, H, W]` of booleans, scores `[N]`."""

    masks: Tensor
    scores: Tensor


class SegmentEverything(nn.Module):
    """[1, 3, H, W] RGB in [0, 255] → [H, W]: the number of the segment of every pixel, 0 for none.

    Segments are numbered from the largest; smaller ones lie on top.
    """

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.image_encoder = TinyVit(layers.at("image_encoder"))
        self.prompt_encoder = _PromptEncoder(layers.at("prompt_encoder"))
        self.mask_decoder = _MaskDecoder(layers.at("mask_decoder"))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        scale = SIDE / max(height, width)
        inside = (max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1))
        features = self.image_encoder(_squared(x, inside)) + self.prompt_encoder.no_mask_embed.weight[0, :, None, None]
        places = self.prompt_encoder.places(_grid(features.shape[-1], features)).permute(2, 0, 1)[None]
        centres = _grid(POINTS, x).flatten(0, 1) * torch.tensor([inside[1], inside[0]]).to(x)
        size = min((height, width), inside)  # no finer than the network saw it
        found = [self._around(some, features, places, inside, size) for some in centres.split(_AT_ONCE)]
        labels = _labels(_without_doubles(_Found(*(torch.cat(parts) for parts in zip(*found, strict=True)))))
        return nn.functional.interpolate(labels[None, None], (height, width), mode="nearest")[0, 0]

    def _around(
        self, points: Tensor, features: Tensor, places: Tensor, inside: tuple[int, int], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Masks and scores of what the points (in pixels of the square) may mean, as far as that is certain."""
        masks, scores = self.mask_decoder(self.prompt_encoder.prompts((points + 0.5) / SIDE), features, places)
        sure = scores > _SURE
        masks, scores = masks[sure], scores[sure]
        parts = [_stable(_fitted(some, inside, size)) for some in masks.split(_FITTED_AT_ONCE)]
        stable = torch.cat([kept for _, kept in parts])
        return torch.cat([part for part, _ in parts]), scores[stable]


def _fitted(masks: Tensor, inside: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Masks of the square `[N, h, w]` → of the picture `[N, H, W]`."""
    masks = nn.functional.interpolate(masks[:, None], (SIDE, SIDE), mode="bilinear", align_corners=False)
    masks = masks[:, :, : inside[0], : inside[1]]
    return nn.functional.interpolate(masks, size, mode="bilinear", align_corners=False)[:, 0]


def _stable(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Those that hardly change when they are drawn more or less boldly, as booleans; and which of all they are."""
    stable = (masks > _MARGIN).sum((1, 2)) >= _STABLE * (masks > -_MARGIN).sum((1, 2)).clamp(min=1)
    return (masks > 0)[stable], stable


def _squared(x: Tensor, inside: tuple[int, int]) -> Tensor:
    """The picture enlarged into the corner of the square, normalised; the rest 0."""
    x = nn.functional.interpolate(x, inside, mode="bilinear", align_corners=False, antialias=True).round()
    mean, deviation = (torch.tensor(values).to(x)[None, :, None, None] for values in (_MEAN, _DEVIATION))
    return nn.functional.pad((x - mean) / deviation, (0, SIDE - inside[1], 0, SIDE - inside[0]))


def _grid(side: int, like: Tensor) -> Tensor:
    """`[side, side, 2]`: middles (x, y) of cells, in [0, 1]."""
    middles = (torch.arange(side).to(like) + 0.5) / side
    return torch.stack(torch.meshgrid(middles, middles, indexing="xy"), dim=-1)


def _without_doubles(found: _Found) -> _Found:
    order = found.scores.argsort(descending=True, stable=True)
    masks, scores = found.masks[order], found.scores[order]
    filled = masks.flatten(1).any(1)
    masks, scores = masks[filled], scores[filled]
    boxes = torch.stack([*_edges(masks.any(1)), *_edges(masks.any(2))])[[0, 2, 1, 3]].T
    kept = without_overlaps(boxes.float().cpu().numpy(), _OVERLAP)
    return _Found(masks[kept], scores[kept])


def _edges(taken: Tensor) -> tuple[Tensor, Tensor]:
    """`[N, L]` of booleans → the first and the last that is true."""
    whole = taken.int()
    return whole.argmax(1), taken.shape[1] - 1 - whole.flip(1).argmax(1)


def _labels(found: _Found) -> Tensor:
    labels = torch.zeros(found.masks.shape[1:], device=found.masks.device)
    order = found.masks.sum((1, 2)).argsort(descending=True, stable=True)
    for number, index in enumerate(order.tolist(), 1):
        labels[found.masks[index]] = number
    return labels


def build_mobile_sam(tensors: Mapping[str, Tensor]) -> nn.Module:
    """For the names of the authors' file."""
    return SegmentEverything(Layers.of(tensors))
