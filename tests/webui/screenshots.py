"""Pictures of every tab for docs/screenshots: `python -m tests.webui.screenshots [--url URL]`.

Without --url a server of its own is started, with the models of this repository. The files are palette PNGs; those of
the names `txt2img-lora` and `settings-chinese-dark` show what the tabs' first sight does not.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from tests.webui.browser.chromium import chromium, open_tab, tab_names, visit, visitor
from tests.webui.browser.server import run_page_server

TARGET = Path(__file__).parents[2] / "docs" / "screenshots"
SIZES = ((1440, 900), (390, 844))
COLOURS = 64


def draw(page: Page) -> None:
    """Something to look at: expanded prompts, and four pictures in the gallery."""
    open_tab(page, "beautiful_prompt")
    page.fill("#beautiful_prompt_text textarea", "a red apple")
    page.click("#beautiful_prompt_generate")
    page.locator("#beautiful_prompt_result_1 textarea").wait_for()
    open_tab(page, "txt2img")
    page.fill("#txt2img_prompt textarea", "a red apple")
    page.locator("#txt2img_batch_count input[type=number]").fill("4")
    page.locator("#txt2img_batch_count input[type=number]").press("Tab")
    page.click("#txt2img_generate")
    page.locator("#txt2img_gallery img").first.wait_for()


def keep(page: Page, name: str) -> None:
    page.evaluate("window.scrollTo(0, 0)")
    page.wait_for_timeout(1500)
    picture = Image.open(io.BytesIO(page.screenshot(timeout=60_000))).convert("RGB")
    TARGET.mkdir(parents=True, exist_ok=True)
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(TARGET / f"{name}.png", optimize=True)


def take(url: str) -> None:
    with chromium() as browser:
        for wide, high in SIZES:
            with visitor(browser, wide, high) as context:
                page = visit(context, url)
                draw(page)
                for id in tab_names(page):
                    open_tab(page, id)
                    keep(page, f"{id}-{wide}x{high}")
        with visitor(browser, *SIZES[0]) as context:
            page = visit(context, url)
            page.locator("#txt2img_lora_tab-button:visible").first.click()
            keep(page, "txt2img-lora")
        with visitor(browser, *SIZES[0], locale="zh-CN") as context:
            page = visit(context, url)
            open_tab(page, "settings")
            page.click("#settings_theme")
            keep(page, "settings-chinese-dark")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a server that runs already")
    url = parser.parse_args().url
    if url:
        take(url)
        return
    with tempfile.TemporaryDirectory() as folder, run_page_server(Path(folder)) as server:
        take(server.url)


if __name__ == "__main__":
    main()
