"""Between our immutable request and A1111's `p`: which attribute is which field."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sdwebui_api.config.options import coerce_values
from sdwebui_api.generation.plan import Batch, GenerationPlan
from sdwebui_api.generation.request import GenerationRequest, HiresPass, InitImage, InpaintMask
from sdwebui_api.scripting.hooks import Files, ScriptContext

SAME = (
    "prompt", "negative_prompt", "seed", "subseed", "subseed_strength", "seed_resize_from_w", "seed_resize_from_h",
    "batch_size", "n_iter", "steps", "cfg_scale", "width", "height", "restore_faces", "tiling", "do_not_save_samples",
    "do_not_save_grid", "eta", "denoising_strength", "s_min_uncond", "s_churn", "s_tmin", "s_tmax", "s_noise",
    "refiner_switch_at", "disable_extra_networks",
)  # fmt: skip
"""Attributes of p that are fields of the request under the same name and with the same meaning."""
HIRES = {
    "hr_scale": "scale", "hr_resize_x": "resize_x", "hr_resize_y": "resize_y", "hr_upscaler": "upscaler",
    "hr_second_pass_steps": "steps", "hr_prompt": "prompt", "hr_negative_prompt": "negative_prompt",
    "firstpass_image": "first_picture",
}  # fmt: skip
MASK = {
    "mask_blur_x": "blur_x", "mask_blur_y": "blur_y", "mask_round": "round", "inpainting_fill": "fill",
    "inpaint_full_res": "full_resolution", "inpaint_full_res_padding": "full_resolution_padding",
    "inpainting_mask_invert": "invert",
}  # fmt: skip
PLAN = {
    "all_prompts": "prompts", "all_negative_prompts": "negative_prompts", "all_hr_prompts": "hires_prompts",
    "all_hr_negative_prompts": "hires_negative_prompts", "all_seeds": "seeds", "all_subseeds": "subseeds",
}  # fmt: skip
BATCH = ("prompts", "negative_prompts", "seeds", "subseeds")

LARGEST_RANDOM_SEED = 4294967294


def attributes(request: GenerationRequest) -> dict[str, Any]:
    """What p shows of `request`."""
    found: dict[str, Any] = {name: getattr(request, name) for name in SAME}
    found |= {
        "styles": list(request.styles),
        "sampler_name": request.sampler,
        "scheduler": request.schedule,
        "override_settings": dict(request.override_settings),
        "refiner_checkpoint": request.refiner_checkpoint.title if request.refiner_checkpoint else None,
    }
    if request.kind == "txt2img":
        return found | _hires_attributes(request)
    return found | _init_attributes(request.init)


def _hires_attributes(request: GenerationRequest) -> dict[str, Any]:
    hires = request.hires or HiresPass()
    return {
        "enable_hr": request.hires is not None,
        **{name: getattr(hires, field) for name, field in HIRES.items()},
        "hr_checkpoint_name": hires.checkpoint.title if hires.checkpoint else None,
        "hr_sampler_name": hires.sampler,
        "hr_scheduler": hires.schedule,
    }


def _init_attributes(init: InitImage | None) -> dict[str, Any]:
    mask = init.mask if init and init.mask else None
    plain = mask or InpaintMask(image=None)  # type: ignore[arg-type]  # only its numbers are read
    return {
        "init_images": list(init.images) if init else [],
        "resize_mode": init.resize_mode if init else 0,
        "image_cfg_scale": init.image_cfg_scale if init else None,
        "initial_noise_multiplier": init.initial_noise_multiplier if init else 1.0,
        "latent_mask": init.latent_mask if init else None,
        "image_mask": mask.image if mask else None,
        **{name: getattr(plain, field) for name, field in MASK.items()},
    }


def with_attributes(
    request: GenerationRequest, changed: Mapping[str, Any], context: ScriptContext
) -> GenerationRequest:
    """`request` with what a script put on p. Raises BadRequest or NotFound for names that do not exist."""
    new: dict[str, Any] = {name: changed[name] for name in SAME if name in changed}
    for name in ("prompt", "negative_prompt", "seed", "subseed"):
        if isinstance(new.get(name), (list, tuple)):
            # A list per picture is laid out by the plan; the request keeps the first.
            new[name] = new[name][0]
    for name in ("seed", "subseed"):
        if name in new:
            new[name] = fixed_seed(new[name])
    if "styles" in changed:
        new["styles"] = tuple(changed["styles"] or ())
    if "sampler_name" in changed or "scheduler" in changed:
        sampler = changed.get("sampler_name") or request.sampler
        new["sampler"], new["schedule"] = context.sampler_names(sampler, changed.get("scheduler", request.schedule))
    if "refiner_checkpoint" in changed:
        new["refiner_checkpoint"] = _checkpoint(context.files, changed["refiner_checkpoint"], "refiner_checkpoint")
    if changed.get("override_settings"):
        new |= _overridden(request, changed["override_settings"], context.files)
    changed_request = replace(request, **new)
    if request.kind == "txt2img":
        return replace(changed_request, hires=_hires(request, changed, context))
    return replace(changed_request, init=_init(request.init, changed))


def _overridden(request: GenerationRequest, settings: Mapping[str, Any], files: Files) -> dict[str, Any]:
    """`override_settings` that a script added to, applied as the client's would have been."""
    coerced, _ = coerce_values(settings, "override_settings", request.options.table)
    options = request.options.with_values(coerced)
    new: dict[str, Any] = {"options": options, "override_settings": coerced}
    checkpoint = request.checkpoint
    if coerced.get("sd_model_checkpoint"):
        checkpoint = new["checkpoint"] = files.checkpoints.find(options.sd_model_checkpoint)
    if coerced.get("sd_vae") or checkpoint != request.checkpoint:
        new["vae"] = files.vaes.resolve(options.sd_vae, checkpoint)
    return new


def _hires(request: GenerationRequest, changed: Mapping[str, Any], context: ScriptContext) -> HiresPass | None:
    if not changed.get("enable_hr", request.hires is not None):
        return None
    hires = request.hires or HiresPass()
    new: dict[str, Any] = {field: changed[name] for name, field in HIRES.items() if name in changed}
    if "hr_checkpoint_name" in changed:
        new["checkpoint"] = _checkpoint(context.files, changed["hr_checkpoint_name"], "hr_checkpoint_name")
    if changed.get("hr_sampler_name") or changed.get("hr_scheduler"):
        sampler, schedule = changed.get("hr_sampler_name"), changed.get("hr_scheduler")
        found, label = context.sampler_names(sampler or request.sampler, schedule)
        new |= {"sampler": found if sampler else hires.sampler, "schedule": label if schedule else hires.schedule}
    return replace(hires, **new)


def _init(init: InitImage | None, changed: Mapping[str, Any]) -> InitImage | None:
    if not changed.get("init_images", init.images if init else ()):
        return None
    base = init or InitImage(images=())
    new = {
        name: changed[name]
        for name in ("resize_mode", "image_cfg_scale", "initial_noise_multiplier", "latent_mask")
        if name in changed
    }
    if new.get("initial_noise_multiplier", 1.0) is None:
        new["initial_noise_multiplier"] = 1.0
    if "init_images" in changed:
        new["images"] = tuple(changed["init_images"])
    image = changed.get("image_mask", base.mask.image if base.mask else None)
    if image is None:
        return replace(base, mask=None, **new)
    mask = replace(base.mask, image=image) if base.mask else InpaintMask(image)
    numbers = {field: changed[name] for name, field in MASK.items() if name in changed}
    if "invert" in numbers:
        numbers["invert"] = bool(numbers["invert"])
    return replace(base, mask=replace(mask, **numbers), **new)


def _checkpoint(files: Files, name: Any, field: str) -> Any:
    return files.checkpoints.find(str(name), field) if name and str(name) != "None" else None


def fixed_seed(seed: Any) -> int:
    """A1111's `get_fixed_seed`: -1, None and "" become a random one."""
    if seed in (None, "", -1):
        return random.randrange(LARGEST_RANDOM_SEED)
    return int(seed)


def plan_attributes(plan: GenerationPlan) -> dict[str, Any]:
    return {name: list(getattr(plan, field)) for name, field in PLAN.items()}


def plan_from(plan: GenerationPlan, changed: Mapping[str, Any]) -> GenerationPlan:
    """The plan with the lists that a script changed; shorter ones are filled up with their last value."""
    new: dict[str, Any] = {field: tuple(changed[name]) for name, field in PLAN.items() if changed.get(name)}
    count = max((len(values) for values in new.values()), default=plan.image_count)
    count = max(count, plan.image_count)
    for field in PLAN.values():
        values = new.get(field, getattr(plan, field))
        new[field] = values + values[-1:] * (count - len(values))
    return replace(plan, **new)


def batch_attributes(batch: Batch) -> dict[str, Any]:
    return {name: list(getattr(batch, name)) for name in BATCH}


def batch_from(batch: Batch, changed: Mapping[str, Any]) -> Batch:
    new: dict[str, Any] = {name: tuple(changed[name]) for name in BATCH if name in changed}
    return replace(batch, **new)
