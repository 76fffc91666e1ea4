"""The default that needs no model: a grammar of phrases. It understands nothing but words it has in its lists.

`phrase-grammar` writes for checkpoints of real pictures, `emoji-grammar` in the words that the embedded model
`emoji-mini` was trained with. The same text and seed give the same prompt, on every machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from beautiful_prompt.sampling import Sampling

_WORDS = re.compile(r"\w+|[^\w\s]")
_CHINESE = re.compile(r"[\u3400-\u9fff]")


@dataclass(frozen=True)
class Grammar:
    title: str
    phrases: Callable[[str, Random], Iterator[str]]
    """What is added to a text, in order."""

    def expand(self, text: str, sampling: Sampling) -> list[str]:
        """One prompt for each seed: `text` and phrases behind it, as many as `max_new_tokens` words allow.

        The other settings are a language model's; they change nothing here.
        """
        return [self._expanded(text, seed, sampling.max_new_tokens) for seed in sampling.seeds]

    def _expanded(self, text: str, seed: int, room: int) -> str:
        for phrase in self.phrases(text, Random(seed)):
            room -= len(_WORDS.findall(phrase)) + 1
            if room < 0:
                break
            if not _says(text, phrase):
                text = f"{text}{_joint(text, phrase)}{phrase}"
        return text


@cache
def vocabulary() -> Mapping[str, Any]:
    content: dict[str, Any] = json.loads(Path(__file__).with_name("vocabulary.json").read_text(encoding="utf-8"))
    return content


def kind_of(text: str) -> str:
    """Of what kind the first thing in `text` is that a list has: `animal`, `food`, …; else `any`."""
    found = [
        (*place, kind)
        for table in ("subjects", "subjects_chinese")
        for kind, words in vocabulary()[table].items()
        if (place := _first(text, words)) is not None
    ]
    return min(found)[2] if found else "any"


def manner_of(text: str) -> str | None:
    """Whether `text` says itself how it is made: `photo`, `painting`, `illustration`, `render`."""
    found = [
        (*place, manner)
        for manner, lists in vocabulary()["manners"].items()
        if (place := _first(text, lists["signs"])) is not None
    ]
    return min(found)[2] if found else None


def _first(text: str, words: Sequence[str]) -> tuple[int, int] | None:
    """Where the first of `words` stands, and minus its length, so that of two at one place the longer is less."""
    matches = [(match.start(), -len(match[0])) for match in _pattern(tuple(words)).finditer(text.lower())]
    return min(matches, default=None)


@cache
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    """Any of them, plurals too. Chinese knows neither plurals nor blanks between words."""
    return re.compile("|".join(_inflected(word) for word in sorted(words, key=len, reverse=True)))


def _inflected(word: str) -> str:
    if _CHINESE.search(word):
        return word
    if word.endswith("y"):
        return rf"\b{re.escape(word[:-1])}(?:ys?|ies)\b"
    return rf"\b{re.escape(word)}(?:e?s)?\b"


def _says(text: str, phrase: str) -> bool:
    return re.search(rf"\b{re.escape(phrase.lower())}\b", text.lower()) is not None


def _joint(text: str, phrase: str) -> str:
    """A place belongs to its sentence, all else are tags."""
    sentence = "," not in text and text[-1].isascii() and text[-1].isalnum()
    return " " if sentence and _says_where(phrase) else ", "


def _picture_phrases(text: str, random: Random) -> Iterator[str]:
    words, kind = vocabulary(), kind_of(text)
    said = manner_of(text)
    manner = words["manners"][said or random.choice(sorted(words["manners"]))]
    details = words["details"]["any" if kind not in words["details"] else kind]
    if not _says_where(text):
        yield random.choice(words["settings"][kind])
    yield from random.sample(details, random.choice((2, 2, 3)))
    yield random.choice(words["light"])
    yield random.choice(words["mood"])
    if said is None:
        yield random.choice(manner["medium"])
    yield random.choice(manner["view"])
    yield from random.sample(manner["quality"], random.choice((2, 3, 4)))


def _says_where(text: str) -> bool:
    return re.search(r"\b(in|on|at|under|beside|inside|above|near|background)\b", text.lower()) is not None


def _emoji_phrases(text: str, random: Random) -> Iterator[str]:
    words = vocabulary()["emoji"]
    if "background" not in text.lower() and random.random() < 0.7:
        yield random.choice(words["backgrounds"])
    if _first(text, words["styles"]) is None and random.random() < 0.6:
        yield random.choice(words["styles"])
    yield from random.sample(words["quality"], random.choice((1, 2, 3)))


GRAMMARS: Mapping[str, Grammar] = {
    "phrase-grammar": Grammar("Grammar of phrases (no language model)", _picture_phrases),
    "emoji-grammar": Grammar("Grammar of phrases for emoji-mini (no language model)", _emoji_phrases),
}
