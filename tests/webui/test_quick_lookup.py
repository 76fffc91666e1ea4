"""Gradio's program for the browser with lookups by table: the file, how it is served, and a page that draws anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import httpx
import pytest
from fastapi import FastAPI
from playwright.sync_api import expect
from starlette.middleware import Middleware

from sdwebui_api.api.services import Services
from sdwebui_api.webui.quick_lookup import ASSETS, CHANGES, Asset, QuickLookup, quick_asset
from tests.support.fakes import fake_services
from tests.support.server import run_in_thread
from tests.webui.browser.chromium import chromium, visitor


@pytest.fixture(scope="module")
def asset() -> Asset:
    found = quick_asset()
    assert found is not None, "gradio's program is another one: see whether CHANGES is still needed, and fits"
    return found


def page_that_draws_anew() -> gr.Blocks:
    """As many texts as were asked for; the events of those that were drawn read and write them."""
    with gr.Blocks() as blocks:
        count = gr.Number(1, elem_id="count")
        told = gr.Textbox(elem_id="told")

        @gr.render(inputs=count)
        def draw(count: float) -> None:
            for index in range(int(count)):
                with gr.Row():
                    text = gr.Textbox(f"{index} of {count:g}", elem_id=f"text_{index}")
                    button = gr.Button("copy", elem_id=f"copy_{index}")
                button.click(lambda text: (text, text + "!"), text, [told, text])

    return blocks


@pytest.fixture(scope="module")
def address(asset: Asset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    def add_page(app: FastAPI, _: Services) -> None:
        layers = {"middleware": [Middleware(QuickLookup, asset=asset)]}
        gr.mount_gradio_app(app, page_that_draws_anew(), path="/", app_kwargs=layers, ssr_mode=False)

    with run_in_thread(fake_services(tmp_path_factory.mktemp("quick")), add_page) as address:
        yield address


def test_the_file_is_served_with_its_tag(asset: Asset, address: str) -> None:
    url = f"{address}/assets/{asset.name}"
    answer = httpx.get(url, timeout=60)
    original = (ASSETS / asset.name).read_text(encoding="utf-8")
    assert answer.text == asset.content.decode() != original
    assert answer.headers["content-type"].startswith("text/javascript")
    again = httpx.get(url, headers={"If-None-Match": answer.headers["etag"]}, timeout=60)
    assert (again.status_code, again.content) == (304, b"")
    assert httpx.get(f"{address}/assets/none.js", timeout=60).status_code == 404


def test_another_program_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "core-Other.js").write_text("".join([*CHANGES][1:]))
    assert quick_asset(tmp_path) is None
    assert "looks for its components in a way" in caplog.text


def test_what_is_drawn_anew_is_found(address: str) -> None:
    errors: list[str] = []
    with chromium() as browser, visitor(browser) as context:
        context.on("weberror", lambda error: errors.append(str(error.error)))
        page = context.new_page()
        page.goto(address)
        told = page.locator("#told textarea, #told input")
        for count in (1, 3, 2):
            page.fill("#count input", str(count))
            page.locator("#count input").press("Tab")
            last = page.locator(f"#text_{count - 1} :is(textarea, input)")
            expect(last).to_have_value(f"{count - 1} of {count}")
            page.click(f"#copy_{count - 1}")
            expect(told).to_have_value(f"{count - 1} of {count}")
            expect(last).to_have_value(f"{count - 1} of {count}!")
        expect(page.locator("#copy_2")).to_have_count(0)
    assert errors == []
