"""The grammars: what they add, and that it is the same everywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from beautiful_prompt.grammar import GRAMMARS, kind_of, manner_of, vocabulary
from beautiful_prompt.sampling import Sampling

from tests.beautiful_prompt.conftest import EXTENSION

ROOT = EXTENSION.parents[1]
TEXTS = ["a red apple", "portrait of a girl with red hair, oil painting", "一只猫", "???", "an old castle at night"]


@pytest.mark.parametrize("name", GRAMMARS)
@pytest.mark.parametrize("text", TEXTS)
def test_a_prompt_begins_with_the_text_and_says_more(name: str, text: str) -> None:
    prompts = GRAMMARS[name].expand(text, Sampling(10, 1))
    assert len(prompts) == 10
    assert all(prompt.startswith(text) and len(prompt) > len(text) for prompt in prompts)
    assert len(set(prompts)) > 5
    for prompt in prompts:
        phrases = prompt.lower().split(", ")
        assert len(set(phrases)) == len(phrases), prompt


def test_the_seed_decides_and_nothing_else() -> None:
    """Another process, with other hashes of texts."""
    code = (
        f"import sys, json; sys.path[:0] = [{str(EXTENSION)!r}, {str(ROOT)!r}]\n"
        "from beautiful_prompt.grammar import GRAMMARS\n"
        "from beautiful_prompt.sampling import Sampling\n"
        "print(json.dumps([g.expand('a red apple', Sampling(3, 8)) for g in GRAMMARS.values()]))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "99"}
    )
    here = [grammar.expand("a red apple", Sampling(3, 8)) for grammar in GRAMMARS.values()]
    assert json.loads(answer.stdout) == here
    assert here[0][1:] == GRAMMARS["phrase-grammar"].expand("a red apple", Sampling(2, 9))


@pytest.mark.parametrize("name", GRAMMARS)
def test_it_is_as_long_as_it_may(name: str) -> None:
    short, long = (GRAMMARS[name].expand("a rocket", Sampling(1, 3, most))[0] for most in (8, 200))
    assert len(short.split()) < len(long.split())
    assert long.startswith(short)
    assert GRAMMARS[name].expand("a rocket", Sampling(1, 3, 1)) == ["a rocket"]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a red apple", "food"),
        ("two cats in a garden", "animal"),
        ("a teddy bear", "animal"),
        ("butterflies", "animal"),
        ("castle on a mountain", "building"),
        ("a girl with a cat", "person"),
        ("雪山上的一只狐狸", "landscape"),
        ("一位穿汉服的少女", "person"),
        ("scattered thoughts", "any"),
    ],
)
def test_what_a_text_is_about(text: str, kind: str) -> None:
    assert kind_of(text) == kind


def test_it_knows_what_the_embedded_model_draws() -> None:
    words = json.loads((ROOT / "training" / "emoji_words.json").read_text(encoding="utf-8"))
    names = [*words["popular"], *(alias for aliases in words["aliases"].values() for alias in aliases)]
    assert [name for name in names if kind_of(f"a {name}") == "any"] == []


def test_the_emoji_grammar_speaks_as_the_captions_of_its_training() -> None:
    captions = (ROOT / "training" / "captions.py").read_text(encoding="utf-8")
    emoji = vocabulary()["emoji"]
    assert all(f'"{word}"' in captions for word in [*emoji["styles"], *emoji["quality"]])


def test_what_the_text_says_itself_is_left_to_it() -> None:
    media = {word for lists in vocabulary()["manners"].values() for word in lists["medium"]}
    settings = {word for words in vocabulary()["settings"].values() for word in words}
    assert manner_of("a cat, watercolor") == "painting"
    for prompt in GRAMMARS["phrase-grammar"].expand("a cat in a box, watercolor", Sampling(10, 0)):
        assert not media & set(prompt.split(", "))
        assert not any(place in prompt for place in settings)
    for prompt in GRAMMARS["emoji-grammar"].expand("a cat on a blue background", Sampling(10, 0)):
        assert prompt.count("background") == 1


def test_there_is_one_file_of_words() -> None:
    assert [path.name for path in Path(EXTENSION, "beautiful_prompt").glob("*.json")] == ["vocabulary.json"]
    assert vocabulary()["details"].keys() == vocabulary()["settings"].keys()
    assert vocabulary()["subjects"].keys() < vocabulary()["details"].keys()
