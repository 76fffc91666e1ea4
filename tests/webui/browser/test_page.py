"""What a designer does on the page, in a real browser against the real server and the embedded model."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.support.server import RunningServer
from tests.webui.browser.chromium import PATIENCE, open_tab, tab_names, visit
from tests.webui.browser.server import CHECKPOINT

pytestmark = pytest.mark.slow


def number(page: Page, id: str) -> str:
    return page.locator(f"#{id} input[type=number]").first.input_value()


def fill_number(page: Page, id: str, value: float) -> None:
    box = page.locator(f"#{id} input[type=number]").first
    box.fill(str(value))
    box.press("Tab")


def generate(page: Page, kind: str = "txt2img") -> None:
    page.click(f"#{kind}_generate")
    expect(page.locator(f"#{kind}_html_info")).to_contain_text("Time taken")


def picture(page: Page, kind: str = "txt2img") -> bytes:
    """The file of the picture that the gallery shows."""
    source = page.locator(f"#{kind}_gallery img").first.get_attribute("src")
    assert source is not None
    return httpx.get(source, timeout=60).content


def pixels(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB")).astype(int)


def redness(picture: np.ndarray) -> float:
    """How much of it is red, 0 to 1."""
    red, green, blue = picture.reshape(-1, 3).T
    return float(((red > 140) & (red > green + 60) & (red > blue + 60)).mean())


def draw_apple(page: Page) -> bytes:
    page.fill("#txt2img_prompt textarea", "a red apple")
    fill_number(page, "txt2img_seed", 7)
    fill_number(page, "txt2img_steps", 8)
    generate(page)
    return picture(page)


def begin_long_job(page: Page) -> None:
    page.fill("#txt2img_prompt textarea", "a red apple")
    fill_number(page, "txt2img_steps", 150)
    fill_number(page, "txt2img_batch_count", 20)
    page.click("#txt2img_generate")
    expect(page.locator("#txt2img_progress .progress-text")).to_contain_text("step")


def interrupt(page: Page) -> None:
    page.click("#txt2img_interrupt")
    expect(page.locator("#txt2img_generate")).to_be_visible()


TABS = {
    "txt2img", "img2img", "extras", "png_info", "merger", "train", "settings", "extensions", "beautiful_prompt",
    "file_browser", "model_zoo",
}  # fmt: skip


def test_every_tab_and_all_tabs_within_open_without_an_error(page: Page) -> None:
    ids = list(tab_names(page))
    assert set(ids) >= TABS
    for id in ids:
        open_tab(page, id)
        panel = page.locator(f"#tab_{id}")
        expect(panel).not_to_be_empty()
        inner_tabs = panel.get_by_role("tab").filter(visible=True).all()
        for inner in reversed(inner_tabs):  # those of the innermost row come last, and the first shows them
            inner.click()
            expect(inner).to_have_attribute("aria-selected", "true")
        page.wait_for_timeout(300)  # what goes wrong in a browser goes wrong after the click
        assert panel.inner_text().strip(), id
        expect(panel).not_to_contain_text("could not be built")


def test_a_phone_reaches_every_tab_by_the_menu(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator(".overflow-menu > button:visible").first.wait_for()
    for id in tab_names(page):
        open_tab(page, id)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, id


def test_interrupt_ends_a_job_early(page: Page) -> None:
    begin_long_job(page)
    interrupt(page)
    expect(page.locator("#txt2img_html_info")).to_contain_text("Time taken")
    expect(page.locator("#txt2img_progress .progress")).to_have_count(0)


def test_keys_work_wherever_the_focus_is(page: Page) -> None:
    fill_number(page, "txt2img_steps", 2)
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#txt2img_html_info")).to_contain_text("Time taken")
    begin_long_job(page)
    page.locator("#txt2img_gallery .media-button").first.evaluate("button => button.click()")
    expect(page.locator(".lightbox")).to_be_visible()
    page.keyboard.press("Escape")  # what is on top alone
    expect(page.locator(".lightbox")).to_have_count(0)
    page.click("#txt2img_sampling input")
    page.keyboard.press("Escape")
    page.wait_for_timeout(500)
    expect(page.locator("#txt2img_interrupt")).to_be_visible()
    fill_number(page, "txt2img_steps", 3)
    fill_number(page, "txt2img_batch_count", 1)
    page.keyboard.press("Control+Enter")  # ends the long one, and begins anew
    expect(page.locator("#txt2img_html_info")).to_contain_text("Steps: 3")
    begin_long_job(page)
    page.keyboard.press("Escape")
    expect(page.locator("#txt2img_generate")).to_be_visible()


def test_a_reload_finds_the_job_again(page: Page, server: RunningServer) -> None:
    begin_long_job(page)
    page.reload()
    expect(page.locator("#txt2img_progress .progress-text")).to_contain_text("step")
    expect(page.locator("#txt2img_interrupt")).to_be_visible()
    interrupt(page)
    expect(page.locator("#txt2img_gallery img").first).to_be_visible()
    again = visit(page.context, server.url)
    expect(again.locator("#txt2img_gallery img").first).to_be_visible()


def test_a_red_apple_appears_in_the_gallery_and_is_sent_from_tab_to_tab(page: Page) -> None:
    apple = draw_apple(page)
    assert redness(pixels(apple)) > 0.1
    expect(page.locator("#txt2img_html_info")).to_contain_text("Seed: 7")
    page.click("#txt2img_send_to_img2img")
    expect(page.locator("#img2img_image img")).to_be_visible()
    expect(page.locator("#img2img_prompt textarea")).to_have_value("a red apple")
    assert (number(page, "img2img_seed"), number(page, "img2img_steps")) == ("7", "8")
    size = Image.open(io.BytesIO(apple)).size
    assert (number(page, "img2img_width"), number(page, "img2img_height")) == (str(size[0]), str(size[1]))
    fill_number(page, "img2img_denoising_strength", 0.3)
    generate(page, "img2img")
    expect(page.locator("#img2img_html_info")).to_contain_text("Denoising strength: 0.3")
    page.click("#img2img_send_to_extras")
    expect(page.locator("#extras_image img")).to_be_visible()
    page.click("#extras_generate")
    expect(page.locator("#extras_html_info")).to_contain_text("Time taken")
    assert Image.open(io.BytesIO(picture(page, "extras"))).size == (4 * size[0], 4 * size[1])


UNUSUAL = {
    "prompt": "a red (apple:1.2), green leaf", "negative_prompt": "star", "styles": ["shiny"], "steps": 9,
    "sampler_name": "Euler a", "scheduler": "Karras", "cfg_scale": 5.5, "seed": 1234, "width": 72, "height": 64,
    "subseed": 99, "subseed_strength": 0.25, "seed_resize_from_w": 64, "seed_resize_from_h": 80,
    "enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent (nearest)", "hr_second_pass_steps": 4,
    "denoising_strength": 0.55, "hr_sampler_name": "Heun", "hr_scheduler": "Exponential",
    "hr_prompt": "a red apple, detailed", "hr_negative_prompt": "moon", "hr_checkpoint_name": "second",
    "refiner_checkpoint": "second", "refiner_switch_at": 0.6,
    "override_settings": {
        "CLIP_stop_at_last_layers": 2, "sd_vae": "own-vae.safetensors", "eta_ancestral": 0.7, "randn_source": "CPU",
        "emphasis": "No norm", "tiling": True, "eta_noise_seed_delta": 31337, "initial_noise_multiplier": 0.9,
    },
}  # fmt: skip
"""Nothing here is what the page begins with."""


def test_png_info_reads_it_back_and_refills_every_field(page: Page, server: RunningServer, tmp_path: Path) -> None:
    """Proof: what is then generated is the same picture with the same parameters."""
    answer = httpx.post(f"{server.url}/sdapi/v1/txt2img", json=UNUSUAL, timeout=PATIENCE / 1000).json()
    infotext = json.loads(answer["info"])["infotexts"][0]
    file = tmp_path / "apple.png"
    file.write_bytes(base64.b64decode(answer["images"][0]))
    open_tab(page, "png_info")
    page.set_input_files("#pnginfo_image input[type=file]", file)
    expect(page.locator("#pnginfo_html_info")).to_contain_text(infotext)
    page.click("#pnginfo_send_to_txt2img")
    expect(page.locator("#txt2img_prompt textarea")).to_have_value(UNUSUAL["prompt"])
    assert [number(page, f"txt2img_{name}") for name in ("seed", "subseed", "hires_steps")] == ["1234", "99", "4"]
    expect(page.locator("#txt2img_override_settings")).to_contain_text("Clip skip: 2")
    expect(page.locator("#txt2img_styles")).to_contain_text("shiny")
    generate(page)
    expect(page.locator("#txt2img_html_info .infotext-text")).to_have_text(infotext)
    assert np.array_equal(pixels(picture(page)), pixels(file.read_bytes()))


def test_parameters_are_read_from_the_prompt(page: Page) -> None:
    text = "a pear\nNegative prompt: leaf\nSteps: 11, Sampler: Heun, CFG scale: 3.5, Seed: 5, Denoising strength: 0.4"
    open_tab(page, "img2img")
    page.fill("#img2img_prompt textarea", text)
    page.click("#img2img_paste")
    expect(page.locator("#img2img_prompt textarea")).to_have_value("a pear")
    expect(page.locator("#img2img_neg_prompt textarea")).to_have_value("leaf")
    expect(page.locator("#img2img_sampling input")).to_have_value("Heun")
    fields = ("steps", "cfg_scale", "seed", "denoising_strength")
    assert [number(page, f"img2img_{name}") for name in fields] == ["11", "3.5", "5", "0.4"]


def test_an_expanded_prompt_is_drawn(page: Page) -> None:
    open_tab(page, "beautiful_prompt")
    page.fill("#beautiful_prompt_text textarea", "a red apple")
    page.click("#beautiful_prompt_generate")
    first = page.locator("#beautiful_prompt_result_1 textarea")
    expect(first).to_have_value(re.compile("a red apple"))
    prompt = first.input_value()
    page.click("#beautiful_prompt_result_1_to_txt2img")
    expect(page.locator("#txt2img_prompt textarea")).to_have_value(prompt)
    fill_number(page, "txt2img_steps", 4)
    generate(page)
    expect(page.locator("#txt2img_html_info")).to_contain_text(prompt)


def test_chinese_and_back(page: Page) -> None:
    for language, name in (("zh_CN", "设置"), ("en", "Settings"), ("None", "Settings")):
        open_tab(page, "settings")
        page.fill("#settings_search", "localization")
        page.select_option("#input_localization", language)
        page.click("#settings_submit")
        expect(page.locator("#settings_result")).to_contain_text("localization")
        with page.expect_navigation():
            page.click("#settings_restart_gradio")
        expect(page.locator("#tab_settings-button").first).to_have_text(name)


def test_an_uploaded_model_can_be_chosen(page: Page, tmp_path: Path) -> None:
    open_tab(page, "file_browser")
    for folder in ("models", "Stable-diffusion"):
        page.click(f'#file_browser td.name button:text-matches("{folder}$")')
        expect(page.locator("#file_browser .crumbs button").last).to_have_text(folder)
    file = tmp_path / "uploaded.safetensors"
    shutil.copyfile(CHECKPOINT, file)
    page.set_input_files("#file_browser input[type=file]", file)
    expect(page.locator("#file_browser .upload")).to_contain_text("done")
    open_tab(page, "txt2img")
    page.click("#refresh_sd_model_checkpoint")
    page.click("#setting_sd_model_checkpoint input")
    expect(page.get_by_role("option").filter(has_text="uploaded.safetensors")).to_be_visible()


def test_only_the_drawn_part_is_repainted(page: Page) -> None:
    before = pixels(draw_apple(page))
    page.click("#txt2img_send_to_inpaint")
    canvas = page.locator("#img2maskimg canvas").first
    expect(canvas).to_be_visible()
    # The editor shows the picture after its canvas, and nothing else on the page tells when.
    end = time.monotonic() + PATIENCE / 1000
    while redness(pixels(canvas.screenshot())) < 0.02:
        assert time.monotonic() < end, "the picture is not shown"
        page.wait_for_timeout(300)
    page.wait_for_timeout(1000)
    box = canvas.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 20, y)
    page.mouse.down()
    page.mouse.move(x + 20, y, steps=10)
    page.mouse.up()
    page.fill("#img2img_prompt textarea", "a blue star")
    fill_number(page, "img2img_steps", 8)
    generate(page, "img2img")
    after = pixels(picture(page, "img2img"))
    assert after.shape == before.shape
    changed = np.abs(after - before).max(axis=2) > 24
    assert changed.any()
    edge = max(2, before.shape[0] // 16)
    assert not changed[:edge].any() and not changed[-edge:].any()
