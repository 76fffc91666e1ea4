"""ControlNet as clients use it: webuiapi unmodified, every historic form of a unit, malformed units."""

from __future__ import annotations

import base64
import io
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import webuiapi
from PIL import Image, ImageDraw

from tests.control.test_units import MALFORMED
from tests.support.server import RunningServer

MODEL = "control_sd15_tiny_canny [afb8e451]"
SMALL = {"prompt": "a red apple", "seed": 1, "steps": 3, "width": 64, "height": 64, "sampler_name": "Euler"}
CHECKPOINT = {"override_settings": {"sd_model_checkpoint": "tiny-sd"}}


def drawing() -> Image.Image:
    image = Image.new("RGB", (96, 64), "white")
    ImageDraw.Draw(image).ellipse((20, 10, 70, 50), fill="red", outline="black", width=3)
    return image


def mask() -> Image.Image:
    image = Image.new("L", (96, 64))
    ImageDraw.Draw(image).rectangle((5, 30, 40, 60), fill=255)
    return image


def encoded(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


PICTURE = encoded(drawing())
MASK = encoded(mask())
UNIT: dict[str, Any] = {"enabled": True, "module": "canny", "model": MODEL, "image": PICTURE, "processor_res": 64}


def generate(server: RunningServer, unit: dict[str, Any] | None, name: str = "controlnet") -> httpx.Response:
    scripts = {"alwayson_scripts": {name: {"args": [unit]}}} if unit is not None else {}
    return httpx.post(f"{server.url}/sdapi/v1/txt2img", json={**SMALL, **CHECKPOINT, **scripts}, timeout=120)


def pictures(response: httpx.Response) -> list[bytes]:
    """The pixels of every picture; infotexts differ where a client spells a name another way."""
    assert response.status_code == 200, response.text[:1000]
    return [Image.open(io.BytesIO(base64.b64decode(text))).tobytes() for text in response.json()["images"]]


@pytest.fixture(scope="module")
def usual(server: RunningServer) -> list[bytes]:
    """Of the unit in today's form."""
    found = pictures(generate(server, UNIT))
    assert len(found) == 2
    assert found[0] != pictures(generate(server, None))[0]
    return found


FORMS: list[dict[str, Any]] = [
    {"image": f"data:image/png;base64,{PICTURE}"},
    {"image": {"image": PICTURE, "mask": None}},
    {"image": {"image": PICTURE, "mask": ""}},
    {"image": [PICTURE, None]},
    {"image": [{"image": PICTURE}]},
    {"image": None, "input_image": PICTURE},
    {"image": None, "input_image": {"image": PICTURE}},
    {"input_image": encoded(Image.new("RGB", (8, 8)))},
    {"mask": None},
    {"mask": ""},
    {"mask_image": None},
    {"module": "Canny"},
    {"model": "control_sd15_tiny_canny"},
    {"model": "control_sd15_tiny_canny.safetensors"},
    {"model": "CONTROL_SD15_TINY_CANNY [afb8e451]"},
    {"model": "tiny_canny"},
    {"weight": 1, "guidance_start": 0, "guidance_end": 1},
    {"weight": "1.0"},
    {"weight": None},
    {"resize_mode": 1},
    {"resize_mode": "Crop and Resize"},
    {"resize_mode": "Inner Fit (Scale to Fit)"},
    {"resize_mode": "Scale to Fit (Inner Fit)"},
    {"control_mode": 0},
    {"control_mode": "Balanced"},
    {"low_vram": True},
    {"lowvram": True},
    {"threshold_a": -1, "threshold_b": -1},
    {"threshold_a": 100, "threshold_b": 200},
    {"threshold_a": None, "threshold_b": 9999},
    {"guidance": 1.0},
    {"guidance_strength": 1.0},
    {"guessmode": False},
    {"guess_mode": False, "rgbbgr_mode": False, "invert_image": False},
    {"hr_option": "Both"},
    {"pixel_perfect": "false"},
    {"inpaint_crop_input_image": False},
    {"advanced_weighting": None, "effective_region_mask": None, "ipadapter_input": None, "pulid_mode": "Fidelity"},
    {"union_control_type": "Unknown"},
    {"input_mode": "simple", "batch_images": "", "output_dir": "", "loopback": False, "is_ui": False},
    {"no_such_field": {"of": "any kind"}},
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: ",".join(f"{k}={str(v)[:30]}" for k, v in form.items()))
def test_every_historic_form_gives_the_same_image(
    server: RunningServer, usual: list[bytes], form: dict[str, Any]
) -> None:
    unit = {key: value for key, value in {**UNIT, **form}.items() if value is not None or key != "image"}
    assert pictures(generate(server, unit)) == usual


@pytest.mark.parametrize("name", ["ControlNet", "CONTROLNET"])
def test_the_section_in_any_letter_case(server: RunningServer, usual: list[bytes], name: str) -> None:
    assert pictures(generate(server, UNIT, name)) == usual


@pytest.mark.parametrize(
    ("older", "today"),
    [
        ({"resize_mode": 0}, {"resize_mode": "Just Resize"}),
        ({"resize_mode": 2}, {"resize_mode": "Resize and Fill"}),
        ({"resize_mode": "Outer Fit (Shrink to Fit)"}, {"resize_mode": "Resize and Fill"}),
        ({"resize_mode": "Envelope (Outer Fit)"}, {"resize_mode": "Resize and Fill"}),
        ({"control_mode": 1}, {"control_mode": "My prompt is more important"}),
        ({"control_mode": 2}, {"control_mode": "ControlNet is more important"}),
        ({"guidance": 0.3}, {"guidance_end": 0.3}),
        ({"mask_image": MASK}, {"mask": MASK}),
        ({"image": {"image": PICTURE, "mask": MASK}}, {"mask": MASK}),
        ({"image": [PICTURE, MASK]}, {"mask": MASK}),
        ({"module": "invert (from white bg & black line)"}, {"module": "invert"}),
    ],
    ids=lambda fields: ",".join(f"{k}={str(v)[:30]}" for k, v in fields.items()),
)
def test_older_values_mean_todays(
    server: RunningServer, usual: list[bytes], older: dict[str, Any], today: dict[str, Any]
) -> None:
    found = pictures(generate(server, {**UNIT, **today}))
    assert found != usual
    assert pictures(generate(server, {**UNIT, **older})) == found


@pytest.mark.parametrize(("fields", "name"), MALFORMED, ids=lambda value: str(value)[:40])
def test_malformed_units_name_the_field(server: RunningServer, fields: dict[str, Any], name: str) -> None:
    response = generate(server, {**UNIT, **fields})
    assert response.status_code == 422
    (problem,) = response.json()["detail"]
    assert problem["loc"] == ["body", "alwayson_scripts", "controlnet", "args", 0, name]


# -- webuiapi ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(server: RunningServer) -> webuiapi.WebUIApi:
    address = urlsplit(server.url)
    return webuiapi.WebUIApi(host=address.hostname, port=address.port)


def test_webuiapi_unit(client: webuiapi.WebUIApi) -> None:
    unit = webuiapi.ControlNetUnit(image=drawing(), module="canny", model=MODEL, processor_res=64)
    plain = client.txt2img(**SMALL, **CHECKPOINT)
    result = client.txt2img(controlnet_units=[unit], **SMALL, **CHECKPOINT)
    assert len(result.images) == 2 and len(plain.images) == 1
    assert result.images[0].tobytes() != plain.image.tobytes()
    assert "ControlNet 0" in result.info["infotexts"][0]


def test_webuiapi_unit_in_img2img(client: webuiapi.WebUIApi) -> None:
    unit = webuiapi.ControlNetUnit(module="canny", model=MODEL, control_mode=2, resize_mode="Crop and Resize")
    result = client.img2img(images=[drawing()], controlnet_units=[unit], denoising_strength=0.8, **SMALL, **CHECKPOINT)
    assert len(result.images) == 2


def test_webuiapi_lists(client: webuiapi.WebUIApi) -> None:
    assert client.controlnet_version() >= 2
    assert MODEL in client.controlnet_model_list()
    assert {"none", "canny", "invert"} <= set(client.controlnet_module_list())
    assert webuiapi.ControlNetInterface(client).model_list() == client.controlnet_model_list()


def test_webuiapi_detect(client: webuiapi.WebUIApi) -> None:
    result = client.controlnet_detect(images=[drawing(), drawing()], module="canny", processor_res=128)
    assert result.info == "Success"
    assert [image.size for image in result.images] == [(192, 128), (192, 128)]
    assert sorted(colour for _, colour in result.image.convert("L").getcolors()) == [0, 255]


def test_missing_weights_name_file_and_folder(server: RunningServer) -> None:
    """A preprocessor that is listed but has no weights here; the same through a unit."""
    body = {"controlnet_module": "hed", "controlnet_images": [PICTURE]}
    for response in (
        httpx.post(f"{server.url}/controlnet/detect", json=body, timeout=60),
        generate(server, {**UNIT, "module": "softedge_hed"}),
    ):
        assert response.status_code == 404
        assert "ControlNetHED.pth" in response.json()["detail"] and "annotators" in response.json()["detail"]
        assert "module" in response.json()["errors"]
