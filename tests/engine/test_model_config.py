from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdwebui_api.engine.model_config import ModelConfig, read_config
from sdwebui_api.errors import UnusableModel

GOLDEN = Path(__file__).parents[1] / "golden" / "models" / "Stable-diffusion" / "tiny-sd.yaml"


def test_the_golden_yaml() -> None:
    assert read_config(GOLDEN) == ModelConfig(
        unet_heads=4, text_heads=4, scale_factor=0.18215, linear_start=0.00085, linear_end=0.012
    )


def test_nothing_is_stated_without_a_file() -> None:
    assert read_config(None) == ModelConfig()
    assert read_config(None, {"modelspec.prediction_type": "v"}).prediction_type == "v_prediction"
    assert read_config(None, {"modelspec.prediction_type": "nonsense"}).prediction_type is None


def text_section(folder: Path, **params: object) -> Path:
    path = folder / "m.yaml"
    path.write_text(json.dumps({"model": {"params": {"cond_stage_config": {"params": params}}}}))
    return path


def test_text_heads_stated_in_the_yaml_or_in_the_clip_folder(tmp_path: Path) -> None:
    assert read_config(text_section(tmp_path, version="clip")).text_heads is None
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text('{"text_config": {"num_attention_heads": 6}}')
    assert read_config(text_section(tmp_path, version="clip")).text_heads == 6
    assert read_config(text_section(tmp_path, version="clip", num_attention_heads=3)).text_heads == 3


@pytest.mark.parametrize(
    "content",
    ["[]", "3", '{"text_config": 4}', '{"text_config": {"num_attention_heads": true}, "num_attention_heads": 6}'],
)
def test_a_clip_folder_may_say_anything(tmp_path: Path, content: str) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text(content)
    assert read_config(text_section(tmp_path, version="clip")).text_heads == (6 if "6" in content else None)
    assert read_config(text_section(tmp_path, version="c" * 300)).text_heads is None


@pytest.mark.parametrize("number", [".nan", ".inf", "-1", "0", "yes", "1.5"])
def test_numbers_that_make_no_noise_schedule_count_as_not_stated(tmp_path: Path, number: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(f"model: {{params: {{linear_start: {number}, linear_end: {number}, scale_factor: {number}}}}}")
    config = read_config(path)
    assert config.linear_start is config.linear_end is None
    assert config.scale_factor == (1.5 if number == "1.5" else None)


@pytest.mark.parametrize("text", ["a: [", "\t- x", "\x00", "a: 2024-13-45", "[" * 5000])
def test_a_broken_yaml_is_reported(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(UnusableModel, match=r"m\.yaml"):
        read_config(tmp_path / "m.yaml")


@pytest.mark.parametrize("text", ["", "[]", "model: 3", "model: {params: [1]}", "model: {params: {unet_config: 1}}"])
def test_an_unrelated_yaml_states_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.yaml").write_text(text)
    assert read_config(tmp_path / "m.yaml") == ModelConfig()
