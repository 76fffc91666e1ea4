"""Styles written into CSV files: what was there stays, whatever it is."""

from __future__ import annotations

import csv

import pytest

from sdwebui_api.catalog.styles import Style, StyleCatalog

SHARED = 'name,prompt,negative_prompt,notes\n# a heading,,,\nink,"{prompt}, ink",colour,"mine, ""old"""\nplain,p,n,\n'


@pytest.fixture
def files(tmp_path):
    own, shared = tmp_path / "own" / "styles.csv", tmp_path / "shared.csv"
    shared.write_text(SHARED, encoding="utf-8")
    return own, shared


def catalog(files) -> StyleCatalog:
    made = StyleCatalog(files)
    made.refresh()
    return made


def rows(path):
    return list(csv.DictReader(path.open(encoding="utf-8-sig", newline="")))


def test_a_new_style_goes_into_the_first_file(files):
    style = Style('猫, "quoted"', "two\nlines", "")
    styles = catalog(files)
    styles.save(style)
    assert styles.find(style.name) == style and catalog(files).find(style.name) == style
    assert [row["name"] for row in rows(files[0])] == [style.name]
    assert files[1].read_text(encoding="utf-8") == SHARED


def test_a_known_style_is_changed_where_it_stands(files):
    catalog(files).save(Style("ink", "new", ""))
    assert not files[0].exists()
    heading, ink, plain = rows(files[1])
    assert heading["name"] == "# a heading" and plain["prompt"] == "p"
    assert ink == {"name": "ink", "prompt": "new", "negative_prompt": "", "notes": 'mine, "old"'}


def test_deleting(files):
    styles = catalog(files)
    assert styles.delete("ink") and not styles.delete("ink")
    assert [style.name for style in styles.all()] == ["plain"]
    assert [row["name"] for row in rows(files[1])] == ["# a heading", "plain"]


def test_old_files_keep_their_column(tmp_path):
    path = tmp_path / "styles.csv"
    path.write_text("name,text\nold,words\n", encoding="utf-8")
    catalog([path]).save(Style("new", "more", "less"))
    assert rows(path) == [
        {"name": "old", "text": "words", "negative_prompt": ""},
        {"name": "new", "text": "more", "negative_prompt": "less"},
    ]


@pytest.mark.parametrize("name", ["", "  ", "# no"])
def test_names_that_no_file_can_hold(files, name):
    with pytest.raises(ValueError, match="name of a style"):
        catalog(files).save(Style(name))


def test_a_text_longer_than_any_that_is_read_is_refused(files):
    styles = catalog(files)
    known = styles.all()
    for style in (Style("long", "x" * 140_000), Style("long", "", "x" * 140_000), Style("x" * 140_000)):
        with pytest.raises(ValueError, match="at most"):
            styles.save(style)
    assert styles.all() == known


@pytest.mark.parametrize("rows", ["caf\xe9,x", "long," + "x" * 140_000])
def test_a_file_that_would_be_damaged_is_left_alone(tmp_path, rows):
    path = tmp_path / "styles.csv"
    path.write_bytes(f"name,prompt\n{rows}\n".encode("latin-1"))
    before = path.read_bytes()
    with pytest.raises(ValueError):
        catalog([path]).save(Style("new", "x"))
    assert path.read_bytes() == before
