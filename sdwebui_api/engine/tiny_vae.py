"""TAESD (Ollin Boer Bohan, MIT licence): a small autoencoder that speaks the latents of SD1 or SDXL.

Its files keep the published layout: plain sequences, the decoder's beginning with a clamp, which has no weights. Its
latents are what the UNet works with, so no family's factor applies.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sdwebui_api.engine import memory
from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.engine.families.base import Assembly, Family
from sdwebui_api.engine.filling import Weights, materialise
from sdwebui_api.engine.libraries import IMPORTING
from sdwebui_api.engine.load_settings import LoadSettings
from sdwebui_api.engine.loading import naming
from sdwebui_api.engine.reading import read_tensors
from sdwebui_api.engine.tiling import wrapped_edges
from sdwebui_api.errors import BadRequest, Diverged

log = logging.getLogger(__name__)

ENDINGS = (".pth", ".safetensors")
WIDTH = 64
"""Channels of every feature map."""
MAPS = 4
"""Feature maps of the picture's size in memory at once: a block's input, two of its inside, and one to spare."""
_ARCHITECTURE = {"block_out_channels": (WIDTH,) * 4, "act_fn": "relu"}
_LATENT, _RGB = 4, 3

Half = TypeVar("Half")


class _Network:
    """One half, and where it runs. Thread-safe: the device is held for one picture."""

    def __init__(self, module: nn.Module, dtype: torch.dtype, device: Device) -> None:
        self._module: Any = module
        self._dtype = dtype
        self._device = device

    def _run(self, one: Tensor, tiling: bool) -> Tensor:
        """[1, …] -> [1, …] float32. Raises Diverged for not-a-number, OutOfMemory."""
        place = self._device.plan.device
        with self._device.running(self._module), wrapped_edges(self._module, tiling):
            found: Tensor = self._module(one.to(place, self._dtype)).float()
        if self._device.plan.nan_check and not bool(torch.isfinite(found).all()):
            raise Diverged("TAESD gave not-a-number values; try a lower cfg_scale, another sampler, or the whole VAE")
        return found

    def _require_room(self, pixels: int) -> None:
        size = MAPS * WIDTH * pixels * self._dtype.itemsize
        memory.require(self._device.plan.device, size, f"a picture of {pixels / 1e6:.1f} megapixels")


class TinyDecoder(_Network):
    def decode(self, latents: Tensor, *, tiling: bool = False) -> Tensor:
        """Scaled latents [B, 4, h, w] -> [B, 3, 8h, 8w] in about [-1, 1], float32; one picture at a time."""
        self.require_room(latents)
        return torch.cat([self._run(latent[None], tiling) for latent in latents])

    def require_room(self, latents: Tensor) -> None:
        """Raises OutOfMemory when one of `latents` [B, 4, h, w] clearly cannot be decoded here."""
        self._require_room(latents.shape[-2] * latents.shape[-1] * 64)


class TinyEncoder(_Network):
    def encode(self, images: Tensor, *, tiling: bool = False) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> scaled latents [B, 4, H//8, W//8], float32: always the same, nothing is drawn."""
        height, width = images.shape[-2:]
        self._require_room(height * width)
        latents = torch.cat([self._run(image[None], tiling) for image in images])
        return latents[..., : height // 8, : width // 8]  # it rounds sides up, where the VAE rounds down


def load_tiny_decoder(path: Path, plan: DevicePlan, device: Device) -> TinyDecoder:
    """Raises UnusableModel when the file is broken, an untrusted pickle, or no TAESD decoder."""
    with IMPORTING:
        from diffusers.models.autoencoders.vae import DecoderTiny
    return TinyDecoder(*_load(path, plan, DecoderTiny, _LATENT, _RGB, "decoder"), device)


def load_tiny_encoder(path: Path, plan: DevicePlan, device: Device) -> TinyEncoder:
    """Raises UnusableModel when the file is broken, an untrusted pickle, or no TAESD encoder."""
    with IMPORTING:
        from diffusers.models.autoencoders.vae import EncoderTiny
    return TinyEncoder(*_load(path, plan, EncoderTiny, _RGB, _LATENT, "encoder"), device)


def _load(
    path: Path, plan: DevicePlan, network: Callable[..., nn.Module], inputs: int, outputs: int, half: str
) -> tuple[nn.Module, torch.dtype]:
    shape: dict[str, Any] = {"num_blocks": (1, 3, 3, 3)}
    skipped = 0
    if half == "decoder":
        shape = {"num_blocks": (3, 3, 3, 1), "upsampling_scaling_factor": 2, "upsample_fn": "nearest"}
        skipped = 1  # the clamp, which diffusers applies outside of the sequence
    with torch.device("meta"):
        module = network(in_channels=inputs, out_channels=outputs, **_ARCHITECTURE, **shape)
    tensors = {_renamed(name, skipped): tensor for name, tensor in read_tensors(path).items()}
    weights = Weights(plan.unet_dtype, plan.storage, plan.vae_channels_last)
    with naming(path):
        materialise(Assembly(module, tensors), weights, f"TAESD {half}")
    for layer in module.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = True  # nobody else reads what it changes
    return module, weights.dtype


def _renamed(name: str, skipped: int) -> str:
    """`7.weight` -> `layers.6.weight` for one skipped place; other names stay, and are superfluous."""
    place, dot, rest = name.partition(".")
    return f"layers.{int(place) - skipped}{dot}{rest}" if place.isdecimal() else name


@dataclass(frozen=True)
class TinyVae:
    """What stands in for a model's VAE, as the settings of one lease say. Valid while the lease lasts."""

    encoder: TinyEncoder | None = None
    """Encodes start pictures instead of the VAE."""
    decoder: TinyDecoder | None = None
    """Decodes results instead of the VAE."""
    previewer: TinyDecoder | None = None
    """Draws previews."""
    no_encoder: str = ""
    """Why there is no encoder although it was asked for."""

    @property
    def encodes(self) -> bool:
        return self.encoder is not None or bool(self.no_encoder)

    def require_encoder(self) -> TinyEncoder:
        """Call where `encodes`. Raises BadRequest, naming the setting, when its file is not there."""
        if self.encoder is None:
            raise BadRequest(self.no_encoder, field="sd_vae_encode_method")
        return self.encoder


WHOLE_VAE = TinyVae()
"""Nothing stands in."""

Lend = Callable[[Path, Callable[[Path, DevicePlan, Device], Any], type[Any]], AbstractContextManager[Any]]
"""`Engine.auxiliary`."""


class TinyVaeFiles:
    """The folder of TAESD's files, looked at whenever one is wanted. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._told: set[str] = set()

    def lend(self, settings: LoadSettings, family: Family, lend: Lend, held: ExitStack) -> TinyVae:
        """What `settings` want for a checkpoint of `family`, on loan for as long as `held` is open.

        Raises BadRequest, naming the setting, when what decodes is not there: that would be known only after all
        steps. A missing encoder matters only to who encodes; for previews there are others.
        """
        previews, decodes = settings.tiny_previews, settings.tiny_decoder
        if not (settings.tiny_encoder or decodes or previews):
            return WHOLE_VAE

        def half(name: str, load: Callable[..., Half], kind: type[Half]) -> Half | None:
            path = self._find(family, name)
            return None if path is None else held.enter_context(lend(path, load, kind))

        encoder = half("encoder", load_tiny_encoder, TinyEncoder) if settings.tiny_encoder else None
        decoder = half("decoder", load_tiny_decoder, TinyDecoder) if decodes or previews else None
        if decoder is None and decodes:
            text = self._missing(family, "decoder", "sd_vae_decode_method")
            raise BadRequest(text, field="sd_vae_decode_method")
        if decoder is None and previews:
            self._tell_once(self._missing(family, "decoder", "show_progress_type"))
        no_encoder = ""
        if settings.tiny_encoder and encoder is None:
            no_encoder = self._missing(family, "encoder", "sd_vae_encode_method")
        return TinyVae(encoder, decoder if decodes else None, decoder if previews else None, no_encoder)

    def _find(self, family: Family, half: str) -> Path | None:
        candidates = (self._folder / f"{family.tiny_vae}_{half}{ending}" for ending in ENDINGS)
        return next((path for path in candidates if path.is_file()), None)

    def _missing(self, family: Family, half: str, setting: str) -> str:
        name = f"{family.tiny_vae}_{half}{ENDINGS[0]}"
        return f"{setting} is TAESD, but there is no {name} (or {ENDINGS[1]}): put it into {self._folder}"

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            log.warning("%s; previews are drawn the cheap way meanwhile", text)
