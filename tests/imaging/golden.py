"""Access to the recorded answers of A1111 for the tests of pictures and infotexts."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sdwebui_api.imaging.codec import decode_image

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = GOLDEN / "cases"


@cache
def request_body(case: str) -> dict[str, Any]:
    request = json.loads((CASES / case / "request.json").read_text(encoding="utf-8"))
    return (request if "body" in request else request["steps"][-1])["body"]


@cache
def response(case: str) -> dict[str, Any]:
    return json.loads((CASES / case / "response.json").read_text(encoding="utf-8"))


def recorded_image(case: str, index: int = 0) -> Image.Image:
    image = Image.open(CASES / case / f"image-{index}.png")
    image.load()
    return image


def sent_image(text: str) -> Image.Image:
    return decode_image(text, "image")


def psnr(one: Image.Image, other: Image.Image) -> float:
    assert one.size == other.size and one.mode == other.mode, (one, other)
    error = np.mean((np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))
