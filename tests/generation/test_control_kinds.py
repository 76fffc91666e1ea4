"""Units whose model is a ControlNet-union or a style adapter, inpainting with LaMa, and memory given back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sdwebui_api.errors import BadRequest, NotFound
from tests.control.test_annotators import GENERATOR, small
from tests.engine.networks.control_factory import random_encoder
from tests.engine.networks.test_controlnet_union import union_tensors
from tests.engine.networks.test_style_adapter import style_tensors
from tests.generation.conftest import Studio
from tests.generation.test_controlnet import CANNY, arrays, encoded, picture, run, save_ip_adapter, unit

PLACE = "alwayson_scripts.controlnet.args[0]"


def models(studio: Studio) -> Path:
    folder: Path = studio.services.catalog.control_models.folders[0].parent
    return folder


def save(studio: Studio, name: str, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, models(studio) / "ControlNet" / f"{name}.safetensors")


# -- ControlNet-union --------------------------------------------------------------------------------------------------


@pytest.fixture
def union(studio: Studio) -> Studio:
    save(studio, "union_random", union_tensors())
    return studio


def test_the_kind_of_a_map_is_told_or_guessed(union: Studio) -> None:
    told = {
        kind: arrays(run(union, unit(model="union_random", union_control_type=kind)))[0]
        for kind in ("OpenPose", "Hard Edge", "Segmentation")
    }
    assert all((told[a] != told[b]).any() for a, b in (("OpenPose", "Hard Edge"), ("Hard Edge", "Segmentation")))
    canny = unit(model="union_random", module="canny")
    guessed = arrays(run(union, canny))[0]
    assert np.array_equal(guessed, arrays(run(union, {**canny, "union_control_type": "hard edge"}))[0])
    assert np.array_equal(guessed, arrays(run(union, {**canny, "union_control_type": 3}))[0])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "not told"),  # "none" may be anything
        ({"union_control_type": "Tile"}, "'Tile'"),  # of ProMax, which this one is not
        ({"module": "tile_resample"}, "'Tile'"),
    ],
)
def test_kinds_that_it_does_not_know(union: Studio, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest, match=words) as refused:
        run(union, unit(model="union_random", **fields))
    assert refused.value.field == f"{PLACE}.union_control_type"
    assert list(refused.value.choices) == [
        "OpenPose", "Depth", "Soft Edge", "Hard Edge", "Normal Map", "Segmentation"
    ]  # fmt: skip


def test_promax_knows_eight(studio: Studio) -> None:
    save(studio, "union_promax", union_tensors(8))
    tile = unit(model="union_promax", module="tile_resample")
    assert (arrays(run(studio, tile))[0] != arrays(run(studio))[0]).any()
    inpaint = unit(model="union_promax", union_control_type="Inpaint")
    assert (arrays(run(studio, tile))[0] != arrays(run(studio, inpaint))[0]).any()


# -- style adapters ----------------------------------------------------------------------------------------------------


@pytest.fixture
def style(studio: Studio) -> Studio:
    folder = models(studio) / "annotators" / "clip_vision"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(random_encoder(), folder / "clip_vitl.safetensors")
    save(studio, "t2iadapter_style_random", style_tensors())
    return studio


@pytest.mark.parametrize("module", ["clip_vision", "t2ia_style_clipvision"])
def test_styles(style: Studio, module: str) -> None:
    one = unit(module=module, model="t2iadapter_style_random")
    found = arrays(run(style, one))[0]
    assert (found != arrays(run(style))[0]).any()
    assert (found != arrays(run(style, {**one, "image": encoded(picture(2))}))[0]).any()
    assert (found != arrays(run(style, {**one, "weight": 0.3}))[0]).any()
    assert (found != arrays(run(style, {**one, "guidance_end": 0.3}))[0]).any()


def test_styles_are_no_control_networks(style: Studio) -> None:
    with pytest.raises(BadRequest, match="style adapters") as refused:
        run(style, unit(module="clip_vision", model=CANNY))
    assert refused.value.field == f"{PLACE}.module"


@pytest.mark.parametrize("module", ["ip-adapter_clip_sdxl", "ip-adapter_clip_g", "ip-adapter_clip_sdxl_plus_vith"])
def test_an_ip_adapter_has_its_own_encoder_whatever_the_module_is_called(studio: Studio, module: str) -> None:
    save_ip_adapter(studio)
    one = unit(module="ip-adapter-auto", model="ip-adapter_random")
    assert np.array_equal(arrays(run(studio, one))[0], arrays(run(studio, {**one, "module": module}))[0])


# -- LaMa ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lama(studio: Studio) -> Iterator[Studio]:
    path = models(studio) / "annotators" / "lama" / "ControlNetLama.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {f"{GENERATOR}{name}": value for name, value in small("lama").items()}
    torch.save({"state_dict": weights}, path)
    yield studio
    path.unlink()


def painted(box: tuple[int, int, int, int] = (16, 16, 48, 48)) -> str:
    mask = Image.new("L", (64, 64))
    mask.paste(255, box)
    return encoded(mask)


def test_inpainting_with_a_guess(lama: Studio) -> None:
    one = unit(module="inpaint_only+lama", mask=painted())
    result = run(lama, one)
    found, plain = arrays(result)[0], arrays(run(lama, {**one, "module": "inpaint_only"}))[0]
    assert (found != plain).any()
    assert np.abs(found[:8] - np.array(picture(1)).astype(int)[:8]).max() <= 2, "outside nothing changes"
    (map_,) = arrays(result, "detected_map")
    original = np.array(picture(1)).astype(int)
    assert np.array_equal(map_[:16, :, :3], original[:16]) and (map_[20:44, 20:44, :3] != original[20:44, 20:44]).any()


def test_outpainting_with_a_guess(lama: Studio) -> None:
    """ "Resize and Fill" leaves a border, which LaMa fills."""
    fields = {"resize_mode": "Resize and Fill", "image": encoded(picture(1).resize((32, 64))), "mask": None}
    (plain,) = arrays(run(lama, unit(module="inpaint_only", **fields)), "detected_map")
    (filled,) = arrays(run(lama, unit(module="inpaint_only+lama", **fields)), "detected_map")
    assert np.array_equal(plain[:, 20:44, :3], filled[:, 20:44, :3])
    assert plain[:, :12, :3].std(axis=(0, 1)).max() == 0 and filled[:, :12, :3].std(axis=(0, 1)).max() > 0


def test_lama_that_is_not_there(studio: Studio) -> None:
    with pytest.raises(NotFound, match=r"ControlNetLama.pth.*annotators/lama") as refused:
        run(studio, unit(module="inpaint_only+lama", mask=painted()))
    assert refused.value.field == f"{PLACE}.module"


# -- low_vram --------------------------------------------------------------------------------------------------------


def resident(studio: Studio) -> set[str]:
    engine: Any = studio.services.generator._engine
    return {str(part.key).partition(":")[0] for part in engine.loaded()}


def test_low_vram_gives_memory_back(lama: Studio) -> None:
    engine: Any = lama.services.generator._engine
    engine.unload()
    one = unit(module="inpaint_only+lama", mask=painted(), low_vram=True)
    sparing = arrays(run(lama, one))[0]
    assert not resident(lama) & {"control", "PictureNetwork"} and "unet" in resident(lama)
    generous = arrays(run(lama, {**one, "low_vram": False}))[0]
    assert resident(lama) >= {"control", "PictureNetwork"}
    assert np.array_equal(sparing, generous)
