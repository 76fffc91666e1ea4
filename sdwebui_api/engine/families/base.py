"""What the engine has to know about a family of checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sdwebui_api.engine.model_config import ModelConfig
from sdwebui_api.engine.reading import Shapes


@dataclass(frozen=True)
class LatentFormat:
    channels: int
    pixels: int
    """Pixels per latent cell and side."""
    factor: float
    """Latents are the VAE's times this."""


@dataclass(frozen=True)
class NoiseSchedule:
    """The "scaled linear" betas the model was trained with."""

    linear_start: float
    linear_end: float
    timesteps: int


@dataclass(frozen=True)
class Assembly:
    """A module without memory (on the meta device) and the tensors, by its own names, that fill it."""

    module: Any
    """A torch module of diffusers or transformers, with its `config`."""
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class TextTower:
    """How one text model of a family is read."""

    name: str = ""
    """Of the submodule that is this text model; "" where the family has only one."""
    layer: int | None = None
    """Which layer's output counts, 1 the last, 2 the one before; None: as the option for clip skip says."""
    final_norm: bool = True
    """Whether the model's last normalisation is applied to that layer's output."""
    pad_id: int | None = None
    """What fills up a row behind its end token; None: more of those."""
    pooled: bool = False
    """Whether it gives the pooled vector: the end token's place after all layers, projected."""


@dataclass(frozen=True)
class LabelFormat:
    """The numbers that a family's label embedding is told, each as a sinusoidal embedding, behind the pooled text."""

    numbers: tuple[str, ...]
    """Fields of `families.labels.PictureFacts`."""


@dataclass(frozen=True)
class Family:
    """Plain data: adding a family touches no other."""

    name: str
    title: str
    latent: LatentFormat
    prediction_type: str
    """`epsilon` or `v_prediction`, unless the file or its yaml says otherwise."""
    noise_schedule: NoiseSchedule
    recognise: Callable[[Shapes], bool]
    """By names and shapes of all tensors in the file."""
    select_unet: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    """The UNet's tensors out of a whole file, prefix removed; empty when there are none."""
    select_text: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    select_vae: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    assemble_unet: Callable[[Mapping[str, Tensor], ModelConfig], Assembly]
    assemble_text: Callable[[Mapping[str, Tensor], ModelConfig], Assembly]
    assemble_vae: Callable[[Mapping[str, Tensor]], Assembly]
    towers: tuple[TextTower, ...] = (TextTower(),)
    """The text models, in the order in which their outputs are joined."""
    label: LabelFormat | None = None
    """None: a UNet without label embedding."""
    probe: Callable[[Any], str] | None = None
    """The prediction type of a loaded `engine.model.UNet`, for families where nothing but its answers tells; None:
    always `prediction_type`."""
    align_your_steps: str = "sd1"
    """Which of that schedule's tables was found for it: `sd1` or `sdxl`."""
    tiny_vae: str = "taesd"
    """How the files of the TAESD that speaks its latents begin."""
    own_clip_skip: int | None = None
    """What counts for the towers that clip skip applies to unless the option `sdxl_clip_l_skip` is on."""
