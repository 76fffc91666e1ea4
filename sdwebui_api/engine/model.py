"""What a lease of the engine yields: one checkpoint with one VAE, ready to run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sdwebui_api.engine import memory
from sdwebui_api.engine.batcher import Evaluation, StepBatcher
from sdwebui_api.engine.compiled import CompiledNetwork
from sdwebui_api.engine.devices import Device
from sdwebui_api.engine.embeddings import EmbeddingDatabase
from sdwebui_api.engine.families.base import Family
from sdwebui_api.engine.families.labels import PictureFacts, label
from sdwebui_api.engine.load_settings import DEFAULTS, LoadSettings
from sdwebui_api.engine.loading import ModelFacts
from sdwebui_api.engine.networks.control import ControlInput, adding, sum_residuals
from sdwebui_api.engine.networks.ip_adapter import attending_pictures
from sdwebui_api.engine.networks.reference import reading_references
from sdwebui_api.engine.networks.style_adapter import with_styles
from sdwebui_api.engine.text_encoder import TextEncoder
from sdwebui_api.engine.tiling import wrapped_edges
from sdwebui_api.engine.tiny_vae import WHOLE_VAE, TinyVae
from sdwebui_api.engine.token_merging import merging_tokens
from sdwebui_api.engine.twins import twin_of
from sdwebui_api.engine.upcasting import upcast_attention
from sdwebui_api.engine.vae import Vae

ACTIVATIONS = 14
"""Maps of the first block's width that a forward pass holds at its peak; 16 to 20 were measured."""


class UNet:
    """The network that predicts noise, one set of weights; a `batcher.Network`."""

    def __init__(self, key: str, module: Any, dtype: torch.dtype, device: Device, *, compiled: bool = False) -> None:
        """`compiled`: see `compiled.py`."""
        self.key = key
        self.in_channels: int = module.config.in_channels
        self.label_width: int = module.config.projection_class_embeddings_input_dim or 0
        """Of the label embedding's input; 0: there is none."""
        self._module = module
        self._dtype = dtype
        self._device = device
        self._compiled = CompiledNetwork(module, device.plan.device, self.holding) if compiled else None

    @contextmanager
    def holding(self) -> Iterator[None]:
        with self._device.running(self._module):
            yield

    def twin(self, key: str) -> UNet:
        """The same weights in modules of their own: whatever is hung into `twin.module` does not touch this one."""
        with self._device.at_home():
            module = twin_of(self._module)
        return UNet(key, module, self._dtype, self._device, compiled=self._compiled is not None)

    @property
    def module(self) -> Any:
        """diffusers' UNet2DConditionModel. Shared by all jobs: to be read, or changed in a twin."""
        return self._module

    def require_room(self, x: Tensor) -> None:
        """Raises OutOfMemory when `x` [B, 4, h, w] clearly does not fit."""
        cells = x.shape[0] * x.shape[2] * x.shape[3]
        size = int(cells * self._module.config.block_out_channels[0] * ACTIVATIONS * self._dtype.itemsize)
        memory.require(self._device.plan.device, size, "this size and batch")

    def predict(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """`forward` of one evaluation outside of any job; x [B, C, h, w], t [B], context [B, T, D]."""
        with self.holding():
            return self.forward(Evaluation(x, t, context))

    def forward(self, evaluation: Evaluation) -> Tensor:
        """The raw prediction [B, 4, h, w], float32. Call while holding the device."""
        place = self._device.plan.device
        x = evaluation.x if evaluation.concat is None else torch.cat([evaluation.x, evaluation.concat], dim=1)
        x, t, context = x.to(place, self._dtype), evaluation.t.to(place), evaluation.context.to(place, self._dtype)
        found = self._predict_compiled(evaluation, x, t, context)
        if found is not None:
            return found.float()
        with self._device.beside(one.network.module for one in evaluation.control):
            context = with_styles(context, evaluation.control)
            vector = None if evaluation.vector is None else evaluation.vector.to(place, self._dtype)
            residuals = sum_residuals(evaluation.control, x[:, : evaluation.x.shape[1]], t, context, vector)
            with (
                upcast_attention(evaluation.upcast, self._dtype),
                wrapped_edges(self._module, evaluation.tiling),
                reading_references(self._module, evaluation.control, t, context, vector),
                attending_pictures(self._module, evaluation.control),
                merging_tokens(self._module, evaluation.merging, (x.shape[2], x.shape[3])),
                adding(self._module, residuals) as arguments,
            ):
                more = {**arguments, "class_labels": vector, "return_dict": False}
                prediction = self._module(x, t, encoder_hidden_states=context, **more)[0]
        return prediction.float()

    def _predict_compiled(self, evaluation: Evaluation, x: Tensor, t: Tensor, context: Tensor) -> Tensor | None:
        """None: the network itself has to be asked, as always when something reaches into it."""
        reached_into = evaluation.control or evaluation.tiling or evaluation.upcast or evaluation.merging
        if self._compiled is None or reached_into:
            return None
        inputs = {"sample": x, "timestep": t, "encoder_hidden_states": context}
        if evaluation.vector is not None:
            inputs["class_labels"] = evaluation.vector.to(context)
        return self._compiled.predict(inputs)


class DiffusionModel:
    """Thread-safe. Valid while the lease lasts.

    Latents, contexts and timesteps may be on any device; results are float32 on `device`.
    """

    def __init__(
        self,
        *,
        unet: UNet,
        text_encoder: TextEncoder,
        vae: Vae,
        tiny_vae: TinyVae = WHOLE_VAE,
        facts: ModelFacts,
        embeddings: EmbeddingDatabase,
        batcher: StepBatcher,
        device: torch.device,
        dtype: torch.dtype,
        problems: tuple[str, ...] = (),
        settings: LoadSettings = DEFAULTS,
        holder: Device | None = None,
    ) -> None:
        """`holder`: whose room is made for pictures that do not fit (default: nobody's)."""
        self.key = f"{unet.key}+{vae.key}"
        self.problems = problems
        """What of the networks asked for does not fit this checkpoint, in words."""
        self.family: Family = facts.family
        self.prediction_type = facts.prediction_type
        """`epsilon` or `v_prediction`."""
        self.alphas_cumprod = facts.alphas_cumprod.to(device)
        """[1000] float32 on `device`; read only."""
        self.device = device
        self.dtype = dtype
        """Precision of the UNet."""
        self.float8 = settings.in_float8(self.family.name)
        """Its weights are kept in float8."""
        self._vae_fallback = settings.vae_fallback
        self.in_channels = unet.in_channels
        """4; 9 for inpainting models, 8 for instruct-pix2pix."""
        self.latent_channels = facts.family.latent.channels
        self.latent_scale = facts.family.latent.pixels
        """Pixels per latent cell and side."""
        self.text_encoder = text_encoder
        self.embeddings = embeddings
        self.unet = unet
        self._vae = vae
        self.tiny_vae = tiny_vae
        """What start pictures are encoded with and results decoded, where the settings want neither from the VAE."""
        self.latent_factor = facts.latent_factor
        """Scaled latent = VAE latent times this (SD1: 0.18215)."""
        self._batcher = batcher
        self._holder = holder

    def participate(self) -> AbstractContextManager[None]:
        """Run a sampling loop inside, so that the StepBatcher can wait for its next step."""
        self.text_encoder.let_go()
        return self._batcher.participate(self.unet.key)

    def evaluate(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor,
        *,
        concat: Tensor | None = None,
        tiling: bool = False,
        control: tuple[ControlInput, ...] = (),
        vector: Tensor | None = None,
        upcast: bool = False,
        merging: float = 0.0,
    ) -> Tensor:
        """The UNet's raw prediction [B, 4, h, w], float32, for `x` [B, 4, h, w], `t` [B], `context` [B, 77n, D].

        `control`: what control networks add, rows as in x; the caller holds their leases. `vector`: [B, V] of `label`.
        `upcast`: attention in float32. `merging`: share of the tokens to merge. May share a forward pass with other
        jobs. Raises OutOfMemory, also when the picture could not be decoded.
        """
        self.unet.require_room(x)
        (self.tiny_vae.decoder or self._vae).require_room(x)
        evaluation = Evaluation(x, t, context, concat, tiling, control, vector, upcast, merging)
        return self._batcher.evaluate(self.unet, evaluation)

    def label(self, pooled: Tensor, facts: PictureFacts) -> Tensor:
        """[K, V], the `vector` of `evaluate`, of pooled texts [K, P]. Only of families with a label embedding."""
        assert self.family.label is not None
        return label(pooled, facts, self.family.label, self.unet.label_width)

    def encode(self, images: Tensor, noise: Tensor | None, *, tiling: bool = False) -> Tensor:
        """Scaled latents [B, 4, H/8, W/8] of `images` [B, 3, H, W] in [-1, 1].

        With `noise` (latent-shaped, standard normal) a draw from the posterior, mean + std * noise; else its mode.
        """
        encode = partial(self._vae.encode, images, noise, tiling=tiling, fallback=self._vae_fallback)
        return self._with_room_made(encode) * self.latent_factor

    def decode(self, latents: Tensor, *, tiling: bool = False) -> Tensor:
        """[B, 3, 8h, 8w] in about [-1, 1] of scaled `latents` [B, 4, h, w]. Raises Diverged for not-a-number."""
        latents = latents.to(self.device) / self.latent_factor
        decode = partial(self._vae.decode, latents, tiling=tiling, fallback=self._vae_fallback)
        return self._with_room_made(decode)

    def _with_room_made(self, work: Callable[[], Tensor]) -> Tensor:
        return work() if self._holder is None else self._holder.with_room_made(work)

    def preview(self, latent: Tensor) -> Image.Image:
        """A rough picture of one scaled latent [4, h, w], one pixel per latent cell; costs next to nothing."""
        return self._vae.preview(latent / self.latent_factor)
