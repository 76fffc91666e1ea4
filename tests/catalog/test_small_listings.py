"""Embeddings, styles and upscalers: short lists with nothing but names in them."""

from __future__ import annotations

import json

import pytest

from sdwebui_api.catalog.embeddings import list_embeddings
from sdwebui_api.catalog.files import FoundFile
from sdwebui_api.catalog.styles import Style, StyleCatalog, read_styles
from sdwebui_api.catalog.upscalers import LATENT_UPSCALE_MODES, UPSCALERS


def test_embeddings(golden_models):
    names = [file.name for file in list_embeddings([golden_models / "embeddings"])]
    assert names == ["tiny-emb", "tiny-ti", "tiny-wrongsize"]


def test_empty_files_and_previews_are_no_embeddings(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"x")
    (tmp_path / "a.preview.png").write_bytes(b"x")
    (tmp_path / "empty.pt").touch()
    assert [file.name for file in list_embeddings([tmp_path, tmp_path / "missing"])] == ["a"]


def test_an_embedding_that_vanishes_while_they_are_listed_is_left_out(tmp_path, monkeypatch):
    kept = tmp_path / "kept.pt"
    kept.write_bytes(b"x")
    found = [FoundFile(tmp_path / "gone.pt", "gone.pt"), FoundFile(kept, "kept.pt")]
    monkeypatch.setattr("sdwebui_api.catalog.embeddings.find_files", lambda *_: found)
    assert [file.name for file in list_embeddings([tmp_path])] == ["kept"]


def test_the_golden_styles(golden_api, golden_models):
    catalog = StyleCatalog([golden_models / "styles.csv"])
    catalog.refresh()
    recorded = json.loads((golden_api / "get-prompt-styles.json").read_text())["response"]
    assert [vars(style) for style in catalog.all()] == recorded
    assert catalog.find("plain") == Style("plain", "simple icon")
    assert catalog.find("no-such") is None


def test_later_files_win_and_missing_ones_are_no_error(tmp_path):
    (tmp_path / "1.csv").write_text("name,prompt,negative_prompt\na,1,\nb,1,\n")
    (tmp_path / "2.csv").write_text("name,prompt,negative_prompt\na,2,\n")
    catalog = StyleCatalog([tmp_path / "1.csv", tmp_path / "missing.csv", tmp_path / "2.csv"])
    catalog.refresh()
    assert [(style.name, style.prompt) for style in catalog.all()] == [("a", "2"), ("b", "1")]


@pytest.mark.parametrize(
    ("raw", "styles"),
    [
        ("\ufeffname,prompt\né,p\n".encode(), [Style("é", "p")]),
        (b"name,text\nold,t\n", [Style("old", "t")]),
        (b"name,prompt,negative_prompt\nshort\n,nameless,\n# note,x,\n", [Style("short")]),
        (b'name,prompt,negative_prompt\nlines,"a\nb",n\n', [Style("lines", "a\nb", "n")]),
        (b"name,prompt\n\xff,p\n", [Style("\ufffd", "p")]),
        (b"something,else\n1,2\n", []),
        (b"", []),
    ],
)
def test_forms_of_styles_files(tmp_path, raw, styles):
    path = tmp_path / "styles.csv"
    path.write_bytes(raw)
    assert read_styles(path) == styles


def test_a_monstrous_cell_is_no_crash(tmp_path):
    path = tmp_path / "styles.csv"
    path.write_text("name,prompt\na," + "x" * 200_000 + "\n")
    assert read_styles(path) == []


def test_upscalers_that_need_no_weights(golden_api):
    recorded = json.loads((golden_api / "get-upscalers.json").read_text())["response"]
    assert [vars(row) for row in UPSCALERS] == recorded[:3]


def test_latent_modes(golden_api):
    recorded = json.loads((golden_api / "get-latent-upscale-modes.json").read_text())["response"]
    assert [{"name": name} for name in LATENT_UPSCALE_MODES] == recorded


def test_upscaler_files_have_the_names_that_a1111_lists(tmp_path):
    from sdwebui_api.catalog.upscalers import HiresUpscalers, UpscalerCatalog

    files = {
        "ESRGAN": ["4x-UltraSharp.pth", "sub/2x_small.safetensors", "lanczos.pth", "notes.txt"],
        "RealESRGAN": ["RealESRGAN_x4plus_anime_6B.pth"],
        "DAT": ["DAT_x2.pth", "4x-UltraSharp.pth"],
        "LDSR": ["model.pth"],
    }
    for kind, names in files.items():
        for name in names:
            (tmp_path / kind / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / kind / name).touch()
    catalog = UpscalerCatalog({kind: tmp_path / kind for kind in (*files, "SwinIR")})
    catalog.refresh()
    rows = {row.name: row for row in catalog.rows()}
    assert list(rows) == ["None", "Lanczos", "Nearest", "4x-UltraSharp", "DAT x2", "2x_small", "R-ESRGAN 4x+ Anime6B"]
    assert rows["DAT x2"].scale == 2.0 and rows["2x_small"].scale == 2.0 and rows["4x-UltraSharp"].scale == 4.0
    assert rows["2x_small"].model_name == "ESRGAN_4x"
    assert rows["2x_small"].model_path == str(tmp_path / "ESRGAN" / "sub" / "2x_small.safetensors")
    hires = HiresUpscalers(catalog)
    assert "Latent" in hires and "2x_small" in hires and "nothing" not in hires
    assert len(hires) == len(list(hires)) == 13 and hires[0] == "Latent"
