"""Where `save_dir` may lead, and where not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sdwebui_api.config.flags import parse_flags
from sdwebui_api.errors import BadRequest, NotStored
from sdwebui_api.storage.roots import SaveRoots, save_roots


@pytest.fixture
def roots(tmp_path: Path) -> SaveRoots:
    """`data` and `more` may be written to; `secret` lies beside them, and links of every kind lead there."""
    data, more, secret = (tmp_path / name for name in ("data", "more", "secret"))
    for folder in (data / "deep", more, secret):
        folder.mkdir(parents=True)
    (data / "leak").symlink_to(secret)
    (data / "deep" / "relative-leak").symlink_to("../../secret")
    (data / "chain").symlink_to(data / "leak")
    (data / "root").symlink_to("/")
    (data / "file.txt").write_text("x")
    (data / "loop").symlink_to(data / "loop")
    (data / "dangling").symlink_to(tmp_path / "not-there")
    (tmp_path / "data-twin").mkdir()
    return save_roots(parse_flags(["--allow-save-dir", str(more)], environ={}), data)


@pytest.mark.parametrize(
    ("save_dir", "folder"),
    [
        ("tmp/outputs", "data/tmp/outputs"),
        (".", "data"),
        ("./a//b/", "data/a/b"),
        (" outputs ", "data/outputs"),
        ("{tmp}/data/x", "data/x"),
        ("{tmp}/more", "more"),
        ("{tmp}/more/a b/图", "more/a b/图"),
        ("...", "data/..."),
        ("..x/y..", "data/..x/y.."),
    ],
)
def test_folders_that_may_be_named(roots: SaveRoots, tmp_path: Path, save_dir: str, folder: str) -> None:
    target = roots.target(save_dir.format(tmp=tmp_path), "save_dir")
    address = target.write("txt2img-images/2024-06-26/1.png", b"picture", "image/png")
    assert address == str(tmp_path / folder / "txt2img-images/2024-06-26/1.png")
    assert Path(address).read_bytes() == b"picture"


OUTSIDE = [
    "..", "../secret", "../data/x", "deep/../../secret", "a/b/../../../secret", "..\\secret", "deep\\..\\..\\secret",
    "/", "/tmp", "/etc", "//etc", "/proc/self/root/tmp", "{tmp}", "{tmp}/secret", "{tmp}/data/../secret",
    "{tmp}/data-twin",
    "{tmp}/data/./../secret", "leak", "leak/x/y", "deep/relative-leak", "deep/relative-leak/x", "chain", "chain/x",
    "root/etc", "root{tmp}/secret", "dangling", "dangling/x", "{tmp}/more/../secret", "oss://bucket/x", "s3://bucket/x",
    "OSS://bucket/x", "file:///tmp", "http://127.0.0.1/x", "~/../secret/..", "/dev/shm/x",
]  # fmt: skip


@pytest.mark.parametrize("save_dir", OUTSIDE)
def test_folders_that_may_not(roots: SaveRoots, tmp_path: Path, save_dir: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BadRequest) as caught:
        roots.target(save_dir.format(tmp=tmp_path), "alwayson_scripts.save_dir")
    error = caught.value
    assert error.status == 403 and error.field == "alwayson_scripts.save_dir"
    assert str(tmp_path / "data") in error.message and str(tmp_path / "more") in error.message
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "save_dir", ["a,b", "a\0b", "a\nb", "x" * 300, "x/" * 2000, "é" * 130, "file.txt", "file.txt/x"]
)
def test_what_is_no_folder(roots: SaveRoots, save_dir: str) -> None:
    with pytest.raises(BadRequest) as caught:
        roots.target(save_dir, "save_dir")
    assert caught.value.status == 422


def test_a_link_in_a_circle(roots: SaveRoots) -> None:
    with pytest.raises((BadRequest, NotStored)):
        roots.target("loop/x", "save_dir").write("1.png", b"x", "image/png")


@pytest.mark.parametrize("name", ["txt2img-images", "img2img-grids", "controlnet_mask"])
def test_a_link_in_the_place_of_a_result_folder_is_seen_before_the_work(
    roots: SaveRoots, tmp_path: Path, name: str
) -> None:
    (tmp_path / "data" / "mine").mkdir()
    (tmp_path / "data" / "mine" / name).symlink_to(tmp_path / "secret")
    with pytest.raises(BadRequest) as caught:
        roots.target("mine", "save_dir")
    assert caught.value.status == 403


def test_a_folder_that_becomes_a_link_after_admission(roots: SaveRoots, tmp_path: Path) -> None:
    target = roots.target("later", "save_dir")
    (tmp_path / "data" / "later").symlink_to(tmp_path / "secret")
    with pytest.raises(NotStored, match="leads out"):
        target.write("1.png", b"x", "image/png")
    assert not list((tmp_path / "secret").iterdir())


def test_an_outputs_folder_on_another_disk(roots: SaveRoots, tmp_path: Path) -> None:
    (tmp_path / "data" / "outputs").symlink_to(tmp_path / "secret")
    address = roots.target("outputs/x", "save_dir").write("1.png", b"x", "image/png")
    # Spelled as it was named: the client knows the data folder, not the disk behind it.
    assert address == str(tmp_path / "data/outputs/x/1.png") and (tmp_path / "secret/x/1.png").exists()
    assert roots.default().write("2.png", b"x", "image/png") == str(tmp_path / "data/outputs/2.png")


def test_a_folder_without_permission(roots: SaveRoots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known before any picture is made. The system is asked, so that this holds for root too, who may do all."""
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / "more")
    with pytest.raises(BadRequest, match="may not write") as caught:
        roots.target(f"{tmp_path}/more/x", "save_dir")
    assert caught.value.status == 403
    assert roots.target("x", "save_dir")
