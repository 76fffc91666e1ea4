from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sdwebui_api.errors import BadRequest, Cancelled
from sdwebui_api.generation.request import GenerationRequest, GenerationResult
from sdwebui_api.scripting.xyz.plot import AxisArguments, Cell, Plot, read_axis
from tests.scripts.fakes import FakeContext, arguments, module, request

STEPS, CFG, PROMPT, SAMPLER, SEED = 4, 6, 7, 9, 1
NO_AXIS = (0, "", [])


def run(*given: Any, base: GenerationRequest | None = None, context: FakeContext | None = None) -> GenerationResult:
    script = module("scripts/xyz_grid.py").XyzPlot()
    context = context or FakeContext()
    return script.run(base or request(), arguments(script, "txt2img", context, *given), context)


def axis(name: str, type: object, text: str = "", listed: Any = (), **how: bool) -> Any:
    given = AxisArguments(name, type, text, listed, "script_args")
    return read_axis(given, "txt2img", csv_mode=False, keep_random_seeds=False, **how)


def test_one_picture_per_cell_in_order() -> None:
    context = FakeContext()
    run(STEPS, "2,3", [], CFG, "5,6", [], *NO_AXIS, context=context)
    assert [(one.steps, one.cfg_scale) for one in context.requests] == [(2, 5), (3, 5), (2, 6), (3, 6)]
    assert context.total == 4
    assert context.titles == [f"{index} out of 4" for index in range(1, 5)]


def test_what_is_dear_changes_least() -> None:
    plot = Plot(axis("X", "Checkpoint name", "one,two"), axis("Y", STEPS, "1,2"), axis("Z", 0))
    assert [(cell.x, cell.y) for cell in plot.cells()] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert plot.index(Cell(1, 0, 0)) == 1


def test_the_answer_without_sub_grids() -> None:
    result = run(STEPS, "2,3", [], PROMPT, "red,blue", [], *NO_AXIS, False, True)
    assert [image.role for image in result.images] == ["grid"] + ["sample"] * 4
    assert result.images[0].image.size == (128, 128)
    assert result.info["index_of_first_image"] == 1
    assert result.info["all_prompts"] == ["a red apple", "a red apple", "a blue apple", "a blue apple"]
    assert len(result.info["infotexts"]) == 5


def test_the_answer_with_sub_grids() -> None:
    result = run(STEPS, "2,3", [], *NO_AXIS, PROMPT, "red,blue", [], False, False, True)
    assert [image.role for image in result.images] == ["grid"] * 3
    assert result.info["all_prompts"][:2] == ["a red apple", "a blue apple"]
    assert len(result.info["all_seeds"]) == 6
    assert len(result.info["infotexts"]) == 7
    assert "Z Type" in result.images[0].infotext
    assert "Z Type" not in result.images[1].infotext


def test_grids_name_the_axes_but_no_overridden_setting() -> None:
    base = request()
    base = replace(
        base, options=base.options.with_values({"randn_source": "NV"}), override_settings={"randn_source": "NV"}
    )
    text = run(SEED, "5-6", [], base=base).images[0].infotext
    assert "'Script': 'X/Y/Z plot', 'X Type': 'Seed', 'X Values': '5-6', 'Fixed X Values': '5, 6'" in text
    assert "NV" not in text


def test_choices_come_as_a_list_unless_in_csv_mode() -> None:
    context = FakeContext()
    run(SAMPLER, "LMS", ["Euler a", "Heun"], context=context)
    assert [one.sampler for one in context.requests] == ["Euler a", "Heun"]
    context = FakeContext()
    run(SAMPLER, "LMS", ["Euler a"], *NO_AXIS, *NO_AXIS, *(False,) * 7, 0, True, context=context)
    assert [one.sampler for one in context.requests] == ["LMS"]


def test_seeds_may_grow_along_the_axes() -> None:
    context = FakeContext()
    flags = (False, False, False, False, True, True, True)
    run(STEPS, "2,3", [], CFG, "5,6", [], PROMPT, "red,blue", [], *flags, context=context)
    assert [one.seed for one in context.requests] == [7, 8, 9, 10, 11, 12, 13, 14]


def test_random_seeds_are_drawn_once_for_an_axis() -> None:
    context = FakeContext()
    run(SEED, "-1", [], CFG, "5,6", [], context=context)
    first, second = (one.seed for one in context.requests)
    assert first == second >= 0


def test_kept_random_seeds_differ_from_cell_to_cell() -> None:
    context = FakeContext()
    keep = (False, False, False, True)
    run(STEPS, "2,3,4", [], *NO_AXIS, *NO_AXIS, *keep, base=request(random_seed=True), context=context)
    assert len({one.seed for one in context.requests}) == 3


def test_an_impossible_cell_stays_black() -> None:
    context = FakeContext(fails=(1,))
    result = run(STEPS, "2,3,4", [], *NO_AXIS, *NO_AXIS, False, True, context=context)
    assert [image.image.getpixel((0, 0)) for image in result.images[1:]] == [(10, 0, 0), (0, 0, 0), (30, 0, 0)]
    assert "impossible" in context.warnings[0]


def test_a_plot_without_any_picture_is_an_error() -> None:
    with pytest.raises(BadRequest, match="impossible"):
        run(STEPS, "2,3", [], context=FakeContext(fails=(0, 1)))


def test_an_interrupt_keeps_what_there_is() -> None:
    context = FakeContext(interrupt_after=2)
    result = run(STEPS, "2,3,4", [], *NO_AXIS, *NO_AXIS, False, True, context=context)
    assert context.calls == 2
    assert result.images[3].image.getpixel((0, 0)) == (0, 0, 0)


def test_cancelling_ends_it() -> None:
    context = FakeContext()
    context.job._cancel()
    with pytest.raises(Cancelled):
        run(STEPS, "2,3", [], context=context)


def test_a_wrong_value_is_found_before_any_work() -> None:
    context = FakeContext()
    with pytest.raises(BadRequest):
        run(SAMPLER, "", ["Euler", "Eulre"], context=context)
    assert context.calls == 0


@pytest.mark.parametrize("given", [(STEPS, ""), (STEPS, "0"), (99, "1"), (STEPS, "2-4000")])
def test_axes_that_make_no_sense(given: tuple[Any, ...]) -> None:
    with pytest.raises(BadRequest) as caught:
        run(*given)
    assert caught.value.field.startswith("script_args")


@pytest.mark.parametrize("margin", [-1, 2.5, 10**9])
def test_margins_that_make_no_sense(margin: float) -> None:
    with pytest.raises(BadRequest, match="margins"):
        run(STEPS, "2", [], *NO_AXIS, *NO_AXIS, *(False,) * 7, margin)


def test_a_combination_that_cannot_be_leaves_its_place_empty() -> None:
    context = FakeContext()
    result = run(PROMPT, "red,blue", [], PROMPT, "red,green", [], *NO_AXIS, False, True, context=context)
    assert [image.image.getpixel((0, 0))[0] > 0 for image in result.images[1:]] == [True, False, True, False]
    assert "did not find red" in context.warnings[0]


def test_a_plot_may_not_be_larger_than_the_option_says() -> None:
    with pytest.raises(BadRequest, match="too large"):
        run(STEPS, "1-100", [], CFG, "1-10", [], base=request(width=1024, height=1024))


def test_saving() -> None:
    context = FakeContext()
    run(STEPS, "2,3", [], *NO_AXIS, PROMPT, "red,blue", [], False, False, True, context=context)
    assert context.saved == ["grid-xyz_grid"] * 3
    context = FakeContext()
    run(STEPS, "2,3", [], base=request(do_not_save_grid=True), context=context)
    assert context.saved == []
