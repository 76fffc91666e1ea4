"""Time from launch.py to a page that can be worked with, its weight, and how it answers below a load of API jobs.

    python -m benchmarks.page [--rounds 3] [--jobs 20]

The peer is an empty `gradio.Blocks` in a process of its own; both sides take turns in the same run, with a fresh
browser each time. Then a tab is opened and a setting is changed again and again, idle and while `--jobs` requests to
/sdapi/v1/txt2img wait or run. Needs chromium.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from playwright.sync_api import Browser, Page

from benchmarks.throughput import ROOT, free_port
from tests.webui.browser.chromium import chromium, visit, visitor

EMPTY = "import gradio, sys\nwith gradio.Blocks() as page: pass\npage.launch(server_port=int(sys.argv[1]), quiet=True)"
PATIENCE = 240
TAB = "#tab_png_info-button"
PANEL = "#pnginfo_image"


@dataclass
class Opened:
    """seconds: from the start of the process; bytes: sent to a browser with an empty cache; requests: how many."""

    seconds: float
    bytes: int
    requests: int


@contextmanager
def process(command: Sequence[str]) -> Iterator[None]:
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        running.terminate()
        running.wait(60)


def page_command(port: int, folder: Path) -> list[str]:
    return [
        sys.executable, "launch.py", "--skip-prepare-environment", "--port", str(port), "--data-dir", str(folder),
        "--models-dir", str(ROOT / "model_store"), "--no-half", "--use-cpu", "all",
    ]  # fmt: skip


def empty_command(port: int) -> list[str]:
    return [sys.executable, "-c", EMPTY, str(port)]


def open_first(browser: Browser, command: list[str], url: str, ready: str) -> Opened:
    """Starts the server and opens the page as soon as it answers."""
    began = time.monotonic()
    with process(command), visitor(browser) as context:
        while not answers(url):
            assert time.monotonic() - began < PATIENCE, f"{url} does not answer"
            time.sleep(0.05)
        page = context.new_page()
        weights: list[int] = []
        session = context.new_cdp_session(page)
        session.send("Network.enable")
        session.on("Network.loadingFinished", lambda event: weights.append(int(event["encodedDataLength"])))
        page.goto(url, wait_until="domcontentloaded")
        page.wait_for_selector(ready, state="attached", timeout=PATIENCE * 1000)
        seconds = time.monotonic() - began
        page.wait_for_timeout(3000)  # what is fetched afterwards weighs too
        return Opened(seconds, sum(weights), len(weights))


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def switch_tab(page: Page) -> float:
    """Milliseconds until the other tab is seen, by the browser's own clock."""
    milliseconds = page.evaluate(
        """async ([tab, panel]) => {
            const began = performance.now();
            document.querySelector(tab).click();
            while (!document.querySelector(panel)?.offsetParent) await new Promise(requestAnimationFrame);
            return performance.now() - began;
        }""",
        [TAB, PANEL],
    )
    page.click("#tab_txt2img-button")
    page.wait_for_selector("#txt2img_prompt textarea")
    return float(milliseconds)


def change_setting(url: str, value: int) -> float:
    """Milliseconds of POST /sdapi/v1/options, which is what the page's own Apply does as well."""
    began = time.monotonic()
    httpx.post(f"{url}/sdapi/v1/options", json={"jpeg_quality": value}, timeout=60).raise_for_status()
    return 1000 * (time.monotonic() - began)


def ask(url: str) -> None:
    body = {"prompt": "a red apple", "steps": 20, "width": 128, "height": 128}
    httpx.post(f"{url}/sdapi/v1/txt2img", json=body, timeout=900)


def answer_times(page: Page, url: str) -> str:
    tabs, settings = zip(*[(switch_tab(page), change_setting(url, 50 + number)) for number in range(10)], strict=True)
    return f"tab switch {spread(tabs)}, setting {spread(settings)}"


def spread(times: Sequence[float]) -> str:
    return f"{statistics.median(times):.0f} (most {max(times):.0f}) ms"


def under_load(browser: Browser, folder: Path, jobs: int) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with process(page_command(port, folder)), visitor(browser) as context:
        while not answers(f"{url}/health/ready"):
            time.sleep(0.1)
        page = visit(context, url)
        switch_tab(page)  # the first time its script is fetched
        print("idle:", answer_times(page, url), flush=True)
        threads = [threading.Thread(target=ask, args=(url,), daemon=True) for _ in range(jobs)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        line = answer_times(page, url)
        print(f"{jobs} API jobs:", line, "still going:", sum(thread.is_alive() for thread in threads), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=20)
    given = parser.parse_args()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    with chromium() as browser, tempfile.TemporaryDirectory() as folder:
        under_load(browser, Path(folder), given.jobs)
        sides: dict[str, list[Opened]] = {"page": [], "empty Blocks": []}
        for _ in range(given.rounds):
            port = free_port()
            command = page_command(port, Path(folder))
            ready = "#txt2img_prompt textarea"
            sides["page"].append(open_first(browser, command, f"http://127.0.0.1:{port}", ready))
            port = free_port()
            opened = open_first(browser, empty_command(port), f"http://127.0.0.1:{port}", ".gradio-container footer")
            sides["empty Blocks"].append(opened)
        for name, rows in sides.items():
            seconds = statistics.median(row.seconds for row in rows)
            print(f"{name}: {seconds:.1f} s, {rows[-1].bytes / 1000:.0f} kB in {rows[-1].requests} requests")


if __name__ == "__main__":
    main()
