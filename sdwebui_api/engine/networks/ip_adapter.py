"""IP-Adapter (Ye et al. 2023, arXiv 2308.06721): a picture as a second prompt, with attention of its own.

The plain, light, "plus" and "full" forms; those for faces stand in `face_adapter.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sdwebui_api.engine.devices import Device
from sdwebui_api.engine.ldm_names import indices
from sdwebui_api.engine.networks.clip_vision import as_input
from sdwebui_api.engine.networks.control import ControlInput, Hint, Residuals
from sdwebui_api.engine.reading import Shapes, reading_structure
from sdwebui_api.errors import UnusableModel

_HEAD_WIDTH = 64


class IPAdapter:
    """A `ControlNetwork`; its hint is (tokens of the pictures, tokens of no picture), each `[N, T, D]`."""

    kind = "ip_adapter"
    forced_conditional = False

    def __init__(self, key: str, module: IPAdapterModule, dtype: torch.dtype, device: Device) -> None:
        self.key = key
        self.count = len(module.keys)
        self._module = module
        self._dtype = dtype
        self._device = device

    @property
    def module(self) -> IPAdapterModule:
        return self._module

    def soft_weights(self) -> tuple[float, ...]:
        return (1.0,) * self.count

    def embed(self, hint: Tensor) -> Hint:
        with self._device.running(self._module):
            return self._module.tokens(hint.to(self._device.plan.device, torch.float32), self._dtype)

    def residuals(self, x: Tensor, t: Tensor, context: Tensor, hint: Hint, vector: Tensor | None = None) -> Residuals:
        return Residuals()


class IPAdapterModule(nn.Module):
    """projection: what the encoder says, as tokens; keys, values: one pair per cross-attention of the UNet."""

    def __init__(self, encoder: Any, projection: nn.Module, keys: nn.ModuleList, values: nn.ModuleList) -> None:
        super().__init__()
        self.encoder = encoder
        self.projection = projection
        self.keys = keys
        self.values = values

    def tokens(self, pictures: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        pixels = as_input(pictures, self.encoder.config.image_size).to(dtype)
        if isinstance(self.projection, Projection):
            embeddings = self.encoder(pixels).image_embeds
            return self.projection(embeddings), self.projection(torch.zeros_like(embeddings))
        seen, unseen = (
            self.encoder(each, output_hidden_states=True).hidden_states[-2]
            for each in (pixels, torch.zeros_like(pixels))
        )
        return self.projection(seen), self.projection(unseen)


class Projection(nn.Module):
    """One embedding to a few tokens. file names: `proj`, `norm`."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        total, self.input_width = shapes["proj.weight"]
        self.width = shapes["norm.weight"][0]
        self.proj = nn.Linear(self.input_width, total)
        self.norm = nn.LayerNorm(self.width)

    def forward(self, embeddings: Tensor) -> Tensor:
        tokens: Tensor = self.norm(self.proj(embeddings).reshape(len(embeddings), -1, self.width))
        return tokens


class FullProjection(nn.Module):
    """Every patch to a token."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        hidden, self.input_width = shapes["proj.0.weight"]
        self.width = shapes["proj.2.weight"][0]
        self.proj = nn.Sequential(
            nn.Linear(self.input_width, hidden), nn.GELU(), nn.Linear(hidden, self.width), nn.LayerNorm(self.width)
        )

    def forward(self, features: Tensor) -> Tensor:
        tokens: Tensor = self.proj(features)
        return tokens


class Resampler(nn.Module):
    """A few learned queries look at every patch (Perceiver; Jaegle et al. 2021, arXiv 2103.03206)."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        _, queries, inner = shapes["latents"]
        self.input_width = shapes["proj_in.weight"][1]
        self.width = shapes["proj_out.weight"][0]
        self.latents = nn.Parameter(torch.empty(1, queries, inner))
        self.proj_in = nn.Linear(self.input_width, inner)
        self.proj_out = nn.Linear(inner, self.width)
        self.norm_out = nn.LayerNorm(self.width)
        self.layers = nn.ModuleList(QueryLayer(shapes, index, inner) for index in indices(shapes, "layers."))

    def forward(self, features: Tensor) -> Tensor:
        latents, features = self.latents.expand(len(features), -1, -1), self.proj_in(features)
        for layer in self.layers:
            latents = layer(latents, features)
        tokens: Tensor = self.norm_out(self.proj_out(latents))
        return tokens


class QueryLayer(nn.ModuleList):
    """Queries look at features, then each thinks for itself. file names: `0`, `1`."""

    def __init__(self, shapes: Shapes, index: int, width: int) -> None:
        """width: of the queries and, after the first projection, of the features."""
        hidden, _ = shapes[f"layers.{index}.1.1.weight"]
        super().__init__(
            [
                _QueryAttention(width, shapes[f"layers.{index}.0.to_q.weight"][0]),
                nn.Sequential(
                    nn.LayerNorm(width),
                    nn.Linear(width, hidden, bias=False),
                    nn.GELU(),
                    nn.Linear(hidden, width, bias=False),
                ),
            ]
        )

    def forward(self, latents: Tensor, features: Tensor) -> Tensor:
        attention, feed_forward = self
        latents = attention(features, latents) + latents
        found: Tensor = feed_forward(latents) + latents
        return found


class _QueryAttention(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.heads = max(inner // _HEAD_WIDTH, 1)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, inner * 2, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, features: Tensor, latents: Tensor) -> Tensor:
        latents = self.norm2(latents)
        key, value = self.to_kv(torch.cat([self.norm1(features), latents], dim=1)).chunk(2, dim=-1)
        found: Tensor = self.to_out(_attend(self.to_q(latents), key, value, self.heads))
        return found


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attention of `heads` heads; all `[B, T, C]`."""
    split = (tensor.unflatten(-1, (heads, -1)).transpose(1, 2) for tensor in (query, key, value))
    return nn.functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


# -- from a file ---------------------------------------------------------------------------------------------------


@reading_structure("the IP-Adapter")
def projection_of(tensors: Mapping[str, Tensor], shapes: Shapes) -> tuple[nn.Module, dict[str, Tensor]]:
    """The module without memory (call on the meta device) and its tensors. Raises UnusableModel."""
    own = {name.removeprefix("image_proj."): t for name, t in tensors.items() if name.startswith("image_proj.")}
    inner = {name.removeprefix("image_proj."): shape for name, shape in shapes.items()}
    kinds = {"proj.weight": Projection, "latents": Resampler, "proj.0.weight": FullProjection}
    for mark, kind in kinds.items():
        if mark in own:
            return kind(inner), own
    raise UnusableModel("this is an IP-Adapter of an unknown form")


@reading_structure("the IP-Adapter")
def attention_layers(
    tensors: Mapping[str, Tensor], unet: Any, width: int
) -> tuple[nn.ModuleList, nn.ModuleList, dict[str, Tensor]]:
    """Keys and values for every cross-attention of the diffusers UNet, without memory, and their tensors.

    width: of the tokens that they read. Raises UnusableModel.
    """
    pattern = r"ip_adapter\.(\d+)\.to_([kv])_ip\.weight"
    found = {(int(m[1]), m[2]): t for name, t in tensors.items() if (m := re.fullmatch(pattern, name))}
    wanted = cross_attentions(unet)
    if sorted({number for number, _ in found}) != [number for number, _ in wanted]:
        raise UnusableModel(
            f"an IP-Adapter for {len(found) // 2} cross-attentions does not fit this checkpoint, "
            f"which has {len(wanted)}"
        )
    keys, values, named = nn.ModuleList(), nn.ModuleList(), {}
    for index, (number, layer) in enumerate(wanted):
        for part, modules in (("k", keys), ("v", values)):
            tensor = found[number, part]
            if tensor.shape != (layer.to_k.weight.shape[0], width):
                raise UnusableModel("an IP-Adapter for attention of other widths than this checkpoint's")
            modules.append(nn.Linear(width, tensor.shape[0], bias=False))
            named[f"{'keys' if part == 'k' else 'values'}.{index}.weight"] = tensor
    return keys, values, named


def cross_attentions(unet: Any) -> list[tuple[int, Any]]:
    """With the numbers that files give them: down, up, middle; self-attentions counted too."""
    names = [name.removesuffix(".processor") for name in unet.attn_processors]
    return [(number, unet.get_submodule(name)) for number, name in enumerate(names) if name.endswith("attn2")]


# -- in the UNet ---------------------------------------------------------------------------------------------------


@contextmanager
def attending_pictures(unet: Any, inputs: Sequence[ControlInput]) -> Iterator[None]:
    """Within the context the UNet's cross-attentions see the pictures of the IP-Adapters among `inputs`.

    Their hints hold one tensor, the tokens of each row. Hold the device meanwhile.
    """
    with ExitStack() as hooks:
        for one in inputs:
            if isinstance(one.network, IPAdapter):
                module = one.network.module
                for index, (_, layer) in enumerate(cross_attentions(unet)):
                    hook = _Hook(layer, module.keys[index], module.values[index], one, index)
                    hooks.callback(layer.to_q.register_forward_hook(hook.keep_query).remove)
                    hooks.callback(layer.to_out[0].register_forward_pre_hook(hook.add).remove)
        yield


class _Hook:
    """Takes the query from the layer, adds what it finds in the picture before the layer's last projection."""

    def __init__(self, layer: Any, key: nn.Module, value: nn.Module, one: ControlInput, index: int) -> None:
        self._layer, self._key, self._value, self._one, self._index = layer, key, value, one, index
        self._query: Tensor | None = None

    def keep_query(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        self._query = output

    def add(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        assert self._query is not None
        tokens = self._one.hint[0].to(self._query)
        found = _attend(self._query, self._key(tokens), self._value(tokens), self._layer.heads)
        scale = self._one.scales[:, self._index].to(found)[:, None, None]
        return (inputs[0] + found * scale, *inputs[1:])
