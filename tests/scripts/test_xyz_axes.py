"""Every axis is a function from a request to a changed one."""

from __future__ import annotations

from typing import Any

import pytest

from sdwebui_api.errors import SdWebUIError
from sdwebui_api.generation.request import GenerationRequest, HiresPass
from sdwebui_api.scripting.xyz.table import find_axis
from tests.scripts.fakes import FakeContext, request


def applied(label: str, value: Any, base: GenerationRequest, values: tuple[Any, ...] = ()) -> GenerationRequest:
    axis = find_axis(label, base.kind, "f")
    return axis.apply(base, value, values or (value,), FakeContext())


@pytest.mark.parametrize(
    ("label", "value", "field", "expected"),
    [
        ("Seed", 5, "seed", 5),
        ("Var. seed", 6, "subseed", 6),
        ("Var. strength", 0.5, "subseed_strength", 0.5),
        ("Steps", 9, "steps", 9),
        ("CFG Scale", 2.5, "cfg_scale", 2.5),
        ("Sampler", "DPM++ 2M", "sampler", "DPM++ 2M"),
        ("Schedule type", "karras", "schedule", "Karras"),
        ("Negative Guidance minimum sigma", 3.0, "s_min_uncond", 3.0),
        ("Eta", 0.0, "eta", 0.0),
        ("Denoising", 0.4, "denoising_strength", 0.4),
        ("Styles", "one,two", "styles", ("one", "two")),
        ("Size", "64x128", "height", 128),
        ("Face restore", "no", "restore_faces", False),
        ("Refiner switch at", 0.5, "refiner_switch_at", 0.5),
    ],
)
def test_fields(label: str, value: Any, field: str, expected: Any) -> None:
    assert getattr(applied(label, value, request()), field) == expected


@pytest.mark.parametrize(
    ("label", "value", "name", "expected"),
    [
        ("Clip skip", 2, "CLIP_stop_at_last_layers", 2),
        ("Schedule min sigma", 0.1, "sigma_min", 0.1),
        ("Beta schedule alpha", 0.6, "beta_dist_alpha", 0.6),
        ("RNG source", "NV", "randn_source", "NV"),
        ("SGM noise multiplier", "True", "sgm_noise_multiplier", True),
        ("Always discard next-to-last sigma", "False", "always_discard_next_to_last_sigma", False),
        ("Extra noise", 0.1, "img2img_extra_noise", 0.1),
        ("UniPC Order", 9, "uni_pc_order", 3),
        ("FP8 mode", "Enable", "fp8_storage", "Enable"),
        ("Token merging ratio high-res", 0.5, "token_merging_ratio_hr", 0.5),
        ("Face restore", "GFPGAN", "face_restoration_model", "GFPGAN"),
    ],
)
def test_options_belong_to_the_changed_request_alone(label: str, value: Any, name: str, expected: Any) -> None:
    base = request()
    changed = applied(label, value, base)
    assert changed.options[name] == expected
    assert changed.override_settings[name] == expected
    assert name not in base.override_settings


def test_a_sampler_may_bring_its_schedule() -> None:
    changed = applied("Sampler", "Euler a Karras", request())
    assert (changed.sampler, changed.schedule) == ("Euler a", "Karras")
    assert applied("Sampler", "LMS", request(schedule="Beta")).schedule == "Beta"


def test_the_hires_pass_where_there_is_one() -> None:
    with_pass = request(hires=HiresPass())
    assert applied("Hires steps", 3, with_pass).hires == HiresPass(steps=3)
    assert applied("Hires upscaler", "Lanczos", with_pass).hires == HiresPass(upscaler="Lanczos")
    assert applied("Hires sampler", "LMS", with_pass).hires == HiresPass(sampler="LMS")
    assert applied("Hires steps", 3, request()).hires is None
    assert find_axis("Hires sampler", "txt2img", "x_type").text("LMS") == "Hires sampler: LMS"


def test_where_img2img_starts() -> None:
    changed = applied("Image CFG Scale", 2.0, request("img2img"))
    assert changed.init is not None
    assert changed.init.image_cfg_scale == 2.0
    assert applied("Initial noise multiplier", 0.5, request()).init is None


def test_checkpoints() -> None:
    assert applied("Checkpoint name", "two", request()).checkpoint.name == "two"
    assert applied("Refiner checkpoint", "two", request()).refiner_checkpoint.name == "two"
    assert applied("Refiner checkpoint", "None", request()).refiner_checkpoint is None
    assert applied("VAE", "vae", request()).vae.name == "vae"


def test_search_and_replace_in_both_prompts() -> None:
    base = request(prompt="red car, red sky", negative_prompt="red")
    changed = applied("Prompt S/R", "blue", base, ("red", "blue"))
    assert (changed.prompt, changed.negative_prompt) == ("blue car, blue sky", "blue")
    assert applied("Prompt S/R", "red", base, ("red", "blue")) == base


def test_order_of_parts() -> None:
    base = request(prompt="one, two, three.")
    changed = applied("Prompt order", ("three", "one", "two"), base)
    assert changed.prompt == "three, one, two."


@pytest.mark.parametrize(
    ("label", "value"),
    [
        ("Prompt S/R", "absent"),
        ("Prompt order", ("absent",)),
        ("Sampler", "Eulre"),
        ("Checkpoint name", "three"),
        ("VAE", "three"),
        ("Hires upscaler", "ESRGAN"),
        ("Size", "big"),
        ("Size", "4x4"),
        ("Size", "9999x64"),
        ("Schedule type", "Karas"),
    ],
)
def test_what_cannot_be(label: str, value: Any) -> None:
    with pytest.raises(SdWebUIError) as caught:
        applied(label, value, request())
    assert caught.value.field == "script_args"
