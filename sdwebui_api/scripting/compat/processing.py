"""`p`: a generation as A1111's scripts see and change it.

A `p` either shows a running generation (`LegacyHooks` fills it and takes over what changed), or was made by an
extension, which then runs it with `process_images` within the same job.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from sdwebui_api.generation.request import GeneratedImage, GenerationRequest, GenerationResult
from sdwebui_api.scripting.compat import translate
from sdwebui_api.scripting.compat.world import current_options, view

if TYPE_CHECKING:
    from PIL import Image

    from sdwebui_api.scripting.compat.runner import ScriptRunner


class StableDiffusionProcessing:
    """The attributes of A1111's `p`. Those of `translate` are the request's; the rest exists for scripts' own use."""

    is_img2img = False
    DEFAULTS: ClassVar[dict[str, Any]] = {
        "sd_model": None, "outpath_samples": None, "outpath_grids": None, "prompt": "", "prompt_for_display": None,
        "negative_prompt": "", "styles": None, "seed": -1, "subseed": -1, "subseed_strength": 0,
        "seed_resize_from_h": -1, "seed_resize_from_w": -1, "seed_enable_extras": True, "sampler_name": None,
        "scheduler": None, "batch_size": 1, "n_iter": 1, "steps": 50, "cfg_scale": 7.0, "width": 512, "height": 512,
        "restore_faces": False, "tiling": False, "do_not_save_samples": False, "do_not_save_grid": False,
        "extra_generation_params": None, "overlay_images": None, "eta": None, "do_not_reload_embeddings": False,
        "denoising_strength": None, "ddim_discretize": "uniform", "s_min_uncond": 0.0, "s_churn": 0.0,
        "s_tmax": float("inf"), "s_tmin": 0.0, "s_noise": 1.0, "override_settings": None,
        "override_settings_restore_afterwards": True, "sampler_index": None, "refiner_checkpoint": None,
        "refiner_switch_at": None, "token_merging_ratio": 0, "token_merging_ratio_hr": 0,
        "disable_extra_networks": False, "firstpass_image": None, "user": None, "sampler": None, "is_hr_pass": False,
        "is_api": True, "paste_to": None, "color_corrections": None, "iteration": 0, "batch_index": 0,
        "all_prompts": None, "all_negative_prompts": None, "all_seeds": None, "all_subseeds": None,
        "all_hr_prompts": None, "all_hr_negative_prompts": None, "prompts": None, "negative_prompts": None,
        "seeds": None, "subseeds": None, "extra_network_data": None, "main_prompt": None,
        "main_negative_prompt": None, "rng": None, "c": None, "uc": None, "init_latent": None, "mask": None,
        "nmask": None, "image_conditioning": None, "mask_for_overlay": None, "comments": None,
        "latents_after_sampling": None, "pixels_after_sampling": None, "cached_c": None, "cached_uc": None,
        "cached_hr_c": None, "cached_hr_uc": None, "sd_model_name": None, "sd_model_hash": None, "sd_vae_name": None,
        "sd_vae_hash": None, "scripts": None, "script_args": (), "color_correction_enabled": False,
    }  # fmt: skip

    def __init__(self, **values: Any) -> None:
        unknown = values.keys() - self.DEFAULTS.keys() - {"mask"}
        if unknown:
            raise TypeError(f"{type(self).__name__} has no argument {', '.join(sorted(unknown))}")
        for name, value in self.DEFAULTS.items():
            if name != "sd_model":
                setattr(self, name, value)
        for name in ("extra_generation_params", "override_settings", "comments"):
            setattr(self, name, {})
        for name in ("styles", "latents_after_sampling", "pixels_after_sampling", "sdwebui_warnings"):
            setattr(self, name, [])
        for name in ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc"):
            setattr(self, name, [None, None])
        for name, value in values.items():
            if value is not None:
                setattr(self, name, value)
        self.script_args: Any = tuple(values.get("script_args") or ())

    def __getattr__(self, name: str) -> Any:
        """Attributes are made in `__init__` and by scripts; nothing else is found."""
        raise AttributeError(f"p.{name} is not there: neither A1111's list of attributes nor a script set it")

    @property
    def sd_model(self) -> Any:
        from sdwebui_api.scripting.compat.models import SD_MODEL

        return SD_MODEL

    @sd_model.setter
    def sd_model(self, _value: Any) -> None:
        """As in A1111: a request's model is chosen by `override_settings`."""

    @property
    def script_args_value(self) -> tuple[Any, ...]:
        return tuple(self.script_args)

    @property
    def sampler_noise_scheduler_override(self) -> None:
        return None

    def comment(self, text: str) -> None:
        """A line for the client."""
        self.comments[text] = 1
        if text not in self.sdwebui_warnings:
            self.sdwebui_warnings.append(text)

    def setup_scripts(self) -> None:
        return

    def close(self) -> None:
        """A1111 frees conditionings here; ours belong to the run."""

    def clear_prompt_cache(self) -> None:
        return

    def init(self, all_prompts: Any, all_seeds: Any, all_subseeds: Any) -> None:
        """A1111 prepares start images and sizes here; the pipeline does so itself."""

    def get_token_merging_ratio(self, for_hr: bool = False) -> float:
        return float(self.token_merging_ratio_hr if for_hr else self.token_merging_ratio)


class StableDiffusionProcessingTxt2Img(StableDiffusionProcessing):
    DEFAULTS = StableDiffusionProcessing.DEFAULTS | {
        "enable_hr": False, "firstphase_width": 0, "firstphase_height": 0, "hr_scale": 2.0, "hr_upscaler": None,
        "hr_second_pass_steps": 0, "hr_resize_x": 0, "hr_resize_y": 0, "hr_checkpoint_name": None,
        "hr_sampler_name": None, "hr_scheduler": None, "hr_prompt": "", "hr_negative_prompt": "",
        "force_task_id": None, "denoising_strength": 0.75, "hr_prompts": None, "hr_negative_prompts": None,
        "hr_upscale_to_x": 0, "hr_upscale_to_y": 0, "latent_scale_mode": None, "hr_checkpoint_info": None,
        "hr_extra_network_data": None, "applied_old_hires_behavior_to": None,
    }  # fmt: skip


class StableDiffusionProcessingImg2Img(StableDiffusionProcessing):
    is_img2img = True
    DEFAULTS = StableDiffusionProcessing.DEFAULTS | {
        "init_images": None, "resize_mode": 0, "denoising_strength": 0.75, "image_cfg_scale": None, "mask": None,
        "mask_blur_x": 4, "mask_blur_y": 4, "mask_blur": None, "mask_round": True, "inpainting_fill": 0,
        "inpaint_full_res": True, "inpaint_full_res_padding": 0, "inpainting_mask_invert": 0,
        "initial_noise_multiplier": None, "latent_mask": None, "force_task_id": None, "image_mask": None,
        "init_img_hash": None,
    }  # fmt: skip

    def __init__(self, **values: Any) -> None:
        image_mask = values.pop("mask", None)
        blur = values.pop("mask_blur", None)
        super().__init__(**values)
        if image_mask is not None:
            # The argument is the picture; the attribute `mask` is the tensor made of it, as in A1111.
            self.image_mask = image_mask
        if blur is not None:
            self.mask_blur_x = self.mask_blur_y = blur
        self.init_images: list[Any] = list(values.get("init_images") or [])

    @property
    def mask_blur(self) -> int | None:
        return self.mask_blur_x if self.mask_blur_x == self.mask_blur_y else None

    @mask_blur.setter
    def mask_blur(self, value: int | None) -> None:
        if value is not None:
            self.mask_blur_x = self.mask_blur_y = value


class Processed:
    """What a generation returns. `info_values`: our `info`, of which scripts may change parts here."""

    def __init__(
        self,
        p: Any,
        images_list: list[Any],
        seed: int = -1,
        info: str = "",
        subseed: int | None = None,
        all_prompts: list[str] | None = None,
        all_negative_prompts: list[str] | None = None,
        all_seeds: list[int] | None = None,
        all_subseeds: list[int] | None = None,
        index_of_first_image: int = 0,
        infotexts: list[str] | None = None,
        comments: str = "",
    ) -> None:
        self.images = images_list
        self.prompt, self.negative_prompt = _first(p.prompt), _first(p.negative_prompt)
        self.seed = int(_first(p.seed) if seed in (-1, None) else seed)
        self.subseed = _first(p.subseed) if subseed is None else subseed
        self.subseed_strength = p.subseed_strength
        self.info, self.comments = info, comments
        self.width, self.height = p.width, p.height
        self.sampler_name, self.cfg_scale, self.steps = p.sampler_name, p.cfg_scale, p.steps
        self.image_cfg_scale = getattr(p, "image_cfg_scale", None)
        self.batch_size, self.restore_faces = p.batch_size, p.restore_faces
        self.seed_resize_from_w, self.seed_resize_from_h = p.seed_resize_from_w, p.seed_resize_from_h
        self.denoising_strength = getattr(p, "denoising_strength", None)
        self.extra_generation_params = p.extra_generation_params
        self.index_of_first_image, self.styles = index_of_first_image, p.styles
        self.all_prompts = all_prompts or p.all_prompts or [self.prompt]
        self.all_negative_prompts = all_negative_prompts or p.all_negative_prompts or [self.negative_prompt]
        self.all_seeds = all_seeds or p.all_seeds or [self.seed]
        self.all_subseeds = all_subseeds or p.all_subseeds or [self.subseed]
        self.infotexts = infotexts or [info] * len(images_list)
        self.video_path: Any = None
        self.extra_images: list[Any] = []
        self.info_values: dict[str, Any] = {}

    def js(self) -> str:
        import json

        return json.dumps(self.values(), default=lambda _value: None)

    def infotext(self, p: Any, index: int) -> str:
        return self.infotexts[index] if index < len(self.infotexts) else self.info

    def get_token_merging_ratio(self, for_hr: bool = False) -> float:
        return 0.0

    def values(self) -> dict[str, Any]:
        """The keys of A1111's `info`."""
        own = {name: getattr(self, name) for name in _INFO_KEYS}
        own["prompt"], own["negative_prompt"] = self.all_prompts[0], self.all_negative_prompts[0]
        own["extra_generation_params"] = {
            name: None if callable(value) else value for name, value in (self.extra_generation_params or {}).items()
        }
        return {**self.info_values, **own}


_INFO_KEYS = (
    "prompt", "all_prompts", "negative_prompt", "all_negative_prompts", "seed", "all_seeds", "subseed",
    "all_subseeds", "subseed_strength", "width", "height", "sampler_name", "cfg_scale", "steps", "batch_size",
    "restore_faces", "seed_resize_from_w", "seed_resize_from_h", "denoising_strength", "extra_generation_params",
    "index_of_first_image", "infotexts", "styles",
)  # fmt: skip


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, (list, tuple)) and value else value


def make_p(request: GenerationRequest, runner: ScriptRunner | None, script_args: tuple[Any, ...]) -> Any:
    """A p that shows `request`."""
    kind = StableDiffusionProcessingImg2Img if request.kind == "img2img" else StableDiffusionProcessingTxt2Img
    p: Any = kind()
    p.scripts, p.script_args = runner, script_args
    options = current_options()
    p.outpath_samples = options.outdir_samples or options[f"outdir_{request.kind}_samples"]
    p.outpath_grids = options.outdir_grids or options[f"outdir_{request.kind}_grids"]
    p.sd_model_name, p.sd_model_hash = request.checkpoint.stem, request.checkpoint.shorthash
    p.sd_vae_name = request.vae.name if request.vae else None
    show(p, translate.attributes(request))
    return p


def never_called(p: Any) -> list[str]:
    """Names of A1111's methods that an extension put on p, in a subclass or on the object, and nobody calls."""
    foreign = [one for one in type(p).__mro__ if not one.__module__.startswith(__package__) and one is not object]
    names = ("sample", "sample_hr_pass", "init", "setup_prompts", "setup_conds", "calculate_target_resolution")
    return [f"p.{name}" for name in names if name in vars(p) or any(name in vars(one) for one in foreign)]


def show(p: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(p, name, value)


def request_of(p: Any, base: GenerationRequest) -> GenerationRequest:
    """What an extension's own `p` asks for, with checkpoint, VAE and options of the running request."""
    found = view()
    assert found is not None
    from dataclasses import replace

    kind: Any = "img2img" if p.is_img2img else "txt2img"
    plain = replace(
        base, kind=kind, hires=None, init=None, script=None, always_on=(), warnings=(), override_settings={},
        refiner_checkpoint=None, refiner_vae=None, options=found.options,
    )  # fmt: skip
    names = translate.attributes(plain).keys()
    values = {name: getattr(p, name, type(p).DEFAULTS.get(name)) for name in names}
    values = {
        name: value for name, value in values.items() if value is not None or name in ("eta", "refiner_switch_at")
    }
    return translate.with_attributes(plain, values, found.context)


def processed_from(p: Any, result: GenerationResult) -> Processed:
    """Our result as a script gets it back."""
    info = result.info
    samples = [image for image in result.images]
    p.seed, p.subseed = info["seed"], info["subseed"]
    p.all_prompts, p.all_negative_prompts = list(info["all_prompts"]), list(info["all_negative_prompts"])
    p.all_seeds, p.all_subseeds = list(info["all_seeds"]), list(info["all_subseeds"])
    p.extra_generation_params.update(info["extra_generation_params"])
    texts = [image.infotext for image in samples]
    processed = Processed(
        p,
        [with_infotext(image) for image in samples],
        info["seed"],
        texts[0] if texts else info["infotexts"][0],
        subseed=info["subseed"],
        index_of_first_image=info["index_of_first_image"],
        infotexts=texts or list(info["infotexts"]),
    )
    processed.info_values = dict(info)
    return processed


def with_infotext(image: GeneratedImage) -> Image.Image:
    """The picture with its text where A1111's scripts look for it."""
    image.image.info["parameters"] = image.infotext
    return image.image


def result_from(processed: Processed) -> GenerationResult:
    """A script's result as ours."""
    images = [
        GeneratedImage(
            image,
            processed.infotexts[index] if index < len(processed.infotexts) else processed.info,
            "grid" if index < processed.index_of_first_image else "sample",
        )
        for index, image in enumerate(processed.images)
        if hasattr(image, "convert")
    ]
    return GenerationResult(images, processed.values())
