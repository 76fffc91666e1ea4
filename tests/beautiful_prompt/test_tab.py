"""The tab in a browser, over a server whose pictures are drawn by a fake; the language model is real, if tiny."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, Page, expect

from sdwebui_api.api.services import Services
from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.errors import Cancelled
from sdwebui_api.scripting.extensions import ExtensionFolder, script_files
from sdwebui_api.scripting.host import ScriptHost
from sdwebui_api.webui.page import mount_page
from tests.beautiful_prompt.conftest import EXTENSION
from tests.beautiful_prompt.models import make_bloom
from tests.support.fakes import fake_services
from tests.support.server import run_in_thread
from tests.webui.browser.chromium import PATIENCE, chromium

BLOOM = "pai-bloom-1b1-text2prompt-sd"
PLAN = DevicePlan(torch.device("cpu"))


class Slow:
    """The model at the pace of a large one, so that there is something to stop."""

    pause = 0.01
    """Seconds per token."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def continue_text(self, *args: Any, on_tokens: Callable[[int], bool], **more: Any) -> Any:
        def slowly(count: int) -> bool:
            time.sleep(self.pause)
            return on_tokens(count)

        return self._model.continue_text(*args, on_tokens=slowly, **more)


@contextmanager
def lend(path: Path, load: Callable[..., Any], kind: type, *more: Any, keep: bool = True) -> Iterator[Any]:
    yield Slow(load(path, PLAN, Device(PLAN)))


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Services:
    home = tmp_path_factory.mktemp("tab")
    make_bloom(home / "models" / "BeautifulPrompt" / BLOOM)
    made = fake_services(home)
    extension = ExtensionFolder(EXTENSION, builtin=True)
    made.scripts = ScriptHost(script_files([], [extension]), [extension])
    made.scripts.load()
    made.catalog = replace(made.catalog, models_dirs=(home / "models",))  # type: ignore[type-var]
    made.lend_network = lend  # type: ignore[assignment]
    return made


@pytest.fixture(scope="module")
def url(services: Services) -> Iterator[str]:
    with run_in_thread(services, mount_page) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def page(url: str, browser: Browser) -> Iterator[Page]:
    """The tab, opened. No error may reach the console."""
    found = browser.new_page(locale="en-US", viewport={"width": 1440, "height": 900})
    found.set_default_timeout(PATIENCE)
    errors: list[str] = []
    found.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    found.on("pageerror", lambda error: errors.append(str(error)))
    found.goto(url)
    found.get_by_role("tab", name="BeautifulPrompt").first.click()
    expect(found.locator("#beautiful_prompt_text textarea")).to_be_visible()
    yield found
    found.close()
    assert errors == []


def ask(page: Page, text: str, model: str) -> None:
    page.fill("#beautiful_prompt_text textarea", text)
    page.click("#beautiful_prompt_model input")
    page.get_by_role("option").filter(has_text=model).click()
    page.click("#beautiful_prompt_generate")


def result(page: Page, number: int) -> Any:
    return page.locator(f"#beautiful_prompt_result_{number} textarea")


def test_a_grammars_prompt_goes_to_txt2img(page: Page) -> None:
    ask(page, "a red apple", "phrase-grammar")
    expect(result(page, 4)).to_be_visible()
    expect(result(page, 5)).to_be_hidden()
    prompt = result(page, 2).input_value()
    assert prompt.startswith("a red apple")
    page.click("#beautiful_prompt_result_2_to_txt2img")
    expect(page.locator("#txt2img_prompt textarea")).to_be_visible()
    expect(page.locator("#txt2img_prompt textarea")).to_have_value(prompt)


def test_a_prompt_may_be_changed_on_its_way(page: Page) -> None:
    ask(page, "a rocket", "emoji-grammar")
    expect(result(page, 1)).to_be_visible()
    result(page, 1).fill("a rocket of mine")
    page.click("#beautiful_prompt_result_1_to_txt2img")
    expect(page.locator("#txt2img_prompt textarea")).to_have_value("a rocket of mine")


def test_a_language_model_answers(page: Page) -> None:
    ask(page, "a castle", BLOOM)
    expect(result(page, 4)).to_be_visible()
    expect(page.locator("#beautiful_prompt_note")).to_contain_text(f"By {BLOOM}; seeds")
    assert len({result(page, number).input_value() for number in range(1, 5)}) == 4


def test_it_can_be_interrupted(page: Page, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slow, "pause", 0.1)
    page.click("#beautiful_prompt_sampling button")
    page.locator("#beautiful_prompt_max_new_tokens input[type=number]").fill("512")
    page.locator("#beautiful_prompt_count input[type=number]").fill("10")
    ask(page, "a castle", BLOOM)
    expect(page.locator("#beautiful_prompt_interrupt")).to_be_visible()
    expect(page.locator("#beautiful_prompt_progress .progress")).to_be_visible()
    page.click("#beautiful_prompt_interrupt")
    expect(result(page, 10)).to_be_visible()
    job = services.runner.last_started()
    assert job is not None
    assert job.interrupted
    assert job.snapshot().sampling_step < 512


def test_nothing_to_expand_is_said(page: Page) -> None:
    ask(page, "   ", "phrase-grammar")
    expect(page.get_by_text("There is nothing to expand")).to_be_visible()
    expect(page.locator("#beautiful_prompt_generate")).to_be_visible()


def test_who_leaves_ends_the_job(page: Page, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slow, "pause", 0.1)
    page.click("#beautiful_prompt_sampling button")
    page.locator("#beautiful_prompt_max_new_tokens input[type=number]").fill("512")
    ask(page, "a castle", BLOOM)
    expect(page.locator("#beautiful_prompt_interrupt")).to_be_visible()
    job = services.runner.last_started()
    assert job is not None
    page.close()
    with pytest.raises(Cancelled):
        job.wait(120)
