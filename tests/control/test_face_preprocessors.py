"""Faces: found by small networks in the files' own forms, drawn where they are."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sdwebui_api.control.poses import identity as identities
from sdwebui_api.control.poses.identity import Face, find_faces, identity
from sdwebui_api.control.poses.mesh import LINES, draw_meshes
from sdwebui_api.control.preprocessor import PreprocessorContext, PreprocessorResult
from sdwebui_api.control.preprocessors import faces
from sdwebui_api.control.preprocessors.faces import grey_features
from sdwebui_api.control.preprocessors.table import find_preprocessor
from sdwebui_api.engine.annotators.face_parsing import load_face_parsing
from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.engine.onnx_network import load_onnx_network
from sdwebui_api.errors import BadRequest, NotFound, UnusableModel
from sdwebui_api.imaging.faces import TEMPLATE
from tests.control import pose_files
from tests.control.test_weights import LoadsAtOnce

PLAN = DevicePlan(torch.device("cpu"))
DEVICE = Device(PLAN)
LANDMARKS = np.array([(-15, -15), (15, -15), (0, 0), (-12, 15), (12, 15)], dtype=np.float32)
ANTELOPE = Path("insightface/models/antelopev2")


def run(name: str, folder: Path, image: np.ndarray, models: Any = None, **numbers: float) -> PreprocessorResult:
    context = PreprocessorContext((folder,), field="unit.module", models=models or LoadsAtOnce())
    given = {"resolution": 640, "slider_1": 1.0, "slider_2": 0.5, **numbers}
    return find_preprocessor(name).run(image, mask=None, context=context, **given)


def white_at(*places: tuple[int, int], size: tuple[int, int] = (640, 640), side: int = 8) -> np.ndarray:
    picture = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    for left, top in places:
        picture[top : top + side, left : left + side] = 255
    return picture


# -- InsightFace ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sides", [None, (640, 640)])
def test_faces_are_found_with_their_landmarks(tmp_path: Path, sides: tuple[int, int] | None) -> None:
    pose_files.write_face_detector(tmp_path / "scrfd.onnx", LANDMARKS, sides=sides)
    detector = load_onnx_network(tmp_path / "scrfd.onnx", PLAN, DEVICE)
    found = find_faces(white_at((104, 200), (400, 304)), detector)
    assert len(found) == 2
    for face, corner in zip(sorted(found, key=lambda one: one.box[0]), ((104, 200), (400, 304)), strict=True):
        assert face.box == pytest.approx([corner[0] - 40, corner[1] - 40, corner[0] + 40, corner[1] + 40], abs=0.01)
        assert np.abs(face.landmarks - (LANDMARKS + corner)).max() < 0.01
        assert face.area == pytest.approx(6400)
    assert find_faces(white_at(), detector) == []
    # A picture twice as large is seen at half its size.
    (face,) = find_faces(white_at((208, 400), size=(1280, 640), side=16), detector)
    assert np.abs(face.landmarks - (2 * LANDMARKS + (208, 400))).max() < 0.05


@pytest.mark.parametrize("wild", [np.nan, np.inf, 1e9])
def test_landmarks_that_are_nowhere_are_no_face(tmp_path: Path, wild: float) -> None:
    pose_files.write_face_detector(tmp_path / "scrfd.onnx", np.full((5, 2), wild, dtype=np.float32))
    assert find_faces(white_at((200, 160)), load_onnx_network(tmp_path / "scrfd.onnx", PLAN, DEVICE)) == []


def test_landmarks_are_drawn_for_the_largest_face(tmp_path: Path) -> None:
    pose_files.write_face_detector(tmp_path / ANTELOPE / "scrfd_10g_bnkps.onnx", LANDMARKS)
    found = run("instant_id_face_keypoints", tmp_path, white_at((200, 160))).map
    assert found.shape == (640, 640, 3)
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)]
    for number, ((x, y), colour) in enumerate(zip(LANDMARKS + np.float32((200, 160)), colours, strict=True)):
        edge = found[int(y), int(x) + (9 if number in (1, 4) else -9 if number != 2 else 0)]
        assert tuple(edge) == colour
    assert not found[:100].any() and not found[:, 260:].any()


def test_a_picture_without_a_face_is_refused(tmp_path: Path) -> None:
    pose_files.write_face_detector(tmp_path / ANTELOPE / "scrfd_10g_bnkps.onnx", LANDMARKS)
    with pytest.raises(BadRequest, match="no face") as refused:
        run("instant_id_face_keypoints", tmp_path, white_at())
    assert refused.value.status == 422 and refused.value.field == "unit.module"


def test_another_network_is_no_face_detector(tmp_path: Path) -> None:
    pose_files.write_recogniser(tmp_path / ANTELOPE / "scrfd_10g_bnkps.onnx")
    with pytest.raises(UnusableModel, match="SCRFD"):
        run("instant_id_face_keypoints", tmp_path, white_at((200, 160)))


def test_a_face_is_brought_upright_before_it_is_described(tmp_path: Path) -> None:
    """The same face turned, moved and larger has the same numbers; another one has others."""
    pose_files.write_recogniser(tmp_path / "arcface.onnx")
    network = load_onnx_network(tmp_path / "arcface.onnx", PLAN, DEVICE)
    template = identities._TEMPLATE
    pattern = pose(template, np.eye(2), (0, 0))
    assert np.allclose(identities._upright(pattern.landmarks), [[1, 0, 0], [0, 1, 0]], atol=1e-4)
    turn = 1.7 * np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    turned = pose(template, turn, (150, 40))
    one, other = picture_of(np.eye(2), (0, 0)), picture_of(turn, (150, 40))
    first, second = identity(one, pattern, network), identity(other, turned, network)
    assert first.shape == (512,)
    assert cosine(first, second) > 0.98
    noise = np.random.default_rng(1).integers(0, 256, one.shape, dtype=np.uint8)
    assert cosine(first, identity(noise, pattern, network)) < 0.9


def pose(template: np.ndarray, turn: np.ndarray, shift: tuple[float, float]) -> Face:
    points = (template @ turn.T + shift).astype(np.float32)
    return Face(np.zeros(4, dtype=np.float32), points)


def picture_of(turn: np.ndarray, shift: tuple[float, float]) -> np.ndarray:
    """A smooth pattern of 112x112, turned and moved onto a canvas."""
    import cv2

    seeds = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    pattern = cv2.resize(seeds, (112, 112), interpolation=cv2.INTER_CUBIC)
    matrix = np.column_stack([turn, shift])
    return cv2.warpAffine(pattern, matrix, (480, 400), flags=cv2.INTER_CUBIC)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


# -- MediaPipe -----------------------------------------------------------------------------------------------------


def oval_mesh(middle: tuple[float, float], reach: float) -> np.ndarray:
    """478 points, those of the outline on a circle, all others in the middle."""
    mesh = np.full((478, 2), middle, dtype=np.float32)
    outline = LINES[0][0][0][:-1]
    for number, index in enumerate(outline):
        angle = 2 * np.pi * number / len(outline)
        mesh[index] += reach * np.array([np.sin(angle), -np.cos(angle)], dtype=np.float32)
    return mesh


def test_meshes_are_drawn_line_by_line() -> None:
    canvas = np.zeros((400, 400, 3), dtype=np.uint8)
    draw_meshes(canvas, [oval_mesh((0.5, 0.5), 0.25)])
    assert tuple(canvas[100, 200]) == (10, 200, 10) and tuple(canvas[200, 300]) == (10, 200, 10)
    assert tuple(canvas[199, 199]) == (10, 200, 250)  # a pupil, painted last
    assert not canvas[:95].any() and not canvas[150, 200].any()


def test_small_faces_and_points_outside_are_left_out() -> None:
    canvas = np.zeros((400, 400, 3), dtype=np.uint8)
    draw_meshes(canvas, [oval_mesh((0.5, 0.5), 0.07)])
    assert not canvas.any()
    draw_meshes(canvas, [oval_mesh((1.0, 0.5), 0.25) + np.float32((0.001, 0))])
    assert canvas[:, 300:].any() and not canvas[195:205, 390:].any()


class Meshes:
    """An engine whose landmarker finds what it is told to."""

    def __init__(self, *meshes: np.ndarray) -> None:
        self.meshes = list(meshes)
        self.asked: list[tuple[int, float]] = []

    def auxiliary(self, path: Path, load: Any, kind: Any, **_: Any) -> Any:
        return nullcontext(self)

    def find(self, rgb: np.ndarray, most: int, confidence: float) -> list[np.ndarray]:
        self.asked.append((most, confidence))
        return self.meshes


def test_the_mesh_of_a_picture(tmp_path: Path) -> None:
    (tmp_path / "mediapipe_face").mkdir()
    (tmp_path / "mediapipe_face" / "face_landmarker.task").write_bytes(b"task")
    models = Meshes(oval_mesh((0.5, 0.5), 0.25))
    image = np.zeros((300, 500, 3), dtype=np.uint8)
    found = run("mediapipe_face", tmp_path, image, models, resolution=384, slider_1=3.0, slider_2=0.25).map
    assert found.shape == (384, 640, 3) and found.any() and models.asked == [(3, 0.25)]
    with pytest.raises(UnusableModel, match="478"):
        run("mediapipe_face", tmp_path, image, Meshes(np.zeros((468, 2), dtype=np.float32)))
    assert not run("mediapipe_face", tmp_path, image, Meshes()).map.any()


def test_without_mediapipe_the_answer_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mediapipe_face").mkdir()
    (tmp_path / "mediapipe_face" / "face_landmarker.task").write_bytes(b"task")
    monkeypatch.setattr("sdwebui_api.engine.face_mesh.find_spec", lambda name: None)
    with pytest.raises(UnusableModel, match="pip install mediapipe"):
        run("mediapipe_face", tmp_path, white_at())


def test_the_landmarkers_points_are_taken_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package in mediapipe's place, with its names and forms."""
    (tmp_path / "mediapipe_face").mkdir()
    (tmp_path / "mediapipe_face" / "face_landmarker.task").write_bytes(b"task")
    asked = install_mediapipe(monkeypatch, oval_mesh((0.5, 0.5), 0.25))
    found = run("mediapipe_face", tmp_path, white_at(), slider_1=4.0, slider_2=0.75).map
    assert tuple(found[480, 320]) == (10, 200, 10)
    assert asked == [{"content": b"task", "most": 4, "confidence": 0.75, "shape": (640, 640, 3)}]
    install_mediapipe(monkeypatch, RuntimeError("no such model"))
    with pytest.raises(UnusableModel, match="no such model"):
        run("mediapipe_face", tmp_path, white_at())


def install_mediapipe(monkeypatch: pytest.MonkeyPatch, found: Any) -> list[dict[str, Any]]:
    asked: list[dict[str, Any]] = []

    class Landmarker:
        def __init__(self, options: Any) -> None:
            self.options = options

        @classmethod
        def create_from_options(cls, options: Any) -> Any:
            if isinstance(found, Exception):
                raise found
            return nullcontext(cls(options))

        def detect(self, image: Any) -> Any:
            given = self.options
            asked.append(
                {
                    "content": given.base_options.model_asset_buffer,
                    "most": given.num_faces,
                    "confidence": given.min_face_detection_confidence,
                    "shape": image.data.shape,
                }
            )
            return SimpleNamespace(face_landmarks=[[SimpleNamespace(x=x, y=y, z=0.0) for x, y in found]])

    vision = SimpleNamespace(FaceLandmarker=Landmarker, FaceLandmarkerOptions=SimpleNamespace)
    package, python = ModuleType("mediapipe"), ModuleType("mediapipe.tasks.python")
    package.Image, package.ImageFormat = SimpleNamespace, SimpleNamespace(SRGB=1)  # type: ignore[attr-defined]
    python.BaseOptions, python.vision = SimpleNamespace, vision  # type: ignore[attr-defined]
    for module in (package, ModuleType("mediapipe.tasks"), python):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("sdwebui_api.engine.face_mesh.find_spec", lambda name: object())
    return asked


# -- facexlib ------------------------------------------------------------------------------------------------------


def test_parsing_weights_have_their_own_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(pose_files.parsing_weights(), tmp_path / "parsing_bisenet.pth")
    network = load_face_parsing(tmp_path / "parsing_bisenet.pth", PLAN, DEVICE)
    parts = network.run(np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8))
    assert parts.shape == (64, 96) and set(np.unique(parts)) <= set(range(19)) and len(np.unique(parts)) > 1


@pytest.mark.parametrize("lost", ["cp.arm16.bn_atten.weight", "conv_out32.conv_out.weight", "cp.resnet.conv1.weight"])
def test_parsing_weights_that_are_incomplete(lost: str, tmp_path: Path) -> None:
    weights = pose_files.parsing_weights()
    del weights[lost]
    torch.save(weights, tmp_path / "parsing_bisenet.pth")
    with pytest.raises(UnusableModel, match="parsing_bisenet"):
        load_face_parsing(tmp_path / "parsing_bisenet.pth", PLAN, DEVICE)


class Facexlib:
    """An engine with a detector that finds given faces, and a parsing network that takes the left half for hat."""

    def __init__(self, *found: np.ndarray) -> None:
        self.found = list(found)

    def auxiliary(self, path: Path, load: Any, kind: Any, **_: Any) -> Any:
        return nullcontext(self)

    def landmarks(self, image: Any) -> list[np.ndarray]:
        return self.found

    def run(self, rgb: np.ndarray) -> np.ndarray:
        parts = np.ones(rgb.shape[:2], dtype=np.float32)
        parts[:, :256] = 18.0
        return parts


def facexlib_folder(tmp_path: Path) -> Path:
    (tmp_path / "facexlib").mkdir()
    for name in ("detection_Resnet50_Final.pth", "parsing_bisenet.pth"):
        (tmp_path / "facexlib" / name).write_bytes(b"")
    return tmp_path


def test_the_face_in_the_middle_is_cut_out_grey_on_white(tmp_path: Path) -> None:
    folder = facexlib_folder(tmp_path)
    image = np.zeros((600, 1200, 3), dtype=np.uint8)
    image[:, 350:850] = (200, 100, 0)  # all that lies around the middle
    middle = TEMPLATE * 0.5 + np.float32((450, 150))
    aside = TEMPLATE * 0.8 + np.float32((0, 0))
    found = run("facexlib", folder, image, Facexlib(aside, middle)).map
    assert found.shape == (512, 512, 3)
    assert (found[:, :256] == 255).all()
    grey = int(0.299 * 200 + 0.587 * 100)
    assert np.abs(found[100:400, 300:500].astype(int) - grey).max() <= 1


def test_faces_too_small_to_tell_do_not_count(tmp_path: Path) -> None:
    folder = facexlib_folder(tmp_path)
    image = np.zeros((600, 600, 3), dtype=np.uint8)
    for found in ((), (TEMPLATE * 0.01 + 300,)):
        with pytest.raises(BadRequest, match="no face"):
            run("facexlib", folder, image, Facexlib(*found))


def test_grey_features_keep_eyes_and_lose_hair() -> None:
    face = np.full((1, 3, 3), 100, dtype=np.uint8)
    found = grey_features(face, np.array([[4.0, 17.0, 16.0]]))
    assert found[0, :, 0].tolist() == [100, 100, 255]


@pytest.mark.parametrize("name", [one.name for one in faces.PREPROCESSORS])
def test_missing_weights_name_file_and_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound) as refused:
        run(name, tmp_path, white_at())
    assert refused.value.status == 404 and refused.value.field == "unit.module"
    assert str(tmp_path) in refused.value.message
    assert any(ending in refused.value.message for ending in (".pth", ".onnx", ".task"))
