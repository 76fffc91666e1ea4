"""Inpainting with a first guess: LaMa fills the hole, and the control network starts from there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from sdwebui_api.control.preprocessor import PreprocessorContext, PreprocessorResult
from sdwebui_api.control.preprocessors.inpaint import inpaint_preprocessor
from sdwebui_api.control.preprocessors.sizes import resize_padded
from sdwebui_api.control.weights import WeightFile, picture_network

if TYPE_CHECKING:
    from sdwebui_api.control.preprocessor import Picture

LAMA = WeightFile("lama", "ControlNetLama.pth", "lllyasviel/Annotators")
RESOLUTION = 256
"""What LaMa was trained on, whatever the unit asks for."""


def inpaint_lama(image: Picture, *, mask: Picture | None, context: PreprocessorContext, **_: Any) -> PreprocessorResult:
    """`image` with what `mask` covers (255) filled in, and the mask as the fourth channel."""
    path = LAMA.find(context, "inpaint_only+lama")
    if image.shape[2] == 3:
        image = np.dstack([image, np.zeros(image.shape[:2], dtype=np.uint8) if mask is None else mask])
    from sdwebui_api.engine.annotators.lama import PREFIX, build_lama

    small, unpad = resize_padded(image, RESOLUTION)
    with picture_network(context, path, build_lama, "LaMa network", PREFIX) as found:
        filled = unpad(found.run(small).transpose(1, 2, 0).clip(0, 255).astype(np.uint8))
    guess = np.asarray(cv2.resize(filled, image.shape[1::-1])).astype(np.float32)
    share = image[:, :, 3:].astype(np.float32) / 255.0
    colour = (guess * share + image[:, :, :3] * (1 - share)).clip(0, 255).astype(np.uint8)
    return PreprocessorResult(np.dstack([colour, image[:, :, 3]]))


PREPROCESSORS = (inpaint_preprocessor("inpaint_only+lama", "inpaint_only+lama", inpaint_lama),)
