"""The settings of GET/POST /sdapi/v1/options: names, defaults, and what values each accepts.

Names and defaults are A1111 1.10's; its long explanations (`*_explanation`) are left out. The kinds and ranges
are ours: A1111 stores whatever a client sends and fails later. A range is checked where a value outside it breaks
generation. The table is data; `config.options` gives it behaviour.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sdwebui_api.errors import BadRequest

Kind = Literal["switch", "whole", "real", "text", "names", "color", "one_of", "any"]

LONGEST_TEXT = 65_536
IMAGE_FORMATS = ("png", "jpg", "jpeg", "webp")
_COLOR = re.compile(r"#(?:[0-9a-fA-F]{3,4}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8})")
_TRUE, _FALSE = (True, 1, "true", "1"), (False, 0, "false", "0")


@dataclass(frozen=True)
class OptionSpec:
    """One setting. `default` is what `null` means too."""

    kind: Kind
    default: Any
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    settable: bool = True
    """False: POST /options and `override_settings` leave it alone, silently, as A1111 does."""
    answered_as_float: bool = False
    """A1111's schema turns most whole numbers into floats in GET /options; clients compare."""

    def coerce(self, value: Any, field: str) -> Any:
        """`value` as this option holds it. Exact conversions only (`"12"` → 12, `2.0` → 2).

        Raises BadRequest(422) naming `field` for a wrong type, a number out of range or an unknown choice.
        """
        if value is None:
            return self.default
        return _COERCE[self.kind](self, value, field)

    def wire(self, value: Any) -> Any:
        """The held `value` as GET /options answers it."""
        if self.kind == "names":
            return list(value)
        return float(value) if self.answered_as_float or self.kind == "real" else value


def _refuse(field: str, value: Any, expected: str, choices: tuple[str, ...] = ()) -> BadRequest:
    shown = repr(value)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return BadRequest(f"{field}: {shown} is not accepted; expected {expected}", field=field, choices=choices)


def _coerce_switch(spec: OptionSpec, value: Any, field: str) -> bool:
    plain = value.strip().lower() if isinstance(value, str) else value
    if isinstance(plain, str | int | float):
        if plain in _TRUE:
            return True
        if plain in _FALSE:
            return False
    raise _refuse(field, value, "true or false")


def _as_number(value: Any) -> float | int | None:
    """A finite number, or None. A string is read as the number it spells; a bool is no number."""
    if isinstance(value, str):
        try:
            value = int(value)
        except ValueError:
            try:
                value = float(value)
            except ValueError:
                return None
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e15:
        return None
    return value if math.isfinite(value) else None


def _range_text(spec: OptionSpec) -> str:
    if spec.minimum is None:
        return ""
    if spec.maximum is None:
        return f" of at least {spec.minimum:g}"
    return f" from {spec.minimum:g} to {spec.maximum:g}"


def _in_range(spec: OptionSpec, number: float) -> bool:
    return (spec.minimum is None or number >= spec.minimum) and (spec.maximum is None or number <= spec.maximum)


def _coerce_whole(spec: OptionSpec, value: Any, field: str) -> int:
    number = _as_number(value)
    if number is None or number != int(number) or not _in_range(spec, number):
        raise _refuse(field, value, "a whole number" + _range_text(spec))
    return int(number)


def _coerce_real(spec: OptionSpec, value: Any, field: str) -> float | int:
    """A whole number stays one, for infotexts show it as the client wrote it (`Schedule rho: 5`)."""
    number = _as_number(value)
    if number is None or not _in_range(spec, number):
        raise _refuse(field, value, "a number" + _range_text(spec))
    return number


def _coerce_text(spec: OptionSpec, value: Any, field: str) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise _refuse(field, value, "a text")
    if len(value) > LONGEST_TEXT or "\0" in value:
        raise _refuse(field, value, f"a text of at most {LONGEST_TEXT} characters, none of them NUL")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise _refuse(field, value, "valid Unicode")  # a lone surrogate fits in no file
    return value


def _coerce_names(spec: OptionSpec, value: Any, field: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise _refuse(field, value, "a list of texts")
    return tuple(_coerce_text(spec, item, field) for item in value)


def _coerce_color(spec: OptionSpec, value: Any, field: str) -> str:
    if not isinstance(value, str) or not _is_color(value.strip()):
        raise _refuse(field, value, "a color like #ffffff")
    return value.strip()


def _is_color(text: str) -> bool:
    """A hexadecimal one, or another that Pillow knows, as in A1111: `white`, `rgb(255, 255, 255)`."""
    if _COLOR.fullmatch(text):
        return True
    from PIL import ImageColor  # seldom needed, and `--help` should not wait for it

    try:
        return bool(ImageColor.getrgb(text))
    except ValueError:
        return False


def _coerce_one_of(spec: OptionSpec, value: Any, field: str) -> str:
    by_case = {choice.lower(): choice for choice in spec.choices}
    if not isinstance(value, str) or value.strip().lower() not in by_case:
        raise _refuse(field, value, "one of " + ", ".join(spec.choices), spec.choices)
    return by_case[value.strip().lower()]


def _coerce_any(spec: OptionSpec, value: Any, field: str) -> Any:
    """Settings of extensions that say no type."""
    return value


_COERCE = {
    "any": _coerce_any,
    "switch": _coerce_switch,
    "whole": _coerce_whole,
    "real": _coerce_real,
    "text": _coerce_text,
    "names": _coerce_names,
    "color": _coerce_color,
    "one_of": _coerce_one_of,
}


def _switch(default: bool, *, settable: bool = True) -> OptionSpec:
    return OptionSpec("switch", default, settable=settable)


def _whole(default: int, minimum: float | None = None, maximum: float | None = None, *, wire: type = int) -> OptionSpec:
    return OptionSpec("whole", default, minimum, maximum, answered_as_float=wire is float)


def _real(default: float, minimum: float | None = None, maximum: float | None = None) -> OptionSpec:
    return OptionSpec("real", default, minimum, maximum)


def _text(default: str | None, *, settable: bool = True) -> OptionSpec:
    return OptionSpec("text", default, settable=settable)


def _names(*default: str, settable: bool = True) -> OptionSpec:
    return OptionSpec("names", default, settable=settable)


def _color(default: str) -> OptionSpec:
    return OptionSpec("color", default)


def _one_of(choices: tuple[str, ...], default: str) -> OptionSpec:
    return OptionSpec("one_of", default, choices=choices)


OPTION_TABLE: Mapping[str, OptionSpec] = {
    # saving
    "samples_save": _switch(True),
    "samples_format": _one_of(IMAGE_FORMATS, "png"),
    "samples_filename_pattern": _text(""),
    "save_images_add_number": _switch(True),
    "save_images_replace_action": _one_of(("Replace", "Add number suffix"), "Replace"),
    "grid_save": _switch(True),
    "grid_format": _one_of(IMAGE_FORMATS, "png"),
    "grid_extended_filename": _switch(False),
    "grid_only_if_multiple": _switch(True),
    "grid_prevent_empty_spots": _switch(False),
    "grid_zip_filename_pattern": _text(""),
    "n_rows": _whole(-1, -1, 1000, wire=float),
    "font": _text(""),
    "grid_text_active_color": _color("#000000"),
    "grid_text_inactive_color": _color("#999999"),
    "grid_background_color": _color("#ffffff"),
    "save_images_before_face_restoration": _switch(False),
    "save_images_before_highres_fix": _switch(False),
    "save_images_before_color_correction": _switch(False),
    "save_mask": _switch(False),
    "save_mask_composite": _switch(False),
    "jpeg_quality": _whole(80, 1, 100, wire=float),
    "webp_lossless": _switch(False),
    "export_for_4chan": _switch(True),
    "img_downscale_threshold": _real(4.0, 0, None),
    "target_side_length": _whole(4000, 1, None, wire=float),
    "img_max_size_mp": _real(200.0, 0, None),
    "use_original_name_batch": _switch(True),
    "use_upscaler_name_as_suffix": _switch(False),
    "save_selected_only": _switch(True),
    "save_write_log_csv": _switch(True),
    "save_init_img": _switch(False),
    "temp_dir": _text(""),
    "clean_temp_dir_at_start": _switch(False),
    "save_incomplete_images": _switch(False),
    "notification_audio": _switch(True),
    "notification_volume": _whole(100, 0, 100, wire=float),
    # folders
    "outdir_samples": _text(""),
    "outdir_txt2img_samples": _text("outputs/txt2img-images"),
    "outdir_img2img_samples": _text("outputs/img2img-images"),
    "outdir_extras_samples": _text("outputs/extras-images"),
    "outdir_grids": _text(""),
    "outdir_txt2img_grids": _text("outputs/txt2img-grids"),
    "outdir_img2img_grids": _text("outputs/img2img-grids"),
    "outdir_save": _text("log/images"),
    "outdir_init_images": _text("outputs/init-images"),
    "save_to_dirs": _switch(True),
    "grid_save_to_dirs": _switch(True),
    "use_save_to_dirs_for_ui": _switch(False),
    "directories_filename_pattern": _text("[date]"),
    "directories_max_prompt_words": _whole(8, 0, 100, wire=float),
    # upscaling
    "ESRGAN_tile": _whole(192, 0, None, wire=float),
    "ESRGAN_tile_overlap": _whole(8, 0, None, wire=float),
    "realesrgan_enabled_models": _names("R-ESRGAN 4x+", "R-ESRGAN 4x+ Anime6B"),
    "dat_enabled_models": _names("DAT x2", "DAT x3", "DAT x4"),
    "DAT_tile": _whole(192, 0, None, wire=float),
    "DAT_tile_overlap": _whole(8, 0, None, wire=float),
    "upscaler_for_img2img": _text(None),
    "set_scale_by_when_changing_upscaler": _switch(False),
    # face restoration
    "face_restoration": _switch(False),
    "face_restoration_model": _text("CodeFormer"),
    "code_former_weight": _real(0.5, 0, 1),
    "face_restoration_unload": _switch(False),
    # system
    "auto_launch_browser": _text("Local"),
    "enable_console_prompts": _switch(False),
    "show_warnings": _switch(False),
    "show_gradio_deprecation_warnings": _switch(True),
    "memmon_poll_rate": _whole(8, 0, 40, wire=float),
    "samples_log_stdout": _switch(False),
    "multiple_tqdm": _switch(True),
    "enable_upscale_progressbar": _switch(True),
    "print_hypernet_extra": _switch(False),
    "list_hidden_files": _switch(True),
    "disable_mmap_load_safetensors": _switch(False),
    "hide_ldm_prints": _switch(True),
    "dump_stacks_on_signal": _switch(False),
    "profiling_enable": _switch(False),
    "profiling_activities": _names("CPU"),
    "profiling_record_shapes": _switch(True),
    "profiling_profile_memory": _switch(True),
    "profiling_with_stack": _switch(True),
    "profiling_filename": _text("trace.json"),
    # API
    "api_enable_requests": _switch(True, settable=False),
    "api_forbid_local_requests": _switch(True, settable=False),
    "api_useragent": _text("", settable=False),
    # training
    "unload_models_when_training": _switch(False),
    "pin_memory": _switch(False),
    "save_optimizer_state": _switch(False),
    "save_training_settings_to_txt": _switch(True),
    "dataset_filename_word_regex": _text(""),
    "dataset_filename_join_string": _text(" "),
    "training_image_repeats_per_epoch": _whole(1, wire=float),
    "training_write_csv_every": _whole(500, wire=float),
    "training_xattention_optimizations": _switch(False),
    "training_enable_tensorboard": _switch(False),
    "training_tensorboard_save_images": _switch(False),
    "training_tensorboard_flush_every": _whole(120, wire=float),
    # stable diffusion
    "sd_model_checkpoint": _text(None),
    "sd_checkpoints_limit": _whole(1, 1, None, wire=float),
    "sd_checkpoints_keep_in_cpu": _switch(True),
    "sd_checkpoint_cache": _whole(0, 0, None),
    "sd_unet": _text("Automatic"),
    "enable_quantization": _switch(False),
    "emphasis": _one_of(("None", "Ignore", "Original", "No norm"), "Original"),
    "enable_batch_seeds": _switch(True),
    "comma_padding_backtrack": _whole(20, 0, 74, wire=float),
    "sdxl_clip_l_skip": _switch(False),
    "CLIP_stop_at_last_layers": _whole(1, 1, 12, wire=float),
    "upcast_attn": _switch(False),
    "randn_source": _one_of(("GPU", "CPU", "NV"), "GPU"),
    "tiling": _switch(False),
    "hires_fix_refiner_pass": _one_of(("first pass", "second pass", "both passes"), "second pass"),
    "sdxl_crop_top": _whole(0, 0, None),
    "sdxl_crop_left": _whole(0, 0, None),
    "sdxl_refiner_low_aesthetic_score": _real(2.5),
    "sdxl_refiner_high_aesthetic_score": _real(6.0),
    "sd3_enable_t5": _switch(False),
    # VAE
    "sd_vae_checkpoint_cache": _whole(0, 0, None),
    "sd_vae": _text("Automatic"),
    "sd_vae_overrides_per_model_preferences": _switch(True),
    "auto_vae_precision_bfloat16": _switch(False),
    "auto_vae_precision": _switch(True),
    "sd_vae_encode_method": _one_of(("Full", "TAESD"), "Full"),
    "sd_vae_decode_method": _one_of(("Full", "TAESD"), "Full"),
    # img2img
    "inpainting_mask_weight": _real(1.0, 0, 1),
    "initial_noise_multiplier": _real(1.0, 0, 10),
    "img2img_extra_noise": _real(0.0, 0, 10),
    "img2img_color_correction": _switch(False),
    "img2img_fix_steps": _switch(False),
    "img2img_background_color": _color("#ffffff"),
    "img2img_editor_height": _whole(720, wire=float),
    "img2img_sketch_default_brush_color": _color("#ffffff"),
    "img2img_inpaint_mask_brush_color": _color("#ffffff"),
    "img2img_inpaint_sketch_default_brush_color": _color("#ffffff"),
    "return_mask": _switch(False),
    "return_mask_composite": _switch(False),
    "img2img_batch_show_results_limit": _whole(32, wire=float),
    "overlay_inpaint": _switch(True),
    # optimisations
    "cross_attention_optimization": _text("Automatic"),
    "s_min_uncond": _real(0.0, 0, None),
    "s_min_uncond_all": _switch(False),
    "token_merging_ratio": _real(0.0, 0, 0.9),
    "token_merging_ratio_img2img": _real(0.0, 0, 0.9),
    "token_merging_ratio_hr": _real(0.0, 0, 0.9),
    "pad_cond_uncond": _switch(False),
    "pad_cond_uncond_v0": _switch(False),
    "persistent_cond_cache": _switch(True),
    "batch_cond_uncond": _switch(True),
    "fp8_storage": _one_of(("Disable", "Enable for SDXL", "Enable"), "Disable"),
    "cache_fp16_weight": _switch(False),
    # compatibility
    "auto_backcompat": _switch(True),
    "use_old_emphasis_implementation": _switch(False),
    "use_old_karras_scheduler_sigmas": _switch(False),
    "no_dpmpp_sde_batch_determinism": _switch(False),
    "use_old_hires_fix_width_height": _switch(False),
    "hires_fix_use_firstpass_conds": _switch(False),
    "use_old_scheduling": _switch(False),
    "use_downcasted_alpha_bar": _switch(False),
    "refiner_switch_by_sample_steps": _switch(False),
    # interrogation
    "interrogate_keep_models_in_memory": _switch(False),
    "interrogate_return_ranks": _switch(False),
    "interrogate_clip_num_beams": _whole(1, wire=float),
    "interrogate_clip_min_length": _whole(24, wire=float),
    "interrogate_clip_max_length": _whole(48, wire=float),
    "interrogate_clip_dict_limit": _whole(1500, wire=float),
    "interrogate_clip_skip_categories": _names(),
    "interrogate_deepbooru_score_threshold": _real(0.5),
    "deepbooru_sort_alpha": _switch(True),
    "deepbooru_use_spaces": _switch(True),
    "deepbooru_escape": _switch(True),
    "deepbooru_filter_tags": _text(""),
    # extra networks
    "extra_networks_show_hidden_directories": _switch(True),
    "extra_networks_dir_button_function": _switch(False),
    "extra_networks_hidden_models": _text("When searched"),
    "extra_networks_default_multiplier": _real(1.0, -10, 10),
    "extra_networks_card_width": _whole(0),
    "extra_networks_card_height": _whole(0),
    "extra_networks_card_text_scale": _real(1.0),
    "extra_networks_card_show_desc": _switch(True),
    "extra_networks_card_description_is_html": _switch(False),
    "extra_networks_card_order_field": _text("Path"),
    "extra_networks_card_order": _text("Ascending"),
    "extra_networks_tree_view_style": _text("Dirs"),
    "extra_networks_tree_view_default_enabled": _switch(True),
    "extra_networks_tree_view_default_width": _whole(180, wire=float),
    "extra_networks_add_text_separator": _text(" "),
    "ui_extra_networks_tab_reorder": _text(""),
    "textual_inversion_print_at_load": _switch(False),
    "textual_inversion_add_hashes_to_infotext": _switch(True),
    "sd_hypernetwork": _text("None"),
    # prompt editing keys
    "keyedit_precision_attention": _real(0.1),
    "keyedit_precision_extra": _real(0.05),
    "keyedit_delimiters": _text(".,\\/!?%^*;:{}=`~() "),
    "keyedit_delimiters_whitespace": _names("Tab", "Carriage Return", "Line Feed"),
    "keyedit_move": _switch(True),
    # gallery and page
    "disable_token_counters": _switch(False),
    "include_styles_into_token_counters": _switch(True),
    "return_grid": _switch(True),
    "do_not_show_images": _switch(False),
    "js_modal_lightbox": _switch(True),
    "js_modal_lightbox_initially_zoomed": _switch(True),
    "js_modal_lightbox_gamepad": _switch(False),
    "js_modal_lightbox_gamepad_repeat": _whole(250, wire=float),
    "sd_webui_modal_lightbox_icon_opacity": _real(1.0),
    "sd_webui_modal_lightbox_toolbar_opacity": _real(0.9),
    "gallery_height": _text(""),
    "open_dir_button_choice": _text("Subdirectory"),
    "compact_prompt_box": _switch(False),
    "samplers_in_dropdown": _switch(True),
    "dimensions_and_batch_together": _switch(True),
    "sd_checkpoint_dropdown_use_short": _switch(False),
    "hires_fix_show_sampler": _switch(False),
    "hires_fix_show_prompts": _switch(False),
    "txt2img_settings_accordion": _switch(False),
    "img2img_settings_accordion": _switch(False),
    "interrupt_after_current": _switch(True),
    "localization": _text("None"),
    "quicksettings_list": _names("sd_model_checkpoint"),
    "ui_tab_order": _names(),
    "hidden_tabs": _names(),
    "ui_reorder_list": _names(),
    "gradio_theme": _text("Default"),
    "gradio_themes_cache": _switch(True),
    "show_progress_in_title": _switch(True),
    "send_seed": _switch(True),
    "send_size": _switch(True),
    "enable_reloading_ui_scripts": _switch(False),
    # infotext
    "enable_pnginfo": _switch(True),
    "save_txt": _switch(False),
    "add_model_name_to_info": _switch(True),
    "add_model_hash_to_info": _switch(True),
    "add_vae_name_to_info": _switch(True),
    "add_vae_hash_to_info": _switch(True),
    "add_user_name_to_info": _switch(False),
    "add_version_to_infotext": _switch(True),
    "disable_weights_auto_swap": _switch(True),
    "infotext_skip_pasting": _names(),
    "infotext_styles": _one_of(("Ignore", "Apply", "Discard", "Apply if any"), "Apply if any"),
    # live previews
    "show_progressbar": _switch(True),
    "live_previews_enable": _switch(True),
    "live_previews_image_format": _one_of(("png", "jpeg", "webp"), "png"),
    "show_progress_grid": _switch(True),
    "show_progress_every_n_steps": _whole(10, -1, None, wire=float),
    "show_progress_type": _one_of(("Full", "Approx NN", "Approx cheap", "TAESD"), "Approx NN"),
    "live_preview_allow_lowvram_full": _switch(False),
    "live_preview_content": _one_of(("Combined", "Prompt", "Negative prompt"), "Prompt"),
    "live_preview_refresh_period": _whole(1000, 0, None, wire=float),
    "live_preview_fast_interrupt": _switch(False),
    "js_live_preview_in_modal_lightbox": _switch(False),
    "prevent_screen_sleep_during_generation": _switch(True),
    # sampler parameters
    "hide_samplers": _names(),
    "eta_ddim": _real(0.0, 0, 1),
    "eta_ancestral": _real(1.0, 0, 10),
    "ddim_discretize": _one_of(("uniform", "quad"), "uniform"),
    "s_churn": _real(0.0, 0, None),
    "s_tmin": _real(0.0, 0, None),
    "s_tmax": _real(0.0, 0, None),
    "s_noise": _real(1.0, 0, 10),
    "sigma_min": _real(0.0, 0, None),
    "sigma_max": _real(0.0, 0, None),
    "rho": _real(0.0, 0, None),
    "eta_noise_seed_delta": _whole(0, -(2**32), 2**32),
    "always_discard_next_to_last_sigma": _switch(False),
    "sgm_noise_multiplier": _switch(False),
    "uni_pc_variant": _one_of(("bh1", "bh2", "vary_coeff"), "bh1"),
    "uni_pc_skip_type": _one_of(("time_uniform", "time_quadratic", "logSNR"), "time_uniform"),
    "uni_pc_order": _whole(3, 1, 50, wire=float),
    "uni_pc_lower_order_final": _switch(True),
    "sd_noise_schedule": _one_of(("Default", "Zero Terminal SNR"), "Default"),
    "skip_early_cond": _real(0.0, 0, 1),
    "beta_dist_alpha": _real(0.6, 0.01, 100),
    "beta_dist_beta": _real(0.6, 0.01, 100),
    # postprocessing
    "postprocessing_enable_in_main_ui": _names(),
    "postprocessing_disable_in_extras": _names(),
    "postprocessing_operation_order": _names(),
    "upscaling_max_images_in_cache": _whole(5, 0, None, wire=float),
    "postprocessing_existing_caption_action": _one_of(("Ignore", "Keep", "Prepend", "Append"), "Ignore"),
    # hidden
    "disabled_extensions": _names(settable=False),
    "disable_all_extensions": _text("none", settable=False),
    "restore_config_state_file": _text("", settable=False),
    "sd_checkpoint_hash": _text("", settable=False),
    # LoRA
    "sd_lora": _text("None"),
    "lora_preferred_name": _one_of(("Filename", "Alias from file"), "Alias from file"),
    "lora_add_hashes_to_infotext": _switch(True),
    "lora_bundled_ti_to_infotext": _switch(True),
    "lora_show_all": _switch(False),
    "lora_hide_unknown_for_versions": _names(),
    "lora_in_memory_limit": _whole(0, 0, None),
    "lora_not_found_warning_console": _switch(False),
    "lora_not_found_gradio_warning": _switch(False),
    "lora_functional": _switch(False),
    # canvas hotkeys
    "canvas_hotkey_zoom": _text("Alt"),
    "canvas_hotkey_adjust": _text("Ctrl"),
    "canvas_hotkey_shrink_brush": _text("Q"),
    "canvas_hotkey_grow_brush": _text("W"),
    "canvas_hotkey_move": _text("F"),
    "canvas_hotkey_fullscreen": _text("S"),
    "canvas_hotkey_reset": _text("R"),
    "canvas_hotkey_overlap": _text("O"),
    "canvas_show_tooltip": _switch(True),
    "canvas_auto_expand": _switch(True),
    "canvas_blur_prompt": _switch(False),
    "canvas_disabled_functions": _names("Overlap"),
    # extra options
    "extra_options_txt2img": _names(),
    "extra_options_img2img": _names(),
    "extra_options_cols": _whole(1, wire=float),
    "extra_options_accordion": _switch(False),
    "enable_prompt_comments": _switch(True),
    # ours
    "use_native_default_size": _switch(True),
}
