"""Tags and options become networks, and generation uses them pass by pass."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdwebui_api.catalog.hashes import HashCache
from sdwebui_api.catalog.networks import HypernetworkCatalog, LoraCatalog
from sdwebui_api.config.options import Options
from sdwebui_api.errors import UnusableModel
from sdwebui_api.generation.networks import ChosenNetworks, choose_networks, with_names_of_this_server
from sdwebui_api.jobs.job import Job
from sdwebui_api.prompting.extra_networks import parse_extra_networks
from tests.generation.conftest import Studio
from tests.support.fakes import GOLDEN

STYLE, CONV = "tiny-style: c5ff0b27ce60", "tiny-conv: b34f9d9151b9"


@dataclass(frozen=True)
class Files:
    loras: LoraCatalog
    hypernetworks: HypernetworkCatalog


@pytest.fixture(scope="module")
def files() -> Files:
    models = GOLDEN / "models"
    found = Files(LoraCatalog([models / "Lora"], HashCache(None)), HypernetworkCatalog(models / "hypernetworks"))
    found.loras.refresh()
    found.hypernetworks.refresh()
    return found


def choose(text: str, files: Files, **options: object) -> ChosenNetworks:
    return choose_networks(parse_extra_networks(text)[1], Options(options), files)


@pytest.mark.parametrize(
    ("tag", "te", "unet", "dyn"),
    [
        ("<lora:tiny-style>", 1.0, 1.0, None),
        ("<lora:tiny-style:0.5>", 0.5, 0.5, None),
        ("<lyco:tiny-style:0.5:0.2>", 0.5, 0.2, None),
        ("<lora:tiny-style:0.5:0.2:3>", 0.5, 0.2, 3),
        ("<lora:tiny-style:te=0.2:unet=1.0>", 0.2, 1.0, None),
        ("<lora:tiny-style:te=0.2>", 0.2, 0.2, None),
        ("<lora:tiny-style:0.7:unet=0.1:dyn=2>", 0.7, 0.1, 2),
        ("<lora:tiny-style:-1:dyn=-5>", -1.0, -1.0, 0),
    ],
)
def test_weights(tag: str, te: float, unet: float, dyn: int | None, files: Files) -> None:
    (lora,) = choose(tag, files).networks.loras
    assert (lora.te, lora.unet, lora.dyn, lora.file.name) == (te, unet, dyn, "tiny-style")


def test_hashes_go_by_the_mentioned_name(files: Files) -> None:
    text = "<lora:tiny-conv-alias:1> <lora:tiny-style:0.5>"
    assert choose(text, files).hashes == {"tiny-conv-alias": "b34f9d9151b9", "tiny-style": "c5ff0b27ce60"}
    assert choose(text, files, lora_add_hashes_to_infotext=False).hashes == {}


@pytest.mark.parametrize(
    ("tag", "warning"),
    [
        ("<lora:tiny-stile:1>", "Lora not found: tiny-stile (there are tiny-conv"),
        ("<hypernet:nothing>", "Hypernetwork not found: nothing (there are tiny-hyper)"),
        ("<lora:tiny-style:abc>", "<lora:tiny-style:abc> is ignored: 'abc' is no number"),
        ("<lora:tiny-style:nan>", "no number"),
        ("<lora:tiny-style:1:dyn=inf>", "no number"),
        ("<lora:te=1>", "Lora not found"),
        (f"<lora:{'x' * 500}:1>", "..."),
    ],
)
def test_what_cannot_be_applied_is_a_warning(tag: str, warning: str, files: Files) -> None:
    chosen = choose(f"a {tag} b", files)
    assert not chosen.networks and len(chosen.warnings) == 1
    assert warning in chosen.warnings[0] and len(chosen.warnings[0]) < 300


def test_other_tags_mean_nothing(files: Files) -> None:
    chosen = choose("a <unknown:x:1> <lora> b", files)
    assert not chosen.networks and not chosen.warnings


@pytest.mark.parametrize(
    ("preferred", "expected"),
    [
        ("Alias from file", "x <lora:tiny-style:0.6> <lora:tiny-conv-alias:0.8> <lora:mine:1>"),
        ("Filename", "x <lora:tiny-style:0.6> <lora:tiny-conv:0.8> <lora:mine:1>"),
    ],
)
def test_infotexts_name_loras_as_this_server_does(preferred: str, expected: str, files: Files) -> None:
    options = Options({"lora_preferred_name": preferred})
    params = {
        "Prompt": "x <lora:theirs:0.6> <lora:tiny-conv:0.8> <lora:mine:1>",
        "Lora hashes": "theirs: c5ff0b27ce60, tiny-conv: b34f9d9151b9, mine: 000000000000",
    }
    for file in files.loras.all():
        assert file.shorthash
    assert with_names_of_this_server(params, options, files)["Prompt"] == expected
    assert with_names_of_this_server({"Steps": "3"}, options, files) == {"Steps": "3"}


def lora_hashes(info: dict[str, object]) -> object:
    extra = info["extra_generation_params"]
    assert isinstance(extra, dict)
    return extra.get("Lora hashes")


def test_networks_of_the_hires_pass_are_its_prompts(studio: Studio) -> None:
    fields: dict[str, Any] = {
        "enable_hr": True,
        "hr_scale": 2.0,
        "denoising_strength": 0.6,
        "prompt": "a fish <lora:tiny-style:1>",
    }
    same = studio.txt2img(**fields)
    other = studio.txt2img(**fields, hr_prompt="a fish <lora:tiny-conv:1>")
    none = studio.txt2img(**fields, hr_prompt="a fish")
    assert lora_hashes(same.info) == lora_hashes(none.info) == STYLE
    assert lora_hashes(other.info) == f"{STYLE}, {CONV}"
    assert len({result.images[0].image.tobytes() for result in (same, other, none)}) == 3


def test_the_first_pass_s_networks_may_encode_the_hires_prompt(studio: Studio) -> None:
    fields: dict[str, Any] = {"enable_hr": True, "denoising_strength": 0.6, "prompt": "a fish <lora:tiny-style:1>"}
    wanted = {"hires_fix_use_firstpass_conds": True}
    by_option = studio.txt2img(**fields, hr_prompt="a fish", override_settings=wanted)
    by_tag = studio.txt2img(**fields, hr_prompt="a fish <lora:tiny-style:te=1:unet=0>")
    without = studio.txt2img(**fields, hr_prompt="a fish")
    shown = [np.asarray(result.images[0].image).astype(int) for result in (by_option, by_tag, without)]
    assert np.abs(shown[0] - shown[1]).max() <= 1 < np.abs(shown[0] - shown[2]).max()


def test_options_put_their_tag_into_the_prompt(studio: Studio) -> None:
    by_option = studio.txt2img(Options({"sd_lora": "tiny-style", "sd_hypernetwork": "tiny-hyper"}), prompt="a fish")
    by_prompt = studio.txt2img(prompt="a fish<lora:tiny-style:1.0><hypernet:tiny-hyper:1.0>")
    assert by_option.info["prompt"] == by_prompt.info["prompt"]
    assert by_option.images[0].image.tobytes() == by_prompt.images[0].image.tobytes()
    named = studio.txt2img(Options({"sd_lora": "tiny-style"}), prompt="a fish <lora:tiny-style:0.5>")
    assert named.info["prompt"] == "a fish <lora:tiny-style:0.5>"
    disabled = studio.txt2img(Options({"sd_lora": "tiny-style"}), prompt="a fish", disable_extra_networks=True)
    assert disabled.info["prompt"] == "a fish" and lora_hashes(disabled.info) is None


def test_unknown_networks_warn_once_and_draw_as_without(studio: Studio) -> None:
    plain = studio.txt2img(prompt="a fish ")
    unknown = studio.txt2img(prompt="a fish <lora:no-such:1>", n_iter=2)
    assert [text for text in unknown.info["warnings"] if "Lora not found" in text] == [
        "Lora not found: no-such (there are tiny-conv, tiny-conv-alias, tiny-style)"
    ]
    assert unknown.images[0].image.tobytes() == plain.images[0].image.tobytes()


def test_after_a_network_all_is_as_before(studio: Studio) -> None:
    before = studio.txt2img()
    for prompt in ("a red apple <lora:tiny-conv:1>", "a red apple <hypernet:tiny-hyper:1>"):
        assert studio.txt2img(prompt=prompt).images[0].image.tobytes() != before.images[0].image.tobytes()
        after = studio.txt2img()
        assert after.images[0].image.tobytes() == before.images[0].image.tobytes()


def test_a_broken_file_is_an_error(studio: Studio) -> None:
    folder = studio.services.catalog.loras._folders[0]
    broken = Path(folder) / "broken.safetensors"
    broken.write_bytes(b"nonsense")
    try:
        with pytest.raises(UnusableModel, match="broken"):
            studio.txt2img(prompt="a fish <lora:broken:1>", job=Job("broken", "txt2img"))
    finally:
        broken.unlink()
