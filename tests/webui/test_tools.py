"""Extras, Checkpoint Merger and Train in a browser, over fake services: buttons, progress, refusals, results."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect
from safetensors import safe_open

from sdwebui_api.api.services import Services
from sdwebui_api.engine.networks.hypernetworks import activations
from sdwebui_api.engine.training import captions, hypernetwork
from sdwebui_api.webui.page import mount_page
from sdwebui_api.webui.tabs import train_fields
from tests.support.fakes import fake_services
from tests.support.server import run_in_thread
from tests.webui.browser.chromium import chromium, open_tab, visit, visitor


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Services:
    data = tmp_path_factory.mktemp("tools")
    (data / "merged").mkdir()
    (data / "pictures").mkdir()
    Image.new("RGB", (64, 64), "red").save(data / "pictures" / "red.png")
    embeddings = data / "embeddings"
    embeddings.mkdir()
    (embeddings / "mine.pt").write_bytes(b"looked up by name alone")
    return fake_services(data, "--ckpt-dir", str(data / "merged"), "--embeddings-dir", str(embeddings))


@pytest.fixture(scope="module")
def page(services: Services) -> Iterator[Page]:
    with run_in_thread(services, mount_page) as url, chromium() as browser, visitor(browser) as context:
        yield visit(context, url)


def fill(page: Page, id: str, value: str) -> None:
    page.locator(f"#{id} :is(textarea, input)").first.fill(value)


def choose(page: Page, id: str, text: str) -> None:
    page.click(f"#{id} input")
    page.locator("ul[role=listbox] li", has_text=text).first.click()


def refused(page: Page, text: str) -> None:
    """A toast says so; it is closed for the next one."""
    page.locator(".toast-body", has_text=text).locator(".toast-close").click()


def test_extras_enlarges_and_saves(page: Page, services: Services, tmp_path: Path) -> None:
    picture = tmp_path / "apple.png"
    Image.new("RGB", (24, 32), "red").save(picture)
    open_tab(page, "extras")
    page.set_input_files("#extras_image input[type=file]", picture)
    page.wait_for_selector("#extras_image img")
    page.click("#extras_generate")
    page.wait_for_selector("#extras_html_info >> text=Postprocess upscale by: 4")
    with Image.open(Path(services.flags.data_dir) / "outputs" / "extras-images" / "00000.png") as image:
        assert image.size == (96, 128)
    page.click("#extras_send_to_img2img")
    page.wait_for_selector("#img2img_image img")
    width, height = (page.locator(f"#img2img_{side} input[type=number]") for side in ("width", "height"))
    expect(width).to_have_value("96")
    expect(height).to_have_value("128")


def test_extras_takes_a_folder_and_what_is_broken_in_it_stops_nothing(page: Page, services: Services) -> None:
    folder = Path(services.flags.data_dir) / "several"
    folder.mkdir()
    (folder / "broken.png").write_text("no picture")
    open_tab(page, "extras")
    page.click("#extras_batch_directory_tab-button")
    fill(page, "extras_batch_input_dir", "..")
    page.click("#extras_generate")
    refused(page, "no such folder")
    fill(page, "extras_batch_input_dir", "several")
    page.click("#extras_generate")
    refused(page, "broken.png is no picture")
    Image.new("RGB", (24, 32), "green").save(folder / "green.png")
    page.click("#extras_generate")
    page.wait_for_selector("#extras_html_info >> text=broken.png is no picture")
    expect(page.locator("#extras_gallery img[src*=green]").first).to_be_visible()


def test_a_merged_checkpoint_can_be_chosen_at_once(page: Page, services: Services) -> None:
    open_tab(page, "merger")
    page.click("#modelmerger_merge")
    refused(page, "Choose model A first")
    choose(page, "modelmerger_primary_model_name", "tiny-sd")
    page.click("#modelmerger_merge")
    refused(page, "Choose model B first")
    page.locator("#modelmerger_interp_method label", has_text="No interpolation").click()
    fill(page, "modelmerger_custom_name", "halved")
    page.check("#modelmerger_save_as_half input")
    fill(page, "modelmerger_discard_weights", "model_ema")
    page.click("#modelmerger_merge")
    page.wait_for_selector("#modelmerger_html_info >> text=halved.safetensors")
    choose(page, "modelmerger_secondary_model_name", "halved")
    with safe_open(services.merge_folder / "halved.safetensors", "pt") as file:
        recipe = json.loads(file.metadata()["sd_merge_recipe"])
        assert file.get_slice("model.diffusion_model.out.2.bias").get_dtype() == "F16"
    assert (recipe["interp_method"], recipe["save_as_half"]) == ("No interpolation", True)
    page.click("#modelmerger_merge")
    refused(page, "halved.safetensors exists already")
    page.wait_for_selector("#modelmerger_merge_progress >> text=exists already")


def test_a_merge_that_waits_is_cancelled(page: Page, services: Services) -> None:
    open_tab(page, "merger")
    free = threading.Event()
    services.runner.submit(lambda job: free.wait(60), kind="in the way")
    choose(page, "modelmerger_primary_model_name", "tiny-sd")
    page.locator("#modelmerger_interp_method label", has_text="No interpolation").click()
    fill(page, "modelmerger_custom_name", "never")
    page.click("#modelmerger_merge")
    page.wait_for_selector("#modelmerger_merge_progress >> text=Waiting")
    page.click("#modelmerger_merge_interrupt")
    page.wait_for_selector("#modelmerger_merge_progress >> text=Cancelled")
    free.set()
    assert not (services.merge_folder / "never.safetensors").exists()


def test_an_embedding_and_a_hypernetwork_are_made(page: Page) -> None:
    open_tab(page, "train")
    page.click("#train_create_embedding")
    refused(page, "name")
    fill(page, "train_new_embedding_name", "apple")
    page.click("#train_create_embedding")
    page.wait_for_selector("#train_create_embedding_result >> text=apple.pt")
    page.click("#train_create_hypernetwork_tab-button")
    fill(page, "train_new_hypernetwork_name", "style")
    page.check("#train_new_hypernetwork_use_dropout input")
    page.click("#train_create_hypernetwork")
    refused(page, "Dropout needs its structure")
    fill(page, "train_new_hypernetwork_dropout_structure", "0, 0.3, 0")
    page.click("#train_create_hypernetwork")
    page.wait_for_selector("#train_create_hypernetwork_result >> text=style.pt")


def test_a_training_is_found_again_and_interrupted(page: Page, services: Services) -> None:
    open_tab(page, "train")
    page.click("#train_train_tab-button")
    page.click("#train_train_hypernetwork")
    refused(page, "Choose a hypernetwork first")
    choose(page, "train_embedding", "mine")
    fill(page, "train_dataset_directory", "nowhere")
    page.click("#train_train_embedding")
    refused(page, "no such folder")
    fill(page, "train_dataset_directory", "pictures")
    services.trainer.gate.clear()
    page.click("#train_train_embedding")
    page.wait_for_selector("#train_train_embedding_progress >> text=of 100000")
    page.click("#train_train_embedding_interrupt", trial=True)
    page.reload(wait_until="domcontentloaded")
    page.wait_for_selector("#txt2img_prompt textarea")
    open_tab(page, "train")
    page.click("#train_train_tab-button")
    page.click("#train_train_embedding_interrupt")
    page.wait_for_selector("#train_result >> text=mine.pt")
    trained = services.trainer.trained[-1]
    assert (trained.kind, trained.name, len(trained.images), trained.loop.steps) == ("embedding", "mine", 1, 100_000)
    assert trained.preview is not None and trained.preview_follows_prompts


def test_a_hypernetwork_is_trained_with_previews_of_txt2img(page: Page, services: Services) -> None:
    services.trainer.gate.set()
    open_tab(page, "txt2img")
    fill(page, "txt2img_prompt", "a green pear")
    open_tab(page, "train")
    page.click("#train_train_tab-button")
    choose(page, "train_hypernetwork", "tiny-hyper")
    fill(page, "train_hypernetwork_learn_rate", "0.0002:50, 0.0001")
    fill(page, "train_dataset_directory", "pictures")
    page.click("#train_records")
    page.check("#train_preview_from_txt2img input")
    page.click("#train_train_hypernetwork")
    page.wait_for_selector("#train_result >> text=tiny-hyper.pt")
    trained = services.trainer.trained[-1]
    assert (trained.kind, trained.loop.rate.at(1), trained.records.save_every) == ("hypernetwork", 0.0002, 500)
    assert trained.preview is not None and not trained.preview_follows_prompts
    assert (trained.preview.prompt, trained.preview.width) == ("a green pear", 512)


def test_what_is_offered_is_known() -> None:
    assert train_fields.WEIGHT_INITS == hypernetwork.WEIGHT_INITS
    assert set(train_fields.ACTIVATIONS) <= set(activations())
    assert set(train_fields.TEMPLATES) <= {path.name for path in captions.SHIPPED.glob("*.txt")}
