"""Control units through the whole pipeline, on the golden checkpoint and its random ControlNets."""

from __future__ import annotations

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sdwebui_api.api.generation_schema import Img2ImgBody, Txt2ImgBody
from sdwebui_api.config.options import Options
from sdwebui_api.errors import BadRequest
from sdwebui_api.generation.request import GenerationResult
from sdwebui_api.jobs.job import Job
from tests.engine.networks.control_factory import random_adapter, random_encoder
from tests.generation.conftest import SMALL, Studio

CANNY, DEPTH = "control_sd15_tiny_canny", "control_sd15_tiny_depth"


def picture(seed: int, size: int = 64) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.NEAREST)


def encoded(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def unit(**fields: Any) -> dict[str, Any]:
    return {"enabled": True, "module": "none", "model": CANNY, "image": encoded(picture(1)), **fields}


def run(
    studio: Studio, *units: Any, kind: Literal["txt2img", "img2img"] = "txt2img", **fields: Any
) -> GenerationResult:
    services = studio.services
    schema = Txt2ImgBody if kind == "txt2img" else Img2ImgBody
    body = schema.model_validate(SMALL | {"override_settings": {"randn_source": "CPU"}} | fields)
    request = services.resolver(kind, body.model_dump(), body.model_fields_set, Options())
    scripts = services.scripts.read(kind, services.catalog, None, None, {"controlnet": {"args": list(units)}})
    return services.generator.run(replace(request, always_on=scripts.always_on), Job("test", kind))


def arrays(result: GenerationResult, role: str = "sample") -> list[np.ndarray]:
    return [np.array(image.image).astype(int) for image in result.images if image.role == role]


def test_a_unit_changes_the_picture_and_its_map_comes_behind(studio: Studio) -> None:
    plain, controlled = run(studio), run(studio, unit())
    assert [image.role for image in controlled.images] == ["sample", "detected_map"]
    assert np.abs(arrays(plain)[0] - arrays(controlled)[0]).mean() > 0.2
    assert np.array_equal(arrays(controlled, "detected_map")[0], np.array(picture(1)))
    assert controlled.info["infotexts"][0].count("ControlNet 0") == 1
    assert len(controlled.info["infotexts"]) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"weight": 0},
        {"guidance_start": 1.0},
        {"advanced_weighting": [0] * 7},
        {"effective_region_mask": encoded(Image.new("RGB", (64, 64)))},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_units_that_count_nowhere(studio: Studio, fields: dict[str, Any]) -> None:
    assert np.array_equal(arrays(run(studio, unit(**fields)))[0], arrays(run(studio))[0])


def test_advanced_weighting_of_ones_is_weight_one(studio: Studio) -> None:
    weighted = arrays(run(studio, unit(weight=0.3, advanced_weighting=[1] * 7)))[0]
    assert np.array_equal(weighted, arrays(run(studio, unit()))[0])
    with pytest.raises(BadRequest) as refused:
        run(studio, unit(advanced_weighting=[1, 2]))
    assert refused.value.field == "alwayson_scripts.controlnet.args[0].advanced_weighting"


def test_the_modes_differ(studio: Studio) -> None:
    found = [arrays(run(studio, unit(control_mode=mode)))[0] for mode in (0, 1, 2)]
    assert all(np.abs(found[a] - found[b]).max() > 0 for a, b in ((0, 1), (0, 2), (1, 2)))


def test_several_units_add_up_and_disabled_ones_do_not_count(studio: Studio) -> None:
    both = run(studio, unit(), {"module": "no such"}, unit(model=DEPTH, save_detected_map=False))
    assert [image.role for image in both.images] == ["sample", "detected_map"]
    assert "ControlNet 1" in both.info["infotexts"][0] and "ControlNet 2" not in both.info["infotexts"][0]
    assert np.abs(arrays(both)[0] - arrays(run(studio, unit()))[0]).max() > 0


def test_no_maps_where_the_option_says_so(studio: Studio) -> None:
    overrides = {"randn_source": "CPU", "control_net_no_detectmap": True}
    services = studio.services
    body = Txt2ImgBody.model_validate(SMALL | {"override_settings": overrides})
    stored = services.options.snapshot()
    request = services.resolver("txt2img", body.model_dump(), body.model_fields_set, stored)
    scripts = services.scripts.read("txt2img", services.catalog, None, None, {"ControlNet": {"args": [unit()]}})
    result = services.generator.run(replace(request, always_on=scripts.always_on), Job("test", "txt2img"))
    assert [image.role for image in result.images] == ["sample"]


def test_hires_passes(studio: Studio) -> None:
    hires = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.7}
    found = {
        option: run(studio, unit(hr_option=option), **hires) for option in ("Both", "Low res only", "High res only")
    }
    for result in found.values():
        assert [image.shape[:2] for image in arrays(result, "detected_map")] == [(96, 96), (64, 64)]
    plain = run(studio, **hires)
    pictures = [arrays(result)[0] for result in (*found.values(), plain)]
    assert all((pictures[a] != pictures[b]).any() for a in range(4) for b in range(a))


def test_pictures_of_a_list_belong_to_the_pictures_of_the_batch(studio: Studio) -> None:
    both = run(studio, unit(image=[{"image": encoded(picture(1))}, {"image": encoded(picture(2))}]), batch_size=2)
    assert len(arrays(both, "detected_map")) == 2
    assert not both.info["warnings"]
    second = run(studio, unit(image=encoded(picture(2))), seed=SMALL["seed"] + 1)
    assert np.abs(arrays(both)[1] - arrays(second)[0]).max() <= 2


def test_pictures_that_no_picture_of_the_batch_belongs_to(studio: Studio) -> None:
    result = run(studio, unit(image=[{"image": encoded(picture(1))}, {"image": encoded(picture(2))}]))
    assert np.abs(arrays(result)[0] - arrays(run(studio, unit()))[0]).max() <= 1
    assert any("2 pictures for a batch of 1" in warning for warning in result.info["warnings"])


def test_jobs_side_by_side_get_what_they_get_alone(studio: Studio) -> None:
    units = [unit(image=encoded(picture(n)), weight=0.5 + n / 4) for n in range(3)]
    alone = [arrays(run(studio, one))[0] for one in units]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda one: arrays(run(studio, one))[0], units))
    for ours, theirs in zip(together, alone, strict=True):
        assert np.abs(ours - theirs).max() <= 2


def test_img2img_without_a_picture_takes_the_init_image(studio: Studio) -> None:
    init = {"kind": "img2img", "init_images": [encoded(picture(3))], "denoising_strength": 0.8}
    implied = run(studio, unit(image=None), **init)
    assert np.array_equal(arrays(implied, "detected_map")[0], np.array(picture(3)))
    given = run(studio, unit(image=encoded(picture(3)), resize_mode=0), **init)
    assert np.array_equal(arrays(implied)[0], arrays(given)[0])


def test_inpaint_only_keeps_what_is_not_masked(studio: Studio) -> None:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    result = run(studio, unit(module="inpaint_only", image={"image": encoded(picture(3)), "mask": encoded(mask)}))
    kept, original = arrays(result)[0][:, 44:], np.array(picture(3)).astype(int)[:, 44:]
    assert np.abs(kept - original).max() <= 1
    assert np.abs(arrays(result)[0][:, :24] - np.array(picture(3)).astype(int)[:, :24]).mean() > 5
    assert [image.image.mode for image in result.images] == ["RGB", "RGBA"]


@pytest.mark.parametrize("module", ["tile_colorfix", "tile_colorfix+sharp", "recolor_luminance", "recolor_intensity"])
def test_colours_and_lightness_come_from_the_unit(studio: Studio, module: str) -> None:
    plain = arrays(run(studio, unit()))[0]
    result = run(studio, unit(module=module))
    assert (arrays(result)[0] != plain).any()


@pytest.mark.parametrize("module", ["reference_only", "reference_adain", "reference_adain+attn"])
@pytest.mark.parametrize("mode", [0, 1, 2])
def test_references(studio: Studio, module: str, mode: int) -> None:
    one = unit(module=module, model="None", control_mode=mode)
    found = arrays(run(studio, one))[0]
    assert np.array_equal(found, arrays(run(studio, one))[0])
    assert (found != arrays(run(studio))[0]).any()


@pytest.mark.parametrize("sampler", ["DDIM", "Heun", "DPM++ 2M SDE", "LCM"])
def test_samplers_of_every_domain(studio: Studio, sampler: str) -> None:
    found = arrays(run(studio, unit(guidance_end=0.5), sampler_name=sampler))[0]
    assert (found != arrays(run(studio, sampler_name=sampler))[0]).any()


def test_negative_prompts_of_other_lengths_and_tiling(studio: Studio) -> None:
    long = "apple, " * 60
    assert len(arrays(run(studio, unit(), negative_prompt=long, tiling=True))) == 1


def test_files_that_are_no_control_models(studio: Studio) -> None:
    folder = studio.services.catalog.control_models.folders[0]
    save_file({"weight": torch.zeros(1)}, folder / "broken.safetensors")
    with pytest.raises(BadRequest, match=r"broken.safetensors: this is no control model") as refused:
        run(studio, unit(), unit(model="broken"))
    assert refused.value.field == "alwayson_scripts.controlnet.args[1].model"
    assert refused.value.status == 422


def save_ip_adapter(studio: Studio) -> None:
    """A random one of the golden UNet's dimensions, and a tiny image encoder."""
    models = studio.services.catalog.control_models.folders[0].parent
    folder = models / "annotators" / "clip_vision"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(random_encoder(), folder / "clip_h.safetensors")
    layers = {1: 128, 3: 192, 5: 192, 7: 192, 9: 128, 11: 128, 13: 192}  # down, up, middle
    save_file(random_adapter(layers), models / "ControlNet" / "ip-adapter_random.safetensors")


def test_ip_adapters(studio: Studio) -> None:
    save_ip_adapter(studio)
    one = unit(module="ip-adapter-auto", model="ip-adapter_random")
    found = arrays(run(studio, one))[0]
    assert (found != arrays(run(studio))[0]).any()
    assert (found != arrays(run(studio, {**one, "image": encoded(picture(2))}))[0]).any()
    twice = {**one, "image": [{"image": encoded(picture(1))}, {"image": encoded(picture(1))}]}
    assert np.abs(found - arrays(run(studio, twice))[0]).max() <= 1
    with pytest.raises(BadRequest) as refused:
        run(studio, unit(module="ip-adapter-auto"))
    assert refused.value.field == "alwayson_scripts.controlnet.args[0].module"


def test_the_refiner_is_controlled_too(studio: Studio) -> None:
    refiner = {"refiner_checkpoint": "tiny-other", "refiner_switch_at": 0.3}
    early, whole = run(studio, unit(guidance_end=0.2), **refiner), run(studio, unit(), **refiner)
    assert (arrays(early)[0] != arrays(whole)[0]).any()


def test_script_lists(studio: Studio) -> None:
    scripts = studio.services.scripts
    for kind in ("txt2img", "img2img"):
        assert "controlnet" in scripts.titles(kind, always_on=True)
        (row,) = [
            row for row in scripts.rows(kind, studio.services.catalog, always_on=True) if row["name"] == "controlnet"
        ]
        assert len(row["args"]) == 3
