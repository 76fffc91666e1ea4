"""Pictures per second, seconds per step and peak memory: ours against peers, same file, same machine, in turns.

    python -m benchmarks.generation [--family sd1] [--size 512] [--steps 4] [--rounds 2] [--peers …] [--write]

Makes a full-size random checkpoint (or takes `--checkpoint`), starts every contestant (see `contestants.py`) in a
process of its own and lets them draw in turns. A picture of one step and one of `--steps` give seconds per step; what
`--picture-steps` would take is computed from the two. Best of the rounds counts on either side.

Beside them stands what the machine could do at most: the network's matrix products and convolutions (counted by
torch's FlopCounterMode) at the speed of a large matrix product measured in the same run, and the weights read once per
step at the speed of a plain copy. On a machine with a GPU, without further arguments, both families at their usual
sizes with 1 and 8 clients:

    python -m benchmarks.generation --gpu --write
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.contestants import NAMES, meta_modules
from benchmarks.make_checkpoint import write_checkpoint
from benchmarks.throughput import ROOT, machine, write_report

DEFAULT_PEERS = ("diffusers-half", "a1111-style")
GPU_PEERS = ("diffusers-half", "diffusers-compiled")
GUIDED = 2
"""Rows of a batch: prompt and negative prompt."""


@dataclass(frozen=True)
class Workload:
    family: str
    size: int
    steps: int
    rounds: int
    picture_steps: int
    clients: tuple[int, ...] = (1,)
    warm_peers: bool = True
    """Whether peers draw a picture that is not counted, as ours does, which loads its model with it."""


@dataclass(frozen=True)
class Process:
    """A contestant that waits for its turn."""

    name: str
    popen: subprocess.Popen[str]

    def answer(self) -> dict[str, Any]:
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with exit code {self.popen.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def draw(self, steps: int, pictures: int) -> dict[str, Any]:
        assert self.popen.stdin is not None
        self.popen.stdin.write(json.dumps({"steps": steps, "pictures": pictures}) + "\n")
        self.popen.stdin.flush()
        return self.answer()


@contextmanager
def started(name: str, workload: Workload, checkpoint: Path) -> Iterator[Process]:
    """A contestant in a process of its own, its modules loaded (ours loads with its first picture)."""
    command = [sys.executable, "-m", "benchmarks.contestants", name, workload.family, str(checkpoint)]
    popen = subprocess.Popen(
        [*command, str(workload.size)],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # As the server itself does (`cli`), for everybody: processes that wait must not spin.
        env=os.environ | {"GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "5000")},
    )
    process = Process(name, popen)
    try:
        process.answer()
        yield process
    finally:
        try:
            popen.communicate(timeout=60)  # it ends with its input, and takes its folders away
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()


@dataclass(frozen=True)
class Figures:
    """Of one contestant and number of clients. seconds: of all pictures at once; memory: bytes."""

    name: str
    clients: int
    first: float
    """Seconds with one step: everything but the other steps."""
    step: float
    memory: dict[str, float]
    faults: int

    def images_per_second(self, steps: int) -> float:
        return self.clients / (self.first + (steps - 1) * self.step)


def measure(processes: Sequence[Process], workload: Workload) -> list[Figures]:
    """In turns, the order changing; the first picture of each size is not counted."""
    figures = []
    for clients in workload.clients:
        short: dict[str, list[float]] = {process.name: [] for process in processes}
        long: dict[str, list[float]] = {process.name: [] for process in processes}
        last: dict[str, dict[str, Any]] = {}
        for process in processes:
            if workload.warm_peers or process.name.startswith("ours"):
                process.draw(1, clients)
        for turn in range(workload.rounds):
            for process in processes if turn % 2 == 0 else reversed(processes):
                short[process.name].append(process.draw(1, clients)["seconds"])
                last[process.name] = process.draw(workload.steps, clients)
                long[process.name].append(last[process.name]["seconds"])
                print(f"{process.name}: {short[process.name][-1]:.2f} s, {long[process.name][-1]:.2f} s", flush=True)
        for name, answer in last.items():
            first = min(short[name])
            step = (min(long[name]) - first) / (workload.steps - 1)
            figures.append(Figures(name, clients, first, step, answer["memory"], answer["faults"]))
    return figures


# --- what the machine could do ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """Peaks of this machine, and what one picture asks of it at the least."""

    half: float
    """Operations per second of a matrix product in half precision."""
    single: float
    copy: float
    """Bytes per second read by a copy."""
    step_operations: float
    decode_operations: float
    unet_bytes: float
    """In half precision."""
    weights_bytes: float
    """Of the whole checkpoint, likewise."""

    def seconds(self, steps: int, *, half: bool = True) -> float:
        """The least that a picture takes: arithmetic or reading weights, whichever is longer."""
        peak, width = (self.half, 1) if half else (self.single, 2)
        arithmetic = (steps * self.step_operations + self.decode_operations) / peak
        return max(arithmetic, steps * self.unet_bytes * width / self.copy)


def limits(family: str, size: int, checkpoint: Path) -> Limits:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    half = torch.float16 if device.type == "cuda" else torch.bfloat16
    step, decode, parameters = operations(family, size)
    elements = checkpoint.stat().st_size // 2
    return Limits(
        half=matmul_peak(device, half),
        single=matmul_peak(device, torch.float32),
        copy=copy_rate(device),
        step_operations=step,
        decode_operations=decode,
        unet_bytes=2.0 * parameters,
        weights_bytes=2.0 * elements,
    )


def operations(family: str, size: int) -> tuple[float, float, int]:
    """Of a guided step, of a decode (multiplications and additions), and the UNet's parameters; counted on no data."""
    unet, vae = meta_modules(family)
    config = unet.config
    latent = torch.empty(GUIDED, 4, size // 8, size // 8, device="meta")
    context = torch.empty(GUIDED, 77, config.cross_attention_dim, device="meta")
    added = None
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        sizes = torch.empty(GUIDED, 6, device="meta")
        added = {"text_embeds": torch.empty(GUIDED, pooled, device="meta"), "time_ids": sizes}
    step = _counted(lambda: unet(latent, torch.empty(GUIDED, device="meta"), context, added_cond_kwargs=added))
    decode = _counted(lambda: vae.decode(latent[:1]))
    return step, decode, sum(parameter.numel() for parameter in unet.parameters())


def _counted(run: Callable[[], Any]) -> float:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of the best of a few large square products."""
    side = 8192 if device.type == "cuda" else 3072
    a, b = (torch.randn(side, side).to(device, dtype) for _ in range(2))
    return 2.0 * side**3 / _best_of(lambda: a @ b, device)


def copy_rate(device: torch.device) -> float:
    """Bytes per second that a large copy reads."""
    source = torch.ones(2**28 if device.type == "cuda" else 2**26, device=device)
    target = torch.empty_like(source)
    return source.nbytes / _best_of(lambda: target.copy_(source), device)


def _best_of(run: Callable[[], Any], device: torch.device, turns: int = 5) -> float:
    best = math.inf
    for _ in range(turns + 1):
        begin = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return best


# --- the table ----------------------------------------------------------------------------------------------------


def report(figures: Sequence[Figures], limit: Limits, workload: Workload) -> str:
    steps = workload.picture_steps
    floor = limit.seconds(steps)
    ours = {row.clients: row.images_per_second(steps) for row in figures if row.name == "ours"}
    kind = "gpu" if "gpu" in figures[0].memory else "ram"
    lines = [
        f"{workload.family} at {workload.size}x{workload.size}, Euler, cfg 7, {steps} steps (from pictures of 1 and "
        f"{workload.steps} steps, best of {workload.rounds}{'' if workload.warm_peers else ', peers not warmed up'}).",
        "",
        f"| | clients | images/s | ours / it | s/it | % of the limit | peak {kind.upper()}, GB | of the weights "
        "| page faults |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in figures:
        speed, peak = row.images_per_second(steps), row.memory[kind]
        lines.append(
            f"| {row.name} | {row.clients} | {speed:.4f} | {ours[row.clients] / speed:.2f} | {row.step:.2f} "
            f"| {100 * floor * speed:.0f} | {peak / 1e9:.2f} | {peak / limit.weights_bytes:.2f} | {row.faults} |"
        )
    arithmetic = steps * limit.step_operations + limit.decode_operations
    lines += [
        "",
        f"The limit: {arithmetic / 1e12:.1f} tera operations per picture ({limit.step_operations / 1e12:.2f} a step, "
        f"{limit.decode_operations / 1e12:.2f} the VAE). A large matrix product runs at {limit.half / 1e12:.2f} "
        f"tera/s in half precision, {limit.single / 1e12:.2f} in fp32 (ratio {limit.half / limit.single:.2f}: what "
        f"half precision alone can gain); weights are read at {limit.copy / 1e9:.0f} GB/s, "
        f"{limit.unet_bytes / 1e9:.2f} GB a step. So a picture takes {floor:.2f} s at least, in fp32 "
        f"{limit.seconds(steps, half=False):.2f} s.",
    ]
    return "\n".join(lines)


def run(workload: Workload, names: Sequence[str], checkpoint: Path) -> str:
    limit = limits(workload.family, workload.size, checkpoint)
    with ExitStack() as held:
        processes = [held.enter_context(started(name, workload, checkpoint)) for name in names]
        figures = measure(processes, workload)
    text = report(figures, limit, workload)
    print(text)
    return text


def checkpoint_for(family: str, given: Path | None, folder: Path) -> Path:
    return given or write_checkpoint(folder / f"{family}.safetensors", family)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=("sd1", "sdxl"), default="sd1")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=4, help="of the longer of the two pictures that are drawn")
    parser.add_argument("--picture-steps", type=int, default=20, help="of the picture that the table speaks of")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--clients", type=int, nargs="+", default=[1])
    parser.add_argument("--peers", nargs="*", choices=NAMES, default=DEFAULT_PEERS)
    parser.add_argument("--checkpoint", type=Path, help="instead of random weights")
    parser.add_argument("--cold-peers", action="store_true", help="to save time where a step takes many seconds")
    parser.add_argument("--gpu", action="store_true", help="SD1.5 at 512 and SDXL at 1024, 1 and 8 clients")
    parser.add_argument("--write", action="store_true", help="put the result into benchmarks/README.md")
    chosen = parser.parse_args()
    if chosen.gpu and not torch.cuda.is_available():
        parser.error("--gpu: torch sees no GPU here")
    wanted = Workload(
        chosen.family,
        chosen.size,
        chosen.steps,
        chosen.rounds,
        chosen.picture_steps,
        tuple(chosen.clients),
        warm_peers=not chosen.cold_peers,
    )
    workloads = gpu_workloads(chosen.rounds) if chosen.gpu else [wanted]
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        for workload in workloads:
            checkpoint = checkpoint_for(workload.family, None if chosen.gpu else chosen.checkpoint, Path(folder))
            peers = GPU_PEERS if chosen.gpu else chosen.peers
            text = f"Machine: {machine()}.\n\n" + run(workload, ("ours", *peers), checkpoint)
            if chosen.write:
                kind = "-gpu" if torch.cuda.is_available() else ""
                write_report(text, f"generation-{workload.family}-{workload.size}{kind}")


def gpu_workloads(rounds: int) -> list[Workload]:
    return [
        Workload(family, size, steps=20, rounds=rounds, picture_steps=20, clients=(1, 8))
        for family, size in (("sd1", 512), ("sdxl", 1024))
    ]


if __name__ == "__main__":
    main()
