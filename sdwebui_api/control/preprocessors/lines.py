"""Straight lines, edges and manga lines by small networks (`engine/annotators`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from sdwebui_api.control.preprocessor import Preprocessor, PreprocessorContext, PreprocessorResult, Slider
from sdwebui_api.control.preprocessors.filters import dark_lines
from sdwebui_api.control.preprocessors.sizes import detect_at
from sdwebui_api.control.weights import WeightFile, picture_network

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from sdwebui_api.control.preprocessor import Picture

MLSD = WeightFile("mlsd", "mlsd_large_512_fp32.pth", "lllyasviel/Annotators")
MANGA = WeightFile("manga_line", "erika.pth", "lllyasviel/Annotators")
TEED = WeightFile("TEED", "7_model.pth", "bdsqlsz/qinglong_controlnet-lllite")
ANYLINE = WeightFile("TEED", "MTEED.pth", "TheMistoAI/MistoLine, folder Anyline", ("Anyline/MTEED.pth",))

SAFE_STEPS = Slider("Safe Steps", 2, 0, 10)
_SPECK = 12
"""Pixels; smaller groups of faint lines are dirt."""


def mlsd(
    image: Picture, *, resolution: int, slider_1: float, slider_2: float, context: PreprocessorContext, **_: Any
) -> PreprocessorResult:
    """Straight lines that are surer than `slider_1` and longer than `slider_2`, white on black."""
    path = MLSD.find(context, "mlsd")
    from sdwebui_api.engine.annotators.mlsd import build_line_segments, segments

    def drawn(rgb: Picture) -> Picture:
        canvas = np.zeros(rgb.shape[:2], dtype=np.uint8)
        for line in segments(found.run(rgb), score=slider_1, length=slider_2):
            start, end = line.astype(int).reshape(2, 2).tolist()
            cv2.line(canvas, start, end, 255, 1)
        return canvas

    with picture_network(context, path, build_line_segments, "M-LSD network") as found:
        return PreprocessorResult(detect_at(image, resolution, drawn))


def lineart_anime_denoise(
    image: Picture, *, resolution: int, context: PreprocessorContext, **_: Any
) -> PreprocessorResult:
    """Lines of manga, without screentone, white on black."""
    path = MANGA.find(context, "lineart_anime_denoise")
    from sdwebui_api.engine.annotators.manga_lines import build_manga_lines

    with picture_network(context, path, build_manga_lines, "network for manga lines") as found:
        return PreprocessorResult(detect_at(image, resolution, lambda rgb: _grey(found.run(rgb))))


def softedge_teed(
    image: Picture, *, resolution: int, slider_1: float, context: PreprocessorContext, **_: Any
) -> PreprocessorResult:
    """Soft edges, in `slider_1` + 1 tones (0: all)."""
    return _with_teed("softedge_teed", TEED, image, resolution, context, lambda rgb, edges: _safe(edges, slider_1))


def softedge_anyline(
    image: Picture, *, resolution: int, slider_1: float, context: PreprocessorContext, **_: Any
) -> PreprocessorResult:
    """Soft edges of a network trained on drawings, and the faint lines of the picture."""

    def joined(rgb: Picture, edges: NDArray[np.float32]) -> Picture:
        # As the extension (scripts/preprocessor/teed.py): of its lines only the faintest count, and they stay faint.
        return np.where(_without_specks(dark_lines(rgb) == 1), np.uint8(1), _safe(edges, slider_1))

    return _with_teed("softedge_anyline", ANYLINE, image, resolution, context, joined)


def _with_teed(
    name: str,
    file: WeightFile,
    image: Picture,
    resolution: int,
    context: PreprocessorContext,
    finish: Callable[[Picture, NDArray[np.float32]], Picture],
) -> PreprocessorResult:
    path = file.find(context, name)
    from sdwebui_api.engine.annotators.teed import build_teed

    with picture_network(context, path, build_teed, "TEED network") as found:
        return PreprocessorResult(detect_at(image, resolution, lambda rgb: finish(rgb, found.run(rgb))))


def _grey(lines: NDArray[np.float32]) -> Picture:
    return (lines * 255.0).clip(0, 255).astype(np.uint8)


def _safe(lines: NDArray[np.float32], steps: float) -> Picture:
    """In few tones, so that no picture can hide in faint edges."""
    if steps < 1:
        return _grey(lines)
    tones = (lines * (int(steps) + 1)).astype(np.int32).astype(np.float32)
    return _grey(tones / np.float32(int(steps)))


def _without_specks(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    _, groups, facts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    large = np.asarray(facts)[:, cv2.CC_STAT_AREA] >= _SPECK
    large[0] = False  # what is not in the mask
    return np.asarray(large[np.asarray(groups)])


PREPROCESSORS = (
    Preprocessor(
        "mlsd",
        "mlsd",
        mlsd,
        sliders=(
            Slider("MLSD Value Threshold", 0.1, 0.01, 2.0, 0.01),
            Slider("MLSD Distance Threshold", 0.1, 0.01, 20.0, 0.01),
        ),
        tags=("MLSD",),
        sort_priority=100,
    ),
    Preprocessor("lineart_anime_denoise", "lineart_anime_denoise", lineart_anime_denoise, tags=("Lineart",)),
    Preprocessor("softedge_teed", "softedge_teed", softedge_teed, sliders=(SAFE_STEPS,), tags=("SoftEdge",)),
    Preprocessor(
        "softedge_anyline",
        "softedge_anyline",
        softedge_anyline,
        sliders=(SAFE_STEPS,),
        resolution=Slider("Resolution", 1280, 64, 2048, 8),
        tags=("SoftEdge",),
    ),
)
