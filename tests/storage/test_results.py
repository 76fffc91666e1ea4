"""Many results at once: their order, and who waits for whom."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from sdwebui_api.errors import NotStored
from sdwebui_api.storage.results import UPLOADS, ResultFile, ResultStore
from sdwebui_api.storage.roots import SaveRoots


class Hanging:
    """A bucket that takes nothing before `go_on`."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def write(self, path: str, data: bytes, content_type: str) -> str:
        assert self.go_on.wait(120)
        return f"oss://x/{path}"


def files(count: int) -> list[ResultFile]:
    return [ResultFile(f"d/{index}.png", b"x", "image/png") for index in range(count)]


def test_a_bucket_that_hangs_does_not_hold_up_the_disk(tmp_path: Path) -> None:
    async def both() -> tuple[list[str], list[str]]:
        store, hanging = ResultStore(SaveRoots(tmp_path)), Hanging()
        slow = asyncio.create_task(store.write(hanging, files(3 * UPLOADS)))
        quick = await asyncio.wait_for(store.write(store.roots.kept(), files(2)), 60)
        assert not slow.done()
        hanging.go_on.set()
        return quick, await slow

    quick, slow = asyncio.run(both())
    assert quick == [str(tmp_path / "outputs" / "d" / f"{index}.png") for index in range(2)]
    assert slow == [f"oss://x/d/{index}.png" for index in range(3 * UPLOADS)]


def test_a_disk_that_fails_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("in the way")
    store = ResultStore(SaveRoots(tmp_path))
    with pytest.raises(NotStored, match="could not be written") as caught:
        asyncio.run(store.write(store.roots.kept(), files(2)))
    assert caught.value.status == 507


def test_bugs_are_not_taken_for_full_buckets(tmp_path: Path) -> None:
    class Broken:
        def write(self, path: str, data: bytes, content_type: str) -> str:
            raise KeyError(path)

    with pytest.raises(KeyError):
        asyncio.run(ResultStore(SaveRoots(tmp_path)).write(Broken(), files(2)))
    assert not list(tmp_path.iterdir())


def test_settling() -> None:
    store = ResultStore(SaveRoots(Path("/nowhere")))
    assert store.settle(0)
    with pytest.raises(NotStored), store.owed():
        assert not store.settle(0.01)
        raise NotStored("no")
    assert store.settle(0)
