"""What is asked for and what comes out: the immutable values that doors and engine exchange.

A `GenerationRequest` is complete: everything that a client may leave out has been filled in from the
options, every name has been looked up. Nothing below this line consults a global setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from PIL import Image

    from sdwebui_api.catalog.checkpoints import CheckpointFile
    from sdwebui_api.catalog.vaes import VaeFile
    from sdwebui_api.config.options import Options

MAX_SIDE = 8192
MAX_PIXELS_PER_BATCH = 2**26
LARGEST_RANDOM_SEED = 4294967294


@dataclass(frozen=True)
class HiresPass:
    """The second, larger pass of txt2img ("hires fix")."""

    scale: float = 2.0
    resize_x: int = 0
    resize_y: int = 0
    upscaler: str | None = None
    """None: the latent mode "Latent", which the infotext then does not mention."""
    steps: int = 0
    """0: as many as the first pass."""
    checkpoint: CheckpointFile | None = None
    vae: VaeFile | None = None
    """Of `checkpoint`; None: the VAE inside it."""
    sampler: str | None = None
    schedule: str | None = None
    prompt: str = ""
    """Empty: the first pass's prompt."""
    negative_prompt: str = ""
    first_picture: Image.Image | None = None
    """RGB of any size: takes the place of the first pass, which is left out."""


@dataclass(frozen=True)
class InpaintMask:
    """The part of the init image to repaint. White in `image` is repainted."""

    image: Image.Image
    blur_x: int = 4
    blur_y: int = 4
    round: bool = True
    fill: int = 0
    """0 fill, 1 original, 2 latent noise, 3 latent nothing; -1 fill, which the infotext does not mention."""
    full_resolution: bool = True
    full_resolution_padding: int = 0
    invert: bool = False


@dataclass(frozen=True)
class InitImage:
    """What img2img starts from."""

    images: tuple[Image.Image, ...]
    resize_mode: int = 0
    """0 just resize, 1 crop and resize, 2 resize and fill, 3 just resize (latent upscale)."""
    mask: InpaintMask | None = None
    latent_mask: Image.Image | None = None
    image_cfg_scale: float | None = None
    initial_noise_multiplier: float = 1.0
    posterior_seed: int | None = None
    """Where the VAE posterior of the first batch is drawn from; None: from each picture's own seed.

    A1111 draws from what the run before left; scripts that work in several runs name that run's last seed here.
    """


@dataclass(frozen=True)
class ScriptCall:
    """A script that the client named, and the arguments it gave, by the names of the script's declaration."""

    title: str
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GenerationRequest:
    """One txt2img or img2img request, resolved at admission."""

    kind: Literal["txt2img", "img2img"]
    options: Options
    """The settings this request runs under: the stored ones plus `override_settings`."""
    checkpoint: CheckpointFile
    vae: VaeFile | None
    """None: the VAE inside the checkpoint."""
    prompt: str = ""
    negative_prompt: str = ""
    styles: tuple[str, ...] = ()
    seed: int = -1
    random_seed: bool = False
    """The client left the seed to chance; scripts that generate several times may then draw another each time."""
    subseed: int = -1
    subseed_strength: float = 0.0
    seed_resize_from_w: int = -1
    seed_resize_from_h: int = -1
    sampler: str = "Euler"
    """Canonical name, a row of `sampling.samplers.SAMPLERS`."""
    schedule: str = "Automatic"
    """Canonical label, a row of `sampling.schedules.SCHEDULES`."""
    batch_size: int = 1
    n_iter: int = 1
    steps: int = 50
    cfg_scale: float = 7.0
    width: int = 512
    height: int = 512
    restore_faces: bool = False
    tiling: bool = False
    do_not_save_samples: bool = False
    do_not_save_grid: bool = False
    eta: float | None = None
    """None: the option `eta_ddim` or `eta_ancestral`, whichever the sampler uses."""
    denoising_strength: float | None = None
    s_min_uncond: float = 0.0
    s_churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = float("inf")
    s_noise: float = 1.0
    refiner_checkpoint: CheckpointFile | None = None
    refiner_vae: VaeFile | None = None
    """Of `refiner_checkpoint`; None: the VAE inside it."""
    refiner_switch_at: float | None = None
    """None: at once."""
    disable_extra_networks: bool = False
    hires: HiresPass | None = None
    init: InitImage | None = None
    override_settings: Mapping[str, Any] = field(default_factory=dict)
    """As the client sent them, for the infotext."""
    script: ScriptCall | None = None
    """What takes the place of the plain generation."""
    always_on: tuple[ScriptCall, ...] = ()
    """Arguments for always-on scripts; those that are not named run with their defaults."""
    warnings: tuple[str, ...] = ()
    """What was ignored while resolving; reported in `info.warnings`."""


@dataclass
class GeneratedImage:
    """One picture of a result: RGB (or RGBA), with the text that reproduces it."""

    image: Image.Image
    infotext: str
    role: Literal["grid", "sample", "mask", "mask_composite", "detected_map"] = "sample"
    saved_path: str | None = None
    described: bool = True
    """Whether the file in the answer carries `infotext`. What a script put together does not (A1111): a grid with a
    legend, an outpainted or tiled picture."""


@dataclass
class GenerationResult:
    """What a finished request returns, before a door renders it.

    `images` are in A1111's order: grid (if any), samples, masks. `info` holds the keys of A1111's `info`
    object (`prompt`, `all_prompts`, …, `infotexts`, `version`) ready for `json.dumps`.
    """

    images: list[GeneratedImage]
    info: dict[str, Any]
