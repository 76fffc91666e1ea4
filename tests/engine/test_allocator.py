"""Large tensors do not cost page faults over and over, on the threads that jobs run on either."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sdwebui_api.engine.allocator import keep_large_blocks

FAULTS = """
import resource, threading
from sdwebui_api.engine.allocator import give_back, keep_large_blocks
{call}

def churn():
    for _ in range(4):
        b"x" * (64 * 2**20)  # 16384 pages
counts = []
def work():
    churn()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    churn()
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=work)
thread.start()
thread.join()
resident = lambda: int(open("/proc/self/statm").read().split()[1]) // 256
held = resident()
give_back()
print(counts[0], held - resident())
"""


def _faults(call: str) -> tuple[int, int]:
    """Page faults of four tensors of 64 MiB on a thread, and MiB that were given back in the end."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", FAULTS.format(call=call)]
    output = subprocess.run(command, env=clean, capture_output=True, text=True, check=True).stdout
    faults, returned = output.split()
    return int(faults), int(returned)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_tensors_of_a_job_reuse_memory_until_it_is_given_back() -> None:
    assert _faults("")[0] > 4 * 16000
    faults, returned = _faults("assert keep_large_blocks()")
    assert faults < 1000
    assert returned >= 60


def test_what_the_environment_says_of_malloc_stands() -> None:
    assert not keep_large_blocks({"MALLOC_TRIM_THRESHOLD_": "1000"})
    assert not keep_large_blocks({"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"})
