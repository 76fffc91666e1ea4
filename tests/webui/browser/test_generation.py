"""The generation tabs beyond one picture: cards, quick settings, a batch that outlives its page, refusals."""

from __future__ import annotations

import json
import re

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.support.server import RunningServer
from tests.webui.browser.chromium import open_tab
from tests.webui.browser.test_page import fill_number, number

pytestmark = pytest.mark.slow


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
