"""Opening LoRA files: their layers, and the textual inversions that some bring along."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdwebui_api.catalog.networks import LoraFile
from sdwebui_api.engine.embedding_files import Embedding, vectors_of
from sdwebui_api.engine.networks.names import BUNDLED, Part, grouped, part_of
from sdwebui_api.engine.networks.selection import file_identity
from sdwebui_api.engine.reading import read_tensors
from sdwebui_api.errors import UnusableModel

LoraLayers = dict[str, dict[str, Tensor]]
"""Layer as the file names it -> leaf -> tensor, a view of the mapped file where possible."""

OPEN = 4
"""Files whose layers are kept, as views of the mapped file where possible."""
REMEMBERED = 256
"""Files whose facts are kept; a bundled embedding takes a few kilobytes."""


@dataclass(frozen=True)
class LoraFacts:
    """What has to be known of a file before anything is merged."""

    parts: frozenset[Part]
    """The networks it changes."""
    embeddings: tuple[Embedding, ...]
    """Textual inversions inside; their short hash is the LoRA's name, as A1111 has it in infotexts."""


class LoraFactsCache:
    """Facts by file and its state, and the layers of the files used last. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._facts: OrderedDict[str, LoraFacts] = OrderedDict()
        self._layers: OrderedDict[str, LoraLayers] = OrderedDict()

    def of(self, file: LoraFile) -> LoraFacts:
        """Raises UnusableModel when the file is gone, broken or no LoRA."""
        key = file_identity(file.path, "LoRA")
        with self._lock:
            if key in self._facts:
                self._facts.move_to_end(key)
                return self._facts[key]
        facts = _facts(self.layers(file), file)
        with self._lock:
            self._facts[key] = facts
            while len(self._facts) > REMEMBERED:
                self._facts.popitem(last=False)
        return facts

    def layers(self, file: LoraFile) -> LoraLayers:
        """Read once for facts, UNet and text encoder. Raises as `of`."""
        key = file_identity(file.path, "LoRA")
        with self._lock:
            if key in self._layers:
                return self._layers[key]
        layers = read_layers(file)
        with self._lock:
            self._layers[key] = layers
            while len(self._layers) > OPEN:
                self._layers.popitem(last=False)
        return layers


def read_layers(file: LoraFile) -> LoraLayers:
    """Raises UnusableModel when the file is broken, or holds nothing that a LoRA would."""
    tensors = read_tensors(file.path)
    layers = grouped(tensors)
    if not any(layer == BUNDLED or part_of(layer) for layer in layers) and not _for_other_families(layers):
        raise UnusableModel(f"{file.path.name} is not a LoRA: none of its {len(tensors)} tensors is named like one's")
    _add_stated_alpha(layers, file.metadata.get("lora_adapter_metadata"))
    return layers


def _for_other_families(layers: Mapping[str, Any]) -> bool:
    """Transformers: nothing here uses them, yet the file is well."""
    return any(layer.startswith(("lora_transformer_", "transformer.")) for layer in layers)


def _add_stated_alpha(layers: LoraLayers, stated: Any) -> None:
    """PEFT keeps alpha in the metadata; without any it equals the rank."""
    if not isinstance(stated, Mapping):
        return
    for layer, leaves in layers.items():
        prefix = layer.partition(".")[0]
        alpha, down = stated.get(f"{prefix}.lora_alpha"), leaves.get("lora_down.weight")
        if isinstance(alpha, int | float) and down is not None and "alpha" not in leaves:
            ranked = math.sqrt(down.shape[0]) if stated.get(f"{prefix}.use_rslora") else 1.0
            leaves["alpha"] = torch.tensor(float(alpha) * ranked)


def _facts(layers: LoraLayers, file: LoraFile) -> LoraFacts:
    parts = frozenset(part for layer in layers if (part := part_of(layer)) is not None)
    return LoraFacts(parts, tuple(_embeddings(layers.get(BUNDLED, {}), file)))


def _embeddings(leaves: Mapping[str, Tensor], file: LoraFile) -> list[Embedding]:
    """From `bundle_emb.NAME.REST`, REST being as in a file of its own (`string_to_param.*`, `emb_params`, `clip_l`)."""
    found: dict[str, dict[str, Any]] = {}
    for leaf, tensor in leaves.items():
        name, _, rest = leaf.partition(".")
        data = found.setdefault(name, {})
        if rest.startswith("string_to_param."):
            data.setdefault("string_to_param", {})[rest.removeprefix("string_to_param.")] = tensor
        else:
            data[rest] = tensor
    place = Path(f"{file.path.name} ({BUNDLED})")
    return [Embedding(name, vectors_of(data, place), file.name) for name, data in found.items()]
