"""Merging: the formulas, what is kept and dropped, and that nothing half-written or overwritten is ever left."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sdwebui_api.catalog.checkpoints import CheckpointCatalog
from sdwebui_api.catalog.hashes import HashCache
from sdwebui_api.catalog.merging import MergeRecipe
from sdwebui_api.catalog.vaes import VaeFile
from sdwebui_api.engine.merging import merge_checkpoints
from sdwebui_api.errors import BadRequest, Cancelled, NotStored, UnusableModel

INPUT = "model.diffusion_model.input_blocks.0.0.weight"
OUT = "model.diffusion_model.out.2.weight"
VAE = "first_stage_model.decoder.conv_in.weight"
TEXT = "cond_stage_model.transformer.text_model.final_layer_norm.weight"
POSITIONS = "cond_stage_model.transformer.text_model.embeddings.position_ids"


def tensors(seed: int, channels: int = 4, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    shapes = {INPUT: (8, channels, 3, 3), OUT: (4, 8, 3, 3), VAE: (8, 4, 3, 3), TEXT: (16,)}
    found = {name: torch.randn(shape, generator=random).to(dtype) for name, shape in shapes.items()}
    return found | {POSITIONS: torch.arange(77)[None], "alphas_cumprod": torch.full((10,), float(seed))}


@pytest.fixture
def shelf(tmp_path):
    """name -> tensors; answers the catalog's entry of a checkpoint written to disk."""

    def put(name: str, content: dict, metadata: dict | None = None):
        path = tmp_path / "in" / name
        path.parent.mkdir(exist_ok=True)
        if name.endswith(".ckpt"):
            torch.save({"state_dict": content}, path)
        else:
            save_file({key: tensor.contiguous() for key, tensor in content.items()}, path, metadata or {})
        catalog = CheckpointCatalog([tmp_path / "in"], HashCache(tmp_path / "hashes.json"))
        catalog.refresh()
        return catalog.find(name)

    return put


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


def test_weighted_sum(shelf, out):
    a, b = tensors(1), tensors(2)
    seen = []
    recipe = MergeRecipe(shelf("a.safetensors", a), shelf("b.ckpt", b), multiplier=0.25)
    path = merge_checkpoints(recipe, out, lambda done, total: seen.append((done, total)))
    assert path.name == "0.75(a) + 0.25(b).safetensors"
    merged = load_file(path)
    assert list(sorted(merged)) == sorted(a)
    for name in (INPUT, OUT, VAE, TEXT):
        assert torch.equal(merged[name], a[name] * 0.75 + b[name] * 0.25)
    # A1111 merges only names with "model" in them, and not the table of positions.
    assert torch.equal(merged["alphas_cumprod"], a["alphas_cumprod"])
    assert torch.equal(merged[POSITIONS], a[POSITIONS])
    assert seen == [(done, 6) for done in range(1, 7)]


def test_add_difference(shelf, out):
    a, b, c = tensors(1), tensors(2), tensors(3)
    del c[TEXT]
    files = [shelf(f"{name}.safetensors", content) for name, content in (("a", a), ("b", b), ("c", c))]
    path = merge_checkpoints(MergeRecipe(*files, method="Add difference", multiplier=0.5), out)
    assert path.name == "a + 0.5(b - c).safetensors"
    merged = load_file(path)
    assert torch.equal(merged[OUT], a[OUT] + (b[OUT] - c[OUT]) * 0.5)
    assert torch.equal(merged[TEXT], a[TEXT]), "without C there is no difference"


def test_half_precision_vae_and_discarded(shelf, out, tmp_path):
    a = tensors(1) | {"model_ema.decay": torch.tensor(0.5)}
    vae = {"decoder.conv_in.weight": torch.ones(8, 4, 3, 3)}
    save_file(vae, tmp_path / "v.safetensors")
    recipe = MergeRecipe(
        shelf("a.safetensors", a),
        method="No interpolation",
        save_as_half=True,
        vae=VaeFile(tmp_path / "v.safetensors", "v.safetensors"),
        discard_weights=r"^model_ema\.|cond_stage",
        custom_name="mine",
    )
    merged = load_file(merge_checkpoints(recipe, out))
    assert sorted(merged) == sorted([INPUT, OUT, VAE, "alphas_cumprod"])
    assert {tensor.dtype for tensor in merged.values()} == {torch.float16}
    assert torch.equal(merged[VAE], torch.ones(8, 4, 3, 3).half())
    assert torch.equal(merged[OUT], a[OUT].half())


def test_inpainting_must_come_first_and_keeps_its_other_channels(shelf, out):
    a, b = tensors(1, channels=9), tensors(2)
    first, second = shelf("inpaint.safetensors", a), shelf("b.safetensors", b)
    path = merge_checkpoints(MergeRecipe(first, second, multiplier=0.5, custom_name="both"), out)
    assert path.name == "both.inpainting.safetensors"
    merged = load_file(path)
    assert torch.equal(merged[INPUT][:, :4], a[INPUT][:, :4] * 0.5 + b[INPUT] * 0.5)
    assert torch.equal(merged[INPUT][:, 4:], a[INPUT][:, 4:])
    with pytest.raises(BadRequest, match="first") as caught:
        merge_checkpoints(MergeRecipe(second, first), out)
    assert caught.value.field == "secondary_model_name"


def test_text_encoders_named_as_in_old_files(shelf, out):
    a, b = tensors(1), tensors(2)
    old = {name.replace("transformer.text_model.", "transformer."): tensor for name, tensor in b.items()}
    merged = load_file(merge_checkpoints(MergeRecipe(shelf("a.safetensors", a), shelf("b.ckpt", old)), out))
    assert torch.equal(merged[TEXT], a[TEXT] * 0.7 + b[TEXT] * 0.3)


def test_metadata_and_config(shelf, out, tmp_path):
    a = shelf("a.safetensors", tensors(1), {"author": "A", "sd_merge_models": "no JSON"})
    b = shelf("b.safetensors", tensors(2), {"author": "B", "licence": "B's"})
    (tmp_path / "in" / "b.yaml").write_text("model: {}")
    path = merge_checkpoints(MergeRecipe(a, b, metadata={"note": "mine"}), out)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["author"] == "A" and metadata["licence"] == "B's" and metadata["note"] == "mine"
    recipe = json.loads(metadata["sd_merge_recipe"])
    assert recipe["primary_model_hash"] == a.sha256 and recipe["multiplier"] == 0.3
    assert {entry["name"] for entry in json.loads(metadata["sd_merge_models"]).values()} == {a.name, b.name}
    assert path.with_suffix(".yaml").read_text() == "model: {}"
    plain = merge_checkpoints(MergeRecipe(a, b, save_metadata=False, config_source=3, custom_name="plain"), out)
    with safe_open(plain, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert not plain.with_suffix(".yaml").exists()


def test_never_over_an_existing_file(shelf, out):
    recipe = MergeRecipe(shelf("a.safetensors", tensors(1)), method="No interpolation", custom_name="taken")
    merge_checkpoints(recipe, out).write_bytes(b"precious")
    with pytest.raises(BadRequest) as caught:
        merge_checkpoints(recipe, out)
    assert caught.value.field == "custom_name" and (out / "taken.safetensors").read_bytes() == b"precious"


def test_not_even_one_that_appears_meanwhile(shelf, out):
    recipe = MergeRecipe(shelf("a.safetensors", tensors(1)), method="No interpolation", custom_name="taken")

    def somebody_else(done: int, total: int) -> None:
        (out / "taken.safetensors").write_bytes(b"precious")

    with pytest.raises(BadRequest):
        merge_checkpoints(recipe, out, somebody_else)
    assert [path.name for path in out.iterdir()] == ["taken.safetensors"]
    assert (out / "taken.safetensors").read_bytes() == b"precious"


def test_cancelling_leaves_nothing_behind(shelf, out):
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        merge_checkpoints(MergeRecipe(shelf("a.safetensors", tensors(1)), method="No interpolation"), out, stop)
    assert list(out.iterdir()) == []


def test_a_disk_that_refuses_is_told_with_its_folder(shelf, out, monkeypatch):
    def fsync(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(NotStored, match="the disk is full") as caught:
        merge_checkpoints(MergeRecipe(shelf("a.safetensors", tensors(1)), method="No interpolation"), out)
    assert str(out) in caught.value.message and list(out.iterdir()) == []


@pytest.mark.parametrize("name", ["../a", "a/b", "a\\b", ".hidden", "x" * 300, "a\0b", ".safetensors", "..."])
def test_names_that_are_none(name, shelf, out):
    recipe = MergeRecipe(shelf("a.safetensors", tensors(1)), method="No interpolation", custom_name=name)
    with pytest.raises(BadRequest) as caught:
        merge_checkpoints(recipe, out)
    assert caught.value.field == "custom_name"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"method": "Add difference"}, "tertiary_model_name"),
        ({"secondary": None}, "secondary_model_name"),
        ({"discard_weights": "(["}, "discard_weights"),
        ({"discard_weights": "."}, "discard_weights"),
        ({"discard_weights": r"(?:\w|[\w.]|\w\w)*[!?]"}, "discard_weights"),
    ],
)
def test_what_cannot_be_done_names_the_field(changes, field, shelf, out):
    parts = {"primary": shelf("a.safetensors", tensors(1)), "secondary": shelf("b.safetensors", tensors(2))}
    start = time.monotonic()
    with pytest.raises(BadRequest) as caught:
        merge_checkpoints(MergeRecipe(**{**parts, **changes}), out)
    assert caught.value.field == field and time.monotonic() - start < 60


def test_other_architectures_do_not_fit(shelf, out):
    other = tensors(2) | {OUT: torch.zeros(4, 16, 3, 3)}
    with pytest.raises(BadRequest, match="does not fit"):
        merge_checkpoints(MergeRecipe(shelf("a.safetensors", tensors(1)), shelf("b.safetensors", other)), out)
    with pytest.raises(BadRequest, match="in common"):
        merge_checkpoints(
            MergeRecipe(shelf("a.safetensors", tensors(1)), shelf("c.safetensors", {"model.x": torch.zeros(1)})), out
        )


def test_weights_beside_scales_are_not_merged(shelf, out):
    layer = "model.diffusion_model.middle_block.1.proj_in"
    scaled = tensors(1) | {f"{layer}.weight": torch.ones(4, 4), f"{layer}.scale_weight": torch.tensor(2.0)}
    with pytest.raises(UnusableModel, match="beside their scales"):
        merge_checkpoints(MergeRecipe(shelf("a.safetensors", scaled), shelf("b.safetensors", tensors(2))), out)
    assert not out.exists()


def test_tensors_of_a_kind_that_no_file_holds_are_not_merged(shelf, out):
    odd = tensors(1) | {"model.diffusion_model.odd": torch.zeros(2, dtype=torch.complex64)}
    with pytest.raises(UnusableModel, match="complex64"):
        merge_checkpoints(MergeRecipe(shelf("a.safetensors", odd), shelf("b.safetensors", tensors(2))), out)
