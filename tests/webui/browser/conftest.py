"""A real server and a real browser for this folder; both are started once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page

from tests.support.server import RunningServer
from tests.webui.browser.chromium import CHROMIUM, chromium, visit, visitor
from tests.webui.browser.server import run_page_server


@pytest.fixture(scope="module")  # longer, and its event loop would run beside the tests that follow
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not there: apt-get install chromium")
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")  # longer, and its event loop would run beside the tests that follow
def server(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with run_page_server(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture
def page(server: RunningServer, browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A new visitor's page."""
    # What gradio says of its own streams when a page is left in the middle of a job.
    reloads = "reload" in request.node.name
    left = ("AbortError", "Connection errored out", "Unexpected error Connection errored out") if reloads else ()
    with watched(browser, "en-US", left) as context:
        yield visit(context, server.url)


@pytest.fixture
def chinese_page(server: RunningServer, browser: Browser) -> Iterator[Page]:
    with watched(browser, "zh-CN") as context:
        yield visit(context, server.url)


@contextmanager
def watched(browser: Browser, locale: str, left: tuple[str, ...] = ()) -> Iterator[BrowserContext]:
    """No error may reach the console while the test goes on, but for those that begin with one of `left`."""
    errors: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith(left):
            errors.append(message.text)

    with visitor(browser, locale=locale) as context:
        context.on("console", note)
        context.on("weberror", lambda error: errors.append(str(error.error)))
        yield context
    assert errors == []
