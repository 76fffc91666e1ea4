"""The bodies of the create and train routes. A1111 takes any object there; these are the arguments it reads.

The defaults are those of A1111's page; what has none there, or must not be guessed, is required.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sdwebui_api.api.wire import Float, Fraction, Int, Name, Prompt, Seed, Text, WireModel

MAX_VECTORS = 75
"""What a prompt chunk holds."""

Side = Annotated[Int, Field(ge=64, le=2048, multiple_of=8)]
Every = Annotated[Int, Field(ge=0, le=10_000_000)]
Numbers = list[Float] | Text


class CreateEmbeddingBody(WireModel):
    name: Name
    num_vectors_per_token: Annotated[Int, Field(ge=1, le=MAX_VECTORS)]
    overwrite_old: bool
    init_text: Prompt = "*"


class CreateHypernetworkBody(WireModel):
    name: Name
    enable_sizes: Annotated[list[Annotated[Int, Field(ge=1, le=8192)]], Field(min_length=1, max_length=64)]
    overwrite_old: bool
    layer_structure: Numbers | None = None
    activation_func: Name | None = None
    weight_init: Name = "Normal"
    add_layer_norm: bool = False
    use_dropout: bool = False
    dropout_structure: Numbers | None = None


class TrainBody(WireModel):
    """What both trainings share."""

    id_task: Name = ""
    learn_rate: Text
    batch_size: Annotated[Int, Field(ge=1, le=256)] = 1
    gradient_step: Annotated[Int, Field(ge=1, le=4096)] = 1
    data_root: Name
    log_directory: Name = "textual_inversion"
    training_width: Side | None = None
    training_height: Side | None = None
    varsize: bool = False
    steps: Annotated[Int, Field(ge=1, le=10_000_000)]
    clip_grad_mode: Literal["disabled", "value", "norm"] = "disabled"
    clip_grad_value: Text = "0.1"
    shuffle_tags: bool = False
    tag_drop_out: Fraction = 0
    latent_sampling_method: Literal["once", "deterministic", "random"] = "once"
    use_weight: bool = False
    create_image_every: Every = 0
    template_filename: Name = "style_filewords.txt"
    preview_from_txt2img: bool = False
    preview_prompt: Prompt = ""
    preview_negative_prompt: Prompt = ""
    preview_steps: Annotated[Int, Field(ge=1, le=150)] = 20
    preview_sampler_name: Name = "Euler a"
    preview_cfg_scale: Annotated[Float, Field(ge=0, le=100)] = 7
    preview_seed: Seed = -1
    preview_width: Side | None = None
    preview_height: Side | None = None


class TrainEmbeddingBody(TrainBody):
    embedding_name: Name
    save_embedding_every: Every = 500
    save_image_with_stored_embedding: bool = True


class TrainHypernetworkBody(TrainBody):
    hypernetwork_name: Name
    save_hypernetwork_every: Every = 500
