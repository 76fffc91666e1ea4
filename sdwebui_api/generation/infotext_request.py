"""The API's `infotext` field: which fields of a request, and which of its settings, an infotext fills in.

Follows A1111 `modules/api/api.py` (apply_infotext): what the client sets itself always wins.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sdwebui_api.errors import BadRequest

Params = Mapping[str, Any]
Kind = Literal["txt2img", "img2img"]
SamplerNames = Callable[[str, str | None], tuple[str, str]]
"""(sampler, schedule or None) as a client spells them -> as the listings spell them."""


def _has_hires(params: Params) -> bool | None:
    named = "Hires upscale" in params or "Hires upscaler" in params or bool(params.get("Hires resize-1"))
    return True if "Denoising strength" in params and named else None


def _schedule(params: Params) -> str | None:
    # "Automatic" is also the default for a missing entry; left out, an old combined sampler name still decides.
    return None if params.get("Schedule type") == "Automatic" else params.get("Schedule type")


def _styles(params: Params) -> list[str] | None:
    styles = params.get("Styles array")
    return styles if isinstance(styles, list) else None


_Table = Mapping[str, tuple[str | Callable[[Params], Any], type]]

_TXT2IMG: _Table = {
    "prompt": ("Prompt", str),
    "negative_prompt": ("Negative prompt", str),
    "cfg_scale": ("CFG scale", float),
    "width": ("Size-1", int),
    "height": ("Size-2", int),
    "batch_size": ("Batch size", int),
    "styles": (_styles, list),
    "denoising_strength": ("Denoising strength", float),
}
_COMMON: _Table = {
    "steps": ("Steps", int),
    "sampler_name": ("Sampler", str),
    "scheduler": (_schedule, str),
    "seed": ("Seed", int),
    "subseed": ("Variation seed", int),
    "subseed_strength": ("Variation seed strength", float),
    # A1111 has these two the wrong way round (`modules/processing_scripts/seed.py`).
    "seed_resize_from_h": ("Seed resize from-1", int),
    "seed_resize_from_w": ("Seed resize from-2", int),
    "refiner_checkpoint": ("Refiner", str),
    "refiner_switch_at": ("Refiner switch at", float),
}
_HIRES: _Table = {
    "enable_hr": (_has_hires, bool),
    "hr_scale": ("Hires upscale", float),
    "hr_upscaler": ("Hires upscaler", str),
    "hr_second_pass_steps": ("Hires steps", int),
    "hr_resize_x": ("Hires resize-1", int),
    "hr_resize_y": ("Hires resize-2", int),
    "hr_checkpoint_name": ("Hires checkpoint", str),
    "hr_sampler_name": ("Hires sampler", str),
    "hr_scheduler": ("Hires schedule type", str),
    "hr_prompt": ("Hires prompt", str),
    "hr_negative_prompt": ("Hires negative prompt", str),
}
_TABLES: Mapping[Kind, _Table] = {"txt2img": {**_TXT2IMG, **_COMMON, **_HIRES}, "img2img": _COMMON}
"""In A1111 the fields of img2img's own page, the prompt among them, are not known to the API."""

SETTING_OF_ENTRY: Mapping[str, str] = {
    "Clip skip": "CLIP_stop_at_last_layers",
    "Emphasis": "emphasis",
    "RNG": "randn_source",
    "Tiling": "tiling",
    "Hires refiner": "hires_fix_refiner_pass",
    "VAE": "sd_vae",
    "VAE Encoder": "sd_vae_encode_method",
    "VAE Decoder": "sd_vae_decode_method",
    "Conditional mask weight": "inpainting_mask_weight",
    "Noise multiplier": "initial_noise_multiplier",
    "Extra noise": "img2img_extra_noise",
    "NGMS": "s_min_uncond",
    "NGMS all steps": "s_min_uncond_all",
    "Token merging ratio": "token_merging_ratio",
    "Token merging ratio hr": "token_merging_ratio_hr",
    "Pad conds": "pad_cond_uncond",
    "Pad conds v0": "pad_cond_uncond_v0",
    "FP8 weight": "fp8_storage",
    "Cache FP16 weight for LoRA": "cache_fp16_weight",
    "Face restoration": "face_restoration",
    "Old prompt editing timelines": "use_old_scheduling",
    "Downcast alphas_cumprod": "use_downcasted_alpha_bar",
    "Refiner switch by sampling steps": "refiner_switch_by_sample_steps",
    "Eta DDIM": "eta_ddim",
    "Eta": "eta_ancestral",
    "DDIM discretize": "ddim_discretize",
    "Sigma churn": "s_churn",
    "Sigma tmin": "s_tmin",
    "Sigma tmax": "s_tmax",
    "Sigma noise": "s_noise",
    "Schedule min sigma": "sigma_min",
    "Schedule max sigma": "sigma_max",
    "Schedule rho": "rho",
    "ENSD": "eta_noise_seed_delta",
    "Discard penultimate sigma": "always_discard_next_to_last_sigma",
    "SGM noise multiplier": "sgm_noise_multiplier",
    "UniPC variant": "uni_pc_variant",
    "UniPC skip type": "uni_pc_skip_type",
    "UniPC order": "uni_pc_order",
    "UniPC lower order final": "uni_pc_lower_order_final",
    "Noise Schedule": "sd_noise_schedule",
    "Skip Early CFG": "skip_early_cond",
    "Beta schedule alpha": "beta_dist_alpha",
    "Beta schedule beta": "beta_dist_beta",
    "User": "user",
}
"""Entries that stand for a setting. `Model hash` joins them when `disable_weights_auto_swap` is off."""


@dataclass(frozen=True)
class InfotextFields:
    """What an infotext adds to a request: values of fields it leaves unset, and `override_settings` entries."""

    fields: dict[str, Any]
    override_settings: dict[str, Any]


def fields_of_infotext(
    params: Params,
    kind: Kind,
    fields_set: Collection[str],
    override_settings: Mapping[str, Any],
    options: Mapping[str, Any],
    sampler_names: SamplerNames | None = None,
) -> InfotextFields:
    """What the parsed infotext `params` adds to a request of `kind`.

    `fields_set` and `override_settings` are what the client sent itself; `options` the stored settings, which an
    entry only overrides where it differs. With `sampler_names` (`generation.sampler_names.SamplingNames`) sampler
    and schedule come out as A1111 echoes them: a schedule that the sampler prefers anyway is "Automatic". Raises
    BadRequest(field="infotext") for an entry that is no number where one belongs.
    """
    fields = {}
    for name, (source, type_) in _TABLES[kind].items():
        if name in fields_set:
            continue
        value = params.get(source) if isinstance(source, str) else source(params)
        if value is not None:
            fields[name] = _converted(value, type_, name)
    if sampler_names is not None and "sampler_name" in fields and "scheduler" not in fields_set:
        _as_listed(fields, params, sampler_names)
    return InfotextFields(fields, _settings(params, override_settings, options))


def _as_listed(fields: dict[str, Any], params: Params, sampler_names: SamplerNames) -> None:
    """Sampler and schedules in `fields` as the listings spell them."""
    written = fields.get("scheduler")
    fields["sampler_name"], fields["scheduler"] = sampler_names(fields["sampler_name"], written)
    same_sampler = params.get("Hires sampler") in (None, "Use same sampler")
    if (
        fields.get("hr_scheduler") == "Use same scheduler"
        and same_sampler
        and written not in (None, fields["scheduler"])
    ):
        # A1111 compares with the text, so a schedule that has become Automatic counts as another one.
        fields["hr_scheduler"] = fields["scheduler"]


def _settings(params: Params, given: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    table = dict(SETTING_OF_ENTRY)
    if not options.get("disable_weights_auto_swap", True):
        table["Model hash"] = "sd_model_checkpoint"
    settings = {}
    for entry, setting in table.items():
        if params.get(entry) is None or setting in given or setting not in options:
            continue
        current = options[setting]
        value = _like(params[entry], current, entry)
        if value != current:
            settings[setting] = value
    return settings


def _like(value: Any, current: Any, entry: str) -> Any:
    """`value` as the type that the setting has now."""
    if isinstance(current, bool):
        return value not in (False, "False", "false", "0", "")
    if isinstance(current, float) or (isinstance(current, int) and "." in str(value)):
        return _converted(value, float, entry)
    return _converted(value, type(current), entry) if isinstance(current, int | str) else value


def _converted(value: Any, type_: type, name: str) -> Any:
    if isinstance(value, type_):
        return value
    try:
        return type_(value)
    except (TypeError, ValueError, OverflowError):
        raise BadRequest(f"infotext: {name} is {value!r}, not a {type_.__name__}", field="infotext") from None
