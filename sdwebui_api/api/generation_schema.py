"""The bodies of txt2img and img2img: every field of A1111's, with its defaults.

Field order, names and defaults follow its OpenAPI document; the answer echoes them under `parameters`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from sdwebui_api.api.wire import Float, Fraction, Int, Name, Object, Prompt, Seed, Text, Values, WireModel

MAX_SIDE = 8192

Side = Annotated[Int, Field(ge=8, le=MAX_SIDE)]
OptionalSide = Annotated[Int, Field(ge=0, le=MAX_SIDE)]
Scale = Annotated[Float, Field(ge=0, le=64)]
Guidance = Annotated[Float, Field(ge=-1e4, le=1e4)]
Blur = Annotated[Int, Field(ge=0, le=256)]


class CommonFields(WireModel):
    """What txt2img and img2img share."""

    prompt: Prompt = ""
    negative_prompt: Prompt = ""
    styles: Annotated[list[Name], Field(max_length=1000)] | None = None
    seed: Seed = -1
    subseed: Seed = -1
    subseed_strength: Fraction = 0
    seed_resize_from_h: Annotated[Int, Field(ge=-1, le=MAX_SIDE)] = -1
    seed_resize_from_w: Annotated[Int, Field(ge=-1, le=MAX_SIDE)] = -1
    sampler_name: Name | None = None
    scheduler: Name | None = None
    batch_size: Annotated[Int, Field(ge=1, le=128)] = 1
    n_iter: Annotated[Int, Field(ge=1, le=1000)] = 1
    steps: Annotated[Int, Field(ge=1, le=1000)] = 50
    cfg_scale: Guidance = 7.0
    width: Side = Field(512, description="Default: the checkpoint's native width when it names one, else 512.")
    height: Side = Field(512, description="Default: the checkpoint's native height when it names one, else 512.")
    restore_faces: bool | None = None
    tiling: bool | None = None
    do_not_save_samples: bool = False
    do_not_save_grid: bool = False
    eta: Annotated[Float, Field(ge=0, le=100)] | None = None
    denoising_strength: Fraction | None = None
    s_min_uncond: Float | None = None
    s_churn: Float | None = None
    s_tmax: Float | None = None
    s_tmin: Float | None = None
    s_noise: Float | None = None
    override_settings: Object | None = None
    override_settings_restore_afterwards: bool = True
    refiner_checkpoint: Name | None = None
    refiner_switch_at: Fraction | None = None
    disable_extra_networks: bool = False
    firstpass_image: Text | None = None
    comments: Object | None = None


class HiresFields(WireModel):
    """The second pass of txt2img."""

    enable_hr: bool = False
    firstphase_width: OptionalSide = 0
    firstphase_height: OptionalSide = 0
    hr_scale: Scale = 2.0
    hr_upscaler: Name | None = None
    hr_second_pass_steps: Annotated[Int, Field(ge=0, le=1000)] = 0
    hr_resize_x: OptionalSide = 0
    hr_resize_y: OptionalSide = 0
    hr_checkpoint_name: Name | None = None
    hr_sampler_name: Name | None = None
    hr_scheduler: Name | None = None
    hr_prompt: Prompt = ""
    hr_negative_prompt: Prompt = ""


class ImageFields(WireModel):
    """What img2img starts from, and what of it is repainted."""

    init_images: Annotated[list[Any], Field(max_length=128)] | None = None
    resize_mode: Annotated[Int, Field(ge=0, le=3)] = 0
    image_cfg_scale: Guidance | None = None
    mask: Text | None = None
    mask_blur_x: Blur = 4
    mask_blur_y: Blur = 4
    mask_blur: Blur | None = None
    mask_round: bool = True
    inpainting_fill: Annotated[Int, Field(ge=0, le=3)] = 0
    inpaint_full_res: bool = True
    inpaint_full_res_padding: Annotated[Int, Field(ge=0, le=MAX_SIDE)] = 0
    inpainting_mask_invert: Annotated[Int, Field(ge=0, le=1)] = 0
    initial_noise_multiplier: Annotated[Float, Field(ge=0, le=100)] | None = None
    latent_mask: Text | None = None


def _by_name(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


class RequestFields(WireModel):
    """How the request itself is to be treated."""

    force_task_id: Name | None = None
    sampler_index: Name = "Euler"
    script_name: Name | None = None
    script_args: Annotated[Values, BeforeValidator(_by_name)] = Field(
        [], description="In the script's order; an object of names is accepted too."
    )
    send_images: bool = True
    save_images: bool = False
    alwayson_scripts: Object = Field(
        {},
        description="Entries of scripts by title, and the keys sd_model_checkpoint, sd_vae, save_dir, image_link, "
        "id_task and uid of EAS clients.",
    )
    infotext: Prompt | None = None


_NEVER_NULL = frozenset({"sampler_index", "script_args", "send_images", "save_images", "alwayson_scripts"})


class StableDiffusionProcessingTxt2Img(RequestFields, HiresFields, CommonFields):
    """POST /sdapi/v1/txt2img"""

    never_null: ClassVar[frozenset[str]] = _NEVER_NULL


class StableDiffusionProcessingImg2Img(RequestFields, ImageFields, CommonFields):
    """POST /sdapi/v1/img2img"""

    never_null: ClassVar[frozenset[str]] = _NEVER_NULL | {"denoising_strength", "include_init_images"}

    denoising_strength: Fraction = 0.75
    include_init_images: bool = False


# The classes carry the names that A1111's OpenAPI document gives these schemas.
Txt2ImgBody = StableDiffusionProcessingTxt2Img
Img2ImgBody = StableDiffusionProcessingImg2Img
GenerationBody = Txt2ImgBody | Img2ImgBody
