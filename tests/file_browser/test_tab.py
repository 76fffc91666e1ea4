"""The tab in a browser: browsing, uploading, previewing, changing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.sync_api import Browser, Locator, Page, Route, expect

from sdwebui_api.webui.page import mount_page
from tests.file_browser.conftest import fill, services_with_browser
from tests.support.server import run_in_thread
from tests.webui.browser.chromium import PATIENCE, chromium, visitor


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("tab"))


@pytest.fixture(scope="module")
def url(data: Path) -> Iterator[str]:
    with run_in_thread(services_with_browser(data, "--filebrowser"), mount_page) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def page(url: str, browser: Browser) -> Iterator[Page]:
    """The tab, opened. No error may reach the console but what the server refused."""
    found = browser.new_page(locale="en-US", viewport={"width": 1440, "height": 900})
    found.set_default_timeout(PATIENCE)
    errors: list[str] = []
    found.on("pageerror", lambda error: errors.append(str(error)))
    found.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    found.goto(url)
    found.get_by_role("tab", name="FileBrowser").first.click()
    expect(entry(found, "models")).to_be_visible()
    yield found
    found.close()
    assert [error for error in errors if not error.startswith("Failed to load resource")] == []


def entry(page: Page, name: str) -> Locator:
    return page.locator("#file_browser td.name button", has_text=re.compile(rf"{re.escape(name)}$"))


def into(page: Page, *names: str) -> None:
    for name in names:
        page.click(f'#file_browser td.name button:text-matches("{name}$")')
        expect(page.locator("#file_browser .crumbs button").last).to_have_text(name)


def give(page: Page, name: str, content: bytes) -> None:
    file = {"name": name, "mimeType": "application/octet-stream", "buffer": content}
    page.set_input_files("#file_browser input[type=file]", file)


def test_an_uploaded_model_can_be_chosen_after_the_refresh(page: Page, data: Path, url: str) -> None:
    into(page, "models", "Stable-diffusion")
    content = bytes(range(256)) * 40_000
    give(page, "uploaded.safetensors", content)
    expect(entry(page, "uploaded.safetensors")).to_be_visible()
    expect(page.locator("#file_browser .upload")).to_contain_text("done")
    assert (data / "models" / "Stable-diffusion" / "uploaded.safetensors").read_bytes() == content
    httpx.post(f"{url}/sdapi/v1/refresh-checkpoints", timeout=60)
    assert "uploaded" in [row["model_name"] for row in httpx.get(f"{url}/sdapi/v1/sd-models", timeout=60).json()]


def test_a_broken_connection_is_no_end_of_an_upload(page: Page, data: Path) -> None:
    broken: list[str] = []

    def handle(route: Route) -> None:
        if route.request.method == "PUT" and "offset=4194304" in route.request.url and len(broken) < 2:
            broken.append(route.request.url)
            route.abort()
        else:
            route.continue_()

    page.route("**/file_browser/v1/upload*", handle)
    into(page, "mine")
    content = bytes(range(256)) * 40_000
    give(page, "resumed.bin", content)
    expect(entry(page, "resumed.bin")).to_be_visible()
    assert len(broken) == 2
    assert (data / "mine" / "resumed.bin").read_bytes() == content


def test_files_are_dropped_and_replaced_only_after_a_question(page: Page, data: Path) -> None:
    into(page, "outputs", "deep")
    drop = """([name, content]) => {
        const carried = new DataTransfer();
        carried.items.add(new File([content], name, {lastModified: 5}));
        document.querySelector('#file_browser .files').dispatchEvent(
            new DragEvent('drop', {dataTransfer: carried, bubbles: true, cancelable: true}));
    }"""
    page.evaluate(drop, ["dropped.txt", "first"])
    expect(entry(page, "dropped.txt")).to_be_visible()
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.evaluate(drop, ["dropped.txt", "second"])
    expect(page.locator("#file_browser .upload", has_text="already")).to_be_visible()
    assert (data / "outputs" / "deep" / "dropped.txt").read_text() == "first"
    expect(page.locator("#file_browser .upload", has_text="done")).to_have_count(0)
    page.once("dialog", lambda dialog: dialog.accept())
    page.evaluate(drop, ["dropped.txt", "third"])
    expect(page.locator("#file_browser .upload", has_text="done")).to_be_visible()
    assert (data / "outputs" / "deep" / "dropped.txt").read_text() == "third"


def test_a_picture_is_shown_with_its_parameters(page: Page, data: Path) -> None:
    info = PngInfo()
    info.add_text("parameters", "an <b>apple</b>\nSteps: 20")
    Image.new("RGB", (300, 200), "red").save(data / "outputs" / "<img src=x onerror=alert(1)>.png", pnginfo=info)
    into(page, "outputs")
    page.click("#file_browser td.name button:has-text('onerror')")
    expect(page.locator("#file_browser .preview pre")).to_have_text("an <b>apple</b>\nSteps: 20")
    expect(page.locator("#file_browser .preview")).to_contain_text("300 × 200")
    assert page.evaluate("document.querySelector('#file_browser .preview img').naturalWidth") == 300
    page.locator("#file_browser .preview button").click()
    expect(page.locator("#file_browser .preview")).to_be_hidden()


def test_download_rename_delete(page: Page, data: Path) -> None:
    into(page, "mine")
    page.once("dialog", lambda dialog: dialog.accept("made here"))
    page.click("#file_browser .make-folder")
    into(page, "made here")
    give(page, "a.txt", b"some text")
    expect(entry(page, "a.txt")).to_be_visible()
    with page.expect_download() as waiting:
        page.click("#file_browser a[download]")
    assert Path(waiting.value.path()).read_bytes() == b"some text"
    page.once("dialog", lambda dialog: dialog.accept("b.txt"))
    page.click("#file_browser button[title=Rename]")
    expect(entry(page, "b.txt")).to_be_visible()
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.click("#file_browser button[title=Delete]")
    assert (data / "mine" / "made here" / "b.txt").exists()
    page.click("#file_browser .crumbs button:has-text('mine')")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete: made here").click()
    expect(entry(page, "made here")).to_have_count(0)
    assert not (data / "mine" / "made here").exists()


def test_a_refusal_is_shown(page: Page) -> None:
    into(page, "outputs")
    page.once("dialog", lambda dialog: dialog.accept("a:b"))
    page.click("#file_browser .make-folder")
    expect(page.locator("#file_browser .problem")).to_contain_text("cannot be the name")


def test_nothing_is_cut_off_on_a_telephone_in_chinese(url: str, browser: Browser) -> None:
    with visitor(browser, 390, 844, "zh-CN") as context:
        page = context.new_page()
        page.goto(f"{url}/?")
        page.evaluate("document.querySelector('#tab_file_browser-button')?.click()")
        if not page.locator("#file_browser .bar").is_visible():
            page.locator("#tabs .overflow-menu > button").first.click()
            page.get_by_text("文件管理").last.click()
        page.wait_for_selector("#file_browser td.name")
        assert "上传" in page.inner_text("#file_browser .bar")
        into(page, "outputs")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate("""[...document.querySelectorAll('#file_browser .bar, #file_browser table')]
            .every((part) => part.scrollWidth <= part.clientWidth + 1)""")
