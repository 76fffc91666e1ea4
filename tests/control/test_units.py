from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdwebui_api.catalog.controlnets import ControlModelFile
from sdwebui_api.control.unit import ControlMode, ControlUnit, HiresOption, ResizeMode
from sdwebui_api.control.units import ReadUnits, read_units
from sdwebui_api.errors import BadRequest

FIELD = "alwayson_scripts.controlnet.args"
MODEL = ControlModelFile(Path("canny.safetensors"), "canny", "01234567")


def png(value: int, size: tuple[int, int] = (16, 16), mode: str = "RGB") -> str:
    picture = io.BytesIO()
    Image.new(mode, size, (value,) * 3 if mode == "RGB" else value).save(picture, "PNG")
    return base64.b64encode(picture.getvalue()).decode()


IMAGE, MASK = png(7), png(255, mode="L")


def find_model(text: str, field: str) -> ControlModelFile:
    if "canny" not in text:
        raise BadRequest("not found", field=field)
    return MODEL


def read(*units: Any, init_image: bool = False) -> ReadUnits:
    return read_units(list(units), FIELD, init_image=init_image, find_model=find_model)


def unit(**fields: Any) -> dict[str, Any]:
    return {"enabled": True, "module": "canny", "model": "canny [01234567]", "image": IMAGE, **fields}


def one(**fields: Any) -> ControlUnit:
    (found,) = read(unit(**fields)).units
    return found


def test_defaults_are_the_extensions() -> None:
    found = one()
    assert (found.weight, found.resize_mode, found.control_mode) == (1.0, ResizeMode.CROP, ControlMode.BALANCED)
    assert (found.guidance_start, found.guidance_end, found.hr_option) == (0.0, 1.0, HiresOption.BOTH)
    assert (found.processor_res, found.threshold_a, found.threshold_b) == (512, 100, 200)
    assert found.save_detected_map and found.inpaint_crop_input_image and not found.pixel_perfect
    assert found.effective_region_mask is None and found.advanced_weighting is None


@pytest.mark.parametrize(
    "image",
    [
        IMAGE,
        f"data:image/png;base64,{IMAGE}",
        {"image": IMAGE, "mask": None},
        {"image": IMAGE, "mask": ""},
        [IMAGE, None],
        [IMAGE],
        [{"image": IMAGE}],
        [{"image": IMAGE, "mask": ""}],
    ],
)
def test_every_form_of_a_picture(image: Any) -> None:
    for name in ("image", "input_image"):
        fields = {**unit(), "image": None, name: image}
        (found,) = read(fields).units
        assert len(found.images) == 1
        assert found.images[0].mask is None
        assert (found.images[0].image == 7).all()


@pytest.mark.parametrize(
    "fields",
    [
        {"image": {"image": IMAGE, "mask": MASK}},
        {"image": [IMAGE, MASK]},
        {"image": [{"image": IMAGE, "mask": MASK}]},
        {"image": [[IMAGE, MASK]]},
        {"mask": MASK},
        {"mask_image": MASK},
        {"mask": MASK, "mask_image": png(0, mode="L")},
        {"mask": png(255, (8, 8))},
    ],
)
def test_every_form_of_a_mask(fields: dict[str, Any]) -> None:
    mask = one(**fields).images[0].mask
    assert mask is not None and mask.shape == (16, 16) and (mask == 255).all()


def test_several_pictures() -> None:
    found = one(image=[{"image": IMAGE}, {"image": png(9), "mask": MASK}, {"image": png(11)}])
    assert [int(each.image[0, 0, 0]) for each in found.images] == [7, 9, 11]


def test_effective_region_mask() -> None:
    mask = one(effective_region_mask=png(128)).effective_region_mask
    assert mask is not None and np.array_equal(np.unique(mask), [128])


@pytest.mark.parametrize(
    ("given", "mode"),
    [
        (0, ResizeMode.JUST_RESIZE),
        ("0", ResizeMode.JUST_RESIZE),
        ("Just Resize", ResizeMode.JUST_RESIZE),
        (1, ResizeMode.CROP),
        ("Crop and Resize", ResizeMode.CROP),
        ("Inner Fit (Scale to Fit)", ResizeMode.CROP),
        ("Scale to Fit (Inner Fit)", ResizeMode.CROP),
        (2, ResizeMode.FILL),
        ("resize and fill", ResizeMode.FILL),
        ("Outer Fit (Shrink to Fit)", ResizeMode.FILL),
        ("Envelope (Outer Fit)", ResizeMode.FILL),
    ],
)
def test_resize_modes(given: Any, mode: ResizeMode) -> None:
    assert one(resize_mode=given).resize_mode == mode


@pytest.mark.parametrize("mode", list(ControlMode))
def test_control_modes(mode: ControlMode) -> None:
    for given in (int(mode), str(int(mode)), mode.label, mode.label.lower()):
        assert one(control_mode=given).control_mode == mode


def test_hires_options() -> None:
    assert one(hr_option="High res only").hr_option.includes(True)
    assert not one(hr_option="High res only").hr_option.includes(False)
    assert not one(hr_option="Low res only").hr_option.includes(True)


def test_older_names() -> None:
    found = one(lowvram=True, guidance=0.8, rgbbgr_mode=False, guess_mode=True)
    assert found.low_vram and found.guidance_end == 0.8
    assert one(guidance=0.8, guidance_end=0.5).guidance_end == 0.5


@pytest.mark.parametrize("wanted", [-1, 0, 99999, None])
def test_numbers_out_of_range_mean_the_default(wanted: Any) -> None:
    found = one(processor_res=wanted, threshold_a=wanted, threshold_b=wanted)
    assert (found.processor_res, found.threshold_a, found.threshold_b) == (512, 100, 200)


def test_numbers_in_range() -> None:
    found = one(processor_res=256, threshold_a="30", threshold_b=90)
    assert (found.processor_res, found.threshold_a, found.threshold_b) == (256, 30.0, 90.0)
    assert "Processor Res: 256, Threshold A: 30.0, Threshold B: 90.0" in found.infotext


def test_module_by_label_stays_as_it_was_written() -> None:
    found = one(module="Invert (from white bg & black line)")
    assert found.module.name == "invert"
    assert found.infotext.startswith(
        "Module: Invert (from white bg & black line), Model: canny [01234567], Weight: 1.0"
    )


def test_unknown_fields_are_reported() -> None:
    read_back = read(unit(no_such_field=1, input_mode="simple", batch_images="", pulid_mode="Fidelity", is_ui=False))
    assert read_back.warnings == (f"{FIELD}[0].no_such_field is unknown and was ignored",)
    assert len(read_back.units) == 1


@pytest.mark.parametrize(
    "entry", [None, True, "canny", 5, [], {}, {"enabled": False, "module": "no such"}, unit(enabled=0)]
)
def test_what_counts_for_nothing(entry: Any) -> None:
    assert read(entry).units == ()


def test_one_unit_without_a_list() -> None:
    assert len(read_units(unit(), FIELD, init_image=False, find_model=find_model).units) == 1
    assert read_units(None, FIELD, init_image=False, find_model=find_model).units == ()


def test_init_image_serves_when_there_is_no_picture() -> None:
    (found,) = read(unit(image=""), init_image=True).units
    assert found.images == ()


MALFORMED = [
    ({"enabled": "maybe"}, "enabled"),
    ({"image": None}, "image"),
    ({"image": ""}, "image"),
    ({"image": 5}, "image"),
    ({"image": "zzz"}, "image"),
    ({"image": {"image": 5}}, "image"),
    ({"image": {"mask": MASK}}, "image"),
    ({"mask": 5}, "mask"),
    ({"mask": "zzz"}, "mask"),
    ({"module": "no such module"}, "module"),
    ({"module": 5}, "module"),
    ({"model": "no such"}, "model"),
    ({"model": "None"}, "model"),
    ({"model": None}, "model"),
    ({"model": 5}, "model"),
    ({"weight": "x"}, "weight"),
    ({"weight": 5}, "weight"),
    ({"weight": -0.1}, "weight"),
    ({"weight": True}, "weight"),
    ({"weight": []}, "weight"),
    ({"guidance_start": 0.8, "guidance_end": 0.2}, "guidance_start"),
    ({"guidance_end": 1.5}, "guidance_end"),
    ({"guidance_start": "start"}, "guidance_start"),
    ({"processor_res": "big"}, "processor_res"),
    ({"threshold_a": {}}, "threshold_a"),
    ({"threshold_b": "NaN"}, "threshold_b"),
    ({"resize_mode": 3}, "resize_mode"),
    ({"resize_mode": "x"}, "resize_mode"),
    ({"control_mode": "x"}, "control_mode"),
    ({"control_mode": -1}, "control_mode"),
    ({"hr_option": "x"}, "hr_option"),
    ({"pixel_perfect": "perfect"}, "pixel_perfect"),
    ({"save_detected_map": 2}, "save_detected_map"),
    ({"advanced_weighting": "1,2"}, "advanced_weighting"),
    ({"advanced_weighting": [1, None]}, "advanced_weighting"),
    ({"effective_region_mask": 5}, "effective_region_mask"),
    ({"union_control_type": "no such"}, "union_control_type"),
    ({"image_link": "http://example.com/a.png"}, "image_link"),
    ({"ipadapter_input": ["AAAA"]}, "ipadapter_input"),
]


@pytest.mark.parametrize(("fields", "name"), MALFORMED, ids=lambda value: str(value)[:40])
def test_malformed_units_name_the_field(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read({}, unit(**fields))
    assert refused.value.field == f"{FIELD}[1].{name}"
    assert refused.value.status == 422


def test_lists_within_lists_end_somewhere() -> None:
    image: Any = IMAGE
    for _ in range(900):
        image = [image]
    with pytest.raises(BadRequest, match="An image is a text"):
        one(image=image)


def test_args_that_are_no_list() -> None:
    with pytest.raises(BadRequest) as refused:
        read_units("canny", FIELD, init_image=False, find_model=find_model)
    assert refused.value.field == FIELD


def test_too_many_units() -> None:
    with pytest.raises(BadRequest):
        read(*[unit()] * 11)
