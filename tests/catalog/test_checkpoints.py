from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from sdwebui_api.catalog.checkpoints import CheckpointCatalog
from sdwebui_api.catalog.hashes import HashCache
from sdwebui_api.config.flags import default_data_dir, parse_flags
from sdwebui_api.config.paths import Paths
from sdwebui_api.errors import NotFound


def write_safetensors(path: Path, metadata: dict[str, str] | None = None, data: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = json.dumps({"__metadata__": metadata or {}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


def catalog_of(folder: Path, **more) -> CheckpointCatalog:
    catalog = CheckpointCatalog([folder], HashCache(None), **more)
    catalog.refresh()
    return catalog


@pytest.fixture
def several(tmp_path):
    for name in ("model10.safetensors", "Model2.safetensors", "sub/anime.safetensors", "sub/photo-v1.ckpt"):
        write_safetensors(tmp_path / name, data=name.encode())
    (tmp_path / "model10.vae.safetensors").touch()
    (tmp_path / "notes.txt").touch()
    return catalog_of(tmp_path)


def test_the_golden_listing(golden_api, golden_models, golden_flags):
    recorded = json.loads((golden_api / "get-sd-models.json").read_text())["response"]
    paths = Paths.from_flags(parse_flags(golden_flags, {}))
    catalog = CheckpointCatalog(paths.checkpoint_dirs, HashCache(None), fallback=paths.shipped_checkpoint_dir)
    catalog.refresh()
    ours = [
        {
            "title": file.title,
            "model_name": file.model_name,
            "hash": file.shorthash,
            "sha256": file.sha256,
            "filename": str(file.path).replace(str(golden_models), "/stable-diffusion-webui/models"),
            "config": str(file.config_path).replace(str(golden_models), "/stable-diffusion-webui/models"),
        }
        for file in catalog.all(compute_hashes=True)
    ]
    assert ours == recorded


def test_natural_order_and_names(several):
    files = several.all()
    assert [file.name for file in files] == [
        "Model2.safetensors",
        "model10.safetensors",
        "sub/anime.safetensors",
        "sub/photo-v1.ckpt",
    ]
    assert files[2].model_name == "sub_anime" and files[2].stem == "anime"


def test_every_alias_finds_the_file(several):
    file = several.all()[2]
    aliases = [file.name, "sub/anime", "anime.safetensors", "anime", "sub_anime", file.title, str(file.path)]
    aliases += [file.shorthash, file.sha256, file.sha256[:6], file.sha256.upper(), "ANIME", "Sub/Anime.SafeTensors"]
    aliases += ["anime [0123456789]", f"renamed.safetensors [{file.shorthash}]", "nim", " anime "]
    for alias in aliases:
        assert several.find(alias) is file, alias


def test_a_hash_is_found_before_any_was_computed(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", data=b"a")
    b = write_safetensors(tmp_path / "b.safetensors", data=b"b")
    digest = HashCache(None).sha256(b)
    assert catalog_of(tmp_path).find(digest[:10]).name == "b.safetensors"


@pytest.mark.parametrize(
    "text", ["", "  ", "no-such-model", "../secret", "/etc/passwd", "zz", "[0123456789]", "x" * 9999]
)
def test_unknown_names_are_refused_with_the_nearest(several, text):
    with pytest.raises(NotFound) as refused:
        several.find(text, "override_settings.sd_model_checkpoint")
    assert refused.value.field == "override_settings.sd_model_checkpoint"
    assert len(refused.value.message) < 500


def test_a_name_like_no_other_shows_what_there_is(tmp_path):
    for number in range(12):  # more than are shown without being asked for
        write_safetensors(tmp_path / f"model{number}.safetensors", data=bytes([number]))
    with pytest.raises(NotFound) as refused:
        catalog_of(tmp_path).find("/%%/")
    assert refused.value.choices[0] == "model0.safetensors"
    assert "no checkpoint is installed" not in refused.value.message


def test_choices_are_near(several):
    with pytest.raises(NotFound) as refused:
        several.find("model3.safetensors")
    assert "Model2.safetensors" in refused.value.choices


def test_a_part_of_several_names_is_refused(several):
    with pytest.raises(NotFound, match="several") as refused:
        several.find("mod")
    assert set(refused.value.choices) == {"Model2.safetensors", "model10.safetensors"}


def test_a_file_in_two_formats_is_one_model(tmp_path):
    for ending in ("ckpt", "safetensors"):
        write_safetensors(tmp_path / f"a.{ending}")
    assert catalog_of(tmp_path).find("a").path.stem == "a"


def test_files_outside_the_folders_are_never_opened(several, tmp_path):
    outside = write_safetensors(tmp_path.parent / f"{tmp_path.name}-outside.safetensors")
    with pytest.raises(NotFound):
        several.find(str(outside))


def test_the_same_name_in_two_folders_counts_once(tmp_path, caplog):
    first = write_safetensors(tmp_path / "1/a.safetensors", data=b"1")
    write_safetensors(tmp_path / "2/a.safetensors", data=b"2")
    catalog = CheckpointCatalog([tmp_path / "1", tmp_path / "2"], None)
    with caplog.at_level(logging.WARNING):
        catalog.refresh()
    assert [file.path for file in catalog.all()] == [first]
    assert "hidden" in caplog.text


def test_default_is_the_first_or_the_one_of_ckpt(several, tmp_path):
    assert several.default().name == "Model2.safetensors"
    assert catalog_of(tmp_path, initial="anime").default().name == "sub/anime.safetensors"
    assert catalog_of(tmp_path, initial="no-such").default().name == "Model2.safetensors"
    assert catalog_of(tmp_path / "nowhere").default() is None


def test_ckpt_may_be_any_file(several, tmp_path):
    other = write_safetensors(tmp_path.parent / f"{tmp_path.name}-other.safetensors")
    catalog = catalog_of(tmp_path, initial=str(other))
    assert catalog.default().path == other
    assert len(catalog.all()) == len(several.all()) + 1


def test_the_fallback_serves_while_there_is_nothing_else(tmp_path):
    shipped = Path(default_data_dir()) / "model_store" / "Stable-diffusion"
    folder = tmp_path / "models"
    catalog = catalog_of(folder, fallback=shipped)
    assert [file.path.parent for file in catalog.all()] == [shipped]
    own = write_safetensors(folder / "own.safetensors")
    catalog.refresh()
    assert [file.path for file in catalog.all()] == [own]


def test_no_hashing(tmp_path):
    write_safetensors(tmp_path / "a.safetensors")
    catalog = CheckpointCatalog([tmp_path], None)
    catalog.refresh()
    (file,) = catalog.all(compute_hashes=True)
    assert (file.title, file.shorthash, file.sha256, file.known_sha256) == ("a.safetensors", None, None, None)


def test_titles_are_bare_before_hashing(several):
    (file, *_) = several.all()
    assert file.known_title == "Model2.safetensors"
    assert file.title == file.known_title == f"Model2.safetensors [{file.sha256[:10]}]"


def test_refresh_keeps_unchanged_files_and_sees_changed_ones(tmp_path):
    path = write_safetensors(tmp_path / "a.safetensors", data=b"1")
    catalog = catalog_of(tmp_path)
    (before,) = catalog.all()
    catalog.refresh()
    assert catalog.all()[0] is before
    digest = before.sha256
    write_safetensors(path, data=b"22")
    catalog.refresh()
    assert catalog.all()[0] != before and catalog.all()[0].sha256 != digest
    path.unlink()
    catalog.refresh()
    assert catalog.all() == []


def test_a_file_that_vanished_has_no_hash(tmp_path, caplog):
    path = write_safetensors(tmp_path / "a.safetensors")
    catalog = catalog_of(tmp_path)
    path.unlink()
    (file,) = catalog.all(compute_hashes=True)
    assert file.sha256 is None and file.title == "a.safetensors"


def test_links_that_lead_to_no_file(tmp_path):
    write_safetensors(tmp_path / "sub/a.safetensors")
    os.symlink(tmp_path, tmp_path / "sub" / "up")
    os.symlink(tmp_path / "gone", tmp_path / "dangling.safetensors")
    os.symlink("long" * 100, tmp_path / "impossible.safetensors")
    assert [file.name for file in catalog_of(tmp_path).all()] == ["sub/a.safetensors"]


@pytest.mark.parametrize(
    ("resolution", "size"),
    [("128x128", (128, 128)), ("1024 x 768", (1024, 768)), ("512", (512, 512)), ("130x100", (128, 96))]
    + [(text, None) for text in ("", "big", "0x0", "8x8", "99999x99999", "-512x512", "512x512x3")],
)
def test_native_size(tmp_path, resolution, size):
    write_safetensors(tmp_path / "a.safetensors", {"modelspec.resolution": resolution})
    assert catalog_of(tmp_path).all()[0].native_size == size


def test_the_shipped_checkpoint_says_its_size():
    catalog = catalog_of(Path(default_data_dir()) / "model_store" / "Stable-diffusion")
    assert catalog.default().native_size is not None


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"\x01",
        b"\xff" * 8,
        b"\xff" * 64,
        (10**6).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (6).to_bytes(8, "little") + b"{nope}",
        (50_000).to_bytes(8, "little") + b"[" * 50_000,
    ],
)
def test_broken_headers_have_no_metadata(tmp_path, contents):
    (tmp_path / "a.safetensors").write_bytes(contents)
    (file,) = catalog_of(tmp_path).all()
    assert file.metadata == {} and file.native_size is None


def test_a_diffusers_folder_is_one_checkpoint(tmp_path):
    folder = tmp_path / "sub" / "my-model-2.1"
    for part, name in (("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model.fp16")):
        write_safetensors(folder / part / f"{name}.safetensors", data=part.encode())
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors", "c": "../x.safetensors"}
    for name in shards.values():
        write_safetensors(folder / "text_encoder" / name)
    index = folder / "text_encoder" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    (folder / "model_index.json").write_text("{}")
    write_safetensors(tmp_path / "plain.safetensors")
    catalog = catalog_of(tmp_path)
    assert [file.name for file in catalog.all()] == ["plain.safetensors", "sub/my-model-2.1"]
    found = catalog.find("my-model-2.1")
    assert (found.path, found.stem, found.model_name) == (folder, "my-model-2.1", "sub_my-model-2.1")
    before = found.sha256
    assert before is not None and catalog.find(found.title) == found
    write_safetensors(folder / "unet" / "diffusion_pytorch_model.safetensors", data=b"other")
    catalog.refresh()
    again = catalog.find("my-model-2.1")
    assert again != found and again.sha256 != before
    alone = catalog_of(tmp_path / "none", initial=str(folder)).default()
    assert alone is not None and (alone.path, alone.name) == (folder, "my-model-2.1")
