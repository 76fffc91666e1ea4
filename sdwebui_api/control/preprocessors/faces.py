"""Faces: InstantID's landmarks, whose a face is, MediaPipe's mesh, and the features that facexlib leaves of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from sdwebui_api.control.poses.boxes import OnnxModel
from sdwebui_api.control.poses.drawing import draw_face_landmarks
from sdwebui_api.control.poses.identity import Face, find_faces, identity
from sdwebui_api.control.poses.mesh import MESH_POINTS, draw_meshes
from sdwebui_api.control.preprocessor import Preprocessor, PreprocessorResult, Slider
from sdwebui_api.control.preprocessors.onnx_files import onnx_file
from sdwebui_api.control.preprocessors.sizes import as_rgb, resize_padded
from sdwebui_api.control.weights import WeightFile, network
from sdwebui_api.errors import BadRequest, UnusableModel
from sdwebui_api.imaging.faces import SMALLEST_EYE_DISTANCE, Landmarks, cut_out

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdwebui_api.control.preprocessor import Picture, PreprocessorContext

INSIGHTFACE = "insightface/models"
ANTELOPE = WeightFile(f"{INSIGHTFACE}/antelopev2", "scrfd_10g_bnkps.onnx", "deepinsight/insightface, antelopev2.zip")
RECOGNISERS = {
    "faceid": (
        WeightFile(f"{INSIGHTFACE}/buffalo_l", "det_10g.onnx", "deepinsight/insightface, buffalo_l.zip"),
        WeightFile(f"{INSIGHTFACE}/buffalo_l", "w600k_r50.onnx", "deepinsight/insightface, buffalo_l.zip"),
    ),
    "instantid": (
        ANTELOPE,
        WeightFile(f"{INSIGHTFACE}/antelopev2", "glintr100.onnx", "deepinsight/insightface, antelopev2.zip"),
    ),
}
"""What finds and what describes a face for each kind of face adapter (`engine/networks/face_adapter.py`)."""
LANDMARKER = WeightFile("mediapipe_face", "face_landmarker.task", "MediaPipe's face landmarker")
RETINAFACE = WeightFile("facexlib", "detection_Resnet50_Final.pth", "xinntao/facexlib v0.1.0")
PARSING = WeightFile("facexlib", "parsing_bisenet.pth", "xinntao/facexlib v0.2.0")

NOT_OF_THE_FACE = (0, 16, 18, 7, 8, 9, 14, 15)
"""Background, clothes, hat, ears and their rings, neck and necklace among CelebAMask-HQ's classes."""
_GREY = (0.299, 0.587, 0.114)


def no_face(context: PreprocessorContext) -> BadRequest:
    return BadRequest("There is no face in the picture", field=context.field)


# -- InsightFace ---------------------------------------------------------------------------------------------------


def largest_face(rgb: Picture, detector: OnnxModel, context: PreprocessorContext) -> Face:
    """Raises BadRequest(context.field) when there is none."""
    found = find_faces(rgb, detector)
    if not found:
        raise no_face(context)
    return max(found, key=lambda face: face.area)


def landmarks(image: Picture, *, resolution: int, context: PreprocessorContext, **_: Any) -> PreprocessorResult:
    padded, unpad = resize_padded(as_rgb(image), resolution)
    with onnx_file(context, "instant_id_face_keypoints", ANTELOPE) as detector:
        face = largest_face(padded, detector, context)
    canvas = np.zeros_like(unpad(padded))
    draw_face_landmarks(canvas, [(float(x), float(y)) for x, y in face.landmarks])
    return PreprocessorResult(canvas)


def identity_in(rgb: Picture, recogniser: str, context: PreprocessorContext) -> NDArray[np.float32]:
    """The numbers `[512]` of the largest face in `[H, W, 3]`, of length one for FaceID.

    Raises BadRequest(context.field) when there is none, NotFound and UnusableModel as preprocessors do.
    """
    name, (detector_file, network_file) = "face identity", RECOGNISERS[recogniser]
    with (
        onnx_file(context, name, detector_file) as detector,
        onnx_file(context, name, network_file) as network_of_faces,
    ):
        found = identity(rgb, largest_face(rgb, detector, context), network_of_faces)
    return found / max(float(np.linalg.norm(found)), 1e-9) if recogniser == "faceid" else found


# -- MediaPipe -----------------------------------------------------------------------------------------------------


def mesh(
    image: Picture, *, resolution: int, slider_1: float, slider_2: float, context: PreprocessorContext, **_: Any
) -> PreprocessorResult:
    path = LANDMARKER.find(context, "mediapipe_face")
    from sdwebui_api.engine.face_mesh import FaceMesh, load_face_mesh

    padded, unpad = resize_padded(as_rgb(image), resolution)
    with network(context, path, load_face_mesh, FaceMesh) as landmarker:
        found = landmarker.find(padded, int(slider_1), float(slider_2))
    if any(face.shape != (MESH_POINTS, 2) for face in found):
        raise UnusableModel(f"{path.name} does not find {MESH_POINTS} points of a face")
    canvas = np.zeros_like(padded)
    draw_meshes(canvas, found)
    return PreprocessorResult(unpad(canvas))


# -- facexlib ------------------------------------------------------------------------------------------------------


def features(image: Picture, *, context: PreprocessorContext, **_: Any) -> PreprocessorResult:
    """The face in the middle, upright, 512x512, grey on white: what PuLID looks at."""
    name = "facexlib"
    detector_file, parsing_file = RETINAFACE.find(context, name), PARSING.find(context, name)
    from sdwebui_api.engine.annotators.face_parsing import load_face_parsing
    from sdwebui_api.engine.annotators.network import PictureNetwork
    from sdwebui_api.engine.face_detection import FaceDetector, load_face_detector

    picture = Image.fromarray(as_rgb(image))
    with network(context, detector_file, load_face_detector, FaceDetector) as detector:
        crops = cut_out(picture, _nearest_to_the_middle(detector.landmarks(picture), picture.size))
    if not crops:
        raise no_face(context)

    with network(context, parsing_file, load_face_parsing, PictureNetwork) as parsing:
        parts = parsing.run(crops[0].pixels)
    return PreprocessorResult(grey_features(crops[0].pixels, parts))


def grey_features(face: Picture, parts: Any) -> Picture:
    """face `[H, W, 3]`, parts `[H, W]` → `[H, W, 3]`."""
    grey = (face.astype(np.float32) @ np.array(_GREY, dtype=np.float32)).clip(0, 255)
    grey[np.isin(np.rint(parts), NOT_OF_THE_FACE)] = 255
    return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)


def _nearest_to_the_middle(faces: list[Landmarks], size: tuple[int, int]) -> list[Landmarks]:
    """One, or none. Those too small to tell anything do not count."""
    seen = [face for face in faces if np.linalg.norm(face[1] - face[0]) >= SMALLEST_EYE_DISTANCE]
    return sorted(seen, key=lambda face: float(np.linalg.norm(face.mean(axis=0) - np.array(size) / 2)))[:1]


PREPROCESSORS = (
    Preprocessor(
        "mediapipe_face",
        "mediapipe_face",
        mesh,
        sliders=(Slider("Max Faces", 1, 1, 10), Slider("Min Face Confidence", 0.5, 0.01, 1.0, 0.01)),
    ),
    Preprocessor("instant_id_face_keypoints", "instant_id_face_keypoints", landmarks, tags=("Instant-ID",)),
    Preprocessor("facexlib", "facexlib", features, resolution=None),
)
