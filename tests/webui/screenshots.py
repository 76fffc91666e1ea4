"""Pictures of every tab for docs/screenshots: `python -m tests.webui.screenshots [--url URL]`.

Without --url a server of its own is started, with the models of this repository. The files are palette PNGs.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from tests.webui.browser.chromium import chromium, open_tab, visit, visitor
from tests.webui.browser.server import run_page_server

TARGET = Path(__file__).parents[2] / "docs" / "screenshots"
SIZES = ((1440, 900), (390, 844))
COLOURS = 64


def tab_ids(page: Page) -> list[str]:
    """Of the page's own row of tabs, those in its menu too."""
    found = page.evaluate("""() => [...document.querySelectorAll('[id^=tab_][id$=-button]')]
        .map((button) => button.id.slice(4, -7))""")
    return list(dict.fromkeys(found))


def draw(page: Page) -> None:
    """Something to look at in the gallery."""
    page.fill("#txt2img_prompt textarea", "a red apple")
    page.click("#txt2img_generate")
    page.locator("#txt2img_gallery img").first.wait_for()


def keep(page: Page, name: str) -> None:
    page.wait_for_timeout(1500)
    picture = Image.open(io.BytesIO(page.screenshot(timeout=60_000))).convert("RGB")
    TARGET.mkdir(parents=True, exist_ok=True)
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(TARGET / f"{name}.png", optimize=True)


def take(url: str) -> None:
    with chromium() as browser, visitor(browser, *SIZES[0]) as context:
        page = visit(context, url)
        draw(page)
        for id in tab_ids(page):
            open_tab(page, id)
            for wide, high in SIZES:
                page.set_viewport_size({"width": wide, "height": high})
                keep(page, f"{id}-{wide}x{high}")
            page.set_viewport_size({"width": SIZES[0][0], "height": SIZES[0][1]})


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
