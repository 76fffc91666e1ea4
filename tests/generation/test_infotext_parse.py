from __future__ import annotations

import csv
import json
import time
from dataclasses import dataclass
from typing import Any

import pytest

from sdwebui_api.catalog.hashes import HashCache
from sdwebui_api.catalog.networks import HypernetworkCatalog, LoraCatalog
from sdwebui_api.config.options import Options
from sdwebui_api.errors import BadRequest
from sdwebui_api.generation.infotext import PROGRAM_VERSION
from sdwebui_api.generation.infotext_parse import extract_styles, parse_generation_parameters, parse_version
from sdwebui_api.generation.infotext_request import fields_of_infotext
from sdwebui_api.generation.networks import with_names_of_this_server
from sdwebui_api.generation.sampler_names import SamplingNames
from sdwebui_api.imaging.metadata import read_info_from_image
from tests.imaging.golden import CASES, GOLDEN, request_body, response, sent_image

PNG_INFO_CASES = sorted(path.name for path in CASES.glob("png-info-*"))
OPTIONS: dict[str, Any] = json.loads((GOLDEN / "api" / "get-options.json").read_text(encoding="utf-8"))["response"]


@dataclass(frozen=True)
class Style:
    name: str
    prompt: str
    negative_prompt: str


def golden_styles() -> list[Style]:
    with (GOLDEN / "models" / "styles.csv").open(encoding="utf-8-sig", newline="") as file:
        return [Style(row["name"], row["prompt"] or "", row["negative_prompt"] or "") for row in csv.DictReader(file)]


@dataclass(frozen=True)
class Files:
    loras: LoraCatalog
    hypernetworks: HypernetworkCatalog


@pytest.fixture(scope="module")
def files() -> Files:
    """As on the recorded server, which had made pictures with its LoRAs: their hashes are known."""
    models = GOLDEN / "models"
    found = Files(LoraCatalog([models / "Lora"], HashCache(None)), HypernetworkCatalog(models / "hypernetworks"))
    found.loras.refresh()
    assert all(file.shorthash for file in found.loras.all())
    return found


@pytest.mark.parametrize("case", PNG_INFO_CASES)
def test_png_info_equals_the_recorded_answer(case: str, files: Files) -> None:
    infotext, items = read_info_from_image(sent_image(request_body(case)["image"]))
    params = parse_generation_parameters(infotext or "", styles=golden_styles())
    params = with_names_of_this_server(params, Options(), files)
    answer = {"info": infotext or "", "items": items, "parameters": params}
    # also the order of the keys: some clients show them as they come
    assert json.dumps(answer) == json.dumps(response(case)["body"])


def test_infotext_request_equals_the_recorded_echo() -> None:
    body = request_body("infotext-request")
    recorded = response("infotext-request")["body"]["parameters"]
    params = parse_generation_parameters(body["infotext"])
    added = fields_of_infotext(params, "txt2img", body, {}, OPTIONS, SamplingNames())
    assert added.override_settings == recorded["override_settings"]
    assert added.fields == {name: recorded[name] for name in added.fields}
    assert set(added.fields) >= {"prompt", "negative_prompt", "steps", "cfg_scale", "seed", "width", "height"}


def test_what_the_client_sets_wins() -> None:
    params = parse_generation_parameters("a\nSteps: 9, Seed: 4, CFG scale: 3, Clip skip: 2, ENSD: 5")
    added = fields_of_infotext(params, "txt2img", {"steps", "prompt"}, {"CLIP_stop_at_last_layers": 1}, OPTIONS)
    assert added.fields.items() >= {"negative_prompt": "", "cfg_scale": 3.0, "seed": 4}.items()
    assert not added.fields.keys() & {"steps", "prompt"}
    assert added.override_settings == {"eta_noise_seed_delta": 5}


def test_of_img2img_only_the_fields_that_a1111_knows() -> None:
    text = "a\nSteps: 9, Seed: 4, CFG scale: 3, Size: 64x96, Denoising strength: 0.5, Seed resize from: 32x48"
    added = fields_of_infotext(parse_generation_parameters(text), "img2img", {"steps"}, {}, OPTIONS)
    assert added.fields == {"seed": 4, "seed_resize_from_h": 32, "seed_resize_from_w": 48}


def test_hires_entries_switch_hires_on() -> None:
    text = (
        "a\nSteps: 9, Sampler: Euler, Seed: 4, Denoising strength: 0.5, Hires resize: 192x256, Hires upscaler: Latent"
    )
    fields = fields_of_infotext(parse_generation_parameters(text), "txt2img", (), {}, OPTIONS).fields
    assert fields["enable_hr"] is True
    assert (fields["hr_resize_x"], fields["hr_resize_y"], fields["hr_upscaler"]) == (192, 256, "Latent")
    plain = fields_of_infotext(
        parse_generation_parameters("a\nSteps: 9, Seed: 1, Size: 8x8"), "txt2img", (), {}, OPTIONS
    )
    assert "enable_hr" not in plain.fields


def test_entries_that_are_no_numbers_name_the_field() -> None:
    params = parse_generation_parameters("a\nSteps: many, Seed: 4, CFG scale: 3")
    with pytest.raises(BadRequest) as caught:
        fields_of_infotext(params, "txt2img", (), {}, OPTIONS)
    assert caught.value.field == "infotext" and "steps" in caught.value.message


def test_quotes_lines_and_short_last_lines() -> None:
    params = parse_generation_parameters('one\ntwo\nNegative prompt: n1\nn2\nSteps: 1, Odd: "a, \\"b\\": c", Seed: 2')
    assert params["Prompt"] == "one\ntwo" and params["Negative prompt"] == "n1\nn2"
    assert params["Odd"] == 'a, "b": c'
    assert parse_generation_parameters("just: words, here: too")["Prompt"] == "just: words, here: too"
    assert parse_generation_parameters("")["Prompt"] == ""


def test_old_hires_sizes() -> None:
    text = "p\nSteps: 1, Seed: 2, Size: 1024x768, First pass size: {}"
    known = parse_generation_parameters(text.format("512x384"))
    assert [known[key] for key in ("Size-1", "Size-2", "Hires resize-1", "Hires resize-2")] == [512, 384, 1024, 768]
    unknown = parse_generation_parameters(text.format("0x0"))
    assert (unknown["Size-1"], unknown["Size-2"]) == (640, 448)
    monstrous = text.replace("1024", "9" * 400).format("0x0")
    assert parse_generation_parameters(monstrous)["Hires resize-1"] == 0
    old = parse_generation_parameters("p\nSteps: 1, Seed: 2, Size: 8x8, Hires resize: 64x32", old_hires_size=True)
    assert (old["Size-1"], old["Size-2"]) == (64, 32)


def test_versions_and_backwards_compatibility() -> None:
    assert parse_version("v1.7.0-225-gde03882d") == (1, 7, 0, 225)
    assert parse_version("1.6.0") == (1, 6, 0, 0)
    for unknown in (None, PROGRAM_VERSION, "f0.0.17v1.8.0rc-latest-276-g29be1da7", "ComfyUI"):
        assert parse_version(unknown) is None
    text = "a [b|c]\nSteps: 1, Sampler: DDIM, Seed: 2, Refiner: x, Version: {}"
    old = parse_generation_parameters(text.format("v1.5.2"))
    assert old["Old prompt editing timelines"] and old["Pad conds v0"] and old["Downcast alphas_cumprod"]
    assert old["Refiner switch by sampling steps"] is True
    for version in ("v1.10.1", PROGRAM_VERSION):
        assert "Downcast alphas_cumprod" not in parse_generation_parameters(text.format(version))
    assert "Pad conds v0" not in parse_generation_parameters(text.format("v1.5.2"), auto_backcompat=False)


def test_styles_are_found_in_reverse_order_of_application() -> None:
    styles = [Style("wrap", "x {prompt} y", ""), Style("tail", "z", "bad"), Style("empty", "", "")]
    assert extract_styles("x cat y, z", "ugly, bad", styles) == (["wrap", "tail"], "cat", "ugly")
    assert extract_styles("xy", "", [Style("wrap", "xy{prompt}xy", "")]) == ([], "xy", "")


def test_styles_of_hires_prompts_and_modes() -> None:
    styles = [Style("tail", "z", "")]
    text = 'cat, z\nSteps: 1, Seed: 2, Hires prompt: "{}", Size: 8x8'
    same = parse_generation_parameters(text.format("dog, z"), styles=styles)
    assert (same["Prompt"], same["Hires prompt"], same["Styles array"]) == ("cat", "dog", ["tail"])
    other = parse_generation_parameters(text.format("dog, w"), styles=styles)
    assert (other["Prompt"], other["Hires prompt"]) == ("cat, z", "dog, w") and "Styles array" not in other
    ignored = parse_generation_parameters(text.format("dog, z"), styles=styles, infotext_styles="Ignore")
    assert ignored["Prompt"] == "cat, z"
    discarded = parse_generation_parameters(text.format("dog, z"), styles=styles, infotext_styles="Discard")
    assert discarded["Prompt"] == "cat" and "Styles array" not in discarded


def test_skipped_fields_and_hypernetworks() -> None:
    text = "p\nSteps: 1, Seed: 2, Hypernet: h, Hypernet strength: 0.5"
    params = parse_generation_parameters(text, skip_fields=["Seed", "RNG"])
    assert params["Prompt"] == "p<hypernet:h:0.5>"
    assert "Seed" not in params and "RNG" not in params


@pytest.mark.parametrize("piece", ["a", " ", "a: ", 'a: "', '\\"', "<lora:", "a b-", ",", "("])
def test_hostile_texts_take_no_time(piece: str, files: Files) -> None:
    text = piece * (190_000 // len(piece))
    began = time.thread_time()  # not the time that the machine gives to others
    for infotext in ("p\n" + text, text * 20 + "\nSteps: 1, Seed: 2, Size: 8x8"):
        with_names_of_this_server(parse_generation_parameters(infotext), Options(), files)
    assert time.thread_time() - began < 5
