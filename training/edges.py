"""Canny edges as control hints, and how well a picture's edges agree with a hint."""

from __future__ import annotations

from random import Random

import cv2
import numpy as np
from PIL import Image

Edges = np.ndarray  # bool [H, W]

EVALUATION_THRESHOLDS = (100, 200)  # A1111's defaults of the preprocessor "canny"
TOLERANCE = 2  # pixels


def canny(picture: Image.Image, low: float = EVALUATION_THRESHOLDS[0], high: float = EVALUATION_THRESHOLDS[1]) -> Edges:
    """Edges of an RGB picture, bool [H, W]. The thresholds are those of cv2.Canny (0 to 255)."""
    return cv2.Canny(np.asarray(picture.convert("RGB")), low, high) > 0


def varied_canny(picture: Image.Image, random: Random) -> Edges:
    """Edges as users produce them: several thresholds, and now and then found in an enlarged picture."""
    low = random.choice([50, 70, 100, 100, 130])
    high = max(low + 30, random.choice([150, 200, 200, 250, 300]))
    if random.random() >= 0.3:
        return canny(picture, low, high)
    factor = random.choice([2, 4])
    larger = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.LANCZOS)
    found = canny(larger, low / factor, high / factor).astype(np.float32)
    return cv2.resize(found, picture.size, interpolation=cv2.INTER_AREA) > 0.6 / factor


def agreement(hint: Edges, edges: Edges, tolerance: int = TOLERANCE) -> float:
    """F1 of `edges` against `hint`, 0 to 1: an edge pixel counts when the other map has one within `tolerance`
    pixels (square neighbourhood). Two empty maps agree."""
    if not hint.any() and not edges.any():
        return 1.0
    if not hint.any() or not edges.any():
        return 0.0
    precision = float((edges & _widened(hint, tolerance)).sum() / edges.sum())
    recall = float((hint & _widened(edges, tolerance)).sum() / hint.sum())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _widened(edges: Edges, tolerance: int) -> Edges:
    side = 2 * tolerance + 1
    return cv2.dilate(edges.astype(np.uint8), np.ones((side, side), np.uint8)) > 0
