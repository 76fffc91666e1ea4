"""Where the parts of one lease come from: what they are called in the weights cache, and how they are loaded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sdwebui_api.catalog.diffusers_folders import state_of, weight_files
from sdwebui_api.engine.attention import use_attention
from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.engine.filling import Tell, Weights, tensors_nbytes
from sdwebui_api.engine.float8 import size_of_halves
from sdwebui_api.engine.load_settings import LoadSettings
from sdwebui_api.engine.loading import VAE_DECODER, VAE_ENCODER, ModelFacts, OpenCheckpoint, load_vae_file
from sdwebui_api.engine.model import UNet
from sdwebui_api.engine.vae import Vae
from sdwebui_api.engine.visits import ModuleMoves
from sdwebui_api.engine.weights import Loaded
from sdwebui_api.errors import UnusableModel

if TYPE_CHECKING:
    from sdwebui_api.catalog.checkpoints import CheckpointFile
    from sdwebui_api.catalog.vaes import VaeFile

LARGE_TEXT_ENCODER = 100 * 2**20
"""Bytes from which on it is worth while to read one again with every new prompt: a tenth of SD1.5's weights, 0.16 s."""

Progress = Callable[[str], None]
"""Told in a few words what is being loaded."""

Reserve = Callable[[int], None]
"""Told the bytes that are about to be taken."""


@dataclass(frozen=True)
class LoadedUNet:
    """A cached UNet with the facts of its checkpoint."""

    unet: UNet
    facts: ModelFacts
    problems: tuple[str, ...] = ()
    """What of the networks merged into it did not fit, in words."""


@dataclass(frozen=True)
class LoadedText:
    """A cached text model. A lease wraps it together with the embeddings of its time."""

    module: Any
    problems: tuple[str, ...] = ()


class LentText:
    """The text model of one lease: leased with its first use, until `let_go`, and anew with the next. Thread-safe."""

    def __init__(
        self,
        key: str,
        width: int,
        lend: Callable[[], AbstractContextManager[LoadedText]],
        problems: tuple[str, ...] = (),
    ) -> None:
        """width: of the context; problems: what of the networks merged into it did not fit, in words."""
        self.key = key
        self.width = width
        self.problems = problems
        self._lend = lend
        self._lock = threading.RLock()
        self._held = ExitStack()
        self._text: LoadedText | None = None

    @contextmanager
    def module(self) -> Iterator[Any]:
        """Raises as the loader of the weights does."""
        with self._lock:
            if self._text is None:
                self._text = self._held.enter_context(self._lend())
            yield self._text.module

    def let_go(self) -> None:
        with self._lock:
            self._text = None
            self._held.close()


@dataclass(frozen=True)
class Contents:
    """What has to be known of a checkpoint before any of it is loaded."""

    family: str
    text_width: int
    """Of the context; 0 without a text encoder."""
    text_size: int
    """Bytes of the text encoder in memory."""


class KnownContents:
    """Of checkpoints by file and state: each is read once."""

    def __init__(self) -> None:
        self._known: dict[str, Contents] = {}

    def of(self, file: str, opened: Callable[[], OpenCheckpoint], dtype: torch.dtype) -> Contents:
        """`opened`: called when `file` is not known yet; `dtype`: of the text encoder. Raises UnusableModel."""
        if file not in self._known:
            found = opened()
            self._known[file] = Contents(found.family.name, found.text_width(), found.text_encoder_size(dtype))
        return self._known[file]


class Source:
    """Opens the checkpoint only when something has to be read from it."""

    def __init__(
        self,
        checkpoint: CheckpointFile,
        vae: VaeFile | None,
        plan: DevicePlan,
        device: Device,
        progress: Progress,
        settings: LoadSettings,
        known: KnownContents,
    ) -> None:
        """Raises UnusableModel."""
        self._checkpoint = checkpoint
        self._vae = vae
        self._plan = plan
        self._device = device
        self._progress = progress
        self._settings = settings
        self._config_path = checkpoint.config_path
        file = identity(checkpoint.path)
        config = f"+{identity(self._config_path)}" if self._config_path is not None else ""
        contents = known.of(file + config, lambda: self._open, plan.text_dtype)
        self.family, self.text_width = contents.family, contents.text_width
        self.text_passes = plan.spares_ram and contents.text_size >= LARGE_TEXT_ENCODER
        """The text encoder is in memory only while texts are encoded."""
        self.rests_in_ram = plan.rests_in_ram(self.family)
        """Its parts visit the device while they are used."""
        storage = settings.storage_word(self.family)
        self.unet_key = f"unet:{file}{config}:{plan.unet_dtype}{storage}"
        self.text_key = f"text:{file}{config}:{plan.text_dtype}{storage}"
        self.vae_key = f"vae:{identity(vae.path) if vae is not None else file}:{plan.vae_dtype}"

    @property
    def keys(self) -> list[str]:
        """Of the parts that a lease holds from its beginning."""
        passing = (self.text_key,) if self.text_passes else ()
        return [key for key in (self.unet_key, self.text_key, self.vae_key) if key not in passing]

    def size(self) -> int:
        """Bytes of all parts together, about."""
        return (
            self._open.unet_size(self._plan.unet_dtype)
            + self._open.text_encoder_size(self._plan.text_dtype)
            + self._open.vae_size(self._plan.vae_dtype)
        )

    def files(self) -> list[Path]:
        """Where the weights are read from."""
        path = self._checkpoint.path
        found = weight_files(path) if path.is_dir() else [path]
        return found if self._vae is None else [*found, self._vae.path]

    def say(self, what: str) -> None:
        self._progress(f"{what} of {self._checkpoint.name}")

    @cached_property
    def _open(self) -> OpenCheckpoint:
        # A job that runs without autograd may come first, and the file's tensors become the weights of every other.
        with torch.inference_mode(False):
            return OpenCheckpoint(self._checkpoint.path, self._config_path, self._checkpoint.metadata)

    def _weights(self, dtype: torch.dtype, channels_last: bool = False, *, float8: bool = False) -> Weights:
        return Weights(
            dtype,
            torch.device("cpu") if self.rests_in_ram else self._plan.device,
            channels_last,
            float8=float8 and self._settings.in_float8(self.family),
            keep_half=self._settings.keep_half,
            pinned=self.rests_in_ram,
        )

    def _telling(self, text: str) -> Tell:
        self._progress(text)
        return lambda share: self._progress(f"{text}, {share:.0%}")

    def load_unet(self, reserve: Reserve) -> Loaded:
        tell = self._telling(f"loading the UNet of {self._checkpoint.name}")
        weights = self._weights(self._plan.unet_dtype, self._plan.channels_last, float8=True)
        weights = replace(weights, packed=self._plan.packs_unet and not weights.float8)
        reserve(self._open.unet_size(_stored(weights)))
        module: Any = self._open.load_unet(weights, tell)
        use_attention(module, self._plan.attention)
        compiled = self._plan.compiled and not weights.float8 and not self._plan.rests_in_ram(self.family)
        unet = UNet(self.unet_key, module, self._plan.unet_dtype, self._device, compiled=compiled)
        return self._loaded(
            LoadedUNet(unet, self._open.facts(unet)), module, movable=not compiled and not weights.packed
        )

    def load_text_encoder(self, reserve: Reserve) -> Loaded:
        tell = self._telling(f"loading the text encoder of {self._checkpoint.name}")
        weights = self._weights(self._plan.text_dtype, float8=True)
        reserve(self._open.text_encoder_size(_stored(weights)))
        module = self._open.load_text_encoder(weights, tell)
        return self._loaded(LoadedText(module), module)

    def load_vae(self, reserve: Reserve) -> Loaded:
        """On a CPU its encoder comes with the first picture that is to be encoded: many jobs have none."""
        weights = self._weights(self._plan.vae_dtype, self._plan.vae_channels_last)
        later = VAE_ENCODER if self._plan.device.type == "cpu" else ()
        if self._vae is not None:
            self._progress(f"loading the VAE {self._vae.name}")
            reserve(self._vae.path.stat().st_size)
            module = load_vae_file(self._vae.path, weights, without=later)
        else:
            self._progress(f"loading the VAE of {self._checkpoint.name}")
            reserve(self._open.vae_size(weights.dtype))
            module = self._open.load_vae(weights, without=later)
        load_encoder = self._vae_encoder(weights) if later else None
        return self._loaded(Vae(self.vae_key, module, weights.dtype, self._device, load_encoder), module)

    def _vae_encoder(self, weights: Weights) -> Callable[[], Any]:
        """Reads the other half of the VAE. Does not hold the mapped file meanwhile; raises UnusableModel when it was
        changed since."""
        vae, path, config_path = self._vae, self._checkpoint.path, self._config_path
        read_from = vae.path if vae is not None else path
        state = identity(read_from)

        def load() -> Any:
            if identity(read_from) != state:
                raise UnusableModel(f"{read_from.name} was changed while it was in use; send the request again")
            if vae is not None:
                return load_vae_file(vae.path, weights, without=VAE_DECODER)
            return OpenCheckpoint(path, config_path).load_vae(weights, without=VAE_DECODER)

        return load

    def _loaded(self, part: Any, module: nn.Module, *, movable: bool = True) -> Loaded:
        """`movable` False: compiled code and CUDA graphs hold the addresses of the weights; packed ones have none."""
        moves = ModuleMoves(module, self._plan.device) if movable and not self.rests_in_ram else None
        return Loaded(part, module_size(module), moves)


def _stored(weights: Weights) -> torch.dtype:
    return torch.float8_e4m3fn if weights.float8 else weights.dtype


def module_size(module: nn.Module) -> int:
    """Bytes of its weights."""
    return tensors_nbytes(module.parameters()) + size_of_halves(module)


def identity(path: Path) -> str:
    """A file or diffusers folder, and its state. Raises UnusableModel when it is gone."""
    try:
        size, mtime_ns = state_of(path)
    except OSError as error:
        raise UnusableModel(f"{path.name} cannot be read: {error.strerror}") from error
    return f"{path}@{mtime_ns}.{size}"
