"""Finding faces: five landmarks each, by OpenCV's YuNet or by RetinaFace (facexlib's file, which A1111 uses)."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.engine.networks.retinaface import RetinaFace, decode
from sdwebui_api.engine.reading import read_tensors
from sdwebui_api.errors import UnusableModel
from sdwebui_api.imaging.boxes import without_overlaps
from sdwebui_api.imaging.faces import Landmarks

SEARCHED_SIDE, LONGEST_SIDE = 640, 2560
"""Larger pictures are shrunk before they are searched, till their short side is the first and the long one at most
the second."""
SMALLEST_SIDE = 32


class FaceDetector:
    """Thread-safe."""

    def landmarks(self, image: Image.Image) -> list[Landmarks]:
        """The faces in `image`, the surest first. Raises OutOfMemory."""
        scale = min(1.0, SEARCHED_SIDE / min(image.size), LONGEST_SIDE / max(image.size))
        width, height = (max(SMALLEST_SIDE, round(side * scale)) for side in image.size)
        small = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        back = np.array(image.size, dtype=np.float32) / np.array((width, height), dtype=np.float32)
        bgr = np.ascontiguousarray(np.asarray(small)[..., ::-1])
        return [(found * back).astype(np.float32) for found in self._search(bgr)]

    def _search(self, bgr: NDArray[np.uint8]) -> NDArray[np.float32]:
        """[n, 5, 2] in pixels of `bgr` [h, w, 3]."""
        raise NotImplementedError


class YuNetDetector(FaceDetector):
    """On the CPU, some milliseconds a picture."""

    THRESHOLD, OVERLAP, MOST = 0.8, 0.3, 500

    def __init__(self, path: Path) -> None:
        """Raises UnusableModel."""
        self._lock = threading.Lock()
        try:
            self._net = cv2.FaceDetectorYN.create(str(path), "", (320, 320), self.THRESHOLD, self.OVERLAP, self.MOST)
            self._search(np.zeros((64, 64, 3), dtype=np.uint8))  # a wrong network shows only when it runs
        except Exception as error:
            raise UnusableModel(f"{path.name} is no YuNet face detector: {error}"[:500]) from error

    def _search(self, bgr: NDArray[np.uint8]) -> NDArray[np.float32]:
        with self._lock:
            self._net.setInputSize((bgr.shape[1], bgr.shape[0]))
            rows: Any = self._net.detect(bgr)[1]
        if rows is None:
            return np.zeros((0, 5, 2), dtype=np.float32)
        rows = rows[np.argsort(-rows[:, 14], kind="stable")]
        return np.asarray(rows[:, 4:14], dtype=np.float32).reshape(-1, 5, 2)


class RetinaFaceDetector(FaceDetector):
    """A ResNet-50 in float32 on the device."""

    THRESHOLD, OVERLAP = 0.97, 0.4

    def __init__(self, network: RetinaFace, device: Device) -> None:
        self._network = network
        self._device = device

    def _search(self, bgr: NDArray[np.uint8]) -> NDArray[np.float32]:
        pixels = torch.from_numpy(bgr.astype(np.float32) - np.array((104, 117, 123), dtype=np.float32))
        with self._device.running(self._network):
            outputs = self._network(pixels.permute(2, 0, 1)[None].to(self._device.plan.device))
            boxes, scores, landmarks = (part[0].float().cpu() for part in outputs)
        boxes, landmarks = decode(boxes, landmarks, bgr.shape[0], bgr.shape[1])
        likely = torch.nonzero(scores > self.THRESHOLD).flatten()
        likely = likely[scores[likely].argsort(descending=True)]
        kept = without_overlaps(boxes[likely].numpy(), self.OVERLAP)
        return np.asarray(landmarks[likely][kept].numpy(), dtype=np.float32)


def load_face_detector(path: Path, plan: DevicePlan, device: Device) -> FaceDetector:
    """YuNet for `.onnx` files, RetinaFace for others. Raises UnusableModel."""
    if path.suffix.lower() == ".onnx":
        return YuNetDetector(path)
    tensors = {name.removeprefix("module."): tensor for name, tensor in read_tensors(path).items()}
    with torch.inference_mode(False):
        network = RetinaFace()
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            raise UnusableModel(f"{path.name} is no RetinaFace of facexlib: {error}"[:500]) from error
        network.requires_grad_(False).eval().to(plan.storage, torch.float32)
    return RetinaFaceDetector(network, device)
