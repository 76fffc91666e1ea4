from __future__ import annotations

from pathlib import Path

import pytest

from sdwebui_api.catalog.controlnets import ControlModelCatalog
from sdwebui_api.errors import BadRequest


@pytest.fixture
def catalog(tmp_path: Path) -> ControlModelCatalog:
    for name in ("control_sd15_canny.safetensors", "control_sd15_canny_v2.pth", "sub/depth.safetensors", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    catalog = ControlModelCatalog((tmp_path,))
    catalog.refresh()
    return catalog


def test_recorded_titles(golden_models: Path) -> None:
    catalog = ControlModelCatalog((golden_models / "ControlNet",))
    catalog.refresh()
    titles = [file.title for file in catalog.all()]
    assert titles == ["control_sd15_tiny_canny [afb8e451]", "control_sd15_tiny_depth [89fa357c]"]


@pytest.mark.parametrize(
    "text",
    [
        "control_sd15_canny",
        "control_sd15_canny.safetensors",
        "Control_SD15_Canny",
        "control_sd15_canny [00000000]",
        "control_sd15_canny.safetensors [e3b0c442]",
        "canny",
        "sd15_can",
    ],
)
def test_spellings(catalog: ControlModelCatalog, text: str) -> None:
    assert catalog.find(text).name == "control_sd15_canny"


def test_the_title_finds_its_file(catalog: ControlModelCatalog) -> None:
    for file in catalog.all():
        assert catalog.find(file.title) == file
    assert catalog.find("canny_v2").name == "control_sd15_canny_v2"


def test_unknown_names_say_what_there_is(catalog: ControlModelCatalog) -> None:
    for text in ("openpose", ""):
        with pytest.raises(BadRequest) as refused:
            catalog.find(text, "args[0].model")
        assert refused.value.field == "args[0].model"
        assert len(refused.value.choices) == 3


def test_files_that_appear_later(catalog: ControlModelCatalog) -> None:
    (catalog.folders[0] / "openpose.safetensors").write_bytes(b"")
    assert catalog.find("openpose").name == "openpose"
