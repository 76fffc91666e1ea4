"""From files to modules: opens a checkpoint or VAE file and builds its parts in the precision and place asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdwebui_api.engine.diffusers_folder import read_folder_config
from sdwebui_api.engine.families import FAMILIES, recognise
from sdwebui_api.engine.families.base import Family
from sdwebui_api.engine.filling import Tell, Weights, materialise
from sdwebui_api.engine.model_config import ModelConfig, read_config
from sdwebui_api.engine.original_names import original_names
from sdwebui_api.engine.reading import Tensors, read_tensors, shapes_of
from sdwebui_api.engine.zero_snr import rescale_zero_terminal_snr
from sdwebui_api.errors import UnusableModel

VAE_ENCODER, VAE_DECODER = ("encoder", "quant_conv"), ("decoder", "post_quant_conv")
"""Children of diffusers' AutoencoderKL."""
V_PREDICTION_MARK = "v_pred"
ZERO_SNR_MARK = "ztsnr"


@dataclass(frozen=True)
class ModelFacts:
    """What the rest of the engine needs to know of a checkpoint besides its modules."""

    family: Family
    prediction_type: str
    latent_factor: float
    alphas_cumprod: Tensor
    """[timesteps] float32 on the CPU."""


class OpenCheckpoint:
    """A checkpoint file opened for loading. Holds views of the mapped file: drop it when the parts are built."""

    def __init__(self, path: Path, config_path: Path | None, metadata: Mapping[str, str] | None = None) -> None:
        """Raises UnusableModel when the file is broken or of no known family."""
        self.path = path
        self._tensors: Tensors = original_names(read_tensors(path))
        with naming(path):
            self.family = recognise(shapes_of(self._tensors))
        self._config: ModelConfig = read_folder_config(path) if path.is_dir() else read_config(config_path, metadata)

    def facts(self, unet: Any = None) -> ModelFacts:
        """`unet`: this checkpoint's, loaded; asked what it predicts where nothing states that."""
        family, config = self.family, self._config
        known = config.prediction_type or self._marked_prediction()
        return ModelFacts(
            family=family,
            prediction_type=known or self._probed(unet),
            latent_factor=config.scale_factor or family.latent.factor,
            alphas_cumprod=self._alphas_cumprod(),
        )

    def _probed(self, unet: Any) -> str:
        family = self.family
        return family.prediction_type if family.probe is None or unet is None else family.probe(unet)

    def _marked_prediction(self) -> str | None:
        """Trainers put an empty tensor of this name into files of v-prediction models."""
        return "v_prediction" if V_PREDICTION_MARK in self._tensors else None

    def _alphas_cumprod(self) -> Tensor:
        """The file's own table, as A1111 takes it with the rest of the state dict; else from the betas' range.

        Rescaled to end in pure noise where the file is marked as trained so.
        """
        stored = self._tensors.get("alphas_cumprod")
        if stored is not None and stored.ndim == 1 and len(stored) > 1 and _are_alphas(stored):
            alphas = stored.float().clone()
        else:
            alphas = scaled_linear_alphas(self.family, self._config)
        return rescale_zero_terminal_snr(alphas) if ZERO_SNR_MARK in self._tensors else alphas

    def unet_size(self, dtype: torch.dtype) -> int:
        """Bytes of the UNet's weights in `dtype`."""
        return tensors_size(self.family.select_unet(self._tensors), dtype)

    def text_encoder_size(self, dtype: torch.dtype) -> int:
        return tensors_size(self.family.select_text(self._tensors), dtype)

    def vae_size(self, dtype: torch.dtype) -> int:
        return tensors_size(self.family.select_vae(self._tensors), dtype)

    def text_width(self) -> int:
        """Width of the text encoder, of all its models together; 0 without one."""
        texts = self.family.select_text(self._tensors)
        return sum(tensor.shape[1] for name, tensor in texts.items() if name.endswith("token_embedding.weight"))

    def load_unet(self, weights: Weights, tell: Tell | None = None) -> Any:
        with naming(self.path):
            tensors = self.family.select_unet(self._tensors)
            return materialise(self.family.assemble_unet(tensors, self._config), weights, "UNet", tell)

    def load_text_encoder(self, weights: Weights, tell: Tell | None = None) -> Any:
        tensors = self.family.select_text(self._tensors)
        if not tensors:
            raise UnusableModel(
                f"{self.path.name} has no text encoder: it holds the UNet only. Use the complete checkpoint "
                "(with cond_stage_model.* or conditioner.* tensors)."
            )
        with naming(self.path):
            return materialise(self.family.assemble_text(tensors, self._config), weights, "text encoder", tell)

    def load_vae(self, weights: Weights, without: Sequence[str] = ()) -> Any:
        """`without`: children of diffusers' AutoencoderKL that stay away (None), as VAE_ENCODER does."""
        tensors = self.family.select_vae(self._tensors)
        if not tensors:
            stem = self.path.name if self.path.is_dir() else self.path.stem
            raise UnusableModel(
                f"{self.path.name} has no VAE inside. Choose one (setting sd_vae), or put one beside the checkpoint "
                f"as {stem}.vae.safetensors."
            )
        with naming(self.path):
            return materialise(self.family.assemble_vae(tensors), weights, "VAE", without=without)


def _are_alphas(table: Tensor) -> bool:
    """bfloat16 rounds the first ones to 1, which is a noise level of 0: such a table is of no use."""
    return bool(torch.isfinite(table).all()) and float(table.max()) < 1.0


def load_vae_file(path: Path, weights: Weights, family: Family | None = None, without: Sequence[str] = ()) -> Any:
    """An external VAE: `.safetensors`, `.pt` or `.ckpt`; LDM names with or without prefix, or diffusers names.

    `without`: as `OpenCheckpoint.load_vae`.

    Raises UnusableModel when the file is broken or no autoencoder of `family` (default: the first known).
    """
    family = family or FAMILIES[0]
    tensors = family.select_vae(read_tensors(path))
    if not tensors:
        raise UnusableModel(f"{path.name} is not a VAE: it has no encoder or decoder tensors")
    with naming(path):
        module = materialise(family.assemble_vae(tensors), weights, "VAE", without=without)
        latent_channels = module.config.latent_channels
        if latent_channels != family.latent.channels:
            raise UnusableModel(
                f"this VAE has {latent_channels} latent channels, {family.title} needs {family.latent.channels}"
            )
    return module


def tensors_size(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> int:
    return sum(tensor.numel() for tensor in tensors.values()) * dtype.itemsize


def scaled_linear_alphas(family: Family, config: ModelConfig) -> Tensor:
    """Cumulative products of 1 - beta; sqrt(beta) grows linearly (LDM's `make_beta_schedule("linear")`), in float64."""
    schedule = family.noise_schedule
    start = config.linear_start or schedule.linear_start
    end = config.linear_end or schedule.linear_end
    betas = torch.linspace(start**0.5, end**0.5, schedule.timesteps, dtype=torch.float64) ** 2
    return torch.cumprod(1.0 - betas, dim=0).float()


class naming:
    """Puts the file's name in front of what goes wrong while its tensors are interpreted."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, UnusableModel) and self._path.name not in error.message:
            raise UnusableModel(f"{self._path.name}: {error.message}") from error
