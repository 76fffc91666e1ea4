"""Segmentation maps in the colours of ADE20K or COCO, by networks in transformers' format (`engine/segmentation.py`).

And parts of anime faces, and segments of whatever it may be, by networks in their authors' files (`engine/annotators`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sdwebui_api.control.preprocessor import Preprocessor, PreprocessorResult, RunPreprocessor
from sdwebui_api.control.preprocessors.palette import ADE20K, ANIME_FACE, COCO
from sdwebui_api.control.preprocessors.sizes import detect_at
from sdwebui_api.control.weights import WeightFile, network, picture_network

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdwebui_api.control.preprocessor import Picture, PreprocessorContext

CONFIG = "config.json"


def painted(classes: NDArray[np.int64], palette: NDArray[np.uint8] = ADE20K) -> Picture:
    """`[H, W]` → uint8 `[H, W, 3]`; classes beyond those of the palette are black."""
    colours = np.zeros((max(int(classes.max()) + 1, len(palette)), 3), dtype=np.uint8)
    colours[: len(palette)] = palette
    return colours[classes]


def _runner(name: str, file: WeightFile, palette: NDArray[np.uint8]) -> RunPreprocessor:
    def run(image: Picture, *, resolution: int, context: PreprocessorContext, **_: Any) -> PreprocessorResult:
        folder = file.find(context, name).parent
        from sdwebui_api.engine.segmentation import SegmentationNetwork, load_segmentation_network

        with network(context, folder, load_segmentation_network, SegmentationNetwork) as found:
            return PreprocessorResult(detect_at(image, resolution, lambda rgb: painted(found.classes(rgb), palette)))

    return run


ANIME_FACE_FILE = WeightFile("anime_face_segment", "UNet.pth", "bdsqlsz/qinglong_controlnet-lllite", ("Unet.pth",))


def anime_face(image: Picture, *, resolution: int, context: PreprocessorContext, **_: Any) -> PreprocessorResult:
    """Background, hair, eyes, mouth, face, skin and clothes, each in its colour."""
    path = ANIME_FACE_FILE.find(context, "anime_face_segment")
    from sdwebui_api.engine.annotators.anime_face import build_anime_face

    with picture_network(context, path, build_anime_face, "network for parts of anime faces") as found:
        return PreprocessorResult(
            detect_at(image, resolution, lambda rgb: painted(found.run(rgb).argmax(0), ANIME_FACE))
        )


MOBILE_SAM = WeightFile("mobile_sam", "mobile_sam.pt", "dhkim2810/MobileSAM")


def mobile_sam(image: Picture, *, resolution: int, context: PreprocessorContext, **_: Any) -> PreprocessorResult:
    """Every segment in a colour of its own; what belongs to none is black."""
    path = MOBILE_SAM.find(context, "mobile_sam")
    from sdwebui_api.engine.annotators.mobile_sam import build_mobile_sam

    def coloured(rgb: Picture) -> Picture:
        labels = found.run(rgb).astype(np.int64)
        # Drawn anew for every picture by the extension; here a request gives the same map every time.
        colours = np.random.default_rng(0).integers(0, 256, (int(labels.max()) + 1, 3), dtype=np.uint8)
        colours[0] = 0
        return np.asarray(colours[labels], dtype=np.uint8)

    with picture_network(context, path, build_mobile_sam, "MobileSAM network") as found:
        return PreprocessorResult(detect_at(image, resolution, coloured))


def _preprocessor(
    name: str, label: str, folder: str, origin: str, priority: int = 0, palette: NDArray[np.uint8] = ADE20K
) -> Preprocessor:
    file = WeightFile(folder, CONFIG, f"with the other files of {origin}")
    return Preprocessor(name, label, _runner(name, file, palette), tags=("Segmentation",), sort_priority=priority)


PREPROCESSORS = (
    _preprocessor("oneformer_ade20k", "seg_ofade20k", "oneformer_ade20k", "shi-labs/oneformer_ade20k_swin_large", 100),
    _preprocessor("segmentation", "seg_ufade20k", "upernet", "openmmlab/upernet-convnext-small"),
    _preprocessor("oneformer_coco", "seg_ofcoco", "oneformer_coco", "shi-labs/oneformer_coco_swin_large", palette=COCO),
    Preprocessor("anime_face_segment", "seg_anime_face", anime_face, tags=("Segmentation",)),
    Preprocessor("mobile_sam", "mobile_sam", mobile_sam, tags=("Segmentation",)),
)
