"""Soft edges, scribbles and line drawings by networks (`engine/line_networks.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from sdwebui_api.control.preprocessor import Preprocessor, PreprocessorResult, RunPreprocessor
from sdwebui_api.control.preprocessors.sizes import detect_at
from sdwebui_api.control.thinning import keep_ridges
from sdwebui_api.control.weights import WeightFile, network

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from sdwebui_api.control.preprocessor import Picture, PreprocessorContext

    Lines = NDArray[np.float32]

HED = WeightFile("hed", "ControlNetHED.pth", "lllyasviel/Annotators")
PIDINET = WeightFile("pidinet", "table5_pidinet.pth", "lllyasviel/Annotators")
DRAWING = WeightFile("lineart", "sk_model.pth", "lllyasviel/Annotators")
ANIME = WeightFile("lineart_anime", "netG.pth", "lllyasviel/Annotators")
COARSE_DRAWING = WeightFile("lineart", "sk_model2.pth", "lllyasviel/Annotators")


def _grey(lines: Lines) -> Picture:
    return (lines * 255.0).clip(0, 255).astype(np.uint8)


def _safe(lines: Lines) -> Picture:
    """In three tones, so that no picture can hide in faint edges."""
    return _grey((lines * 3.0).astype(np.int32).astype(np.float32) / 2.0)


def _sketch(lines: Lines) -> Picture:
    return _grey((lines > 0.5).astype(np.float32))


def _scribble(lines: Lines) -> Picture:
    """Strokes of one strength along the edges' ridges."""
    soft = np.asarray(cv2.GaussianBlur(_grey(lines).astype(np.float32), (0, 0), 3.0), dtype=np.float32)
    ridges = (keep_ridges(soft) > 127).astype(np.uint8) * np.uint8(255)  # type: ignore[arg-type]
    strokes = np.asarray(cv2.GaussianBlur(ridges, (0, 0), 3.0))
    return (strokes > 4).astype(np.uint8) * np.uint8(255)


def _runner(name: str, file: WeightFile, finish: Callable[[Lines], Picture]) -> RunPreprocessor:
    def run(image: Picture, *, resolution: int, context: PreprocessorContext, **_: Any) -> PreprocessorResult:
        path = file.find(context, name)
        from sdwebui_api.engine.line_networks import LineNetwork, load_line_network

        with network(context, path, load_line_network, LineNetwork) as lines:
            return PreprocessorResult(detect_at(image, resolution, lambda rgb: finish(lines.lines(rgb))))

    return run


def _preprocessor(
    name: str, label: str, file: WeightFile, finish: Callable[[Lines], Picture], *tags: str, priority: int = 0
) -> Preprocessor:
    return Preprocessor(name, label, _runner(name, file, finish), tags=tags, sort_priority=priority)


PREPROCESSORS = (
    _preprocessor("hed", "softedge_hed", HED, _grey, "SoftEdge"),
    _preprocessor("hed_safe", "softedge_hedsafe", HED, _safe, "SoftEdge"),
    _preprocessor("scribble_hed", "scribble_hed", HED, _scribble, "Scribble", "SparseCtrl"),
    _preprocessor("pidinet", "softedge_pidinet", PIDINET, _grey, "SoftEdge", priority=100),
    _preprocessor("pidinet_safe", "softedge_pidisafe", PIDINET, _safe, "SoftEdge"),
    _preprocessor("pidinet_sketch", "t2ia_sketch_pidi", PIDINET, _sketch, "T2I-Adapter"),
    _preprocessor("pidinet_scribble", "scribble_pidinet", PIDINET, _scribble, "Scribble", "SparseCtrl", priority=100),
    _preprocessor("lineart", "lineart_realistic", DRAWING, _grey, "Lineart"),
    _preprocessor("lineart_coarse", "lineart_coarse", COARSE_DRAWING, _grey, "Lineart"),
    _preprocessor("lineart_anime", "lineart_anime", ANIME, _grey, "Lineart"),
)
