"""The generation tabs beyond one picture: cards, quick settings, a batch that outlives its page, refusals."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.support.server import RunningServer
from tests.webui.browser.chromium import open_tab, visit, visitor
from tests.webui.browser.test_page import fill_number, generate, number, picture

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def keys_page(server: RunningServer, browser: Browser) -> Iterator[Page]:
    """One page for what changes nothing but the prompt."""
    with visitor(browser) as context:
        yield visit(context, server.url)


@pytest.mark.parametrize(
    ("text", "begin", "end", "keys", "expected"),
    [
        ("a red apple", 3, 3, "Up", "a (red:1.1) apple"),
        ("a red apple", 3, 3, "Up Down Down", "a (red:0.9) apple"),
        ("a red apple", 3, 3, "Up Down", "a red apple"),
        ("a red apple", 1, 6, "Up", "a (red:1.1) apple"),  # the blanks of a double click
        ("a (red apple:1.2) b", 6, 6, "Up Up", "a (red apple:1.4) b"),
        ("a (red apple) b", 6, 6, "Down", "a red apple b"),
        ("a (red:1.2) b", 2, 11, "Up", "a (red:1.3) b"),
        (r"a \(red\) b", 5, 5, "Up", r"a \((red:1.1)\) b"),
        ("a <lora:x:1> b", 5, 5, "Up", "a <lora:x:1.05> b"),
    ],
)
def test_attention_by_keys(keys_page: Page, text: str, begin: int, end: int, keys: str, expected: str) -> None:
    prompt = keys_page.locator("#txt2img_prompt textarea")
    prompt.fill(text)
    prompt.evaluate("(area, at) => { area.focus(); area.setSelectionRange(...at); }", [begin, end])
    for key in keys.split():
        keys_page.keyboard.press(f"Control+Arrow{key}")
    expect(prompt).to_have_value(expected)
    for _ in keys.split():
        keys_page.keyboard.press("Control+z")
    expect(prompt).to_have_value(text)


def test_buttons_of_a_symbol_have_names(keys_page: Page) -> None:
    expect(keys_page.get_by_role("button", name="Write the chosen styles into the prompts").first).to_be_visible()
    for button in keys_page.locator("button.tool:visible").all():
        expect(button).to_have_attribute("aria-label", re.compile("[a-z]{3}"))


def test_the_routes_are_listed_without_the_internet(browser: Browser, server: RunningServer) -> None:
    with visitor(browser) as context:
        context.route(re.compile(r"^https?://(?!127\.0\.0\.1)"), lambda route: route.abort())
        page = context.new_page()
        page.goto(f"{server.url}/docs")
        page.get_by_role("searchbox").fill("enable_hr")
        found = page.locator("details:visible", has_text="/sdapi/v1/txt2img").first
        found.locator("summary").click()
        expect(found.get_by_role("cell", name="enable_hr", exact=True)).to_be_visible()


def test_cards_write_into_the_prompt_focused_last(page: Page, server: RunningServer) -> None:
    folder = server.data_dir / "models" / "Lora"
    Image.new("RGB", (64, 64), "blue").save(folder / "emoji-blueprint.preview.png")
    (folder / "emoji-blueprint.json").write_text(json.dumps({"activation text": "in ink", "preferred weight": 0.5}))
    page.fill("#txt2img_prompt textarea", "a red apple")
    page.click("#txt2img_lora_tab-button")
    card = page.locator("#txt2img_lora_cards .network-card[title='emoji-blueprint']")
    expect(card.locator("img")).to_have_js_property("naturalWidth", 64)
    prompt = page.locator("#txt2img_prompt textarea")
    card.click()
    expect(prompt).to_have_value("a red apple <lora:emoji-blueprint:0.5> in ink")
    card.click()
    expect(prompt).to_have_value("a red apple")
    page.fill("#txt2img_lora_cards .network-search", "nothing is called so")
    expect(card).to_be_hidden()
    page.click("#txt2img_checkpoints_tab-button")
    page.locator("#txt2img_checkpoints_cards .network-card").first.click()
    expect(page.locator("#setting_sd_model_checkpoint input")).to_have_value(re.compile("emoji-mini"))


def test_applied_settings_are_seen_in_the_row_above_the_tabs(page: Page, server: RunningServer) -> None:
    open_tab(page, "settings")
    for name, value in (
        ("CLIP_stop_at_last_layers", "3"),
        ("quicksettings_list", "CLIP_stop_at_last_layers\nsend_seed"),
    ):
        page.fill("#settings_search", name)
        page.fill(f"#input_{name}", value)
        page.click("#settings_submit")
        expect(page.locator("#settings_result")).to_contain_text(name)
    expect(page.locator("#quicksettings input[type=number]")).to_have_value("3")
    expect(page.locator("#quicksettings #setting_sd_vae")).to_be_hidden()
    page.click("#quick_send_seed")
    address = f"{server.url}/sdapi/v1/options"
    page.wait_for_function(f"async () => !(await (await fetch('{address}')).json()).send_seed")
    reset = {"quicksettings_list": ["sd_model_checkpoint"], "CLIP_stop_at_last_layers": 1, "send_seed": True}
    assert httpx.post(address, json=reset, timeout=60).status_code == 200


def test_a_style_is_saved_and_deleted(page: Page, server: RunningServer) -> None:
    address = f"{server.url}/sdapi/v1/prompt-styles"
    page.fill("#txt2img_prompt textarea", "{prompt}, in ink")
    page.click("#txt2img_style_edit")
    page.fill("#txt2img_style_name :is(textarea, input)", "inky")
    page.click("#txt2img_style_save")
    expect(page.locator(".toast-body")).to_contain_text("The style is saved")
    saved = {style["name"]: style for style in httpx.get(address, timeout=60).json()}
    assert saved["inky"]["prompt"] == "{prompt}, in ink"
    page.fill("#txt2img_prompt textarea", "a red apple")
    page.click("#txt2img_styles input")
    page.locator("#txt2img_styles").get_by_role("option", name="inky").click()
    page.click("#txt2img_style_apply")
    expect(page.locator("#txt2img_prompt textarea")).to_have_value("a red apple, in ink")
    page.click("#txt2img_style_delete")
    expect(page.locator(".toast-body").last).to_contain_text("The style is deleted")
    assert "inky" not in {style["name"] for style in httpx.get(address, timeout=60).json()}


def test_a_reload_finds_a_batch_again(page: Page, server: RunningServer) -> None:
    folder = server.data_dir / "in"
    folder.mkdir()
    for name in ("a", "b", "c"):
        Image.new("RGB", (128, 128), "red").save(folder / f"{name}.png")
    open_tab(page, "img2img")
    page.click("#img2img_interrogate")
    expect(page.locator(".toast-body")).to_contain_text("There is no picture to start from yet")
    fill_number(page, "img2img_steps", 30)
    page.click("#img2img_batch_tab-button")
    page.fill("#img2img_batch_input_dir :is(textarea, input)", "in")
    page.click("#img2img_generate")
    expect(page.locator("#img2img_progress .progress-text")).to_contain_text("of 3")
    page.reload()
    open_tab(page, "img2img")
    expect(page.locator("#img2img_gallery .thumbnails img")).to_have_count(3)
    assert number(page, "img2img_steps") == "30"


APPLE = {
    "prompt": "a red apple", "negative_prompt": "leaf", "seed": 11, "steps": 3, "width": 72, "height": 64,
    "sampler_name": "Heun", "cfg_scale": 4.5,
}  # fmt: skip


def apple(server: RunningServer, folder: Path) -> Path:
    """A file with parameters in it."""
    answer = httpx.post(f"{server.url}/sdapi/v1/txt2img", json=APPLE, timeout=90).json()
    file = folder / "apple.png"
    file.write_bytes(base64.b64decode(answer["images"][0]))
    return file


def shown(page: Page, id: str) -> bytes:
    """The file in a place for pictures."""
    source = page.locator(f"#{id} img").first.get_attribute("src")
    assert source is not None
    return httpx.get(source, timeout=60).content


def filled(page: Page) -> bool:
    names = ("seed", "steps", "width", "height", "cfg_scale")
    return [number(page, f"img2img_{name}") for name in names] == ["11", "3", "72", "64", "4.5"]


def until(page: Page, true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        page.wait_for_timeout(200)


def test_png_info_sends_the_picture_everywhere(page: Page, server: RunningServer, tmp_path: Path) -> None:
    file = apple(server, tmp_path)
    open_tab(page, "png_info")
    page.set_input_files("#pnginfo_image input[type=file]", file)
    expect(page.locator("#pnginfo_html_info")).to_contain_text("a red apple")
    page.click("#pnginfo_send_to_extras")
    expect(page.locator("#extras_image img")).to_be_visible()
    expect(page.locator("#extras_single_tab-button")).to_have_attribute("aria-selected", "true")
    assert shown(page, "extras_image") == file.read_bytes()

    open_tab(page, "png_info")
    page.click("#pnginfo_send_to_img2img")
    expect(page.locator("#img2img_image img")).to_be_visible()
    expect(page.locator("#img2img_prompt textarea")).to_have_value("a red apple")
    expect(page.locator("#img2img_neg_prompt textarea")).to_have_value("leaf")
    expect(page.locator("#img2img_sampling input")).to_have_value("Heun")
    assert filled(page) and shown(page, "img2img_image") == file.read_bytes()

    page.click("#img2img_clear_prompt")
    fill_number(page, "img2img_seed", 1)
    # The editor's tab is new, but the tab that it is in is not: it had no size then.
    open_tab(page, "png_info")
    page.click("#pnginfo_send_to_inpaint")
    expect(page.locator("#img2img_inpaint_tab-button")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#img2img_prompt textarea")).to_have_value("a red apple")
    until(page, lambda: filled(page))
    expect(page.locator("#img2maskimg canvas").first).to_be_visible()

    def nothing_is_masked() -> bool:
        """What is said once the picture is there."""
        page.click("#img2img_generate")
        page.locator(".toast-body").first.wait_for()
        said = page.locator(".toast-body").all_inner_texts()
        return any("Nothing is masked yet" in one for one in said)

    until(page, nothing_is_masked)


def test_a_gallery_sends_its_picture_everywhere(page: Page, server: RunningServer, tmp_path: Path) -> None:
    page.fill("#txt2img_prompt textarea", "a red apple")
    fill_number(page, "txt2img_steps", 3)
    generate(page)
    page.click("#txt2img_send_to_extras")
    expect(page.locator("#extras_image img")).to_be_visible()
    assert shown(page, "extras_image") == picture(page)

    open_tab(page, "img2img")
    page.set_input_files("#img2img_image input[type=file]", apple(server, tmp_path))
    expect(page.locator("#img2img_image img")).to_be_visible()
    page.fill("#img2img_prompt textarea", "a blue star")
    fill_number(page, "img2img_steps", 3)
    generate(page, "img2img")
    made = picture(page, "img2img")
    page.click("#img2img_send_to_img2img")
    until(page, lambda: shown(page, "img2img_image") == made)
    size = Image.open(io.BytesIO(made)).size
    assert (number(page, "img2img_width"), number(page, "img2img_height")) == (str(size[0]), str(size[1]))
    page.click("#img2img_send_to_inpaint")
    expect(page.locator("#img2img_inpaint_tab-button")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#img2maskimg canvas").first).to_be_visible()
    expect(page.locator("#inpaint_controls")).to_be_visible()


def test_a_picture_is_enlarged_in_its_place(page: Page) -> None:
    """By the settings of the hires pass, which is not ticked; a grid is refused."""
    page.fill("#txt2img_prompt textarea", "a red apple")
    fill_number(page, "txt2img_steps", 2)
    fill_number(page, "txt2img_batch_count", 2)
    generate(page)
    page.click("#txt2img_upscale")
    expect(page.locator(".toast-body")).to_contain_text("beside the grid")
    page.locator("#txt2img_gallery .thumbnails button").nth(2).click()
    info = page.locator("#txt2img_html_info")
    expect(info).not_to_contain_text("Time taken")
    page.click("#txt2img_upscale")
    expect(info).to_contain_text("Hires upscale: 2")
    files = page.locator("#txt2img_gallery .thumbnails img").evaluate_all("images => images.map((one) => one.src)")
    sizes = [Image.open(io.BytesIO(httpx.get(file, timeout=60).content)).size for file in files]
    assert sizes[1:] == [(128, 128), (256, 256)]


def test_the_page_says_how_many_are_ahead(page: Page, server: RunningServer) -> None:
    """Jobs of the API's, as many as run at once and two more."""

    def put(id: str) -> None:
        body = {"prompt": "a blue star", "steps": 150, "n_iter": 50, "force_task_id": id}
        httpx.post(f"{server.url}/sdapi/v1/txt2img", json=body, timeout=300)

    def waiting() -> int:
        return int(httpx.get(f"{server.url}/internal/pending-tasks", timeout=60).json()["size"])

    others: list[threading.Thread] = []
    while waiting() < 2:
        others.append(threading.Thread(target=put, args=(f"ahead-{len(others)}",), daemon=True))
        others[-1].start()
        page.wait_for_timeout(300)
        assert len(others) < 40
    page.fill("#txt2img_prompt textarea", "a red apple")
    fill_number(page, "txt2img_steps", 3)
    page.click("#txt2img_generate")
    words = page.locator("#txt2img_progress .progress-text")
    expect(words).to_have_text(re.compile(r"^Waiting: [2-9] ahead$"))
    for index in reversed(range(1, len(others))):  # those that wait first
        httpx.post(f"{server.url}/sdapi/v1/interrupt", params={"id": f"ahead-{index}"}, timeout=60)
    httpx.post(f"{server.url}/sdapi/v1/interrupt", params={"id": "ahead-0"}, timeout=60)
    expect(page.locator("#txt2img_html_info")).to_contain_text("Time taken")
    for other in others:
        other.join(60)


def test_broken_pictures_are_refused_in_the_readers_language(chinese_page: Page, tmp_path: Path) -> None:
    page, broken = chinese_page, tmp_path / "<b>broken.png"
    broken.write_bytes(b"no picture")
    toast = page.locator(".toast-body").last

    open_tab(page, "png_info")
    page.click("#pnginfo_send_to_img2img")
    expect(toast).to_contain_text("还没有图像")
    expect(toast.locator(".toast-title")).to_contain_text("错误")
    page.set_input_files("#pnginfo_image input[type=file]", broken)
    expect(page.locator("#pnginfo_html_info")).to_have_text("不是可识别的图像格式")

    open_tab(page, "img2img")
    page.set_input_files("#img2img_image input[type=file]", broken)
    expect(page.locator("#img2img_image img")).to_be_visible()
    page.click("#img2img_generate")
    expect(toast).to_contain_text("不是可识别的图像格式")
    page.click("#img2img_inpaint_upload_tab-button")  # the other picture does no harm here
    page.click("#img2img_generate")
    expect(toast).to_contain_text("还没有初始图片")
    expect(page.locator(".toast-title").first).to_contain_text("错误")
    expect(page.locator(".toast-title", has_text="Error")).to_have_count(0)


def test_what_is_written_like_a_mark_or_a_tag_is_text(page: Page, server: RunningServer) -> None:
    odd = r"\ue900 \\ue901 <img src=x onerror=window.found=1> 苹果"
    (server.data_dir / "outputs" / "<img src=x onerror=window.found=2>").mkdir(parents=True)
    page.fill("#txt2img_prompt textarea", odd)
    fill_number(page, "txt2img_steps", 2)
    generate(page)
    expect(page.locator("#txt2img_html_info .infotext-text")).to_contain_text(odd)
    page.click("#txt2img_style_edit")
    page.fill("#txt2img_style_name :is(textarea, input)", "<img src=x onerror=window.found=3>")
    page.click("#txt2img_style_delete")
    expect(page.locator(".toast-body").last).to_contain_text("There is no style of this name")
    page.click("#txt2img_style_save")
    expect(page.locator(".toast-body").last).to_contain_text("The style is saved")
    page.reload()
    expect(page.locator("#txt2img_prompt textarea")).to_have_value(odd)
    page.click("#txt2img_styles input")
    expect(page.locator("#txt2img_styles").get_by_role("option").filter(has_text="onerror")).to_be_visible()
    page.keyboard.press("Escape")
    open_tab(page, "file_browser")
    page.click('#file_browser td.name button:text-matches("outputs$")')
    expect(page.locator("#file_browser td.name button").filter(has_text="onerror=window.found=2")).to_be_visible()
    assert page.evaluate("window.found") is None
