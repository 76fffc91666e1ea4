"""Two browsers, two users of `--cluster`: one comes by a proxy's header, the other by the form."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from sdwebui_api.webui.page import mount_page
from tests.support.fakes import fake_services
from tests.support.server import RunningServer, run_in_thread
from tests.webui.browser.chromium import open_tab, visit, visitor
from tests.webui.browser.server import run_page_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    flags = ("--cluster", "--user-header", "X-User", "--trusted-proxies", "127.0.0.1", "--gradio-auth", "bob:b")
    with run_page_server(tmp_path_factory.mktemp("cluster"), *flags) as running:
        yield running


def by_header(context: BrowserContext, url: str) -> Page:
    context.set_extra_http_headers({"X-User": "ann"})
    return visit(context, url)


def test_who_logged_in_logs_out(browser: Browser, cluster: RunningServer) -> None:
    with visitor(browser, locale="zh-CN") as anns, visitor(browser) as bobs:
        ann, bob = by_header(anns, cluster.url), by_form(bobs, cluster.url)
        other = visit(bobs, cluster.url)
        link = bob.locator("#log_out a")
        expect(link).to_have_text(re.compile(r"bob\s*Log out"))
        expect(ann.locator("#log_out a")).to_have_count(0)  # a proxy's header is no session of ours
        link.click()
        expect(bob.locator("[name=password]")).to_be_visible()
        assert bobs.request.get(f"{cluster.url}/config").status == 401
        other.click("#txt2img_generate")
        expect(other.locator(".toast-body").last).to_contain_text("not logged in any more")


def test_the_log_in_of_gradio_auth_has_a_way_out(browser: Browser, tmp_path: Path) -> None:
    services = fake_services(tmp_path, "--gradio-auth", "<b>ann:1")
    with run_in_thread(services, mount_page) as address, visitor(browser, locale="zh-CN") as context:
        page = context.new_page()
        page.goto(address)
        page.fill("[name=username]", "<b>ann")
        page.fill("[name=password]", "1")
        page.click("button")
        expect(page.locator("#log_out a")).to_have_text(re.compile(r"<b>ann\s*退出登录"))
        page.click("#log_out a")
        expect(page.locator("[name=password]")).to_be_visible()
        assert context.request.get(f"{address}/config").status == 401
    services.runner.drain(5)


def by_form(context: BrowserContext, url: str) -> Page:
    """A wrong password first: the form stays, and goes on to the page after the right one."""
    page = context.new_page()
    page.goto(url)
    for password in ("wrong", "b"):
        page.fill("[name=username]", "bob")
        page.fill("[name=password]", password)
        page.click("button")
        if password == "wrong":
            expect(page.locator("[role=alert]")).to_be_visible()
    page.wait_for_selector("#txt2img_prompt textarea")
    page.wait_for_timeout(1500)
    return page


def fill_number(page: Page, id: str, value: int) -> None:
    box = page.locator(f"#{id} input[type=number]").first
    box.fill(str(value))
    box.press("Tab")


def begin(page: Page, prompt: str, steps: int, batches: int = 1) -> None:
    page.fill("#txt2img_prompt textarea", prompt)
    fill_number(page, "txt2img_steps", steps)
    fill_number(page, "txt2img_batch_count", batches)
    page.click("#txt2img_generate")


def test_two_browsers_as_two_cluster_users_see_only_their_own_things(browser: Browser, cluster: RunningServer) -> None:
    with visitor(browser) as anns, visitor(browser) as bobs:
        ann, bob = by_header(anns, cluster.url), by_form(bobs, cluster.url)
        begin(ann, "a red apple", 4)
        expect(ann.locator("#txt2img_html_info")).to_contain_text("Time taken")
        picture = ann.locator("#txt2img_gallery img").first.get_attribute("src")
        assert picture is not None and anns.request.get(picture).status == 200
        assert bobs.request.get(picture).status == 404 and httpx.get(picture, timeout=60).status_code == 401

        fill_number(ann, "setting_CLIP_stop_at_last_layers", 3)
        begin(ann, "a red apple", 150, batches=20)
        expect(ann.locator("#txt2img_progress .progress-text")).to_contain_text("step")
        bob = visit(bobs, cluster.url)
        expect(bob.locator("#txt2img_generate")).to_be_visible()
        expect(bob.locator("#txt2img_gallery img")).to_have_count(0)
        expect(bob.locator("#setting_CLIP_stop_at_last_layers input[type=number]")).to_have_value("1")
        expect(bob.locator("#txt2img_prompt textarea")).to_have_value("")

        begin(bob, "a blue star", 4)
        expect(bob.locator("#txt2img_html_info")).to_contain_text("a blue star")
        ann.reload()
        expect(ann.locator("#txt2img_interrupt")).to_be_visible()
        expect(ann.locator("#setting_CLIP_stop_at_last_layers input[type=number]")).to_have_value("3")
        ann.click("#txt2img_interrupt")
        expect(ann.locator("#txt2img_html_info")).to_contain_text("a red apple")

        pictures = {user: list((cluster.data_dir / "users" / user).glob("outputs/**/*.png")) for user in ("ann", "bob")}
        assert len(pictures["bob"]) == 1 and pictures["ann"]
        open_tab(bob, "file_browser")
        for folder in pictures["bob"][0].parent.relative_to(cluster.data_dir / "users" / "bob").parts:
            bob.click(f'#file_browser td.name button:text-matches("{folder}$")')
            expect(bob.locator("#file_browser .crumbs button").last).to_have_text(folder)
        rows = bob.locator("#file_browser td.name button:text-matches('png$')")
        expect(rows).to_have_count(1)
        expect(rows.first).to_contain_text(pictures["bob"][0].name)
