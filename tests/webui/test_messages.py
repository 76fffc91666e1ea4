"""What the page says when something is refused, and that it is seen at all."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image
from pydantic import ValidationError

import sdwebui_api
from sdwebui_api.api.generation_schema import Txt2ImgBody
from sdwebui_api.errors import BadRequest
from sdwebui_api.webui.context import PageBuilder
from sdwebui_api.webui.localization.marks import is_marked, resolve
from sdwebui_api.webui.localization.texts import load_texts
from sdwebui_api.webui.page import TOASTS, build_page
from sdwebui_api.webui.page_jobs import PageJobs
from sdwebui_api.webui.picture_input import PictureInput, read_picture, size_of
from sdwebui_api.webui.refusals import named, refusal
from sdwebui_api.webui.server_messages import TEMPLATES, said
from sdwebui_api.webui.ui_config import UiConfig
from tests.support.fakes import fake_services


def in_chinese(text: str) -> str:
    texts = load_texts()
    return resolve(text, lambda english: texts.translate(english, "zh_CN"))


def test_every_message_is_there_in_chinese() -> None:
    table = load_texts().tables["zh_CN"]
    assert [one for one in TEMPLATES if one not in table] == []
    for one in TEMPLATES:
        assert sorted(re.findall(r"\{\w+\}", one)) == sorted(re.findall(r"\{\w+\}", table[one])), one


def test_every_message_is_still_said_by_the_server() -> None:
    code = "\n".join(path.read_text() for path in Path(sdwebui_api.__file__).parent.rglob("*.py")
                     if path.name != "server_messages.py")  # fmt: skip
    for template in TEMPLATES:
        if not template.startswith(("Input should", "String should")):  # pydantic's
            pattern = ".+?".join(map(re.escape, re.split(r"\{\w+\}", template)))
            assert re.search(pattern, code), template


@pytest.mark.parametrize("body", [{"steps": "x"}, {"seed": "x"}, {"cfg_scale": "x"}, {"seed": 1e30}, {"seed": 10**30}])
def test_what_the_schema_says_is_known(body: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as caught:
        Txt2ImgBody.model_validate(body)
    for problem in caught.value.errors():
        assert is_marked(said(f"{problem['loc'][0]}: {problem['msg']}")), problem["msg"]


def test_a_message_is_translated_with_its_values_and_its_field() -> None:
    assert in_chinese(said("Sampler not found: 'Eule<r'")) == "找不到采样方法：'Eule<r'"
    assert in_chinese(said("seed: Input should be less than or equal to 9")) == "seed: 不能大于 9"
    assert in_chinese(named(BadRequest("not an image in a known format", field="mask"))) == "mask: 不是可识别的图像格式"
    assert said("Nobody: knows this") == "Nobody: knows this"
    assert "<" not in in_chinese(str(refusal("Sampler not found: <img src=x>").message))


def test_no_handler_outside_of_the_queue_refuses(tmp_path: Path) -> None:
    """Gradio answers their errors with status 500, and the page shows nothing of it."""
    page = PageBuilder(fake_services(tmp_path), PageJobs(tmp_path), UiConfig(tmp_path / "ui-config.json"))
    blocks = build_page(page)
    unheard = [one.fn for one in blocks.fns.values() if one.fn is not None and not one.queue]
    assert unheard
    for handler in unheard:
        assert not re.search(r"\b(refusal|gr\.Info|gr\.Warning)\(", inspect.getsource(handler)), handler


class TestPictures:
    @pytest.fixture
    def broken(self, tmp_path: Path) -> Path:
        path = tmp_path / "broken.png"
        path.write_bytes(b"no picture")
        return path

    def test_what_is_no_picture_reaches_the_handler(self, broken: Path) -> None:
        with gr.Blocks(analytics_enabled=False):
            component = PictureInput(type="filepath", image_mode=None)
        assert component.get_block_name() == "image"
        payload = component.data_model(path=str(broken), orig_name="broken.png")
        assert component.preprocess(payload) == str(broken) and component.preprocess(None) is None

    def test_who_reads_it_says_so(self, broken: Path) -> None:
        for read in (read_picture, size_of):
            with pytest.raises(BadRequest, match=r"is no picture"):
                read(broken)

    def test_a_picture_is_as_large_as_it_is_seen(self, tmp_path: Path) -> None:
        """Phones turn their pictures by EXIF."""
        turned = Image.Exif()
        turned[0x0112] = 6
        Image.new("RGB", (40, 24)).save(tmp_path / "turned.jpg", exif=turned)
        assert size_of(tmp_path / "turned.jpg") == read_picture(tmp_path / "turned.jpg").size == (24, 40)

    def test_no_file_is_left_beside_the_program(self) -> None:
        assert not list(Path(sdwebui_api.__file__).parent.rglob("*.pyi"))


def test_the_page_names_its_toasts_in_both_languages() -> None:
    assert {title: in_chinese(text) for title, text in TOASTS.items()} == {
        "Error": "错误", "Info": "提示", "Warning": "警告", "Success": "成功"
    }  # fmt: skip
