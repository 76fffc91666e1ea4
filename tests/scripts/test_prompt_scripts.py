"""Prompt matrix and Prompts from file or textbox."""

from __future__ import annotations

from typing import Any

import pytest

from sdwebui_api.errors import BadRequest
from sdwebui_api.generation.request import GenerationRequest, GenerationResult
from tests.scripts.fakes import FakeContext, arguments, module, request

matrix = module("scripts/prompt_matrix.py")
from_file = module("scripts/prompts_from_file.py")


def draw_matrix(prompt: str, *given: Any, context: FakeContext | None = None, **changes: Any) -> GenerationResult:
    context = context or FakeContext()
    script = matrix.PromptMatrix()
    return script.run(request(prompt=prompt, **changes), arguments(script, "txt2img", context, *given), context)


def draw_lines(text: str, *given: Any, context: FakeContext, base: GenerationRequest | None = None) -> GenerationResult:
    script = from_file.PromptsFromFile()
    first = [*given, *(False, False, "start")[len(given) :]]
    return script.run(base or request(prompt="", seed=10), arguments(script, "txt2img", context, *first, text), context)


# -- prompt matrix -----------------------------------------------------------------------------------------------------


def test_combinations_in_binary_order() -> None:
    parts = ["a cat", " black ", "sitting,"]
    assert matrix.combinations(parts, ", ", at_start=False) == [
        "a cat",
        "a cat, black",
        "a cat, sitting",
        "a cat, black, sitting",
    ]
    assert matrix.combinations(parts, " ", at_start=True)[3] == "black sitting a cat"
    assert matrix.combinations(["alone"], ", ", at_start=False) == ["alone"]


def test_labels_of_both_sides() -> None:
    columns, rows = matrix.labels(["x", "y", "z"])
    assert [[line.active for line in label] for label in columns] == [
        [False, False],
        [True, False],
        [False, True],
        [True, True],
    ]
    assert [[(line.text, line.active) for line in label] for label in rows] == [[("z", False)], [("z", True)]]


def test_every_combination_gets_its_prompt_and_all_one_seed() -> None:
    result = draw_matrix("a|b|c")
    assert result.info["all_prompts"] == ["a", "a, b", "a, c", "a, b, c"]
    assert result.info["all_seeds"] == [7, 7, 7, 7]
    assert [image.role for image in result.images] == ["grid"] + ["sample"] * 4
    assert result.info["infotexts"][0] == result.info["infotexts"][1]


def test_different_seeds_and_space() -> None:
    result = draw_matrix("a|b", False, True, "positive", "space")
    assert result.info["all_prompts"] == ["a", "a b"]
    assert result.info["all_seeds"] == [7, 8]


def test_a_last_batch_may_be_smaller() -> None:
    context = FakeContext()
    result = draw_matrix("a|b|c", context=context, batch_size=3)
    assert context.requests[0].n_iter == 2
    assert len(result.images) == 5


def test_the_negative_prompt() -> None:
    context = FakeContext()
    result = draw_matrix("a|b", False, False, "negative", context=context, negative_prompt="x|y")
    assert result.info["all_prompts"] == ["a|b", "a|b"]


@pytest.mark.parametrize("given", [(False, False, "both"), (False, False, "positive", "dash")])
def test_choices_that_are_none(given: tuple[Any, ...]) -> None:
    with pytest.raises(BadRequest) as caught:
        draw_matrix("a|b", *given)
    assert caught.value.choices


def test_too_many_parts() -> None:
    with pytest.raises(BadRequest, match="variable parts"):
        draw_matrix("|".join("abcdefghijklmnop"))


# -- prompts from file -------------------------------------------------------------------------------------------------


def test_options_of_a_line() -> None:
    assert from_file.read_options('--prompt "a dog" in grass --steps 6 --tiling true --cfg_scale 4.5') == {
        "prompt": "a dog in grass",
        "steps": 6,
        "tiling": True,
        "cfg_scale": 4.5,
    }


@pytest.mark.parametrize("line", ["a --steps 6", "--steps", "--steps many", "--colour red", '--prompt "open'])
def test_lines_that_are_no_options_are_prompts(line: str) -> None:
    context = FakeContext()
    assert from_file.read_line(line, context) == {"prompt": line}
    assert len(context.warnings) == 1


def test_lines_become_requests() -> None:
    context = FakeContext()
    draw_lines('a cat\n\n--prompt "a dog" --steps 6 --sampler_name "Euler a" --width 128', context=context)
    cat, dog = context.requests
    assert (cat.prompt, cat.steps, cat.seed) == ("a cat", 4, 10)
    assert (dog.prompt, dog.steps, dog.sampler, dog.width) == ("a dog", 6, "Euler a", 128)
    assert context.total == 2


@pytest.mark.parametrize(("position", "prompt"), [("start", "a cat base"), ("end", "base a cat")])
def test_where_the_own_prompt_goes(position: str, prompt: str) -> None:
    context = FakeContext()
    draw_lines("a cat", False, False, position, context=context, base=request(prompt="base"))
    assert context.requests[0].prompt == prompt


def test_seeds_of_lines() -> None:
    context = FakeContext()
    draw_lines("a\nb\nc", True, context=context, base=request(prompt="", seed=10, batch_size=2))
    assert [one.seed for one in context.requests] == [10, 12, 14]
    context = FakeContext()
    draw_lines("a\nb", context=context, base=request(prompt="", random_seed=True))
    assert len({one.seed for one in context.requests}) == 2
    context = FakeContext()
    draw_lines("a\nb", False, True, context=context, base=request(prompt="", random_seed=True))
    assert len({one.seed for one in context.requests}) == 1


def test_another_checkpoint_for_a_line() -> None:
    context = FakeContext()
    draw_lines("a\n--prompt b --sd_model two", context=context)
    assert [one.checkpoint.name for one in context.requests] == ["one", "two"]


@pytest.mark.parametrize(
    "line", ["--steps 0", "--width 100000", "--batch_size 500", "--width 8192 --height 8192 --batch_size 9"]
)
def test_values_out_of_range(line: str) -> None:
    with pytest.raises(BadRequest):
        draw_lines(f"--prompt a {line}", context=FakeContext())


def test_nothing_to_do() -> None:
    with pytest.raises(BadRequest):
        draw_lines(" \n ", context=FakeContext())


def test_an_interrupt_ends_the_list() -> None:
    context = FakeContext(interrupt_after=1)
    result = draw_lines("a\nb\nc", context=context)
    assert context.calls == len(result.images) == 1
