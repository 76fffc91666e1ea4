"""A process that has imported everything and forks: killed processes have successors within milliseconds.

`python -m tests.queueing.crash.zygote MODULE…` imports the modules, prints `ready` and reads one JSON object per
line: `{"call": "module:function", "arguments": {…}, "log": FILE}`. It forks, calls the function in the child (with its
output in the file), and prints the child's process id. Nothing but imports has happened before a fork: no thread, no
socket.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]


class Zygote:
    """The handle in the test's process."""

    def __init__(self, *modules: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, *modules],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self._read() == "ready"
        self._lock = threading.Lock()

    def fork(self, call: str, log: Path, **arguments: Any) -> int:
        """The process id of the child that runs `module:function(**arguments)`."""
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps({"call": call, "arguments": arguments, "log": str(log)}) + "\n")
            self._process.stdin.flush()
            return int(self._read())

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def main(modules: list[str]) -> None:
    for module in modules:
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel forgets dead children by itself
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(order)
        print(child, flush=True)


def _become(order: dict[str, Any]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    output = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for target in (1, 2):
        os.dup2(output, target)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    code = 1
    try:
        module, _, name = order["call"].partition(":")
        code = int(getattr(importlib.import_module(module), name)(**order["arguments"]) or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
