"""Language models from folders, against transformers' own generation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from beautiful_prompt.language_model import LanguageModel, load_language_model
from beautiful_prompt.sampling import Sampling
from transformers import AutoModelForCausalLM, AutoTokenizer

from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.errors import BadRequest, Cancelled, UnusableModel
from tests.beautiful_prompt.models import make_attack, make_bloom, make_code_model, make_gpt2

QUESTION = "Input: a red apple\nOutput:"
PLAN = DevicePlan(torch.device("cpu"))


def load(folder: Path) -> LanguageModel:
    return load_language_model(folder, PLAN, Device(PLAN))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    home = tmp_path_factory.mktemp("language-models")
    yield {"bloom": make_bloom(home / "bloom"), "gpt2": make_gpt2(home / "gpt2")}


@pytest.fixture(scope="module")
def bloom(folders: dict[str, Path]) -> LanguageModel:
    return load(folders["bloom"])


@pytest.mark.parametrize("kind", ["bloom", "gpt2"])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_the_likeliest_tokens_are_those_of_transformers(folders: dict[str, Path], kind: str, penalty: float) -> None:
    folder, ours = str(folders[kind]), load(folders[kind])
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    given = tokenizer(QUESTION, return_tensors="pt").input_ids
    expected = model.generate(given, do_sample=False, max_new_tokens=12, repetition_penalty=penalty)
    text = tokenizer.decode(expected[0, given.shape[1] :], skip_special_tokens=True)
    sampling = Sampling(1, 0, 12, temperature=0, repetition_penalty=penalty)
    assert ours.continue_text(QUESTION, sampling)[0].text == text


def test_a_seed_gives_the_same_text_alone_and_among_others(bloom: LanguageModel) -> None:
    torch.manual_seed(0)
    together = bloom.continue_text(QUESTION, Sampling(3, 7, 16, 1.0))
    torch.manual_seed(1)
    alone = [bloom.continue_text(QUESTION, Sampling(1, seed, 16, 1.0))[0] for seed in (7, 8, 9)]
    assert together == alone
    assert len({one.text for one in together}) == 3


def test_temperature_top_k_and_top_p_narrow_the_choice(bloom: LanguageModel) -> None:
    likeliest = bloom.continue_text(QUESTION, Sampling(1, 0, 8, temperature=0))[0].text
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-3}):
        settings: dict[str, Any] = {"temperature": 1.0} | narrow
        found = bloom.continue_text(QUESTION, Sampling(4, 3, 8, **settings))
        assert {one.text for one in found} == {likeliest}


def test_an_end_token_ends_one_text_and_not_the_others(folders: dict[str, Path]) -> None:
    model = load(folders["bloom"])
    # Hot enough that each of 404 tokens may come: within 400 most texts meet the end, at different places.
    found = model.continue_text(QUESTION, Sampling(6, 1, 400, temperature=5.0, top_k=0, top_p=1.0))
    assert any(one.complete for one in found)
    assert len({len(one.text) for one in found}) > 1
    assert not any("</s>" in one.text for one in found)


def test_it_stops_when_told_and_keeps_what_there_is(bloom: LanguageModel) -> None:
    counts: list[int] = []

    def stop(count: int) -> bool:
        counts.append(count)
        return count == 3

    found = bloom.continue_text(QUESTION, Sampling(1, 0, 50, 1.0), on_tokens=stop)[0]
    assert counts == [1, 2, 3]
    assert found.text
    assert not found.complete


def test_it_ends_when_the_job_is_cancelled(bloom: LanguageModel) -> None:
    def cancel(count: int) -> bool:
        raise Cancelled("by the test")

    with pytest.raises(Cancelled):
        bloom.continue_text(QUESTION, Sampling(1, 0, 50, 1.0), on_tokens=cancel)


def test_a_model_with_a_limit_keeps_it(folders: dict[str, Path]) -> None:
    model = load(folders["gpt2"])
    assert model.continue_text("a red apple", Sampling(1, 0, 500, 1.0))[0].text
    with pytest.raises(BadRequest) as caught:
        model.continue_text("apple " * 60, Sampling(1, 0, 5, 1.0))
    assert caught.value.field == "prompt"


def test_a_chat_template_is_used(tmp_path: Path) -> None:
    template = "{% for m in messages %}[{{ m.content }}]{% endfor %}{% if add_generation_prompt %}=>{% endif %}"
    model = load(make_bloom(tmp_path / "chatty", chat_template=template))
    asked = model.continue_text("an apple", Sampling(1, 4, 8, 1.0), chat=True)
    assert asked == model.continue_text("[an apple]=>", Sampling(1, 4, 8, 1.0))


def test_a_pickle_of_tensors_is_read(tmp_path: Path, bloom: LanguageModel) -> None:
    pickled = load(make_bloom(tmp_path / "old", pickled=True))
    assert pickled.continue_text(QUESTION, Sampling(2, 5, 8, 1.0)) == bloom.continue_text(
        QUESTION, Sampling(2, 5, 8, 1.0)
    )


@pytest.mark.parametrize("make", [make_attack, make_code_model])
def test_nothing_of_a_model_is_run(tmp_path: Path, make: Any) -> None:
    folder = make(tmp_path / "evil", tmp_path / "done")
    with pytest.raises(UnusableModel, match="evil"):
        load(folder)
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize("broken", ["model.safetensors", "config.json", "tokenizer.json"])
def test_broken_files_are_named(tmp_path: Path, broken: str) -> None:
    folder = make_bloom(tmp_path / "broken-model")
    (folder / broken).write_bytes(b"{")
    with pytest.raises(UnusableModel, match="broken-model"):
        load(folder)
