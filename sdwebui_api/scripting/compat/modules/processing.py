"""`modules.processing`: generations of an extension's own, and the helpers around them."""

from __future__ import annotations

from typing import Any

from sdwebui_api.imaging.masks import apply_overlay as _apply_overlay
from sdwebui_api.imaging.masks import create_binary_mask, uncrop
from sdwebui_api.scripting.compat import translate
from sdwebui_api.scripting.compat.processing import (
    Processed,
    StableDiffusionProcessing,
    StableDiffusionProcessingImg2Img,
    StableDiffusionProcessingTxt2Img,
)
from sdwebui_api.scripting.compat.run import process_images, process_images_inner
from sdwebui_api.scripting.compat.world import NotOffered, current_options, job_view

__all__ = [
    "Processed",
    "StableDiffusionProcessing",
    "StableDiffusionProcessingImg2Img",
    "StableDiffusionProcessingTxt2Img",
    "create_binary_mask",
    "process_images",
    "process_images_inner",
    "uncrop",
]

opt_C = 4  # A1111's names
opt_f = 8


def get_fixed_seed(seed: Any) -> int:
    return translate.fixed_seed(seed)


def fix_seed(p: Any) -> None:
    p.seed, p.subseed = translate.fixed_seed(p.seed), translate.fixed_seed(p.subseed)


def setup_color_correction(image: Any) -> Any:
    from sdwebui_api.imaging.color import setup_color_correction as setup

    return setup(image)


def apply_color_correction(correction: Any, original_image: Any) -> Any:
    from sdwebui_api.imaging.color import apply_color_correction as apply

    return apply(correction, original_image)


def apply_overlay(image: Any, paste_loc: Any, overlay: Any) -> Any:
    return _apply_overlay(image, overlay, paste_loc)


def create_infotext(
    p: Any,
    all_prompts: list[str],
    all_seeds: list[int],
    all_subseeds: list[int],
    comments: Any = None,
    iteration: int = 0,
    position_in_batch: int = 0,
    use_main_prompt: bool = False,
    index: int | None = None,
    all_negative_prompts: list[str] | None = None,
) -> str:
    """The infotext of one picture of `p`."""
    from dataclasses import replace

    from sdwebui_api.scripting.compat.processing import request_of

    index = position_in_batch + iteration * p.batch_size if index is None else index
    found = job_view("create_infotext")
    request = replace(request_of(p, found.request), seed=int(all_seeds[index]), subseed=int(all_subseeds[index]))
    negative = all_negative_prompts or p.all_negative_prompts
    if negative:
        request = replace(request, negative_prompt=negative[min(index, len(negative) - 1)], styles=())
    prompt = p.main_prompt if use_main_prompt else all_prompts[index]
    return found.context.infotext(request, extra=dict(p.extra_generation_params), prompt=prompt)


def create_random_tensors(
    shape: Any, seeds: Any, subseeds: Any = None, subseed_strength: float = 0.0, seed_resize_from_h: int = 0,
    seed_resize_from_w: int = 0, p: Any = None,
) -> Any:  # fmt: skip
    """The start noise of these seeds, [len(seeds), *shape]."""
    from sdwebui_api.scripting.compat.modules.rng import ImageRNG

    return ImageRNG(shape, seeds, subseeds, subseed_strength, seed_resize_from_h, seed_resize_from_w).first()


def images_tensor_to_samples(image: Any, approximation: Any = None, model: Any = None) -> Any:
    from sdwebui_api.scripting.compat.modules.sd_samplers_common import images_tensor_to_samples as convert

    return convert(image, approximation, model)


def decode_first_stage(model: Any, x: Any) -> Any:
    return model.decode_first_stage(x)


def txt2img_image_conditioning(sd_model: Any, x: Any, width: int, height: int) -> Any:
    raise NotOffered("the conditioning of inpainting models is made by the pipeline")


def program_version() -> str:
    from sdwebui_api.generation.infotext import PROGRAM_VERSION

    return PROGRAM_VERSION


def __getattr__(name: str) -> Any:
    if name == "opts":
        from sdwebui_api.scripting.compat.modules.shared import opts

        return opts
    if name == "state":
        from sdwebui_api.scripting.compat.modules.shared import state

        return state
    if name == "decode_latent_batch":
        return lambda model, batch, **_more: list(model.decode_first_stage(batch))
    raise AttributeError(f"modules.processing.{name} is not offered by this server")


def option(name: str) -> Any:
    return current_options()[name]
