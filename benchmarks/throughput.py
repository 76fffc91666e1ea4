"""Images per second for 1, 2, 4 and 8 clients, with and without step batching, and what HTTP costs.

    python -m benchmarks.throughput [--requests 8] [--steps 20] [--size 128] [--write]

Every figure is a ratio against a peer measured in the same run: the batching server against the one that
was started with `--max-step-batch 1`, in alternation, and a request over HTTP against the same request
handed to the generator in-process. `--write` puts the table into `benchmarks/README.md`.
"""

from __future__ import annotations

import argparse
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

ROOT = Path(__file__).parent.parent
# As the server itself does (`cli`): several processes share the cores here.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
CLIENTS = (1, 2, 4, 8)
START_TIMEOUT = 120.0


@dataclass(frozen=True)
class Workload:
    steps: int
    size: int

    def body(self, seed: int) -> dict[str, Any]:
        return {
            "prompt": "a red apple",
            "seed": seed,
            "steps": self.steps,
            "width": self.size,
            "height": self.size,
            "sampler_name": "Euler a",
        }


@dataclass(frozen=True)
class Server:
    url: str
    label: str

    def generate(self, body: dict[str, Any]) -> float:
        """Seconds for one picture over HTTP."""
        begin = time.perf_counter()
        response = requests.post(f"{self.url}/sdapi/v1/txt2img", json=body, timeout=600)
        response.raise_for_status()
        return time.perf_counter() - begin

    def images_per_second(self, clients: int, per_client: int, workload: Workload) -> float:
        """`clients` threads send `per_client` requests each, one after the other."""

        def client(index: int) -> None:
            for turn in range(per_client):
                self.generate(workload.body(seed=1000 * index + turn))

        begin = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(client, range(clients)))
        return clients * per_client / (time.perf_counter() - begin)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_server(label: str, *flags: str) -> Iterator[Server]:
    """The program as users start it, in a process of its own, ready to serve."""
    port = free_port()
    with tempfile.TemporaryDirectory() as data_dir:
        command = [sys.executable, str(ROOT / "launch.py"), "--skip-prepare-environment", "--nowebui"]
        command += ["--port", str(port), "--data-dir", data_dir, "--models-dir", str(ROOT / "model_store"), *flags]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        server = Server(f"http://127.0.0.1:{port}", label)
        try:
            wait_until_ready(server, process)
            yield server
        finally:
            process.terminate()
            process.wait(timeout=60)


def wait_until_ready(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with exit code {process.returncode}")
        try:
            if requests.get(f"{server.url}/health/ready", timeout=2).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.2)
    raise RuntimeError(f"the server was not ready within {START_TIMEOUT:.0f} s")


def measure_batching(batching: Server, single: Server, per_client: int, workload: Workload) -> list[tuple[Any, ...]]:
    """Rows (clients, images/s with batching, images/s without, ratio); both sides take turns."""
    rows = []
    for clients in CLIENTS:
        pairs = []
        for turn in range(3):
            order = (batching, single) if turn % 2 == 0 else (single, batching)
            speeds = {server.label: server.images_per_second(clients, per_client, workload) for server in order}
            pairs.append((speeds[batching.label], speeds[single.label]))
        ratio = statistics.median(a / b for a, b in pairs)
        rows.append((clients, statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs), ratio))
        print(f"{clients} clients: {rows[-1][1]:.2f} images/s batching, {rows[-1][2]:.2f} without, x{ratio:.2f}")
    return rows


def measure_overhead(server: Server, workload: Workload, count: int) -> dict[str, float]:
    """Medians in milliseconds: over HTTP, in-process, and the PNG and base64 encoding that only HTTP does.

    The overhead is the median of the differences, turn by turn.
    """
    from benchmarks.bare_engine import BareEngine

    engine = BareEngine(ROOT / "model_store")
    server.generate(workload.body(0))
    engine.generate(workload.body(0))
    http, bare, encoding = [], [], []
    for turn in range(count):
        body = workload.body(turn)
        http.append(server.generate(body))
        seconds, image = engine.generate(body)
        bare.append(seconds)
        encoding.append(engine.encode(image))
    return {
        "http": statistics.median(http) * 1000,
        "bare": statistics.median(bare) * 1000,
        "encoding": statistics.median(encoding) * 1000,
        "overhead": statistics.median(h - b - e for h, b, e in zip(http, bare, encoding, strict=True)) * 1000,
    }


def machine() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    return f"{name}, {os.cpu_count()} cores, no GPU, torch {torch.__version__}"


def report(rows: list[tuple[Any, ...]], overhead: dict[str, float], workload: Workload) -> str:
    lines = [
        f"Machine: {machine()}. Embedded model, {workload.size}x{workload.size}, Euler a, {workload.steps} steps.",
        "",
        "| clients | images/s, step batching | images/s, `--max-step-batch 1` | ratio |",
        "|---|---|---|---|",
    ]
    lines += [f"| {clients} | {with_:.2f} | {without:.2f} | {ratio:.2f} |" for clients, with_, without, ratio in rows]
    lines += [
        "",
        "| one request of one step, median | ms |",
        "|---|---|",
        f"| over HTTP | {overhead['http']:.1f} |",
        f"| in-process | {overhead['bare']:.1f} |",
        f"| PNG and base64 | {overhead['encoding']:.1f} |",
        f"| overhead of the server without encoding | {overhead['overhead']:.1f} |",
    ]
    return "\n".join(lines)


def write_report(text: str, name: str) -> None:
    """Replaces what stands between the marks of `name`."""
    page, begin, end = ROOT / "benchmarks" / "README.md", f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = page.read_text().partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=8, help="requests per client")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--write", action="store_true", help="put the result into benchmarks/README.md")
    arguments = parser.parse_args()
    workload = Workload(arguments.steps, arguments.size)
    with running_server("batching") as batching, running_server("single", "--max-step-batch", "1") as single:
        for server in (batching, single):
            server.generate(workload.body(0))
        # First, while each server has run on one thread only. One step, since what HTTP costs does not depend on the
        # work, but the noise of the work would hide it.
        overhead = measure_overhead(single, Workload(1, workload.size), 60)
        rows = measure_batching(batching, single, arguments.requests, workload)
    text = report(rows, overhead, workload)
    print(text)
    if arguments.write:
        write_report(text, "throughput")


if __name__ == "__main__":
    main()
