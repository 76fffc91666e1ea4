"""Copying tensors of mapped files to where they are to stay, without their pages becoming part of the process.

A tensor that `reading.read_tensors` gives is a view of its mapped file. Touching it would make the file's pages count
as the process's own memory beside the copy, and cost a page fault for every few of them. So the bytes are read through
a small buffer instead, pinned where they go to a GPU.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from sdwebui_api.engine.allocator import forget_pages
from sdwebui_api.errors import UnusableModel

CHUNK = 2**20
"""Bytes per read: they stay in the processor's cache until they are converted."""
MAPPINGS = Path("/proc/self/maps")


@dataclass(frozen=True)
class _Region:
    """A part of a file that is mapped to [start, end)."""

    start: int
    end: int
    offset: int
    path: str
    inode: int


class MappedReader:
    """Copies tensors, those of mapped files through a buffer. A context: it holds the files open."""

    def __init__(self, device: torch.device) -> None:
        """`device`: where the tensors go."""
        self._device = device
        self._regions = sorted(_mapped_regions(), key=lambda region: region.start)
        self._starts = [region.start for region in self._regions]
        self._files: dict[str, int | None] = {}
        self._used: set[_Region] = set()
        self._stages: list[_Stage] = []
        self._turn = 0
        self._rooms: dict[torch.dtype, Tensor] = {}

    def __enter__(self) -> MappedReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            if file is not None:
                os.close(file)
        for stage in self._stages:
            stage.wait()
        for region in self._used:
            # Opening a file maps more than was looked at: pages come in groups, 0.3 GB of those of an SD1.5 file.
            forget_pages(region.start, region.end)

    def copy(self, source: Tensor, target: Tensor) -> None:
        """`target` [...] = `source` [...], converted to its precision, layout and device.

        Raises UnusableModel when the file became shorter than it was.
        """
        place = self._place(source) if source.nbytes else None
        if place is None:
            target.copy_(source)
            return
        file, offset = place
        if source.ndim == 0:
            source, target = source[None], target[None]
        row = source.nbytes // len(source)
        for first, last in _rows(len(source), max(CHUNK // row, 1)):
            stage = self._stage((last - first) * row)
            _read(file, offset + first * row, stage.bytes((last - first) * row))
            values = stage.to_device((last - first) * row, self._device).view(source.dtype)
            self._convert(values.view(last - first, *source.shape[1:]), target[first:last])
            stage.used()

    def _convert(self, values: Tensor, target: Tensor) -> None:
        """In the steps that torch has fast loops for on a CPU: 3 times as fast as float16 straight to bfloat16."""
        if self._device.type == "cpu" and values.dtype != target.dtype:
            if torch.float32 not in (values.dtype, target.dtype):
                values = self._room(torch.float32, values.shape).copy_(values)
            if not target.is_contiguous():
                values = self._room(target.dtype, values.shape).copy_(values)
        target.copy_(values)

    def _room(self, dtype: torch.dtype, shape: torch.Size) -> Tensor:
        """Memory that was touched before: fresh pages would cost more than the conversion."""
        room = self._rooms.get(dtype)
        if room is None or room.numel() < shape.numel():
            room = self._rooms[dtype] = torch.empty(shape.numel(), dtype=dtype)
        return room[: shape.numel()].view(shape)

    def position(self, source: Tensor) -> tuple[str, int]:
        """Sorts tensors in the order of their files."""
        region = self._region(source)
        return (region.path, source.data_ptr() - region.start + region.offset) if region else ("", 0)

    def _region(self, source: Tensor) -> _Region | None:
        if source.device.type != "cpu" or not source.is_contiguous():
            return None
        start = source.data_ptr()
        found = bisect_right(self._starts, start) - 1
        region = self._regions[found] if found >= 0 else None
        return region if region is not None and start + source.nbytes <= region.end else None

    def _place(self, source: Tensor) -> tuple[int, int] | None:
        """(open file, offset); None for tensors that lie in no file, or in one that was replaced meanwhile."""
        region = self._region(source)
        if region is None:
            return None
        if region.path not in self._files:
            self._files[region.path] = _open(region)
        file = self._files[region.path]
        if file is not None:
            self._used.add(region)
        return None if file is None else (file, source.data_ptr() - region.start + region.offset)

    def _stage(self, size: int) -> _Stage:
        """Two take turns on a GPU, so that one is filled while the other is on its way."""
        wanted = 2 if self._device.type == "cuda" else 1
        while len(self._stages) < wanted:
            self._stages.append(_Stage(self._device))
        self._turn = (self._turn + 1) % wanted
        stage = self._stages[self._turn]
        stage.wait()
        stage.make_room(size)
        return stage


def read_ahead(files: Iterable[Path], gone: Callable[[], bool]) -> None:
    """Have the system hold `files` in memory that it can take back: they load without a disk then. Until `gone()`."""
    room = memoryview(bytearray(CHUNK))
    for path in files:
        with path.open("rb", buffering=0) as file:
            while not gone() and file.readinto(room):
                pass


class _Stage:
    """A buffer between file and device, pinned for a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        self._buffer = torch.empty(CHUNK, dtype=torch.uint8, pin_memory=self._cuda)
        self._on_its_way: torch.cuda.Event | None = None

    def make_room(self, size: int) -> None:
        if size > len(self._buffer):
            self._buffer = torch.empty(size, dtype=torch.uint8, pin_memory=self._cuda)

    def bytes(self, size: int) -> memoryview:
        return self._buffer.numpy().data[:size]

    def to_device(self, size: int, device: torch.device) -> Tensor:
        return self._buffer[:size].to(device, non_blocking=True)

    def used(self) -> None:
        if self._cuda:
            # Of this device: the thread's current one may be another (`--device-id`).
            self._on_its_way = torch.cuda.current_stream(self._device).record_event()

    def wait(self) -> None:
        if self._on_its_way is not None:
            self._on_its_way.synchronize()
            self._on_its_way = None


def _rows(count: int, step: int) -> Iterator[tuple[int, int]]:
    return ((first, min(first + step, count)) for first in range(0, count, step))


def _read(file: int, offset: int, into: memoryview) -> None:
    done = 0
    while done < len(into):
        read = os.preadv(file, [into[done:]], offset + done)
        if read == 0:
            raise UnusableModel("the file became shorter while it was read")
        done += read


def _open(region: _Region) -> int | None:
    try:
        file = os.open(region.path, os.O_RDONLY)
    except OSError:
        return None
    if os.fstat(file).st_ino != region.inode:
        os.close(file)
        return None
    return file


def _mapped_regions() -> Iterator[_Region]:
    """The files mapped by this process, as Linux lists them; none elsewhere, where pages are touched instead."""
    if not MAPPINGS.exists():
        return
    for line in MAPPINGS.read_text("utf-8", "surrogateescape").splitlines():
        words = line.split(None, 5)
        if len(words) == 6 and words[4] != "0" and words[5].startswith("/"):
            start, _, end = words[0].partition("-")
            yield _Region(int(start, 16), int(end, 16), int(words[2], 16), words[5], int(words[4]))
