"""What the page says when something is refused, and that it is seen at all."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image
from pydantic import ValidationError

import sdwebui_api
import sdwebui_api.errors
from sdwebui_api.api.generation_schema import Txt2ImgBody
from sdwebui_api.errors import BadRequest
from sdwebui_api.webui.context import PageBuilder
from sdwebui_api.webui.generation.gallery import progress_html
from sdwebui_api.webui.localization.marks import is_marked, resolve
from sdwebui_api.webui.localization.texts import load_texts
from sdwebui_api.webui.page import TOASTS, build_page
from sdwebui_api.webui.page_jobs import PageJobs, Sight
from sdwebui_api.webui.picture_input import PictureInput, read_picture, size_of
from sdwebui_api.webui.refusals import named, refusal
from sdwebui_api.webui.server_messages import TEMPLATES, said, spans
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


CODE = Path(sdwebui_api.__file__).parents[1]
FOLDERS = ("sdwebui_api", "scripts", "extensions")
VALUE = "\0"
"""Where a text of the code holds a value."""
SAID_TO_THE_PAGE = (
    "sdwebui_api/catalog", "sdwebui_api/control/hint.py", "sdwebui_api/control/passes.py", "sdwebui_api/control/poses",
    "sdwebui_api/control/preparation.py", "sdwebui_api/control/preprocessors", "sdwebui_api/control/service.py",
    "sdwebui_api/control/units.py", "sdwebui_api/engine", "sdwebui_api/generation", "sdwebui_api/imaging",
    "sdwebui_api/jobs", "sdwebui_api/postprocess", "sdwebui_api/prompting", "sdwebui_api/sampling",
    "sdwebui_api/scripting", "scripts", "extensions",
)  # fmt: skip
ELSEWHERE = (
    "--",
    "none of the labels of the classifier",
    f"{VALUE}: ",
    f"kind: expected one of {VALUE}",
    "the VAE of --vae-path",
    f"Checkpoint {VALUE}",
)
"""Said when the server starts, or put together out of parts."""


def written(node: ast.expr) -> str | None:
    """A text as the code has it, with `VALUE` for every value."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else VALUE for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = written(node.left), written(node.right)
        return left + right if left is not None and right is not None else None
    return None


def trees() -> Iterator[tuple[str, ast.AST]]:
    for folder in FOLDERS:
        for path in sorted((CODE / folder).rglob("*.py")):
            yield path.relative_to(CODE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def test_every_message_is_still_said_by_the_server() -> None:
    texts = {text for _, tree in trees() for node in ast.walk(tree)
             if isinstance(node, ast.expr) and (text := written(node))}  # fmt: skip
    code = "\n".join(texts)
    for template in TEMPLATES:
        if not template.startswith(("Input should", "String should")):  # pydantic's
            # Some are put together out of parts.
            assert all(part in code for part in re.split(r"\{\w+\}", template) if len(part.strip()) > 2), template
            assert "{text}" not in template  # `t` calls the template itself so


def test_what_the_page_may_be_told_is_known() -> None:
    errors = {name for name, made in vars(sdwebui_api.errors).items() if isinstance(made, type)}
    unknown = {}
    for path, tree in trees():
        for node in ast.walk(tree) if path.startswith(SAID_TO_THE_PAGE) else ():
            if (
                not isinstance(node, ast.Call)
                or not node.args
                or getattr(node.func, "id", None) not in errors | {"Taken"}
            ):
                continue
            message = written(node.args[0])
            if message and not message.startswith(ELSEWHERE) and not is_marked(said(message.replace(VALUE, "7"))):
                unknown[f"{path}:{node.lineno}"] = message
    assert unknown == {}, "put them into localization/zh/messages.json"


@pytest.mark.parametrize("body", [{"steps": "x"}, {"seed": "x"}, {"cfg_scale": "x"}, {"seed": 1e30}, {"seed": 10**30}])
def test_what_the_schema_says_is_known(body: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as caught:
        Txt2ImgBody.model_validate(body)
    for problem in caught.value.errors():
        assert is_marked(said(f"{problem['loc'][0]}: {problem['msg']}")), problem["msg"]


def test_a_message_is_translated_with_its_values_and_its_field() -> None:
    assert in_chinese(said("Sampler not found: 'Eule<r'")) == "找不到采样方法：'Eule<r'"
    assert in_chinese(said("seed: Input should be less than or equal to 9")) == "seed: 不能大于 9"
    assert (
        in_chinese(named(BadRequest("not an image in a known format", field="width"))) == "width: 不是可识别的图像格式"
    )
    assert said("Nobody: knows this") == "Nobody: knows this"
    model = "my model (v1).safetensors: 3 tensors of the UNet are missing, e.g. 'out.2.bias'"
    assert in_chinese(said(model)) == "my model (v1).safetensors: UNet 缺少 3 个张量，例如 'out.2.bias'"
    assert "<" not in in_chinese(str(refusal("Sampler not found: <img src=x>").message))


def test_a_jobs_progress_is_told_in_the_readers_language() -> None:
    bar = progress_html(Sight("running", 0.5, 8.0, text="Batch 2 out of 16", step=3, steps=9))
    assert "50% · 第 3/9 步 · 剩余 8 秒 · 第 2/16 批" in in_chinese(bar)
    assert "Batch 2 out of 16" in resolve(bar, str)


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


@pytest.mark.parametrize("extension", ["file_browser", "model_zoo"])
def test_refusals_of_the_extensions_routes_are_known(extension: str) -> None:
    """Their scripts translate them, with what the tab brings along."""
    tree = ast.parse((CODE / "extensions" / extension / extension / "tab.py").read_text(encoding="utf-8"))
    (refusals,) = [node.value for node in ast.walk(tree) if isinstance(node, ast.Assign)
                   and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "REFUSALS"]  # fmt: skip
    brought = set(ast.literal_eval(refusals))
    assert brought <= set(TEMPLATES)
    spoken = in_chinese(spans(["There is a {name} already"]))
    assert spoken == '<span data-said="There is a {name} already">{name} 已存在</span>'


@pytest.mark.parametrize(
    ("field", "spoken"),
    [("init_images[0]", "初始图片"), ("mask", "蒙版"), ("alwayson_scripts.x", "alwayson_scripts.x")],
)
def test_a_refused_picture_is_called_as_on_the_page(field: str, spoken: str) -> None:
    told = str(refusal(named(BadRequest("not an image in a known format", field=field))).message)
    assert in_chinese(told) == f"{spoken}: 不是可识别的图像格式"
