"""The tab in a browser: a download is seen, survives a reload, is cancelled and gone on with."""

from __future__ import annotations

from pathlib import Path

import httpx
from playwright.sync_api import expect

from sdwebui_api.webui.page import mount_page
from tests.model_zoo.conftest import CONTENT, Files, Zoo, services_with_zoo
from tests.support.hosts import Host
from tests.support.server import run_in_thread
from tests.webui.browser.chromium import chromium, open_tab, visit, visitor


def test_a_download_is_shown_and_survives_a_reload(tmp_path: Path, host: Host, files: Files) -> None:
    files.gate.clear()
    with (
        run_in_thread(services_with_zoo(tmp_path), mount_page) as url,
        httpx.Client(base_url=f"{url}/model_zoo/v1/", timeout=60) as client,
        chromium() as browser,
        visitor(browser) as context,
    ):
        zoo = Zoo(client, tmp_path, host)
        zoo.offer(zoo.entry(name="<b>Tiny</b>", sha256=None))
        page = visit(context, url)
        card = page.locator("#model_zoo article[data-id=tiny]")
        open_tab(page, "model_zoo")
        expect(card).to_contain_text("<b>Tiny</b>")
        expect(card).to_contain_text("no checksum published")
        card.locator(".start").click()
        expect(card).to_contain_text("33 %")
        page.reload(wait_until="domcontentloaded")
        page.wait_for_selector("#txt2img_prompt textarea")
        open_tab(page, "model_zoo")
        expect(card).to_contain_text("33 %")
        card.locator(".stop").click()
        expect(card).to_contain_text("broken off")
        files.gate.set()
        card.locator(".start").click()
        expect(card).to_have_attribute("data-state", "installed")
        page.click("#setting_sd_model_checkpoint input")
        page.wait_for_selector("ul[role=listbox] li >> text=tiny.safetensors")
    assert (zoo.folder / "tiny.safetensors").read_bytes() == CONTENT
