from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sdwebui_api.errors import BadRequest
from sdwebui_api.storage import local
from sdwebui_api.storage.local import LocalStorage, fitting_name, next_sequence_number, safe_name


@pytest.mark.parametrize("spelled", ["../x", "/etc", "outputs/../../x", "models", "", "a\0b", "outputs/../models"])
def test_folders_outside_the_outputs_are_refused(tmp_path: Path, spelled: str) -> None:
    with pytest.raises(BadRequest) as caught:
        LocalStorage(tmp_path).folder(spelled, "outdir_samples")
    assert caught.value.field == "outdir_samples"


def test_folders_inside(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    assert storage.folder("outputs/txt2img-images", "f") == tmp_path / "outputs/txt2img-images"
    assert storage.folder(str(tmp_path / "outputs" / "x"), "f") == tmp_path / "outputs" / "x"
    assert storage.folder("log/images", "f") == tmp_path / "log/images"
    assert storage.subfolder(tmp_path / "outputs", "../a//b\\..\\c:d", "f") == tmp_path / "outputs/a/b/c_d"


@pytest.mark.parametrize("spelled", ["outputs/" + "x" * 300, "outputs/" + "x/" * 3000, "outputs/" + "é" * 130])
def test_folders_that_no_disk_can_hold(tmp_path: Path, spelled: str) -> None:
    storage = LocalStorage(tmp_path)
    with pytest.raises(BadRequest) as caught:
        storage.folder(spelled, "outdir_samples")
    assert caught.value.field == "outdir_samples"
    with pytest.raises(BadRequest):
        storage.subfolder(tmp_path / "outputs", "x/" * 3000, "directories_filename_pattern")


def test_links_that_lead_out_are_refused_but_a_linked_outputs_folder_is_fine(tmp_path: Path) -> None:
    data, disk = tmp_path / "data", tmp_path / "disk"
    (data / "outputs").mkdir(parents=True)
    disk.mkdir()
    (data / "outputs" / "leak").symlink_to(disk)
    with pytest.raises(BadRequest):
        LocalStorage(data).folder("outputs/leak", "f")
    (data / "outputs" / "leak").unlink()
    (data / "outputs").rmdir()
    (data / "outputs").symlink_to(disk)
    assert LocalStorage(data).folder("outputs/x", "f") == data / "outputs" / "x"


@pytest.mark.parametrize("links", [True, False])
def test_simultaneous_saves_all_get_their_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def no_links(*arguments: object) -> None:
        raise OSError("links are not supported")

    if not links:
        monkeypatch.setattr(local.os, "link", no_links)
    storage = LocalStorage(tmp_path)
    folder = tmp_path / "outputs"

    def save(content: int) -> Path:
        first = next_sequence_number(folder)
        return storage.save_new(folder, lambda number: f"{number:05}-x.png", str(content).encode(), first)

    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(save, range(64)))
    assert len(set(paths)) == 64
    assert sorted(int(path.read_text()) for path in paths) == list(range(64))
    assert sorted(entry.name for entry in folder.iterdir()) == [f"{number:05}-x.png" for number in range(64)]


def test_sequence_numbers(tmp_path: Path) -> None:
    assert next_sequence_number(tmp_path / "missing") == 0
    for name in ("00007-a.png", "00003.txt", "x-00050.png", "grid-0012.png", "12ab.png"):
        (tmp_path / name).touch()
    assert next_sequence_number(tmp_path) == 8
    assert next_sequence_number(tmp_path, "grid") == 13


def test_names_are_safe_and_short() -> None:
    assert safe_name("..") == safe_name(" . ") == ""
    assert safe_name("a/b\\c:d\n") == "a_b_c_d_"
    assert safe_name("con") == "_con" and safe_name("aux.png") == "_aux.png"
    assert len(safe_name("ü" * 300).encode()) <= local.LONGEST_NAME
    assert len(fitting_name("ü" * 300 + ".png").encode()) <= local.LONGEST_NAME
    assert fitting_name("ü" * 300 + ".png").endswith(".png")
    assert fitting_name("a\ud800b.png")


def test_saving_replaces_and_leaves_no_temporary_files(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.save(tmp_path / "outputs" / "a.txt", b"one")
    path = storage.save(tmp_path / "outputs" / "a.txt", b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path / "outputs") == ["a.txt"]
    assert path.stat().st_mode & 0o044


def test_a_saved_picture_survives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes are synced before they get their name, the name and those of new folders before the path is told."""
    happened: list[tuple[str, Path]] = []
    fsync, replace, link = os.fsync, os.replace, os.link

    def synced(descriptor: int) -> None:
        happened.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def replaced(source: Path, target: Path) -> None:
        happened.append(("name", Path(target)))
        replace(source, target)

    def linked(source: Path, target: Path) -> None:
        happened.append(("name", Path(target)))
        link(source, target)

    monkeypatch.setattr(local.os, "fsync", synced)
    monkeypatch.setattr(local.os, "replace", replaced)
    monkeypatch.setattr(local.os, "link", linked)
    folder = tmp_path / "outputs" / "a"
    for save in (
        lambda: LocalStorage(tmp_path).save(folder / "1.png", b"x"),
        lambda: LocalStorage(tmp_path).save_new(folder, lambda number: f"{number}.jpg", b"x"),
    ):
        happened.clear()
        path = save()
        named = happened.index(("name", path))
        kinds = [kind for kind, _ in happened]
        assert kinds[named - 1] == "sync" and happened[named - 1][1].name.startswith(".saving-")
        assert happened[-1] == ("sync", folder)
    # The first save made the folders.
    (tmp_path / "outputs" / "b").mkdir()
    happened.clear()
    local.write_file(tmp_path / "outputs" / "b" / "c" / "d" / "1.png", b"x")
    parents = [place for kind, place in happened if kind == "sync"]
    assert tmp_path / "outputs" / "b" in parents and tmp_path / "outputs" / "b" / "c" in parents


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(local.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        local.write_file(tmp_path / "1.png", b"x")
    assert not list(tmp_path.iterdir())
