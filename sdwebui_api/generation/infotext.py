"""Writing infotext: the text beside every picture that says how it was made and lets others make it again.

The form and the order of its entries are A1111's (`modules/processing.py`, create_infotext); only `Version`
differs. Our version deliberately does not look like an A1111 one: parsers that switch on bug compatibility
for old A1111 versions must not mistake `0.1.0` for one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sdwebui_api import __version__
from sdwebui_api.imaging.metadata import quote

PROGRAM_VERSION = f"sdwebui_api-{__version__}"


@dataclass(frozen=True)
class PictureFacts:
    """What an infotext states about one picture; None leaves an entry out.

    `extra` is A1111's `extra_generation_params`: entries that samplers, networks and passes add. An entry that
    is also a standard one (`Schedule type`, `Denoising strength`) is printed at the standard one's place.
    """

    steps: int
    sampler: str
    cfg_scale: float
    seed: int
    width: int
    height: int
    schedule: str = "Automatic"
    """As the request has it; a sampler's preferred schedule comes in `extra["Schedule type"]`."""
    image_cfg_scale: float | None = None
    restore_faces: bool = False
    model_hash: str | None = None
    model_name: str | None = None
    vae_hash: str | None = None
    vae_name: str | None = None
    subseed: int = 0
    subseed_strength: float = 0
    seed_resize_from_w: int = 0
    seed_resize_from_h: int = 0
    inpainting_conditioning: bool = False
    """Whether the checkpoint is conditioned on the masked image, so that its mask weight matters."""
    clip_skip: int = 1
    uses_ensd: bool = False
    """Whether the sampler draws noise that the option `eta_noise_seed_delta` shifts."""
    token_merging_ratio: float = 0
    token_merging_ratio_hr: float = 0
    hires: bool = False
    init_image_hash: str | None = None
    fp8: bool = False
    tiling: bool = False
    user: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def generation_params(facts: PictureFacts, options: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of the infotext in A1111's order, None for those that do not apply.

    `options` are the settings of the request (`add_model_name_to_info`, `randn_source`, …).
    """
    subseed_strength = facts.subseed_strength or None
    resize_from = facts.seed_resize_from_w > 0 and facts.seed_resize_from_h > 0
    return {
        "Steps": facts.steps,
        "Sampler": facts.sampler,
        "Schedule type": facts.schedule,
        "CFG scale": facts.cfg_scale,
        "Image CFG scale": facts.image_cfg_scale,
        "Seed": facts.seed,
        "Face restoration": options["face_restoration_model"] if facts.restore_faces else None,
        "Size": f"{facts.width}x{facts.height}",
        "Model hash": facts.model_hash if options["add_model_hash_to_info"] else None,
        "Model": facts.model_name if options["add_model_name_to_info"] else None,
        "FP8 weight": options["fp8_storage"] if facts.fp8 else None,
        "Cache FP16 weight for LoRA": options["cache_fp16_weight"] if facts.fp8 else None,
        "VAE hash": facts.vae_hash if options["add_vae_hash_to_info"] else None,
        "VAE": facts.vae_name if options["add_vae_name_to_info"] else None,
        "Variation seed": facts.subseed if subseed_strength else None,
        "Variation seed strength": subseed_strength,
        "Seed resize from": f"{facts.seed_resize_from_w}x{facts.seed_resize_from_h}" if resize_from else None,
        "Denoising strength": facts.extra.get("Denoising strength"),
        "Conditional mask weight": options["inpainting_mask_weight"] if facts.inpainting_conditioning else None,
        "Clip skip": facts.clip_skip if facts.clip_skip > 1 else None,
        "ENSD": (options["eta_noise_seed_delta"] or None) if facts.uses_ensd else None,
        "Token merging ratio": facts.token_merging_ratio or None,
        "Token merging ratio hr": (facts.token_merging_ratio_hr or None) if facts.hires else None,
        "Init image hash": facts.init_image_hash,
        "RNG": options["randn_source"] if options["randn_source"] != "GPU" else None,
        "Tiling": "True" if facts.tiling else None,
        **facts.extra,
        "Version": PROGRAM_VERSION if options["add_version_to_infotext"] else None,
        "User": facts.user if options["add_user_name_to_info"] else None,
    }


def write_infotext(prompt: str, negative_prompt: str, params: Mapping[str, Any], index: int = 0) -> str:
    """The infotext: prompt, negative prompt if any, and `params` on one last line.

    A list in `params` holds one value per picture, of which `index` picks this picture's; None is left out.
    """
    entries = []
    for name, value in params.items():
        if isinstance(value, list):
            value = value[index] if index < len(value) else None
        if value is not None:
            entries.append(name if name == value else f"{name}: {quote(value)}")
    negative = f"\nNegative prompt: {negative_prompt}" if negative_prompt else ""
    return f"{prompt}{negative}\n{', '.join(entries)}".strip()


def hires_prompt_entries(
    prompts: Sequence[str], negative_prompts: Sequence[str], hires_prompt: str, hires_negative_prompt: str, index: int
) -> dict[str, str | None]:
    """`Hires prompt` and `Hires negative prompt` of picture `index`: None where equal to the picture's own."""
    return {
        "Hires prompt": hires_prompt if hires_prompt != prompts[index] else None,
        "Hires negative prompt": hires_negative_prompt if hires_negative_prompt != negative_prompts[index] else None,
    }
