"""Networks under load: does everybody get the picture they get alone, and does memory stay where it is?

    python -m benchmarks.networks [--rounds 4] [--switches 100] [--write]

Round after round 30 clients ask at once, each for one of six sets of LoRAs on one of two checkpoints, from a server
with `--max-step-batch 1` that keeps all twelve variants in memory. Then a server whose budget holds about one
checkpoint is made to switch 100 times. `--write` puts the table into `benchmarks/README.md`, the curve beside it.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests
import torch
from safetensors.torch import load_file, save_file

from benchmarks.throughput import ROOT, Server, free_port, machine, wait_until_ready, write_report

CLIENTS = 30
CHECKPOINTS = ("emoji-mini", "emoji-other")
SETS = (
    "<lora:tiny-style:0.5>",
    "<lora:tiny-style:1>",
    "<lora:tiny-style:te=0.2:unet=1>",
    "<lora:tiny-conv:1>",
    "<lora:tiny-style:0.6> <lora:tiny-conv:0.8>",
    "<lora:tiny-conv-alias:-0.5> <lora:tiny-style:0.3>",
)
ONE_CHECKPOINT_GB = 0.12
"""The embedded model in float32 takes 0.09 GB, the part of it that a variant does not share up to 0.04 GB."""
CURVE = ROOT / "benchmarks" / "networks.svg"


@dataclass(frozen=True)
class Watched:
    """A running server and its process."""

    server: Server
    process: psutil.Process

    @property
    def megabytes(self) -> float:
        """Resident memory."""
        return self.process.memory_info().rss / 2**20

    def picture(self, checkpoint: str, networks: str, steps: int) -> str:
        """base64."""
        body: dict[str, Any] = {
            "prompt": f"a red apple {networks}",
            "seed": 7,
            "steps": steps,
            "width": 128,
            "height": 128,
            "override_settings": {"sd_model_checkpoint": checkpoint},
        }
        answer = requests.post(f"{self.server.url}/sdapi/v1/txt2img", json=body, timeout=600)
        answer.raise_for_status()
        images: list[str] = answer.json()["images"]
        return images[0]


def model_tree(folder: Path) -> None:
    """The embedded checkpoint, the same with its UNet disturbed, and the LoRAs of the golden tree, which fit both."""
    checkpoints, loras = folder / "Stable-diffusion", folder / "Lora"
    checkpoints.mkdir(parents=True)
    loras.mkdir()
    for path in (ROOT / "model_store" / "Stable-diffusion").glob("emoji-mini.*"):
        (checkpoints / path.name).symlink_to(path)
    (checkpoints / "emoji-other.yaml").symlink_to(ROOT / "model_store" / "Stable-diffusion" / "emoji-mini.yaml")
    random = torch.Generator().manual_seed(0)
    tensors = load_file(checkpoints / "emoji-mini.safetensors")
    disturbed = {
        name: tensor * (1 + 0.02 * torch.randn(tensor.shape, generator=random).to(tensor.dtype))
        if name.startswith("model.diffusion_model.")
        else tensor
        for name, tensor in tensors.items()
    }
    save_file(disturbed, checkpoints / "emoji-other.safetensors")
    for path in (ROOT / "tests" / "golden" / "models" / "Lora").glob("*.safetensors"):
        (loras / path.name).symlink_to(path)


@contextmanager
def watched_server(*flags: str) -> Iterator[Watched]:
    port = free_port()
    with tempfile.TemporaryDirectory() as data_dir:
        models = Path(data_dir) / "models"
        model_tree(models)
        command = [sys.executable, "-m", "sdwebui_api", "--nowebui", "--no-half", "--port", str(port)]
        command += ["--data-dir", data_dir, "--models-dir", str(models), "--ckpt", "emoji-mini", *flags]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        server = Server(f"http://127.0.0.1:{port}", "networks")
        try:
            wait_until_ready(server, process)
            yield Watched(server, psutil.Process(process.pid))
        finally:
            process.terminate()
            process.wait(timeout=60)


@dataclass(frozen=True)
class Load:
    """What the rounds of simultaneous requests gave."""

    different: int
    total: int
    memory: Sequence[float]
    """Megabytes after each round."""
    seconds: Sequence[float]


def measure_load(rounds: int, steps: int) -> Load:
    wanted = list(itertools.islice(itertools.cycle(itertools.product(SETS, CHECKPOINTS)), CLIENTS))
    with watched_server("--max-step-batch", "1") as watched:
        alone = {(n, c): watched.picture(c, n, steps) for n, c in itertools.product(SETS, CHECKPOINTS)}
        if len(set(alone.values())) != len(alone):
            raise RuntimeError("two sets give the same picture: the comparison would prove nothing")
        requests.post(f"{watched.server.url}/sdapi/v1/unload-checkpoint", timeout=60).raise_for_status()
        memory, seconds, different = [], [], 0
        for number in range(rounds):
            begin = time.perf_counter()
            with ThreadPoolExecutor(CLIENTS) as pool:
                found = list(pool.map(lambda row: watched.picture(row[1], row[0], steps), wanted))
            seconds.append(time.perf_counter() - begin)
            memory.append(watched.megabytes)
            different += sum(picture != alone[row] for picture, row in zip(found, wanted, strict=True))
            print(f"round {number + 1}: {seconds[-1]:.1f} s, {memory[-1]:.0f} MB, {different} pictures differ so far")
    return Load(different, rounds * CLIENTS, memory, seconds)


def measure_switches(count: int, steps: int) -> list[float]:
    """Megabytes after each switch, the first being the second picture's. Sets of LoRAs change with every second one."""
    reserved = psutil.virtual_memory().total / 2**30 - ONE_CHECKPOINT_GB
    with watched_server("--max-step-batch", "1", "--min-ram-reserved", f"{reserved:.3f}") as watched:
        memory = []
        for number in range(count + 1):
            watched.picture(CHECKPOINTS[number % 2], SETS[number // 2 % len(SETS)], steps)
            memory.append(watched.megabytes)
    print(f"{count} switches: {memory[1]:.0f} MB after the first, {memory[-1]:.0f} MB after the last")
    return memory[1:]


def curve(memory: Sequence[float]) -> str:
    """An SVG of resident memory over switches."""
    width, height, margin = 720, 240, 48
    top = max(memory) * 1.1
    across = (width - 2 * margin) / max(len(memory) - 1, 1)
    points = " ".join(
        f"{margin + index * across:.1f},{height - margin - value / top * (height - 2 * margin):.1f}"
        for index, value in enumerate(memory)
    )
    labels = "".join(
        f'<text x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>'
        for x, y, anchor, text in (
            (margin - 6, margin + 4, "end", f"{top:.0f}"),
            (margin - 6, height - margin + 4, "end", "0"),
            (width / 2, height - 12, "middle", f"{len(memory)} checkpoint switches"),
            (margin, 24, "start", "resident memory of the server, MB"),
        )
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{width}" height="{height}" fill="white"/>'
        f'<path d="M{margin},{margin}V{height - margin}H{width - margin}" fill="none" stroke="#888"/>'
        f'<polyline points="{points}" fill="none" stroke="#1f6feb" stroke-width="1.5"/>{labels}</svg>\n'
    )


def report(load: Load, switches: Sequence[float], steps: int) -> str:
    growth = load.memory[-1] / load.memory[0] - 1
    tail = switches[len(switches) // 10 :]
    return "\n".join(
        [
            f"Machine: {machine()}. Embedded model in float32, 128x128, Euler, {steps} steps.",
            "",
            f"| {CLIENTS} clients at once, {len(SETS)} LoRA sets, {len(CHECKPOINTS)} checkpoints | |",
            "|---|---|",
            f"| pictures that differ from the one made alone | {load.different} of {load.total} |",
            f"| seconds per round | {', '.join(f'{value:.1f}' for value in load.seconds)} |",
            f"| resident memory after each round, MB | {', '.join(f'{value:.0f}' for value in load.memory)} |",
            f"| growth since the first round | {growth:+.1%} |",
            "",
            f"| {len(switches)} checkpoint switches, budget for one | MB |",
            "|---|---|",
            f"| after the first | {switches[0]:.0f} |",
            f"| after a tenth | {tail[0]:.0f} |",
            f"| after the last | {switches[-1]:.0f} |",
            f"| least and most of the last nine tenths | {min(tail):.0f} – {max(tail):.0f} |",
            "",
            "![Resident memory over checkpoint switches](networks.svg)",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--switches", type=int, default=100)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--write", action="store_true", help="put the result into benchmarks/README.md")
    arguments = parser.parse_args()
    load = measure_load(arguments.rounds, arguments.steps)
    switches = measure_switches(arguments.switches, arguments.steps)
    text = report(load, switches, arguments.steps)
    print(text)
    if arguments.write:
        CURVE.write_text(curve(switches))
        write_report(text, "networks")


if __name__ == "__main__":
    main()
