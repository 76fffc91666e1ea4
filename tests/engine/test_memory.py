"""How much memory weights may take: of the machine, of a container, and what flags leave free."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from sdwebui_api.config.flags import parse_flags
from sdwebui_api.engine import memory
from sdwebui_api.engine.devices import DevicePlan

GIB = memory.GIB


def test_a_container_has_what_its_limits_leave(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{GIB}\n")
    (tmp_path / "memory.current").write_text(f"{GIB // 2}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {GIB // 4}\nslab 3\n")
    found = memory.ram(tmp_path)
    assert (found.total, found.available) == (GIB, GIB - GIB // 2 + GIB // 4)


@pytest.mark.parametrize("content", [None, "max\n"])
def test_without_a_limit_the_machine_counts(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "memory.max").write_text(content)
        (tmp_path / "memory.current").write_text("5\n")
    assert memory.ram(tmp_path).total == psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("words", "reserved"),
    [
        (["--sd-dynamic-cache"], 2),
        (["--min-ram-reserved", "40"], 40),
        (["--sd-dynamic-cache", "--min-ram-reserved", "5"], 5),
    ],
)
def test_the_reserve_stays_free_whoever_takes_the_rest(
    words: list[str], reserved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "ram", lambda: memory.Ram(64 * GIB, 50 * GIB))
    room = memory.weights_room(DevicePlan(torch.device("cpu")), parse_flags(words, {}))
    assert (room.budget, room.left()) == ((64 - reserved) * GIB, (50 - reserved) * GIB)


def test_a_share_of_the_memory_is_the_budget_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "ram", lambda: memory.Ram(100 * GIB, GIB))
    room = memory.weights_room(DevicePlan(torch.device("cpu")), parse_flags([], {}))
    assert room.budget == 60 * GIB and room.left() > 1000 * GIB
    assert memory.resting_room(DevicePlan(torch.device("cpu")), parse_flags([], {})) is None
