from __future__ import annotations

import json
import re
from typing import Any

import pytest

from sdwebui_api.generation.infotext import (
    PROGRAM_VERSION,
    PictureFacts,
    generation_params,
    hires_prompt_entries,
    write_infotext,
)
from sdwebui_api.imaging.metadata import quote, unquote
from tests.imaging.golden import CASES, GOLDEN, request_body, response

# Scripts write further pictures' texts with changed requests, which their records do not show.
SCRIPTED = re.compile(r"^script-")
OPTIONS: dict[str, Any] = json.loads((GOLDEN / "api" / "get-options.json").read_text(encoding="utf-8"))["response"]
VAE_HASHES = {"tiny-vae.safetensors": "2bc886ae1b"}


def generation_cases() -> list[str]:
    names = sorted(path.name for path in CASES.iterdir() if path.is_dir() and not SCRIPTED.match(path.name))
    return [name for name in names if response(name).get("info_parsed")]


def left_in_effect(case: str) -> dict[str, Any]:
    """Settings that an earlier step of the case left behind."""
    recorded = json.loads((CASES / case / "request.json").read_text(encoding="utf-8"))
    bodies = [step["body"] for step in recorded.get("steps", [])[:-1] if isinstance(step.get("body"), dict)]
    return {key: value for body in bodies for key, value in body.get("override_settings", body).items()}


def rebuilt(case: str, index: int) -> str:
    """The infotext of picture `index` (grid not counted) from the request and the fields of `info`."""
    body, info = request_body(case), response(case)["info_parsed"]
    echo = response(case)["body"]["parameters"]
    settings = left_in_effect(case) | (echo["override_settings"] or {})
    options = {**OPTIONS, **settings}
    extra = dict(info["extra_generation_params"])
    for key in ("Hires prompt", "Hires negative prompt"):
        if key in extra:
            field = "hr_" + key.removeprefix("Hires ").replace(" ", "_")
            own = info["all_prompts" if field == "hr_prompt" else "all_negative_prompts"]
            wanted = {key: body.get(field) or own[index]}
            pair = hires_prompt_entries(own, own, wanted[key], wanted[key], index)
            extra[key] = pair["Hires prompt"]
    facts = PictureFacts(
        steps=info["steps"],
        sampler=info["sampler_name"],
        cfg_scale=info["cfg_scale"],
        seed=info["all_seeds"][index],
        width=info["width"],
        height=info["height"],
        restore_faces=info["restore_faces"],
        model_hash=info["sd_model_hash"],
        model_name=info["sd_model_name"],
        vae_hash=info["sd_vae_hash"] or VAE_HASHES.get(info["sd_vae_name"]),
        vae_name=info["sd_vae_name"],
        subseed=info["all_subseeds"][index],
        subseed_strength=info["subseed_strength"],
        seed_resize_from_w=info["seed_resize_from_w"],
        seed_resize_from_h=info["seed_resize_from_h"],
        clip_skip=info["clip_skip"],
        uses_ensd="eta_noise_seed_delta" in settings,
        tiling=bool(echo["tiling"]),
        extra=extra,
    )
    params = generation_params(facts, options)
    return write_infotext(info["all_prompts"][index], info["all_negative_prompts"][index], params)


@pytest.mark.parametrize("case", generation_cases())
def test_infotexts_equal_the_recorded_ones(case: str) -> None:
    info = response(case)["info_parsed"]
    recorded = info["infotexts"][info["index_of_first_image"] :]
    ours = [rebuilt(case, index) for index in range(len(info["all_prompts"]))]
    assert ours
    # ControlNet's detected maps repeat the first picture's text
    assert [text.replace(PROGRAM_VERSION, "v1.10.1") for text in ours] == recorded[: len(ours)]


def test_quoting() -> None:
    assert quote("plain text") == "plain text"
    assert quote(7.0) == "7.0"
    assert quote("a: b") == '"a: b"'
    assert quote('say "hi", twice\nöfter') == '"say \\"hi\\", twice\\nöfter"'
    for text in ("plain", "a, b", 'x "y", z', "line\nbreak", '"'):
        assert unquote(quote(text)) == text
    assert unquote('"not json" here"') == '"not json" here"'


def test_values_per_picture_and_entries_left_out() -> None:
    params = {"Steps": 4, "None here": None, "Each": ["a", "b"], "Flag": "Flag"}
    assert write_infotext("p", "", params, 1) == "p\nSteps: 4, Each: b, Flag"
    assert write_infotext("", "", params, 5) == "Steps: 4, Flag"
    assert write_infotext("p", "n", {"Steps": 1}) == "p\nNegative prompt: n\nSteps: 1"


def test_rare_entries() -> None:
    options = {**OPTIONS, "add_user_name_to_info": True, "eta_noise_seed_delta": 31337}
    facts = PictureFacts(
        steps=1,
        sampler="Euler a",
        cfg_scale=7.0,
        seed=1,
        width=64,
        height=64,
        image_cfg_scale=1.5,
        restore_faces=True,
        inpainting_conditioning=True,
        uses_ensd=True,
        token_merging_ratio=0.5,
        token_merging_ratio_hr=0.25,
        hires=True,
        init_image_hash="abc",
        fp8=True,
        user="ann",
    )
    assert write_infotext("p", "", generation_params(facts, options)) == (
        "p\nSteps: 1, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7.0, Image CFG scale: 1.5, Seed: 1, "
        "Face restoration: CodeFormer, Size: 64x64, FP8 weight: Disable, Cache FP16 weight for LoRA: False, "
        "Conditional mask weight: 1.0, ENSD: 31337, Token merging ratio: 0.5, Token merging ratio hr: 0.25, "
        f"Init image hash: abc, Version: {PROGRAM_VERSION}, User: ann"
    )
