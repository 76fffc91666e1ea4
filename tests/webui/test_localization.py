"""The page's texts: marked, translated on the way out, and complete."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import HTMLResponse, PlainTextResponse, StreamingResponse

import sdwebui_api
from sdwebui_api.webui.localization import t
from sdwebui_api.webui.localization.choice import choose_language
from sdwebui_api.webui.localization.layer import LanguageLayer
from sdwebui_api.webui.localization.marks import is_marked, resolve, resolve_json
from sdwebui_api.webui.localization.texts import Texts, load_texts

PACKAGE = Path(sdwebui_api.__file__).parent
ROOMS = (PACKAGE / "webui", PACKAGE.parent / "extensions")
TABLE = {
    "Steps": "步数",
    'Say "hi" <now>': "说“嗨” <b>'现在'</b>",
    "{count} jobs ahead": "前面有 {count} 个任务",
    "back\\slash": "反\\斜",
}


def speak(text: str) -> str:
    return TABLE.get(text, text)


class TestMarks:
    def test_a_text_becomes_the_readers(self) -> None:
        assert resolve(t("Steps"), speak) == "步数"
        assert resolve(f"<b>{t('Steps')}</b> and {t('Size')}", speak) == "<b>步数</b> and Size"

    def test_values_stand_in_any_language(self) -> None:
        text = t("{count} jobs ahead", count=3)
        assert resolve(text, speak) == "前面有 3 个任务"
        assert resolve(text, lambda english: english) == "3 jobs ahead"

    def test_a_value_may_hold_what_users_write(self) -> None:
        assert resolve(t("No file {name}", name='a"b\\{count}'), lambda text: text) == 'No file a"b\\{count}'

    def test_a_mark_escaped_for_html_is_translated_and_stays_escaped(self) -> None:
        text = f"<b>{escape(t('It is {name}', name='<i>'))}</b>"
        assert resolve(text, lambda english: english.replace("It is", "C'est")) == "<b>C&#x27;est &lt;i&gt;</b>"
        answer = json.loads(resolve_json(json.dumps({"value": text}), lambda english: english))
        assert answer == {"value": "<b>It is &lt;i&gt;</b>"}

    @pytest.mark.parametrize(
        "text", [r"\ue900", r"\\ue901 \ue900x\ue901", "\ue900Steps\ue902[\ue901", "\ue900a\ue9021\ue901"]
    )
    @pytest.mark.parametrize("ascii", [True, False])
    def test_what_users_write_never_breaks_the_answer(self, text: str, ascii: bool) -> None:
        written = json.dumps({"value": text, "label": t("Steps")}, ensure_ascii=ascii)
        answer = json.loads(resolve_json(written, speak))
        assert answer["label"] == "步数" and (answer["value"] == text or "\ue902" in text)


async def _answer(body: Any, language: str = "zh_CN") -> httpx.Response:
    """What the layer makes of `body`, an answer of a route."""
    app = FastAPI()
    app.add_api_route("/", lambda: body)
    layer = LanguageLayer(
        app,
        translate=lambda text, spoken: speak(text) if spoken == "zh_CN" else text,
        language_of=lambda scope: language,
        head=lambda scope: "<style>theirs</style>",
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(layer), base_url="http://page") as client:
        return await client.get("/")


@pytest.mark.anyio
class TestLayer:
    @pytest.mark.parametrize("text", TABLE)
    async def test_json_stays_json(self, text: str) -> None:
        answer = await _answer({"label": f"({t(text)})", "choices": [[t("Steps"), "steps"]]})
        assert answer.json() == {"label": f"({TABLE[text]})", "choices": [["步数", "steps"]]}
        assert int(answer.headers["content-length"]) == len(answer.content)

    async def test_values_in_json(self) -> None:
        answer = await _answer({"label": t("{count} jobs ahead", count='"5"')})
        assert answer.json() == {"label": '前面有 "5" 个任务'}

    async def test_json_within_a_script_cannot_leave_it(self) -> None:
        config = json.dumps({"label": t('Say "hi" <now>')}, ensure_ascii=False).replace("<", "\\u003c")
        answer = await _answer(HTMLResponse(f'<html lang="en"><head></head><script>x = {config}</script></html>'))
        script = answer.text.partition("x = ")[2].partition("</script>")[0]
        assert "<" not in script
        assert json.loads(script) == {"label": TABLE['Say "hi" <now>']}

    async def test_the_page_says_its_language_at_the_end_of_its_head(self) -> None:
        page = '<html lang="en"><head><script>first</script></head></html>'
        answer = await _answer(HTMLResponse(page))
        assert '<html lang="zh-CN">' in answer.text
        assert answer.text.index("first") < answer.text.index("'language', \"zh-CN\"") < answer.text.index("theirs")
        assert '<html lang="en">' in (await _answer(HTMLResponse(page), "en")).text

    async def test_a_long_page_travels_compressed(self) -> None:
        answer = await _answer(HTMLResponse(f"<html><head></head>{t('Steps')}{'x' * 50_000}</html>"))
        assert answer.headers["content-encoding"] == "gzip" and answer.headers["vary"] == "Accept-Encoding"
        assert int(answer.headers["content-length"]) < 1000 and f"步数{'x' * 50_000}" in answer.text

    async def test_events_are_translated_one_by_one(self) -> None:
        async def events() -> Any:
            for number in range(2):
                yield f"data: {json.dumps({'n': number, 'label': t('Steps')})}\n\n"

        answer = await _answer(StreamingResponse(events(), media_type="text/event-stream"))
        rows = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
        assert rows == [{"n": 0, "label": "步数"}, {"n": 1, "label": "步数"}]

    async def test_files_pass_untouched(self) -> None:
        text = t("Steps")
        assert (await _answer(PlainTextResponse(text))).text == text


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


LANGUAGES = ("zh_CN", "en")


class TestChoice:
    @pytest.mark.parametrize(
        ("flag", "setting", "accepted", "language"),
        [
            (None, "None", "zh-CN,zh;q=0.9,en;q=0.8", "zh_CN"),
            (None, "None", "zh-TW", "zh_CN"),
            (None, "None", "en-GB,zh;q=0.5", "en"),
            (None, "None", "fr;q=0.9, zh;q=0.3, en;q=0.4", "en"),
            (None, "None", "fr", "en"),
            (None, "None", "", "en"),
            (None, "zh_CN", "en", "zh_CN"),
            (None, "en", "zh-CN", "en"),
            (None, "klingon", "zh-CN", "zh_CN"),
            ("en", "zh_CN", "zh-CN", "en"),
            ("zh-cn", "None", "en", "zh_CN"),
            ("None", None, "zh;q=x, en", "en"),
        ],
    )
    def test_the_flag_then_the_setting_then_the_browser(
        self, flag: str | None, setting: str | None, accepted: str, language: str
    ) -> None:
        assert choose_language(flag, setting, accepted, LANGUAGES) == language


class TestFiles:
    def test_a_folder_adds_languages_and_mends_ours(self, tmp_path: Path) -> None:
        (tmp_path / "ja_JP.json").write_text('{"Steps": "ステップ数", "empty": "", "odd": 3}', encoding="utf-8")
        (tmp_path / "zh_CN.json").write_text('{"A text of an extension": "扩展"}', encoding="utf-8")
        (tmp_path / "broken.json").write_text("{", encoding="utf-8")
        texts = load_texts(tmp_path)
        assert texts.translate("Steps", "ja_JP") == "ステップ数"
        assert texts.translate("empty", "ja_JP") == "empty"
        assert texts.translate("A text of an extension", "zh_CN") == "扩展"
        assert texts.translate("Settings", "zh_CN") == load_texts().translate("Settings", "zh_CN")

    def test_a_text_without_translation_stays(self) -> None:
        assert Texts({"zh_CN": {}}).translate("Steps", "zh_CN") == "Steps"


def _keys_of(path: Path) -> Iterator[str]:
    """What is given to `t`, and the labels of tabs, which the page gives to it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        places: dict[str, list[ast.expr]] = {
            "t": node.args[:1],
            "Tab": node.args[1:2],
            "PageTab": node.args[1:2] + [keyword.value for keyword in node.keywords if keyword.arg == "label"],
        }
        for text in places.get(node.func.id, []):
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                yield text.value


def _used() -> dict[str, set[str]]:
    """Every text that is written in a call of `t` → the files that do."""
    used: dict[str, set[str]] = {}
    for room in ROOMS:
        for path in room.rglob("*.py"):
            for key in _keys_of(path):
                used.setdefault(key, set()).add(str(path.relative_to(PACKAGE.parent)))
    return used


class TestComplete:
    def test_every_text_of_ours_is_there_in_chinese(self) -> None:
        table = load_texts().tables["zh_CN"]
        missing = {key: sorted(files) for key, files in _used().items() if key not in table}
        assert not missing, json.dumps(missing, indent=1, ensure_ascii=False)

    def test_translations_keep_the_places_of_values(self) -> None:
        table = load_texts().tables["zh_CN"]
        for key in _used():
            names = {part.partition("}")[0] for part in key.split("{")[1:]}
            assert all(f"{{{name}}}" in table.get(key, key) for name in names), key

    def test_no_text_holds_a_mark(self) -> None:
        assert not any(is_marked(key) for key in _used())
