"""The tabs Settings and Extensions: what they hold, and what they do in a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

import sdwebui_api
from sdwebui_api.app import _option_store
from sdwebui_api.config.flags import parse_flags
from sdwebui_api.config.option_sections import PLACES, SECTIONS, WITHOUT_EFFECT, names_in_sections
from sdwebui_api.config.option_table import OPTION_TABLE, OptionSpec
from sdwebui_api.config.options import Options
from sdwebui_api.config.paths import Paths
from sdwebui_api.control.options import CONTROL_OPTIONS
from sdwebui_api.errors import BadRequest
from sdwebui_api.scripting.extensions import ExtensionFolder
from sdwebui_api.webui.extension_list import extensions_html, rows_of
from sdwebui_api.webui.languages import tab_script, theme_script
from sdwebui_api.webui.localization.marks import resolve
from sdwebui_api.webui.localization.texts import load_texts
from sdwebui_api.webui.settings.form import ELSEWHERE, Form, control
from sdwebui_api.webui.settings.labels import LABELS
from tests.support.fakes import fake_services
from tests.support.server import run_in_thread
from tests.webui.browser.chromium import chromium, visitor

TABLE = {**OPTION_TABLE, **CONTROL_OPTIONS}
PACKAGE = Path(sdwebui_api.__file__).parent


def english(text: str) -> str:
    return text


class TestSections:
    def test_every_setting_has_one_place_and_a_name(self) -> None:
        names = [name for section in SECTIONS for name in section.names]
        assert len(names) == len(set(names))
        assert set(names) | set(ELSEWHERE) == set(TABLE)
        assert set(LABELS) == set(names)

    def test_every_name_is_there_in_chinese(self) -> None:
        table = load_texts().tables["zh_CN"]
        texts = {*LABELS.values(), *(section.label for section in SECTIONS)}
        assert sorted(text for text in texts if text not in table) == []

    def test_what_is_said_to_be_without_effect_is_read_nowhere(self) -> None:
        tables = ("option_table.py", "option_sections.py", "labels.py", "response_schema.py")
        files = [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("webui/assets/*.js")]
        sources = [path for path in files if path.name not in tables]
        # `options.name`, `options["name"]`; a name alone may be torch's word too (pin_memory)
        read = re.compile(r"[.\"'](\w+)\b(?!=)")
        words = {word for path in sources for word in read.findall(path.read_text(encoding="utf-8"))}
        assert sorted(WITHOUT_EFFECT & words) == []

    def test_sections_are_named_by_id_or_label(self) -> None:
        assert "outdir_save" in names_in_sections([" saving-paths "])
        assert names_in_sections(["PATHS FOR SAVING"]) == names_in_sections(["saving-paths"])
        assert names_in_sections(["nothing"]) == set()


class TestFrozen:
    @pytest.mark.parametrize(
        ("flags", "name", "value"),
        [
            (["--freeze-settings"], "jpeg_quality", 50),
            (["--freeze-settings-in-sections", "Live previews, sd"], "CLIP_stop_at_last_layers", 2),
            (["--freeze-settings-in-sections", "Live previews, sd"], "show_progress_every_n_steps", 3),
            (["--freeze-specific-settings", "jpeg_quality,tiling"], "tiling", True),
            (["--hide-ui-dir-config"], "outdir_txt2img_samples", "/etc"),
        ],
    )
    def test_frozen_settings_stay(self, tmp_path: Path, flags: list[str], name: str, value: object) -> None:
        read = parse_flags(["--data-dir", str(tmp_path), *flags], environ={})
        store = _option_store(read, Paths.from_flags(read))
        before = store.snapshot()[name]
        with pytest.raises(BadRequest):
            store.update({name: value})
        assert store.snapshot()[name] == before
        assert store.is_frozen(name)
        if flags != ["--freeze-settings"]:
            store.update({"samples_format": "jpg"})
            assert store.snapshot().samples_format == "jpg"

    def test_settings_of_the_page_alone_are_kept(self, tmp_path: Path) -> None:
        read = parse_flags(["--data-dir", str(tmp_path)], environ={})
        store = _option_store(read, Paths.from_flags(read))
        store.update({"disabled_extensions": ["one"]})
        assert store.snapshot().disabled_extensions == ()
        store.keep({"disabled_extensions": ["one"]})
        assert json.loads((tmp_path / "config.json").read_text()) == {"disabled_extensions": ["one"]}


class TestForm:
    def test_every_setting_is_there_once_with_a_label(self) -> None:
        html = Form(Options(table=TABLE)).html()
        for name in TABLE.keys() - set(ELSEWHERE):
            assert html.count(f'id="input_{name}"') == 1, name
            assert html.count(f'for="input_{name}"') == 1, name

    def test_settings_of_extensions_follow(self) -> None:
        table = {**TABLE, "their<setting>": OptionSpec("any", {"a": 1})}
        html = resolve(Form(Options(table=table)).html(), english)
        assert "Settings of extensions" in html
        assert "their&lt;setting&gt;" in html and "their<setting>" not in html

    def test_values_are_escaped(self) -> None:
        options = Options({"samples_filename_pattern": '"><script>', "ui_tab_order": ("</textarea>",)}, TABLE)
        html = Form(options).html()
        assert "<script>" not in html
        assert "&lt;/textarea&gt;" in html

    def test_a_file_that_is_gone_stays_chosen(self) -> None:
        html = control("sd_vae", OPTION_TABLE["sd_vae"], "gone.pt", [("a", "a.pt")])
        assert '<option value="gone.pt" selected>' in html and '<option value="a.pt">' in html

    def test_hidden_and_locked(self) -> None:
        html = Form(Options(table=TABLE), hidden=PLACES, locked=["tiling"], notice="frozen").html()
        assert "outdir_save" not in html and "frozen" in html
        assert re.search(r'id="input_tiling" disabled', html)
        assert not re.search(r'id="input_jpeg_quality" disabled', html)


class TestAppearance:
    def test_theme_of_the_flag(self) -> None:
        assert '"dark"' in theme_script("Dark")
        assert "purple" not in theme_script("purple<script>")

    def test_hidden_tabs_and_their_order_cannot_carry_anything_else(self) -> None:
        script = tab_script(Options({"hidden_tabs": ("Train", "Settings", "</script>"), "ui_tab_order": ("PNG Info",)}))
        assert 'hidden = ["train", "_script_"], order = ["png_info"]' in script
        assert script.count("</script>") == 1
        assert tab_script(Options()) == ""


def test_extensions_are_listed_with_their_problems(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "scripts").mkdir(parents=True)
    folders = [ExtensionFolder(tmp_path / name) for name in ("one", "two")]
    failures = {str(tmp_path / "two" / "scripts" / "s.py"): "ValueError: <b>"}
    first, second = rows_of(folders, {"one", "two"}, ["two"], failures)
    assert (first.ticked, first.loaded, first.problems) == (True, True, ())
    assert (second.ticked, second.problems) == (False, ("s.py: ValueError: <b>",))
    html = resolve(extensions_html([first, second]), english)
    assert "ValueError: &lt;b&gt;" in html
    assert 'value="one" checked' in html and 'value="two" checked' not in html


# -- in a browser -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    from sdwebui_api.webui.page import mount_page

    data_dir = tmp_path_factory.mktemp("data")
    services = fake_services(data_dir)
    with run_in_thread(services, mount_page) as url:
        yield url, data_dir


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with visitor(browser) as context:
        yield context


def open_settings(context: BrowserContext, url: str) -> Page:
    page = context.new_page()
    page.goto(url)
    show_settings(page)
    return page


def show_settings(page: Page) -> None:
    page.click("#tab_settings-button")
    page.wait_for_selector(".settings-form")


def apply(page: Page) -> str:
    """What the page says of it; gradio's own clock in the same place does not count."""
    said = "[...document.querySelectorAll('#settings_result p')].map((one) => one.innerText).join()"
    before = page.evaluate(said)
    page.click("#settings_submit")
    page.wait_for_function(f"before => {said} !== '' && {said} !== before", arg=before)
    return str(page.evaluate(said))


class TestInTheBrowser:
    def test_a_setting_is_found_changed_and_kept(self, server: tuple[str, Path], context: BrowserContext) -> None:
        url, data_dir = server
        page = open_settings(context, url)
        page.fill("#settings_search", "jpeg quality")
        assert page.locator(".setting:visible").count() == 1
        page.fill("#input_jpeg_quality", "55")
        assert "jpeg_quality" in apply(page)
        assert json.loads((data_dir / "config.json").read_text())["jpeg_quality"] == 55
        page.wait_for_selector("#input_jpeg_quality:visible")
        assert page.input_value("#input_jpeg_quality") == "55"
        assert page.locator(".setting.changed").count() == 0

    def test_a_wrong_value_is_named_and_the_others_are_saved(
        self, server: tuple[str, Path], context: BrowserContext
    ) -> None:
        url, data_dir = server
        page = open_settings(context, url)
        page.fill("#settings_search", "grid")
        page.fill("#input_n_rows", "-7")
        assert "n_rows" in apply(page) and page.locator(".setting.changed").count() == 1  # what was typed is there
        page.uncheck("#input_grid_save")
        page.fill("#settings_search", "jpeg quality")
        page.fill("#input_jpeg_quality", "500")
        told = apply(page)
        assert told.startswith("1 settings saved: grid_save,") and "n_rows" in told and "jpeg_quality" in told
        stored = json.loads((data_dir / "config.json").read_text())
        assert stored["grid_save"] is False and "n_rows" not in stored and stored.get("jpeg_quality") != 500
        page.wait_for_function("document.querySelectorAll('.setting.changed').length == 2")
        assert page.input_value("#input_n_rows") == "-7"
        page.fill("#input_jpeg_quality", "50")
        page.fill("#settings_search", "grid")
        page.fill("#input_n_rows", "7")
        assert apply(page).startswith("2 settings saved")
        assert page.locator(".setting.changed").count() == 0

    def test_sections_and_settings_without_effect(self, server: tuple[str, Path], context: BrowserContext) -> None:
        page = open_settings(context, server[0])
        page.click("nav button[data-section=vae]")
        assert page.locator("section:visible").count() == 1
        assert page.is_visible("#input_sd_vae") and not page.is_visible("#input_sd_vae_checkpoint_cache")
        page.check("#settings_show_idle")
        assert page.is_visible("#input_sd_vae_checkpoint_cache")

    def test_chinese_and_back(self, server: tuple[str, Path], context: BrowserContext) -> None:
        page = open_settings(context, server[0])
        for language, settings in (("zh_CN", "设置"), ("en", "Settings")):
            page.fill("#settings_search", "localization")
            page.select_option("#input_localization", language)
            apply(page)
            with page.expect_navigation():
                page.click("#settings_restart_gradio")
            page.wait_for_selector("#tab_settings-button")
            assert page.inner_text("#tab_settings-button") == settings
            assert page.evaluate("navigator.language") == language.replace("_", "-")
            show_settings(page)
        page.fill("#settings_search", "localization")
        page.select_option("#input_localization", "None")
        apply(page)

    def test_the_browser_chooses_the_language(self, server: tuple[str, Path], browser: Browser) -> None:
        with visitor(browser, locale="zh-CN") as context:
            page = open_settings(context, server[0])
            assert page.inner_text("#settings_submit") == "应用设置"
            assert "\ue900" not in page.content()

    def test_dark_and_light_stay(self, server: tuple[str, Path], context: BrowserContext) -> None:
        page = open_settings(context, server[0])
        assert not page.evaluate("document.body.classList.contains('dark')")
        page.click("#settings_theme")
        page.wait_for_function("document.body.classList.contains('dark')")
        page.goto(server[0])
        page.wait_for_selector("#tab_settings-button")
        page.wait_for_function("document.body.classList.contains('dark')")

    def test_tabs_are_hidden_and_ordered(self, server: tuple[str, Path], context: BrowserContext) -> None:
        page = open_settings(context, server[0])
        page.fill("#settings_search", "tabs")
        page.check("#input_hidden_tabs input[value=extensions]")
        page.fill("#input_ui_tab_order", "Settings\ntxt2img")
        apply(page)
        for width in (1440, 200):  # where there is no room, the rest is in a menu
            page.set_viewport_size({"width": width, "height": 900})
            page.reload()
            page.wait_for_selector("#tab_settings-button")
            names = page.locator("#tabs .tab-wrapper").first.locator("button").all_inner_texts()
            assert "Extensions" not in names
            assert next(name for name in names if name) == "Settings"
        page.set_viewport_size({"width": 1440, "height": 900})
        show_settings(page)
        page.fill("#settings_search", "tabs")
        page.uncheck("#input_hidden_tabs input[value=extensions]")
        page.fill("#input_ui_tab_order", "")
        apply(page)

    def test_extensions_tab_opens(self, server: tuple[str, Path], context: BrowserContext) -> None:
        page = context.new_page()
        page.goto(server[0])
        page.click("#tab_extensions-button")
        page.wait_for_selector(".extensions input[value=soft-inpainting]")
