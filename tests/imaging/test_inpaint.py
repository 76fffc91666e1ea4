from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from sdwebui_api.imaging import masks
from sdwebui_api.imaging.inpaint import BLANK_MASK, PreparedInit, prepare_inpaint
from tests.imaging.golden import CASES, recorded_image, request_body, response, sent_image

# Soft Inpainting (a script) makes its own overlay.
INPAINT_CASES = sorted(
    {path.name for path in CASES.glob("*inpaint-*") if "png-info" not in path.name} - {"inpaint-soft"}
)


@dataclass(frozen=True)
class Mask:
    image: Image.Image
    blur_x: int = 4
    blur_y: int = 4
    round: bool = True
    fill: int = 0
    full_resolution: bool = True
    full_resolution_padding: int = 0
    invert: bool = False


def mask_of(body: dict[str, Any]) -> Mask:
    blur = body.get("mask_blur")
    return Mask(
        sent_image(body["mask"]),
        body.get("mask_blur_x", 4) if blur is None else blur,
        body.get("mask_blur_y", 4) if blur is None else blur,
        body.get("mask_round", True),
        body.get("inpainting_fill", 0),
        body.get("inpaint_full_res", True),
        body.get("inpaint_full_res_padding", 0),
        bool(body.get("inpainting_mask_invert", 0)),
    )


def prepared(case: str) -> PreparedInit:
    body = request_body(case)
    images = [sent_image(text) for text in body["init_images"]]
    return prepare_inpaint(images, mask_of(body), body["width"], body["height"], body.get("resize_mode", 0))


@pytest.mark.parametrize("case", INPAINT_CASES)
def test_overlay_is_what_the_recorded_result_kept(case: str) -> None:
    overlay = np.asarray(prepared(case).overlays[0])
    kept = overlay[..., 3] == 255
    assert kept.any()
    np.testing.assert_array_equal(np.asarray(recorded_image(case))[kept], overlay[kept][:, :3])


@pytest.mark.parametrize("case", INPAINT_CASES)
def test_infotext_entries_and_their_order(case: str) -> None:
    recorded = response(case)["info_parsed"]["extra_generation_params"]
    ours = prepared(case).infotext
    assert list(ours.items()) == [(key, value) for key, value in recorded.items() if key in ours]
    assert set(recorded) - set(ours) <= {"Denoising strength", "ControlNet 0"}


def test_returned_mask_and_composite_equal_the_recording() -> None:
    case = "inpaint-return-mask"
    ready = prepared(case)
    assert ready.mask_for_overlay is not None
    assert ready.mask_for_overlay.convert("RGB").tobytes() == recorded_image(case, 1).tobytes()
    recorded = recorded_image(case, 2)
    composite = masks.mask_composite(recorded.convert("RGB"), ready.mask_for_overlay)
    ours, theirs = np.asarray(composite), np.asarray(recorded)
    np.testing.assert_array_equal(ours[..., 3], theirs[..., 3])
    opaque = theirs[..., 3] == 255
    np.testing.assert_array_equal(ours[opaque], theirs[opaque])


def test_overlay_over_the_recorded_composite_gives_the_recorded_result() -> None:
    case = "inpaint-return-mask"
    denoised = recorded_image(case, 2).convert("RGB")
    finished, alone = masks.apply_overlay(denoised, prepared(case).overlays[0])
    difference = np.abs(np.asarray(finished).astype(int) - np.asarray(recorded_image(case)))
    assert difference.max() <= 1  # the composite has lost a level to its premultiplied alpha
    assert alone.tobytes() == denoised.tobytes()


def test_only_masked_crops_and_pastes_back() -> None:
    ready = prepared("inpaint-full-res")
    assert ready.paste_to == (38, 38, 90, 90)
    assert [image.size for image in ready.images] == [(128, 128)]
    red = Image.new("RGB", (128, 128), "red")
    finished, _ = masks.apply_overlay(red, ready.overlays[0], ready.paste_to)
    assert np.asarray(finished)[80:86, 80:86, 0].min() >= 250  # under the soft edge of the mask
    assert finished.getpixel((0, 0)) == ready.overlays[0].convert("RGB").getpixel((0, 0))


def test_blank_mask_falls_back_to_img2img() -> None:
    image = Image.new("RGB", (64, 64), "green")
    ready = prepare_inpaint([image], Mask(Image.new("L", (64, 64), 0)), 32, 32)
    assert ready.comments == (BLANK_MASK,)
    assert ready.latent_mask is None and ready.mask_for_overlay is None and not ready.overlays
    assert ready.images[0].size == (32, 32)


def test_plain_img2img_only_resizes() -> None:
    images = [Image.new("RGBA", (64, 48), (255, 0, 0, 0)), Image.new("L", (10, 10))]
    ready = prepare_inpaint(images, None, 32, 32, background="#0000ff", color_correction=True)
    assert [(image.mode, image.size) for image in ready.images] == [("RGB", (32, 32))] * 2
    assert ready.images[0].getpixel((5, 5)) == (0, 0, 255)
    assert len(ready.color_targets) == 2 and not ready.infotext
    assert prepare_inpaint(images, None, 32, 32, 3).images[0].size == (64, 48)


@pytest.mark.parametrize("resize_mode", [0, 1, 2, 3])
@pytest.mark.parametrize("full_resolution", [True, False])
def test_every_resize_mode_with_other_sizes(resize_mode: int, full_resolution: bool) -> None:
    mask = Image.new("L", (96, 64))
    mask.paste(255, (30, 20, 60, 50))
    latent_mask = Image.new("L", (10, 10), 255)
    ready = prepare_inpaint(
        [Image.new("RGB", (96, 64), "red")],
        Mask(mask, full_resolution=full_resolution),
        64,
        128,
        resize_mode,
        latent_mask=latent_mask,
    )
    assert ready.latent_mask is latent_mask
    assert ready.overlays[0].size == (96, 64) if full_resolution or resize_mode == 3 else (64, 128)


def test_alpha_mask_and_latent_mask_values() -> None:
    rgba = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    rgba.paste((9, 9, 9, 129), (0, 0, 8, 16))
    assert masks.create_binary_mask(rgba).getextrema() == (0, 255)
    assert masks.create_binary_mask(rgba, round_=False).getextrema() == (0, 129)
    values = masks.latent_mask_values(masks.create_binary_mask(rgba), 2, 2)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, [[1, 0], [1, 0]])


def test_crop_region_grows_to_the_aspect_ratio_inside_the_image() -> None:
    mask = Image.new("L", (100, 100))
    mask.paste(255, (90, 40, 100, 60))
    region = masks.get_crop_region(mask, 5)
    assert region == (85, 35, 100, 65)
    assert masks.expand_crop_region(region, 512, 512, 100, 100) == (70, 35, 100, 65)
    assert masks.expand_crop_region((0, 0, 100, 10), 512, 512, 100, 50) == (0, 0, 100, 50)


def test_a_blur_far_wider_than_the_mask_takes_no_time():
    """OpenCV needed minutes for this one, and could not be cancelled."""
    mask = Image.fromarray(np.random.default_rng(1).integers(0, 256, (2000, 3), dtype=np.uint8))
    blurred = np.asarray(masks.blur(mask, 256, 4))
    assert blurred.shape == (2000, 3)
    assert (np.ptp(blurred.astype(int), axis=1) <= 1).all()


def test_the_folded_blur_equals_opencvs():
    pixels = np.random.default_rng(2).integers(0, 256, (3, 30), dtype=np.uint8)
    expected = cv2.GaussianBlur(pixels.astype(np.float32), (1, 101), 20)  # its 8-bit kernel is several levels off
    assert np.abs(np.asarray(masks.blur(Image.fromarray(pixels), 0, 20)) - expected).max() <= 0.51
