"""MediaPipe's face landmarker (the optional package mediapipe): 478 points of each face."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.errors import UnusableModel

if TYPE_CHECKING:
    from numpy.typing import NDArray


class FaceMesh:
    """On the CPU, some milliseconds a picture. Thread-safe: every picture has a landmarker of its own."""

    def __init__(self, content: bytes, name: str) -> None:
        """content: of a `.task` file."""
        self._content = content
        self._name = name

    def find(self, rgb: NDArray[np.uint8], most: int, confidence: float) -> list[NDArray[np.float32]]:
        """uint8 `[H, W, 3]` → `[478, 2]` for each of at most `most` faces, as shares of the picture.

        Raises UnusableModel when the file is none of MediaPipe's, or the package does not work here.
        """
        try:
            faces = self._detected(rgb, most, confidence)
        except Exception as error:
            raise UnusableModel(f"{self._name} does not find faces: {error}"[:500]) from error
        return [np.array([(point.x, point.y) for point in face], dtype=np.float32) for face in faces]

    def _detected(self, rgb: NDArray[np.uint8], most: int, confidence: float) -> list[Any]:
        import mediapipe  # type: ignore[import-not-found]
        from mediapipe.tasks.python import BaseOptions, vision  # type: ignore[import-not-found]

        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_buffer=self._content),
            num_faces=most,
            min_face_detection_confidence=confidence,
        )
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(rgb))
        with vision.FaceLandmarker.create_from_options(options) as landmarker:
            return list(landmarker.detect(image).face_landmarks)


def load_face_mesh(path: Path, plan: DevicePlan, device: Device) -> FaceMesh:
    """Raises UnusableModel when the package is not installed or the file cannot be read."""
    if find_spec("mediapipe") is None:
        raise UnusableModel(f"{path.name} needs the package mediapipe: pip install mediapipe")
    try:
        return FaceMesh(path.read_bytes(), path.name)
    except OSError as error:
        raise UnusableModel(f"{path.name} cannot be read: {error}") from error
