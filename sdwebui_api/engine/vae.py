"""The autoencoder between pictures and latents."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from sdwebui_api.engine import allocator, bands, memory, preview
from sdwebui_api.engine.devices import Device
from sdwebui_api.engine.tiling import wrapped_edges
from sdwebui_api.errors import Diverged

log = logging.getLogger(__name__)

LARGE = 32 * 2**20
"""Bytes of the decoder's largest feature map from which a CPU computes in bands: 256x256 with SD's VAE in bf16."""

_NO_PICTURE = "The VAE decoded to not-a-number values; try a lower cfg_scale, or another sampler or VAE"


class Vae:
    """One loaded autoencoder. Latents here are unscaled; `DiffusionModel` applies the family's factor."""

    def __init__(
        self,
        key: str,
        module: nn.Module,
        dtype: torch.dtype,
        device: Device,
        load_encoder: Callable[[], Any] | None = None,
    ) -> None:
        """`load_encoder`: gives a module whose children are those that `module` lacks for encoding; asked once."""
        self.key = key
        self._module: Any = module
        _activate_in_place(module)
        self._load_encoder = load_encoder
        self._dtype = dtype
        self._device = device
        config: Any = module.config
        self._widths: Sequence[int] = config.block_out_channels
        self._cell = 4 ** (len(self._widths) - 1)
        """Pixels per latent cell."""
        self._projection: preview.Projection | None = None
        self._projection_lock = threading.Lock()

    def decode(self, latents: Tensor, *, tiling: bool = False, fallback: torch.dtype | None = torch.float32) -> Tensor:
        """[B, 4, h, w] -> [B, 3, 8h, 8w] in about [-1, 1], float32; one picture at a time to spare memory.

        Not-a-number switches this VAE to `fallback` for good, as A1111's `auto_vae_precision` (with its bfloat16).
        Raises Diverged when the latents are not numbers, or the decoder gives none in `fallback` either. With
        `--disable-nan-check` nobody looks.
        """
        self.require_room(latents)
        if not self._good(latents):
            raise Diverged(
                "The UNet produced not-a-number latents; try a lower cfg_scale, another sampler, or --no-half"
            )
        return torch.cat([self._decode_one(latent[None], tiling, fallback) for latent in latents])

    def _good(self, values: Tensor) -> bool:
        return not self._device.plan.nan_check or bool(torch.isfinite(values).all())

    def require_room(self, latents: Tensor) -> None:
        """Raises OutOfMemory when one of `latents` [B, 4, h, w] clearly cannot be decoded here."""
        self._require_room(latents.shape[-2] * latents.shape[-1] * self._cell)

    def _require_room(self, pixels: int) -> None:
        size = bands.peak_bytes(self._widths, pixels, self._dtype)
        memory.require(self._device.plan.device, size, f"a picture of {pixels / 1e6:.1f} megapixels")

    def _decode_one(self, latent: Tensor, tiling: bool, fallback: torch.dtype | None) -> Tensor:
        with self._device.running(self._module), wrapped_edges(self._module, tiling):
            image = self._image(latent)
            if not self._good(image):
                self._fall_back(fallback)
                image = self._image(latent)
                if not self._good(image):
                    raise Diverged(_NO_PICTURE)
            return image

    def _image(self, latent: Tensor) -> Tensor:
        if self._in_bands(latent.shape[-2] * latent.shape[-1] * self._cell):
            allocator.give_back()  # what the steps before took does not count beside what this takes
            return bands.decode(self._module, self._place(latent)).float()
        image: Tensor = self._module.decode(self._place(latent), return_dict=False)[0]
        return image.float()

    def encode(
        self,
        images: Tensor,
        noise: Tensor | None,
        *,
        tiling: bool = False,
        fallback: torch.dtype | None = torch.float32,
    ) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> [B, 4, H/8, W/8] float32: a draw with `noise`, or the posterior's mode."""
        noises: list[Tensor | None] = [None] * len(images) if noise is None else [row[None] for row in noise]
        self._require_room(images.shape[-2] * images.shape[-1])
        pairs = zip(images, noises, strict=True)
        return torch.cat([self._encode_one(image[None], row, tiling, fallback) for image, row in pairs])

    def _encode_one(self, image: Tensor, noise: Tensor | None, tiling: bool, fallback: torch.dtype | None) -> Tensor:
        with self._device.running(self._module):
            self._complete()
            with wrapped_edges(self._module, tiling):
                mean, deviation = self._posterior(image)
                if fallback not in (None, self._dtype) and not self._good(mean):
                    self._fall_back(fallback)
                    mean, deviation = self._posterior(image)
            if noise is None:
                return mean.float()
            return mean.float() + deviation.float() * noise.to(mean.device, torch.float32)

    def _complete(self) -> None:
        """Call while holding the device."""
        if self._load_encoder is None:
            return
        with torch.inference_mode(False):
            encoder = self._load_encoder().to(self._dtype)
        _activate_in_place(encoder)
        for name, child in encoder.named_children():
            setattr(self._module, name, child)
        self._load_encoder = None

    def _posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latent's normal distribution."""
        if self._in_bands(image.shape[-2] * image.shape[-1]):
            allocator.give_back()
            return bands.encode(self._module, self._place(image))
        posterior: Any = self._module.encode(self._place(image)).latent_dist
        return posterior.mean, posterior.std

    def _in_bands(self, pixels: int) -> bool:
        """Whether a picture goes through the network in bands of rows."""
        return self._device.plan.device.type == "cpu" and bands.widest_map(self._widths, pixels, self._dtype) >= LARGE

    def _place(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device.plan.device, self._dtype)

    def _fall_back(self, dtype: torch.dtype | None) -> None:
        """Go on in `dtype`. Raises Diverged where that is none, or what failed already."""
        if self._dtype == dtype or (dtype is None and self._dtype == torch.float32):
            raise Diverged(_NO_PICTURE)
        if dtype is None:
            raise Diverged(
                f"The VAE produced not-a-number values in {_name(self._dtype)}: turn on the setting "
                "auto_vae_precision, or start with --no-half-vae (--disable-nan-check: nobody looks)"
            )
        log.warning("the VAE produced not-a-number values in %s; it goes on in %s", _name(self._dtype), _name(dtype))
        self._module.to(dtype)
        self._dtype = dtype

    def preview(self, latent: Tensor) -> Image.Image:
        """A rough picture of one unscaled latent [4, h, w], one pixel per cell, without running the decoder."""
        with self._projection_lock:
            if self._projection is None:
                self._projection = preview.fit(self)
        return self._projection.picture(latent)


def _activate_in_place(module: nn.Module) -> None:
    """Each SiLU follows a norm whose output nobody else reads: one feature map less."""
    for layer in module.modules():
        if isinstance(layer, nn.SiLU):
            layer.inplace = True


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
