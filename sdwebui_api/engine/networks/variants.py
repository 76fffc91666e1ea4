"""Variants of a checkpoint's networks: what they are called in the weights cache, and how they are made.

A variant shares every weight that no network changes with the checkpoint's own modules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from sdwebui_api.engine.devices import Device
from sdwebui_api.engine.embedding_files import Embedding
from sdwebui_api.engine.families.base import TextTower
from sdwebui_api.engine.model import UNet
from sdwebui_api.engine.networks.hypernetworks import Hypernetwork, apply_hypernetworks, load_hypernetwork
from sdwebui_api.engine.networks.merging import Strength, merge, plan_merge
from sdwebui_api.engine.networks.names import Part, TextLayers, UNetLayers
from sdwebui_api.engine.networks.reading import LoraFactsCache
from sdwebui_api.engine.networks.selection import AppliedHypernetwork, AppliedLora, NetworkSet, file_identity
from sdwebui_api.engine.twins import twin_of

Reserve = Callable[[int], None]
"""Told the bytes that are about to be taken."""


@dataclass(frozen=True)
class Made:
    """A variant, the bytes it takes beside what it shares, and what did not fit, in words."""

    part: Any
    size: int
    problems: tuple[str, ...]


class Variants:
    """Makes variants. Thread-safe."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._facts = LoraFactsCache()

    def unet_key(self, base_key: str, networks: NetworkSet) -> str:
        """`base_key` itself when `networks` leave the UNet as it is. Raises UnusableModel for a broken file."""
        words = [_word(lora, lora.unet) for lora in self._loras(networks, "unet")]
        words += [_hypernetwork_word(found) for found in networks.hypernetworks if found.multiplier]
        return "+".join([base_key, *words])

    def text_key(self, base_key: str, networks: NetworkSet) -> str:
        """The same of the text encoder."""
        return "+".join([base_key, *(_word(lora, lora.te) for lora in self._loras(networks, "text"))])

    def embeddings(self, networks: NetworkSet) -> list[Embedding]:
        """Those that come inside the LoRAs, whatever their strength."""
        return [embedding for lora in networks.loras for embedding in self._facts.of(lora.file).embeddings]

    def embeddings_key(self, networks: NetworkSet) -> str:
        """Differs when other files bring embeddings along; "" when none does."""
        bringing = [lora.file for lora in networks.loras if self._facts.of(lora.file).embeddings]
        return "".join(f"#{file_identity(file.path, 'LoRA')}" for file in bringing)

    def make_unet(self, base: UNet, key: str, networks: NetworkSet, reserve: Reserve) -> Made:
        """Raises UnusableModel for a broken file."""
        sources = [Strength(lora.file, lora.unet, lora.dyn) for lora in self._loras(networks, "unet")]
        plan = plan_merge("unet", sources, UNetLayers(base.module), self._facts.layers)
        wanted = [found for found in networks.hypernetworks if found.multiplier]
        hypernetworks = [self._hypernetwork(found) for found in wanted]
        extra = sum(found.size for found in hypernetworks)
        reserve(plan.size(base.module) + extra)
        twin = base.twin(key)
        problems = merge(twin.module, plan, self._device.plan.device, self._device.home_of(base.module))
        size = _size_beside(twin.module, base.module) + extra
        apply_hypernetworks(twin.module, hypernetworks)
        return Made(twin, size, tuple(problems))

    def make_text_encoder(
        self, base: nn.Module, towers: Sequence[TextTower], networks: NetworkSet, reserve: Reserve
    ) -> Made:
        """The same for CLIP text models."""
        sources = [Strength(lora.file, lora.te, lora.dyn) for lora in self._loras(networks, "text")]
        plan = plan_merge("text", sources, TextLayers(base, towers), self._facts.layers)
        reserve(plan.size(base))
        with self._device.at_home():
            twin = twin_of(base)
        problems = merge(twin, plan, self._device.plan.device, self._device.home_of(base))
        return Made(twin, _size_beside(twin, base), tuple(problems))

    def _loras(self, networks: NetworkSet, part: Part) -> list[AppliedLora]:
        """Those that change `part`: nothing is merged for the others, and their prompts share encodings."""
        return [
            lora
            for lora in networks.loras
            if (lora.unet if part == "unet" else lora.te) and part in self._facts.of(lora.file).parts
        ]

    def _hypernetwork(self, found: AppliedHypernetwork) -> Hypernetwork:
        return load_hypernetwork(found.file.path, found.multiplier, self._device.plan.storage)


def _word(lora: AppliedLora, multiplier: float) -> str:
    dyn = "" if lora.dyn is None else f":{lora.dyn}"
    return f"{file_identity(lora.file.path, 'LoRA')}*{multiplier!r}{dyn}"


def _hypernetwork_word(found: AppliedHypernetwork) -> str:
    return f"hyper:{file_identity(found.file.path, 'hypernetwork')}*{found.multiplier!r}"


def _size_beside(module: nn.Module, base: nn.Module) -> int:
    shared = {id(parameter) for parameter in base.parameters()}
    return sum(parameter.nbytes for parameter in module.parameters() if id(parameter) not in shared)
