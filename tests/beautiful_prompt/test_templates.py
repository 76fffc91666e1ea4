"""What models are asked, what is taken of their answers, and which template belongs to which folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from beautiful_prompt.library import Library
from beautiful_prompt.templates import CHAT, CONTINUATION, PAI_V1, PAI_V2, Template

from sdwebui_api.errors import BadRequest, UnusableModel


def folder(home: Path, name: str, config: dict[str, Any] | None = None, **files: Any) -> Path:
    """A folder that looks like a model."""
    path = home / "BeautifulPrompt" / name
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"model_type": "bloom"} | (config or {})), encoding="utf-8")
    (path / "model.safetensors").touch()
    for file, content in files.items():
        (path / f"{file}.json").write_text(json.dumps(content), encoding="utf-8")
    return path


def template_of(home: Path, name: str) -> Template:
    found = Library([home]).find(name)
    assert not isinstance(found, str)
    return found.template()


def test_the_input_of_the_first_model_is_that_of_its_card() -> None:
    assert PAI_V1.question("1 girl") == (
        "Instruction: Give a simple description of the image to generate a drawing prompt.\nInput: 1 girl\nOutput:"
    )


def test_the_input_of_the_second_model() -> None:
    asked = PAI_V2.question("1 girl")
    assert asked.startswith("Converts a simple image description into a prompt. Prompts are formatted as multiple")
    assert asked.endswith("between the input and output.\n### Input: 1 girl\n### Output:")


@pytest.mark.parametrize(
    ("name", "config", "template"),
    [
        ("pai-bloom-1b1-text2prompt-sd", {}, PAI_V1),
        ("pai-bloom-1b1-text2prompt-sd-v2", {}, PAI_V2),
        ("mine", {"_name_or_path": "alibaba-pai/pai-bloom-1b1-text2prompt-sd-v2"}, PAI_V2),
        ("PAI-Bloom-1b1-Text2Prompt-SD", {}, PAI_V1),
        ("MagicPrompt", {"model_type": "gpt2"}, CONTINUATION),
    ],
)
def test_folders_are_known_by_name(tmp_path: Path, name: str, config: dict[str, Any], template: Template) -> None:
    folder(tmp_path, name, config)
    assert template_of(tmp_path, name) is template


def test_a_chat_model_is_talked_to(tmp_path: Path) -> None:
    folder(tmp_path, "instruct", tokenizer_config={"chat_template": "{{ messages }}"})
    assert template_of(tmp_path, "instruct") is CHAT


def test_a_folder_may_bring_its_own(tmp_path: Path) -> None:
    own = {"template": "Q: {prompt} {x}\nA:", "stops": ["Q:"], "temperature": 0.5}
    folder(tmp_path, "pai-bloom-1b1-text2prompt-sd", beautiful_prompt=own)
    found = template_of(tmp_path, "pai-bloom-1b1-text2prompt-sd")
    assert found.question("a {prompt}") == "Q: a {prompt} {x}\nA:"
    assert (found.temperature, found.stops) == (0.5, ("Q:",))


@pytest.mark.parametrize(
    "own",
    [
        {},
        {"template": "no place"},
        {"template": "{prompt}", "stops": "x"},
        {"template": "{prompt}", "temperature": "hot"},
    ],
)
def test_a_wrong_one_is_an_error_that_names_the_file(tmp_path: Path, own: dict[str, Any]) -> None:
    folder(tmp_path, "mine", beautiful_prompt=own)
    with pytest.raises(UnusableModel, match=r"beautiful_prompt\.json"):
        template_of(tmp_path, "mine")
    assert "beautiful_prompt.json" in Library([tmp_path]).rows()[0]["error"]


@pytest.mark.parametrize(
    ("template", "text", "complete", "prompt"),
    [
        (PAI_V1, " a red apple, 8k", True, "a red apple, 8k"),
        (PAI_V1, " a red apple, 8k, sha", False, "a red apple, 8k"),
        (PAI_V1, " a red apple\nInput: more", False, "a red apple"),
        (PAI_V2, " a, b\n\n c ### Input: d, e", False, "a, b c"),
        (PAI_V1, "a # b", True, "a b"),
        (PAI_V1, "a\x00\x1bb\ufffd", True, "a b"),
        (PAI_V1, "  \n", True, "an apple"),
        (PAI_V1, "only half a phra", False, "only half a phra"),
        (CONTINUATION, ", sharp focus\nnext", False, "an apple, sharp focus"),
    ],
)
def test_what_is_taken_of_an_answer(template: Template, text: str, complete: bool, prompt: str) -> None:
    assert template.answer("an apple", text, complete=complete) == prompt


def test_folders_that_are_no_models_are_not_listed(tmp_path: Path) -> None:
    home = tmp_path / "BeautifulPrompt"
    (home / "empty").mkdir(parents=True)
    (home / "file.txt").touch()
    (home / "no-weights").mkdir()
    (home / "no-weights" / "config.json").write_text("{}", encoding="utf-8")
    assert Library([tmp_path, tmp_path / "missing"]).names() == ["phrase-grammar", "emoji-grammar"]


def test_the_first_of_two_with_one_name_counts(tmp_path: Path) -> None:
    first = folder(tmp_path / "own", "model")
    folder(tmp_path / "public", "model")
    folder(tmp_path / "public", "other")
    library = Library([tmp_path / "own", tmp_path / "public"])
    assert library.names()[:2] == ["model", "other"]
    found = library.find("MODEL")
    assert not isinstance(found, str)
    assert found.path == first


@pytest.mark.parametrize("name", ["../x", "/etc", "nothing"])
def test_only_what_is_listed_is_found(tmp_path: Path, name: str) -> None:
    folder(tmp_path, "model")
    (tmp_path / "x").mkdir()
    with pytest.raises(BadRequest) as caught:
        Library([tmp_path]).find(name)
    assert caught.value.field == "model"
    assert "model" in caught.value.choices
