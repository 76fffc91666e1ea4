"""What a designer does on the page, in a real browser against the real server and the embedded model."""

from __future__ import annotations

import io
import re
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.support.server import ROOT, RunningServer
from tests.webui.browser.chromium import PATIENCE, open_tab, visit

pytestmark = pytest.mark.slow
expect.set_options(timeout=PATIENCE)


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


def test_every_tab_opens_without_an_error(page: Page) -> None:
    ids = page.locator("[id^=tab_][id$=-button]").evaluate_all("all => all.map((one) => one.id.slice(4, -7))")
    assert {"txt2img", "img2img", "extras", "png_info", "settings", "extensions", "beautiful_prompt"} <= set(ids)
    for id in dict.fromkeys(ids):
        open_tab(page, id)
        page.wait_for_timeout(1000)
        assert page.locator(f"#tab_{id}").inner_text().strip(), id
        expect(page.locator(f"#tab_{id}")).not_to_contain_text("could not be built")


def test_a_red_apple_appears_in_the_gallery(page: Page) -> None:
    colours = np.asarray(Image.open(io.BytesIO(draw_apple(page))).convert("RGB")).reshape(-1, 3).astype(int)
    red = (colours[:, 0] > 140) & (colours[:, 0] > colours[:, 1] + 60) & (colours[:, 0] > colours[:, 2] + 60)
    assert red.mean() > 0.1
    expect(page.locator("#txt2img_html_info")).to_contain_text("Seed: 7")


def test_interrupt_ends_a_job_early(page: Page) -> None:
    begin_long_job(page)
    interrupt(page)
    expect(page.locator("#txt2img_html_info")).to_contain_text("Time taken")
    expect(page.locator("#txt2img_progress .progress")).to_have_count(0)


def test_a_reload_finds_the_job_again(page: Page, server: RunningServer) -> None:
    begin_long_job(page)
    page.reload()
    expect(page.locator("#txt2img_progress .progress-text")).to_contain_text("step")
    expect(page.locator("#txt2img_interrupt")).to_be_visible()
    interrupt(page)
    expect(page.locator("#txt2img_gallery img").first).to_be_visible()
    again = visit(page.context, server.url)
    expect(again.locator("#txt2img_gallery img").first).to_be_visible()


def test_png_info_reads_it_back_and_refills_the_fields(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "apple.png"
    file.write_bytes(draw_apple(page))
    page.fill("#txt2img_prompt textarea", "something else")
    fill_number(page, "txt2img_seed", 1)
    fill_number(page, "txt2img_steps", 20)
    open_tab(page, "png_info")
    page.set_input_files("#pnginfo_image input[type=file]", str(file))
    expect(page.locator("#pnginfo_html_info")).to_contain_text("a red apple")
    page.click("#pnginfo_send_to_txt2img")
    expect(page.locator("#txt2img_prompt textarea")).to_have_value("a red apple")
    expect(page.locator("#txt2img_seed input")).to_have_value("7")
    expect(page.locator("#txt2img_steps input[type=number]")).to_have_value("8")


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


def test_an_uploaded_model_can_be_chosen(page: Page, server: RunningServer) -> None:
    open_tab(page, "file_browser")
    for folder in ("models", "Stable-diffusion"):
        page.click(f'#file_browser td.name button:text-matches("{folder}$")')
        expect(page.locator("#file_browser .crumbs button").last).to_have_text(folder)
    model = (ROOT / "model_store" / "Stable-diffusion" / "emoji-mini.safetensors").read_bytes()
    file = {"name": "uploaded.safetensors", "mimeType": "application/octet-stream", "buffer": model}
    page.set_input_files("#file_browser input[type=file]", file)  # type: ignore[arg-type]
    expect(page.locator("#file_browser .upload")).to_contain_text("done")
    open_tab(page, "txt2img")
    page.click("#refresh_sd_model_checkpoint")
    page.click("#setting_sd_model_checkpoint input")
    expect(page.get_by_role("option").filter(has_text="uploaded.safetensors")).to_be_visible()


def test_only_the_drawn_part_is_repainted(page: Page) -> None:
    before = np.asarray(Image.open(io.BytesIO(draw_apple(page))).convert("RGB")).astype(int)
    page.click("#txt2img_send_to_inpaint")
    canvas = page.locator("#img2maskimg canvas").first
    expect(canvas).to_be_visible()
    page.wait_for_timeout(5000)  # the editor shows the picture after its canvas; nothing on the page tells when
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
    after = np.asarray(Image.open(io.BytesIO(picture(page, "img2img"))).convert("RGB")).astype(int)
    assert after.shape == before.shape
    changed = np.abs(after - before).max(axis=2) > 24
    assert changed.any()
    edge = max(2, before.shape[0] // 16)
    assert not changed[:edge].any() and not changed[-edge:].any()
