"""Reference-only control: the picture attends to another one's features, or takes over their statistics.

No weights of its own: the UNet first reads the reference, noised like the picture, and what its layers saw is kept;
then it reads the picture, whose self-attention also sees what was kept ("attn"), or whose features are given the kept
mean and variance ("adain"; Huang & Belongie 2017, arXiv 1703.06868). After the ControlNet extension 1.1.455
(`scripts/hook.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sdwebui_api.engine.libraries import IMPORTING
from sdwebui_api.engine.networks.control import ControlInput, Hint, Residuals

_EPSILON = 1e-6


@dataclass(frozen=True, eq=False)
class Reference:
    """A `ControlNetwork` without weights; its hint is (latents, noise, 1 where the row is a prompt's).

    attention, statistics: which of the two ways are used. weight: [0, 2], how many layers take part. fidelity: [0, 1],
    how far the negative prompt's rows are left alone. alphas_cumprod: of the model.
    """

    attention: bool
    statistics: bool
    weight: float
    fidelity: float
    alphas_cumprod: Tensor
    kind = "reference"
    count = 1
    forced_conditional = False

    @property
    def key(self) -> str:
        return f"reference:{self.attention}:{self.statistics}:{self.weight}:{self.fidelity}"

    @property
    def module(self) -> nn.Module:
        return nn.Identity()

    def soft_weights(self) -> tuple[float, ...]:
        return (1.0,)

    def embed(self, hint: Tensor) -> Hint:
        return (hint,)

    def residuals(self, x: Tensor, t: Tensor, context: Tensor, hint: Hint, vector: Tensor | None = None) -> Residuals:
        return Residuals()

    def noised(self, t: Tensor, hint: Hint, channels: int) -> Tensor:
        """What the UNet reads: the reference at the picture's noise level."""
        latents, noise = hint[0], hint[1]
        alpha = self.alphas_cumprod[t.float().round().long().to(self.alphas_cumprod.device)]
        alpha = alpha.to(latents)[:, None, None, None]
        x = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        if channels == 9:  # inpainting models: nothing is masked
            x = torch.cat([x, torch.zeros_like(x[:, :1]), latents], dim=1)
        return x


@dataclass
class _Kept:
    """What one layer saw of the references."""

    features: list[Tensor] = field(default_factory=list)
    statistics: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    fidelities: list[float] = field(default_factory=list)

    @property
    def fidelity(self) -> float:
        return sum(self.fidelities) / len(self.fidelities)


@contextmanager
def reading_references(
    unet: Any, inputs: Sequence[ControlInput], t: Tensor, context: Tensor, vector: Tensor | None = None
) -> Iterator[None]:
    """The UNet reads the references among `inputs`; within the context it reads the picture with them in mind.

    Hold the device meanwhile: layers of the module are changed, and restored on the way out.
    """
    found = [(one, one.network) for one in inputs if isinstance(one.network, Reference)]
    if not found:
        yield
        return
    attentions = _attentions(unet)
    blocks = _blocks(unet)
    kept: dict[nn.Module, _Kept] = {layer: _Kept() for layer, _ in (*attentions, *blocks)}
    for one, reference in found:
        hint = tuple(tensor.to(context) for tensor in one.hint)
        with ExitStack() as hooks:
            if reference.attention:
                for layer, threshold in attentions:
                    if reference.weight > threshold:
                        hooks.enter_context(_replaced(layer, _keeping_features(layer, kept[layer], reference)))
            if reference.statistics:
                for layer, threshold in blocks:
                    if reference.weight > threshold:
                        handle = layer.register_forward_hook(_keeping_statistics(kept[layer], reference))
                        hooks.callback(handle.remove)
            x = reference.noised(t, hint, unet.config.in_channels)
            unet(x, t, encoder_hidden_states=context, class_labels=vector)
    negative = found[0][0].hint[2].flatten() == 0
    with ExitStack() as hooks:
        for layer, _ in attentions:
            if kept[layer].features:
                hooks.enter_context(_replaced(layer, _attending(layer, kept[layer], negative)))
        for layer, _ in blocks:
            if kept[layer].statistics:
                hooks.callback(layer.register_forward_hook(_normalising(kept[layer], negative)).remove)
        yield


# -- self-attention ------------------------------------------------------------------------------------------------


@contextmanager
def _replaced(layer: Any, forward: Any) -> Iterator[None]:
    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward  # the class's own comes back


def _keeping_features(layer: Any, kept: _Kept, reference: Reference) -> Any:
    plain = layer.forward

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        kept.features.append(hidden_states.detach().clone())
        kept.fidelities.append(reference.fidelity)
        result: Tensor = plain(hidden_states, *args, **kwargs)
        return result

    return forward


def _attending(layer: Any, kept: _Kept, negative: Tensor) -> Any:
    plain = layer.forward

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        kwargs.pop("encoder_hidden_states", None)
        seen = torch.cat([hidden_states, *kept.features], dim=1)
        loose: Tensor = plain(hidden_states, *args, encoder_hidden_states=seen, **kwargs)
        fidelity, rows = kept.fidelity, negative.to(hidden_states.device)
        if fidelity <= 1e-5 or not bool(rows.any()):
            return loose
        strict = loose.clone()
        strict[rows] = plain(hidden_states[rows], *args, encoder_hidden_states=hidden_states[rows], **kwargs)
        return fidelity * strict + (1.0 - fidelity) * loose

    return forward


def _attentions(unet: Any) -> list[tuple[nn.Module, float]]:
    """The self-attentions, widest first, and the weight from which each takes part."""
    with IMPORTING:
        from diffusers.models.attention import BasicTransformerBlock
    found = [
        block
        for part in (unet.down_blocks, unet.mid_block, unet.up_blocks)
        for block in part.modules()
        if isinstance(block, BasicTransformerBlock)
    ]
    found.sort(key=lambda block: -block.norm1.normalized_shape[0])
    return [(block.attn1, index / len(found)) for index, block in enumerate(found)]


# -- statistics ----------------------------------------------------------------------------------------------------


def _blocks(unet: Any) -> list[tuple[nn.Module, float]]:
    """Ends of the blocks inside the UNet, and the weight from which each takes part; the outermost never do."""
    inner = [layer for block in unet.down_blocks[1:] for layer in _layers(block)]
    outer = [layer for block in unet.up_blocks for layer in _layers_with_upsampler(block)]
    outer = outer[: len(outer) * 2 // 3]
    return [
        (unet.mid_block, 0.0),
        *((layer, 1.0 - index / len(inner)) for index, layer in enumerate(inner)),
        *((layer, index / len(outer)) for index, layer in enumerate(outer)),
    ]


def _layers(block: Any) -> list[nn.Module]:
    """What each of a level's layers ends with."""
    return list(getattr(block, "attentions", None) or block.resnets)


def _layers_with_upsampler(block: Any) -> list[nn.Module]:
    """LDM counts the upsampler to the last layer of its level."""
    layers = _layers(block)
    return [*layers[:-1], block.upsamplers[0]] if block.upsamplers else layers


def _keeping_statistics(kept: _Kept, reference: Reference) -> Any:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        features = output[0] if isinstance(output, tuple) else output
        variance, mean = torch.var_mean(features, dim=(2, 3), keepdim=True, correction=0)
        kept.statistics.append((mean, variance))
        kept.fidelities.append(reference.fidelity)

    return hook


def _normalising(kept: _Kept, negative: Tensor) -> Any:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        features = output[0] if isinstance(output, tuple) else output
        changed = _with_statistics(features, kept)
        rows, fidelity = negative.to(features.device), kept.fidelity
        if bool(rows.any()) and fidelity > 1e-5:
            strict = changed.clone()
            strict[rows] = features[rows]
            changed = fidelity * strict + (1.0 - fidelity) * changed
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return hook


def _with_statistics(features: Tensor, kept: _Kept) -> Tensor:
    variance, mean = torch.var_mean(features, dim=(2, 3), keepdim=True, correction=0)
    wanted_mean = sum(mean for mean, _ in kept.statistics) / len(kept.statistics)
    wanted_variance = sum(variance for _, variance in kept.statistics) / len(kept.statistics)
    deviation, wanted = (torch.clamp(v, min=_EPSILON).sqrt() for v in (variance, torch.as_tensor(wanted_variance)))
    return (features - mean) / deviation * wanted + wanted_mean
