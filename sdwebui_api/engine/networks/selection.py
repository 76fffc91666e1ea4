"""Which networks a job applies, with what strength: plain values, and the keys of the weights that result."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sdwebui_api.catalog.networks import HypernetworkFile, LoraFile
from sdwebui_api.errors import UnusableModel


@dataclass(frozen=True)
class AppliedLora:
    """One tag of a prompt. Its text encoder part counts `te` times, its UNet part `unet` times."""

    file: LoraFile
    te: float = 1.0
    unet: float = 1.0
    dyn: int | None = None
    """Only the first so many ranks of plain LoRA layers."""
    mentioned_as: str = ""
    """What the prompt calls it."""


@dataclass(frozen=True)
class AppliedHypernetwork:
    file: HypernetworkFile
    multiplier: float = 1.0


@dataclass(frozen=True)
class NetworkSet:
    """In the order of the prompt, which is the order they are added in. Empty: the checkpoint as it is."""

    loras: tuple[AppliedLora, ...] = ()
    hypernetworks: tuple[AppliedHypernetwork, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.loras or self.hypernetworks)


NO_NETWORKS = NetworkSet()


def file_identity(path: Path, what: str) -> str:
    """The file and its state. Raises UnusableModel when it is gone."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise UnusableModel(f"the {what} {path.name} cannot be read: {error.strerror}") from error
    return f"{path}@{status.st_mtime_ns}.{status.st_size}"
