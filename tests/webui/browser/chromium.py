"""Debian's chromium by Playwright, with patience for a busy machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, Request, expect, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
PATIENCE = 180_000
"""Milliseconds that anything may take here."""
expect.set_options(timeout=PATIENCE)


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"], timeout=PATIENCE)
        yield browser
        browser.close()


def visitor(browser: Browser, wide: int = 1440, high: int = 900, locale: str = "en-US") -> BrowserContext:
    """Somebody with a browser of their own."""
    context = browser.new_context(locale=locale, viewport={"width": wide, "height": high}, accept_downloads=True)
    context.set_default_timeout(PATIENCE)
    return context


def visit(context: BrowserContext, url: str) -> Page:
    """The page, ready to be worked with."""
    page = context.new_page()
    asked: list[Request] = []
    answered: list[Request] = []
    page.on("request", lambda request: asked.append(request) if "/gradio_api/run/" in request.url else None)
    page.on("requestfinished", lambda request: answered.append(request) if request in asked else None)
    page.goto(url, wait_until="domcontentloaded")
    page.wait_for_selector("#txt2img_prompt textarea")
    # What the page remembers arrives after its first sight, as one of the answers to its own first questions.
    end = time.monotonic() + PATIENCE / 1000
    quiet = 0
    while quiet < 3:
        assert time.monotonic() < end, "the page's own questions are not answered"
        page.wait_for_timeout(100)
        quiet = quiet + 1 if asked and len(answered) == len(asked) else 0
    return page


def tab_names(page: Page) -> dict[str, str]:
    """Id → label, of the page's own row of tabs, those in its menu too."""
    script = """() => window.gradio_config.components.filter((one) => one.type === 'tabitem')
        .map((one) => [one.props.elem_id || '', one.props.label])"""
    return {id.removeprefix("tab_"): name for id, name in page.evaluate(script) if id.startswith("tab_")}


def open_tab(page: Page, id: str) -> None:
    """By its button in the row, or in the menu of those that a narrow window has no room for."""
    page.locator("button[id^=tab_]:visible").first.wait_for()  # after a reload there is no row yet
    button = page.locator(f"#tab_{id}-button:visible")
    if not button.count():
        page.locator(".overflow-menu > button").first.click()
        button = page.locator(".overflow-dropdown").first.get_by_text(tab_names(page)[id], exact=True)
    button.first.click()
    page.locator(f"#tab_{id}").wait_for()
