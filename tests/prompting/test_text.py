"""The small text rules: AND, network tags, comments, styles."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sdwebui_api.errors import BadRequest
from sdwebui_api.prompting.comments import strip_comments
from sdwebui_api.prompting.composition import Subprompt, parse_composition
from sdwebui_api.prompting.extra_networks import ExtraNetwork, parse_extra_networks
from sdwebui_api.prompting.limits import MAX_CHUNKS, check_chunks, check_prompt
from sdwebui_api.prompting.styles import apply_styles


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", [("", 1.0)]),
        ("a cat", [("a cat", 1.0)]),
        ("a cat  ", [("a cat", 1.0)]),
        ("a AND b", [("a", 1.0), (" b", 1.0)]),
        ("a :0.6 AND b:-0.4 AND c : +2", [("a", 0.6), (" b", -0.4), (" c", 2.0)]),
        ("a:1. AND b:.5", [("a", 1.0), (" b", 0.5)]),
        ("a\nb : 2\nAND c", [("a\nb", 2.0), (" c", 1.0)]),
        ("a:1e3", [("a:1e3", 1.0)]),
        ("a :1 :2", [("a :1", 2.0)]),
        ("a::2", [("a:", 2.0)]),
        ("time 12:30", [("time 12", 30.0)]),
        ("(a:1.2)", [("(a:1.2)", 1.0)]),
        (":3", [("", 3.0)]),
        ("AND", [("", 1.0), ("", 1.0)]),
        ("SAND ANDROID and", [("SAND ANDROID and", 1.0)]),
    ],
)
def test_composition(prompt: str, expected: list[tuple[str, float]]) -> None:
    assert parse_composition(prompt) == [Subprompt(text, weight) for text, weight in expected]


@pytest.mark.parametrize(
    ("prompt", "clean", "tags"),
    [
        ("a cat", "a cat", []),
        ("a <lora:x:0.5> cat", "a  cat", [("lora", ("x", "0.5"))]),
        ("a<lora:x><hypernet:y:1>", "a", [("lora", ("x",)), ("hypernet", ("y", "1"))]),
        ("<lora:my file v1.2:te=0.2:unet=1.0>", "", [("lora", ("my file v1.2", "te=0.2", "unet=1.0"))]),
        ("a < b > c <3 <lora> <a b:c> <:x> <lora:>", "a < b > c <3 <lora> <a b:c> <:x> <lora:>", []),
        ("<lora:a::>", "", [("lora", ("a", "", ""))]),
        ("<lora:a\nb>", "", [("lora", ("a\nb",))]),
        ("<lora:x <lora:y>", "", [("lora", ("x <lora", "y"))]),
    ],
)
def test_extra_networks(prompt: str, clean: str, tags: list[tuple[str, tuple[str, ...]]]) -> None:
    assert parse_extra_networks(prompt) == (clean, [ExtraNetwork(kind, items) for kind, items in tags])


def test_extra_network_items() -> None:
    network = ExtraNetwork("lora", ("name", "0.5", "te=0.2", "a=b=c"))
    assert network.positional == ("name", "0.5", "a=b=c")
    assert network.named == {"te": "0.2"}


def test_unclosed_tags_take_linear_time() -> None:
    assert parse_extra_networks("<lora:" * 16_000) == ("<lora:" * 16_000, [])


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a rocket # this is a comment\non a purple background", "a rocket \non a purple background"),
        ("a # b", "a \n"),
        ("# whole line\na", "\na"),
        ("a\n# whole line\nb", "a\nb"),
        ("a\n# one\n# two\nb", "a\n\nb"),
        ("a #b# c\n#d", "a \n"),
        ("plain\ntext", "plain\ntext"),
        ("#", "\n"),
    ],
)
def test_comments(prompt: str, expected: str) -> None:
    assert strip_comments(prompt) == expected


@dataclass(frozen=True)
class Style:
    name: str
    prompt: str
    negative_prompt: str


STYLES = [
    Style("sticker", "{prompt}, sticker, flat design", "blurry"),
    Style("plain", "simple icon", ""),
    Style("dark mode", "", "bright, {prompt}"),
    Style("twice", "{prompt} and {prompt}", ""),
]


@pytest.mark.parametrize(
    ("prompt", "negative", "names", "expected"),
    [
        ("a turtle", "", ["sticker", "plain"], ("a turtle, sticker, flat design, simple icon", "blurry")),
        ("a turtle", "", ["plain", "sticker"], ("a turtle, simple icon, sticker, flat design", "blurry")),
        ("", "", ["plain"], ("simple icon", "")),
        (" a ", "x", ["dark mode"], ("a", "bright, x")),
        ("a", "", ["twice"], ("a and a", "")),
        (" a ", " b ", [], (" a ", " b ")),
        (" a ", " b ", ["unknown"], ("a", "b")),
    ],
)
def test_styles(prompt: str, negative: str, names: list[str], expected: tuple[str, str]) -> None:
    assert apply_styles(prompt, negative, names, STYLES) == expected


def test_check_prompt_names_the_field() -> None:
    check_prompt("a" * 100_000)
    with pytest.raises(BadRequest) as caught:
        check_prompt("a" * 10_000_000, "negative_prompt")
    assert caught.value.field == "negative_prompt"


def test_more_chunks_than_a_batch_may_have():
    check_chunks(MAX_CHUNKS)
    with pytest.raises(BadRequest) as caught:
        check_chunks(MAX_CHUNKS + 1)
    assert caught.value.field == "prompt"
