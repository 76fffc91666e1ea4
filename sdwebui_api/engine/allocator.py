"""glibc's malloc, set up for large tensors that come and go with every step.

By itself it asks the kernel for every block above a threshold and gives it back when freed, so each tensor of some
megabytes costs a page fault per 4 KiB. On two Zen 4 cores those were 8 % of a bf16 step of SD1.5 at 256x256 and 18 % of
a float32 one, and elementwise operations alone took five to seven times as long.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Mapping

# <malloc.h>
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
_ARENA_MAX = -8

_LARGE = 2**31 - 1
"""Bytes; the most that mallopt's int can say."""


def keep_large_blocks(environ: Mapping[str, str] = os.environ) -> bool:
    """Let freed memory stay with the process, to be used again; True when that was arranged.

    One arena for all threads: the others cannot hold blocks above 64 MiB, and jobs run on threads of their own.
    Call before threads begin. Does nothing without glibc, or where the environment sets malloc up itself.
    """
    libc = _glibc()
    if libc is None or any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in environ):
        return False
    settings = ((_MMAP_THRESHOLD, _LARGE // 2), (_TRIM_THRESHOLD, _LARGE), (_ARENA_MAX, 1))
    return all([libc.mallopt(name, value) for name, value in settings])


def give_back() -> None:
    """Return what is free to the system, after weights were dropped."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def apart(size: int) -> mmap.mmap:
    """`size` bytes of zeros outside malloc's heap, which the system gets back when nothing refers to them.

    For the few blocks so large that the holes they would leave in the heap fit nothing that comes later. Raises
    MemoryError.
    """
    try:
        if sys.platform == "win32":
            return mmap.mmap(-1, size)
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"the system has no {size} bytes: {error.strerror}") from error


def forget_pages(start: int, end: int) -> None:
    """Let go of what is in memory of a mapped file at the addresses [start, end); a later look reads it again.

    Whatever was written there is lost.
    """
    libc = _glibc()
    if libc is not None:
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
