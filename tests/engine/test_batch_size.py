from __future__ import annotations

from collections.abc import Callable

import pytest

from sdwebui_api.engine.batch_size import LearnedBatchSize


def limits(cost: Callable[[int], float], forwards: int, waiting: int = 8) -> list[int]:
    """The limits over time when `waiting` jobs always have an evaluation of two rows ready."""
    sizes, seen = LearnedBatchSize(8), []
    for _ in range(forwards):
        size = min(sizes.limit("kind"), waiting)
        seen.append(size)
        sizes.record("kind", size, 2 * size, cost(size))
    return seen


@pytest.mark.parametrize(
    ("cost", "best"),
    [
        (lambda size: 1 + 0.1 * size, 8),  # a device that one picture leaves idle
        (lambda size: float(size), 1),  # one that is busy with one: sharing only delays everybody
        (lambda size: 1.0 if size <= 4 else float(size), 4),  # full at four
    ],
)
def test_the_limit_goes_where_one_more_no_longer_pays(cost, best):
    seen = limits(cost, 600)
    assert seen[0] == 8
    assert seen[40:200] == [best] * 160
    assert sum(size != best for size in seen[200:]) <= 60  # it looks again now and then


def test_it_finds_a_change_of_the_clock():
    sizes = LearnedBatchSize(8)
    for forward in range(1200):
        size = sizes.limit("kind")
        sizes.record("kind", size, size, 1 + 0.1 * size if forward < 500 else float(size))
    assert sizes.limit("kind") == 1


def test_fewer_jobs_than_the_limit_tell_nothing_about_it():
    assert limits(float, 100, waiting=1) == [1] * 100


def test_kinds_are_learned_apart_and_the_oldest_forgotten():
    sizes = LearnedBatchSize(8)
    for kind in range(1000):
        for _ in range(40):
            size = sizes.limit(kind)
            sizes.record(kind, size, size, float(size))
    assert sizes.limit(999) == 1
    assert sizes.limit(0) == 8


def test_a_slow_first_forward_is_not_taken_for_the_rule():
    calls = iter(range(10**6))
    seen = limits(lambda size: (1 + 0.1 * size) * (50 if next(calls) == 0 else 1), 100)
    assert seen[60:] == [8] * 40
