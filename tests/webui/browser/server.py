"""The real server with its page and the embedded models, as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from safetensors.numpy import load_file, save_file

from tests.support.server import ROOT, RunningServer

START_SECONDS = 240
CHECKPOINT = ROOT / "model_store" / "Stable-diffusion" / "emoji-mini.safetensors"
STYLES = 'name,prompt,negative_prompt\nshiny,"{prompt}, shiny",dull\n'


@contextmanager
def run_page_server(data_dir: Path, *flags: str) -> Iterator[RunningServer]:
    """By launch.py, on the CPU; models stand below `data_dir`, the embedded ones are linked into it."""
    link_models(data_dir / "models")
    (data_dir / "styles.csv").write_text(STYLES)
    command = [
        sys.executable, "launch.py", "--skip-prepare-environment", "--port", "0", "--no-half", "--use-cpu", "all",
        "--data-dir", str(data_dir), "--models-dir", str(data_dir / "models"), "--filebrowser", *flags,
    ]  # fmt: skip
    log = data_dir / "server.log"
    with log.open("w") as output:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            yield RunningServer(wait_until_ready(process, log), process.pid, data_dir)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def link_models(folder: Path) -> None:
    """The models of this repository, in folders of the test's own that files can be added to.

    The embedded checkpoint is there a second time, as `second`; its autoencoder alone as `own-vae`.
    """
    for source in (ROOT / "model_store").rglob("*.*"):
        if source.is_file():
            target = folder / source.relative_to(ROOT / "model_store")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source)
    for kind in (".safetensors", ".yaml"):
        (folder / "Stable-diffusion" / f"second{kind}").symlink_to(CHECKPOINT.with_suffix(kind))
    (folder / "VAE").mkdir()
    vae = {name: part for name, part in load_file(CHECKPOINT).items() if name.startswith("first_stage_model.")}
    save_file(vae, folder / "VAE" / "own-vae.safetensors")


def wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    """The address, once everything is loaded."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, f"the server ended:\n{log.read_text()[-4000:]}"
        announced = [line.split()[2] for line in log.read_text().splitlines() if line.startswith("Running on ")]
        if announced and is_ready(announced[0]):
            return announced[0]
        time.sleep(0.1)
    raise AssertionError(f"the server is not ready after {START_SECONDS} s:\n{log.read_text()[-4000:]}")


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready", timeout=60).status_code == 200
    except httpx.TransportError:
        return False
