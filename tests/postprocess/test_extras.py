from __future__ import annotations

from dataclasses import fields

import pytest
from PIL import Image

from sdwebui_api.errors import BadRequest, NotFound, PayloadTooLarge
from sdwebui_api.postprocess.extras import ExtrasSettings, html_info, run_extras
from tests.imaging.golden import CASES, psnr, recorded_image, request_body, response, sent_image

EXTRAS_CASES = sorted(path.name for path in CASES.glob("extras-*"))
FIELDS = {field.name for field in fields(ExtrasSettings)}


@pytest.mark.parametrize("case", EXTRAS_CASES)
def test_extras_equal_the_recorded_answers(case: str) -> None:
    body = request_body(case)
    settings = ExtrasSettings(**{name: value for name, value in body.items() if name in FIELDS})
    sent = [item["data"] for item in body["imageList"]] if "imageList" in body else [body["image"]]
    results = [run_extras(sent_image(text), settings) for text in sent]
    assert html_info(results[-1].infotext) == response(case)["body"]["html_info"]
    for index, result in enumerate(results):
        recorded = recorded_image(case, index)
        assert psnr(result.image, recorded) == float("inf")
        assert list(result.items.items()) == list(recorded.info.items())


def test_unknown_upscalers_name_the_field() -> None:
    with pytest.raises(NotFound) as caught:
        run_extras(Image.new("RGB", (8, 8)), ExtrasSettings(upscaler_1="Lanczos", upscaler_2="no such"))
    assert caught.value.field == "upscaler_2" and "Lanczos" in caught.value.choices


def test_face_restoration_without_restorers_names_the_field() -> None:
    with pytest.raises(BadRequest) as caught:
        run_extras(Image.new("RGB", (8, 8)), ExtrasSettings(codeformer_visibility=0.5))
    assert caught.value.field == "codeformer_visibility"


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        (ExtrasSettings(upscaler_1="Nearest", upscaling_resize=1e6), PayloadTooLarge),
        (ExtrasSettings(upscaler_1="Nearest", resize_mode=1, upscaling_resize_w=10**9), PayloadTooLarge),
        (ExtrasSettings(upscaler_1="Nearest", upscaling_resize=float("nan")), BadRequest),
    ],
)
def test_absurd_sizes(settings: ExtrasSettings, error: type[BadRequest]) -> None:
    with pytest.raises(error) as caught:
        run_extras(Image.new("RGB", (8, 8)), settings)
    assert caught.value.field


def test_other_modes_and_letter_case() -> None:
    assert run_extras(Image.new("L", (16, 16)), ExtrasSettings(upscaler_1="lanczos")).image.mode == "RGB"
    assert run_extras(Image.new("RGB", (3, 3)), ExtrasSettings(upscaler_1="Lanczos")).image.size == (8, 8)
    assert html_info("a < b\nc") == "<p>a &lt; b<br>\nc</p>"
