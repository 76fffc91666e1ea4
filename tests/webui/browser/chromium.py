"""Debian's chromium by Playwright, with patience for a busy machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
PATIENCE = 90_000
"""Milliseconds that anything may take here."""


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"], timeout=PATIENCE)
        yield browser
        browser.close()


def visitor(browser: Browser, wide: int = 1440, high: int = 900) -> BrowserContext:
    """Somebody with a browser of their own."""
    context = browser.new_context(locale="en-US", viewport={"width": wide, "height": high}, accept_downloads=True)
    context.set_default_timeout(PATIENCE)
    return context


def visit(context: BrowserContext, url: str) -> Page:
    """The page, ready to be worked with."""
    page = context.new_page()
    # What the page remembers arrives after its first sight, as the answer to its own first question.
    with page.expect_response(lambda answer: "/gradio_api/run/" in answer.url):
        page.goto(url, wait_until="domcontentloaded")
        page.wait_for_selector("#txt2img_prompt textarea")
    page.wait_for_timeout(300)
    return page


def open_tab(page: Page, id: str) -> None:
    """By its button, which is in the row of a wide window."""
    page.locator(f"#tab_{id}-button:visible").first.click()
    page.locator(f"#tab_{id}").wait_for()
