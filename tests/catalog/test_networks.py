"""LoRAs and hypernetworks on disk: names, aliases, hashes, metadata."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from sdwebui_api.catalog.hashes import HashCache
from sdwebui_api.catalog.networks import HypernetworkCatalog, LoraCatalog

GOLDEN = Path(__file__).parents[1] / "golden"


def write(path: Path, **metadata: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = json.dumps({"__metadata__": metadata}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def catalog(*folders: Path) -> LoraCatalog:
    found = LoraCatalog(folders, HashCache(None))
    found.refresh()
    return found


def test_listing_equals_the_recording() -> None:
    recorded = json.loads((GOLDEN / "api" / "get-loras.json").read_text())["response"]
    rows = [(f.name, f.alias, f.path.name, f.metadata) for f in catalog(GOLDEN / "models" / "Lora").all()]
    assert rows == [(row["name"], row["alias"], Path(row["path"]).name, row["metadata"]) for row in recorded]


@pytest.mark.parametrize(("name", "shorthash"), [("tiny-style", "c5ff0b27ce60"), ("tiny-conv-alias", "b34f9d9151b9")])
def test_hashes_of_the_recordings(name: str, shorthash: str) -> None:
    file = catalog(GOLDEN / "models" / "Lora").find(name)
    assert file is not None and file.shorthash == shorthash


def test_names_and_aliases(tmp_path: Path) -> None:
    write(tmp_path / "sub" / "b.safetensors", ss_output_name="other")
    write(tmp_path / "a.safetensors")
    (tmp_path / "c.pt").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("x")
    found = catalog(tmp_path)
    assert [file.name for file in found.all()] == ["a", "c", "b"]  # a folder's own files come first
    assert found.find("other") is found.find("b") is not None
    assert found.find("B") is None and found.find("None") is None
    assert set(found.names()) == {"a", "b", "c", "other"}


def test_an_alias_of_two_files_calls_neither(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.safetensors", ss_output_name="same")
    found = catalog(tmp_path)
    assert found.find("same") is None
    assert [file.name for name in "ab" if (file := found.find(name))] == ["a", "b"]


def test_a_file_called_like_anothers_alias_keeps_its_name(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors")
    write(tmp_path / "b.safetensors", ss_output_name="a")
    file = catalog(tmp_path).find("a")
    assert file is not None and file.path.name == "a.safetensors"


def test_the_later_folder_counts(tmp_path: Path) -> None:
    write(tmp_path / "1" / "a.safetensors")
    write(tmp_path / "2" / "a.safetensors")
    found = catalog(tmp_path / "1", tmp_path / "2", tmp_path / "missing")
    assert [file.path.parent.name for file in found.all()] == ["2"]


def test_unknown_names_look_at_the_disk_again(tmp_path: Path) -> None:
    found = catalog(tmp_path)
    assert found.all() == []
    write(tmp_path / "new.safetensors")
    assert found.find("new") is None
    found.look_for(["new"])
    assert found.find("new") is not None
    (tmp_path / "new.safetensors").unlink()
    found.refresh()
    assert found.find("new") is None


def test_metadata_in_order_and_unpacked(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", z="1", ss_tag_frequency='{"x": {"cat": 3}}', broken="{x", ss_sd_model_name="m")
    file = catalog(tmp_path).find("a")
    assert file is not None
    expected: dict[str, Any] = {
        "ss_sd_model_name": "m",
        "ss_tag_frequency": {"x": {"cat": 3}},
        "z": "1",
        "broken": "{x",
    }
    assert file.metadata == expected and list(file.metadata)[:2] == ["ss_sd_model_name", "ss_tag_frequency"]


def test_metadata_that_no_answer_could_hold(tmp_path: Path) -> None:
    write(
        tmp_path / "a.safetensors",
        ss_output_name="a\ud800",
        half='{"x": "\\ud800"}',
        nan='{"x": NaN}',
        far='{"x": 1e999}',
    )
    file = catalog(tmp_path).find("a")
    assert file is not None and file.alias == "a?"
    json.dumps(file.metadata, ensure_ascii=False, allow_nan=False).encode()
    assert file.metadata["half"] == '{"x": "\\ud800"}' and file.metadata["nan"] == '{"x": NaN}'


def test_a_name_that_is_no_text_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "a.safetensors")
    write(Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.safetensors")))
    assert [file.name for file in catalog(tmp_path).all()] == ["a"]
    assert "not UTF-8" in caplog.text and caplog.text.encode()


def test_a_stated_hash_and_none(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", sshs_model_hash="0123456789abcdef")
    write(tmp_path / "b.safetensors")
    found = LoraCatalog([tmp_path], None)
    found.refresh()
    assert [file.shorthash for file in found.all()] == ["0123456789ab", ""]


def test_files_by_hash_once_it_is_known(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", ss_output_name="alias")
    write(tmp_path / "b.safetensors", sshs_model_hash="0123456789abcdef")
    found = catalog(tmp_path)
    a, b = found.all()
    assert found.with_hash("0123456789ab") is b and found.with_hash("") is None
    assert a.known_shorthash == ""
    assert found.with_hash(a.shorthash) is a
    assert found.preferred_name(a, "Alias from file") == "alias" and found.preferred_name(a, "Filename") == "a"


def test_broken_metadata_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"\xff" * 100)
    file = catalog(tmp_path).find("a")
    assert file is not None and file.metadata == {} and file.alias == "a" and file.shorthash == ""


def test_hypernetworks(tmp_path: Path) -> None:
    found = HypernetworkCatalog(tmp_path)
    found.refresh()
    assert found.all() == [] and found.find("b") is None
    for name in ("b.pt", "None.pt", "sub/A.pt", "c.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found.look_for(["A"])
    assert found.find("A") is not None
    assert [file.name for file in found.all()] == ["b", "A"]
