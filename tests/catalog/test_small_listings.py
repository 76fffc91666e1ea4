"""Embeddings, styles and upscalers: short lists with nothing but names in them."""

from __future__ import annotations

import json

import pytest

from sdwebui_api.catalog.embeddings import list_embeddings
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
