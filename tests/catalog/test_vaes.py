from __future__ import annotations

import json

import pytest

from sdwebui_api.catalog.checkpoints import CheckpointFile
from sdwebui_api.catalog.hashes import HashCache
from sdwebui_api.catalog.vaes import VaeCatalog
from sdwebui_api.errors import NotFound


@pytest.fixture
def folders(tmp_path):
    checkpoints, vaes = tmp_path / "Stable-diffusion", tmp_path / "VAE"
    for folder in (checkpoints / "sub", vaes):
        folder.mkdir(parents=True)
    for path in ("Stable-diffusion/sub/x.vae.pt", "VAE/y.safetensors", "VAE/other.ckpt", "VAE/z.vae.safetensors"):
        (tmp_path / path).touch()
    return checkpoints, vaes


@pytest.fixture
def catalog(folders):
    checkpoints, vaes = folders
    catalog = VaeCatalog([vaes], [checkpoints], HashCache(None))
    catalog.refresh()
    return catalog


def test_the_golden_listing(golden_api, golden_models):
    catalog = VaeCatalog([golden_models / "VAE"], [golden_models / "Stable-diffusion"], HashCache(None))
    catalog.refresh()
    recorded = json.loads((golden_api / "get-sd-vae.json").read_text())["response"]
    ours = [
        {
            "model_name": vae.name,
            "filename": str(vae.path).replace(str(golden_models), "/stable-diffusion-webui/models"),
        }
        for vae in catalog.all()
    ]
    assert ours == recorded


def test_names_are_file_names_in_order(catalog):
    assert [vae.name for vae in catalog.all()] == ["other.ckpt", "x.vae.pt", "y.safetensors", "z.vae.safetensors"]


@pytest.mark.parametrize("text", ["y.safetensors", "y", "Y.SafeTensors", " y "])
def test_find(catalog, text):
    assert catalog.find(text).name == "y.safetensors"


def test_unknown_names_are_refused(catalog):
    with pytest.raises(NotFound) as refused:
        catalog.find("no-such-vae.pt", "override_settings.sd_vae")
    assert refused.value.field == "override_settings.sd_vae" and refused.value.choices


@pytest.mark.parametrize(
    ("checkpoint", "vae"),
    [
        ("sub/x.safetensors", "x.vae.pt"),
        ("y.ckpt", "y.safetensors"),
        ("z.safetensors", "z.vae.safetensors"),
        ("n.ckpt", None),
    ],
)
@pytest.mark.parametrize("value", ["Automatic", "automatic", "", None])
def test_automatic_takes_the_one_named_like_the_checkpoint(catalog, folders, checkpoint, vae, value):
    found = catalog.resolve(value, CheckpointFile(folders[0] / checkpoint, checkpoint))
    assert (found and found.name) == vae


def test_resolve_by_name_and_none(catalog, folders):
    checkpoint = CheckpointFile(folders[0] / "sub/x.safetensors", "sub/x.safetensors")
    assert catalog.resolve("None", checkpoint) is None
    assert catalog.resolve("other", checkpoint).name == "other.ckpt"
    with pytest.raises(NotFound):
        catalog.resolve("no-such", checkpoint)


def test_vae_path_overrides_everything(folders):
    checkpoints, vaes = folders
    checkpoint = CheckpointFile(checkpoints / "y.safetensors", "y.safetensors")
    catalog = VaeCatalog([vaes], [checkpoints], None, forced=vaes / "other.ckpt")
    assert catalog.resolve("None", checkpoint).name == "other.ckpt"
    with pytest.raises(NotFound):
        VaeCatalog([vaes], [], None, forced=vaes / "missing.pt").resolve("None", checkpoint)
