from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sdwebui_api.errors import BadRequest
from sdwebui_api.generation.filenames import NamingFacts, apply_pattern, sanitize_part
from sdwebui_api.generation.saving import save_image
from sdwebui_api.imaging.metadata import read_info_from_image
from sdwebui_api.storage.local import LocalStorage
from tests.imaging.golden import GOLDEN

OPTIONS: dict[str, Any] = json.loads((GOLDEN / "api" / "get-options.json").read_text(encoding="utf-8"))["response"]
IMAGE = Image.new("RGB", (64, 32), "red")
FACTS = NamingFacts(
    prompt="a cat: big, red/blue",
    negative_prompt="dog",
    prompt_without_styles="a cat",
    styles=("sticker", "None"),
    seed=7,
    seeds=(7, 8, 9, 10),
    steps=20,
    cfg_scale=7.5,
    sampler="DPM++ 2M",
    schedule="Karras",
    model_hash="a22b8a45be",
    model_name="tiny-sd",
    vae_name="tiny-vae.safetensors",
    denoising_strength=0.6,
    clip_skip=2,
    user="ann",
    job_timestamp="20261120170257",
    now=datetime(2026, 11, 20, 17, 2, 57, tzinfo=UTC),
)
BATCH = replace(FACTS, batch_size=2, n_iter=2, batch_index=1, iteration=1)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("[seed]-[steps]-[cfg]-[sampler]", "7-20-7.5-DPM++ 2M"),
        ("[sampler_scheduler] [scheduler]", "DPM++ 2M Karras Karras"),
        ("[model_hash] [model_name] [vae_filename]", "a22b8a45be tiny-sd tiny-vae"),
        ("[date] [datetime] [job_timestamp]", "2026-11-20 20261120170257 20261120170257"),
        ("[datetime<%Y_%H><Asia/Tokyo>]", "2026_02"),
        ("[datetime<%Y><Nowhere/Land>] [datetime<%99999999d>]", "2026 20261120170257"),
        ("[prompt]", "a_cat__big,_red_blue"),
        ("[prompt_spaces]|[prompt_no_styles]", "a cat_ big, red_blue|a cat"),
        ("[prompt_words]", "a cat big red blue"),
        ("[width]x[height] [styles] [clip_skip] [user] [denoising]", "64x32 sticker 2 ann 0.6"),
        ("[hasprompt<cat|none><DOG|no>]", "catno"),
        ("[none]x[unknown]y[SEED]", "x[unknown]y7"),
        ("a[batch_number]b[seed]-[generation_number]!", "b7!"),
        ("[seed_first] [seed_last] [batch_size]", "7 1"),
    ],
)
def test_patterns(pattern: str, expected: str) -> None:
    assert apply_pattern(pattern, FACTS, IMAGE) == expected


def test_hashes() -> None:
    short, full, negative = apply_pattern(
        "[prompt_hash<6>] [full_prompt_hash] [negative_prompt_hash]", FACTS, IMAGE
    ).split()
    assert (len(short), len(full), len(negative)) == (6, 8, 8)
    assert negative == hashlib.sha256(b"dog").hexdigest()[:8]
    assert full == hashlib.sha256(b"a cat: big, red/blue dog").hexdigest()[:8]


def test_patterns_of_batches() -> None:
    assert apply_pattern("[batch_number] [generation_number] [seed_first]-[seed_last]", BATCH, IMAGE) == "2 4 7-10"
    assert len(apply_pattern("[image_hash]", BATCH, IMAGE)) == 64


def test_parts_are_cleaned() -> None:
    assert sanitize_part(" ../x. ") == "_.._x._"
    assert sanitize_part(" ../x. ", replace_spaces=False) == ".._x"
    assert len(sanitize_part("y" * 500)) == 128


def save(tmp_path: Path, facts: NamingFacts = FACTS, image: Image.Image = IMAGE, **changes: Any) -> Path:
    arguments = {key: changes.pop(key) for key in ("grid", "suffix", "forced_name", "items") if key in changes}
    options = {**OPTIONS, **changes}
    saved = save_image(
        LocalStorage(tmp_path), image, facts, options, purpose="txt2img", infotext="p\nSteps: 1", **arguments
    )
    return saved.path.relative_to(tmp_path)


def test_default_names_count_up(tmp_path: Path) -> None:
    folder = Path("outputs/txt2img-images/2026-11-20")
    assert save(tmp_path) == folder / "00000-7.png"
    assert save(tmp_path) == folder / "00001-7.png"
    assert save(tmp_path, suffix="-mask") == folder / "00002-7-mask.png"
    assert save(tmp_path, grid=True) == Path("outputs/txt2img-grids/2026-11-20/grid-0000.png")
    assert read_info_from_image(Image.open(tmp_path / folder / "00000-7.png"))[0] == "p\nSteps: 1"


def test_names_without_numbers(tmp_path: Path) -> None:
    plain = {"save_images_add_number": False, "save_to_dirs": False}
    assert save(tmp_path, **plain) == Path("outputs/txt2img-images/7-a cat_ big, red_blue.png")
    again = save(tmp_path, **plain, save_images_replace_action="Add number suffix")
    assert again.name == "7-a cat_ big, red_blue-1.png"
    assert save(tmp_path, **plain, forced_name="../abc").name == ".._abc.png"


@pytest.mark.parametrize("changes", [{"outdir_txt2img_samples": "/tmp/x"}, {"outdir_samples": "../x"}])
def test_no_setting_leads_out_of_the_data_folder(tmp_path: Path, changes: dict[str, str]) -> None:
    with pytest.raises(BadRequest) as caught:
        save(tmp_path, **changes)
    assert caught.value.field == next(iter(changes))


def test_patterns_cannot_leave_the_folder(tmp_path: Path) -> None:
    path = save(tmp_path, directories_filename_pattern="../../[prompt]/..", samples_filename_pattern="../../[seed]")
    assert path == Path("outputs/txt2img-images/a_cat__big,_red_blue/00000-.._.._7.png")


@pytest.mark.parametrize("samples_format", ["jpg", "webp", "png"])
def test_formats_carry_the_infotext(tmp_path: Path, samples_format: str) -> None:
    path = tmp_path / save(tmp_path, samples_format=samples_format, save_txt=True)
    assert path.suffix == f".{samples_format}"
    assert read_info_from_image(Image.open(path))[0] == "p\nSteps: 1"
    assert path.with_suffix(".txt").read_text() == "p\nSteps: 1\n"
    bare = tmp_path / save(tmp_path, samples_format=samples_format, enable_pnginfo=False)
    assert not read_info_from_image(Image.open(bare))[0]


def test_large_pictures_get_a_small_copy(tmp_path: Path) -> None:
    saved = save_image(
        LocalStorage(tmp_path), IMAGE, FACTS, {**OPTIONS, "target_side_length": 32}, purpose="img2img", infotext="x"
    )
    assert saved.small_path is not None
    assert Image.open(saved.small_path).size == (32, 16)


def test_endless_prompts_make_names_that_fit(tmp_path: Path) -> None:
    facts = replace(FACTS, prompt="ü" * 5000)
    path = save(
        tmp_path, facts, samples_filename_pattern="[prompt][prompt][prompt]", directories_filename_pattern="[prompt]"
    )
    assert (tmp_path / path).is_file()
