"""From trained networks to the file that ships: one fp16 safetensors in the original layout, and its .yaml."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.ldm_layout import architecture_of, from_ldm, to_ldm
from training.models import SCALE_FACTOR, TIMESTEPS, Architecture, Networks, alphas_cumprod, build_text_encoder
from training.vocabulary import Vocabulary

TEXT_MEAN = -0.25


def with_full_vocabulary(text_encoder: Any, vocabulary: Vocabulary, architecture: Architecture) -> Any:
    """The text encoder with CLIP's 49,408 token rows; tokens unseen in training share the UNKNOWN row."""
    full = build_text_encoder(architecture)
    state = dict(text_encoder.state_dict())
    table = next(name for name in state if name.endswith("token_embedding.weight"))
    state[table] = vocabulary.expand(state[table])
    full.load_state_dict(state)
    return full.eval()


@torch.no_grad()
def shift_text_mean(networks: Networks, token_ids: Tensor, target: float = TEXT_MEAN) -> float:
    """Move the mean of the text encoder's output to `target` without changing what the UNet computes.

    A1111's default emphasis divides by that mean; trained from scratch it is about 0, which makes emphasis explode.
    A constant added to the last bias is undone in every cross-attention: the shift of the keys cancels in the
    softmax, that of the values is subtracted from the output's bias. `token_ids`: CLIP ids [B, 77] of some prompts.
    Returns the constant.
    """
    mean = float(networks.text_encoder(input_ids=token_ids).last_hidden_state.mean())
    constant = target - mean
    bias = networks.text_encoder.final_layer_norm.bias
    bias += constant
    shift = torch.full_like(bias, constant)
    for name, module in networks.unet.named_modules():
        if name.endswith(".attn2"):
            module.to_out[0].bias -= module.to_out[0].weight @ (module.to_v.weight @ shift)
    return constant


def schedule_buffers() -> dict[str, Tensor]:
    """The twelve float32 [1000] buffers that SD1 files carry, from the DDPM posterior with v = 0."""
    cumulative = alphas_cumprod().numpy()
    betas = np.linspace(0.00085**0.5, 0.012**0.5, TIMESTEPS) ** 2
    alphas = 1 - betas
    previous = np.append(1.0, cumulative[:-1])
    posterior = betas * (1 - previous) / (1 - cumulative)
    buffers = {
        "betas": betas,
        "alphas_cumprod": cumulative,
        "alphas_cumprod_prev": previous,
        "sqrt_alphas_cumprod": np.sqrt(cumulative),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - cumulative),
        "log_one_minus_alphas_cumprod": np.log(1 - cumulative),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / cumulative),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / cumulative - 1),
        "posterior_variance": posterior,
        "posterior_log_variance_clipped": np.log(np.maximum(posterior, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(previous) / (1 - cumulative),
        "posterior_mean_coef2": (1 - previous) * np.sqrt(alphas) / (1 - cumulative),
    }
    return {name: torch.tensor(values, dtype=torch.float32) for name, values in buffers.items()}


def write_checkpoint(path: Path, networks: Networks, architecture: Architecture, native_size: int) -> None:
    """Write `path` (safetensors, fp16) and the .yaml beside it.

    Raises ValueError when a weight is too large for half precision.
    """
    from safetensors.torch import save_file

    state = {key: _stored(key, weight) for key, weight in to_ldm(networks, architecture).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(state | schedule_buffers(), partial, metadata=metadata(path.stem, native_size))
    partial.chmod(0o644)  # safetensors creates files that only their owner may read
    os.replace(partial, path)
    path.with_suffix(".yaml").write_text(configuration(architecture, native_size), encoding="utf-8")


def read_checkpoint(path: Path) -> tuple[Networks, Architecture]:
    """float32 networks of a file in the original layout; the dimensions come from the weights, the heads from the
    .yaml beside it (4 without one)."""
    from safetensors.torch import load_file

    state = load_file(path)
    configuration_file = path.with_suffix(".yaml")
    heads = 4
    if configuration_file.is_file():
        import yaml

        settings = yaml.safe_load(configuration_file.read_text(encoding="utf-8"))
        heads = settings["model"]["params"]["unet_config"]["params"]["num_heads"]
    architecture = architecture_of(state, heads)
    return from_ldm(state, architecture), architecture


def _stored(key: str, weight: Tensor) -> Tensor:
    if not weight.is_floating_point():
        return weight.contiguous()
    half = weight.detach().cpu().half().clone(memory_format=torch.contiguous_format)
    if not bool(torch.isfinite(half).all()):
        raise ValueError(f"{key} does not fit into half precision")
    return half


def metadata(title: str, native_size: int) -> Mapping[str, str]:
    """ModelSpec 1.0.1 keys; `modelspec.resolution` tells the server the size to draw when a request gives none."""
    return {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1",
        "modelspec.implementation": "sgm",
        "modelspec.title": title,
        "modelspec.description": "Small SD1-architecture model trained from scratch on pictures drawn with the Noto "
        "Color Emoji font",
        "modelspec.date": date.today().isoformat(),
        "modelspec.license": "Apache-2.0; training pictures drawn with Noto Color Emoji (SIL OFL 1.1)",
        "modelspec.prediction_type": "epsilon",
        "modelspec.resolution": f"{native_size}x{native_size}",
    }


def configuration(architecture: Architecture, native_size: int) -> str:
    """The .yaml in the form of the original v1-inference.yaml."""
    import yaml

    levels = len(architecture.unet_multipliers)
    unet = {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": architecture.unet_channels,
        "attention_resolutions": [2**level for level in range(levels - 1, 0, -1)],
        "num_res_blocks": architecture.unet_blocks,
        "channel_mult": list(architecture.unet_multipliers),
        "num_heads": architecture.heads,
        "use_spatial_transformer": True,
        "transformer_depth": 1,
        "context_dim": architecture.text_width,
        "use_checkpoint": False,
        "legacy": False,
    }
    vae = {
        "double_z": True,
        "z_channels": 4,
        "resolution": native_size,
        "in_channels": 3,
        "out_ch": 3,
        "ch": architecture.vae_channels,
        "ch_mult": list(architecture.vae_multipliers),
        "num_res_blocks": architecture.vae_blocks,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    parameters = {
        "linear_start": 0.00085,
        "linear_end": 0.012,
        "num_timesteps_cond": 1,
        "log_every_t": 200,
        "timesteps": TIMESTEPS,
        "first_stage_key": "jpg",
        "cond_stage_key": "txt",
        "image_size": native_size // 8,
        "channels": 4,
        "cond_stage_trainable": False,
        "conditioning_key": "crossattn",
        "monitor": "val/loss_simple_ema",
        "scale_factor": SCALE_FACTOR,
        "use_ema": False,
        "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": unet},
        "first_stage_config": {
            "target": "ldm.models.autoencoder.AutoencoderKL",
            "params": {
                "embed_dim": 4,
                "monitor": "val/rec_loss",
                "ddconfig": vae,
                "lossconfig": {"target": "torch.nn.Identity"},
            },
        },
        "cond_stage_config": {
            "target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder",
            "params": {"version": "clip"},  # for other programs: the folder of CLIP's vocabulary
        },
    }
    model = {
        "base_learning_rate": 1.0e-04,
        "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
        "params": parameters,
    }
    return yaml.safe_dump({"model": model}, sort_keys=False)
