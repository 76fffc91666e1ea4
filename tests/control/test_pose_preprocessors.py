"""Preprocessors for people: files as they are found in the wild, with random weights or finding known people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdwebui_api.control.openpose import render_pose
from sdwebui_api.control.poses.people import Person, pose_json
from sdwebui_api.control.preprocessor import PreprocessorContext, PreprocessorResult
from sdwebui_api.control.preprocessors import dwpose, openpose
from sdwebui_api.control.preprocessors.dwpose import person_of
from sdwebui_api.control.preprocessors.table import find_preprocessor
from sdwebui_api.engine.annotators.openpose import load_pose_network
from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.engine.onnx_network import OnnxNetwork
from sdwebui_api.errors import NotFound, UnusableModel
from tests.control import pose_files
from tests.control.poses.figures import STANDING, body_network, person
from tests.control.test_weights import LoadsAtOnce

NAMES = [one.name for one in (*openpose.PREPROCESSORS, *dwpose.PREPROCESSORS)]
PLAN = DevicePlan(torch.device("cpu"))


def run(name: str, folder: Path, image: np.ndarray, resolution: int = 64) -> PreprocessorResult:
    context = PreprocessorContext((folder,), field="unit.module", models=LoadsAtOnce())
    return find_preprocessor(name).run(
        image, resolution=resolution, slider_1=0.5, slider_2=0.5, mask=None, context=context
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("annotators")
    pose_files.write_openpose(found)
    return found


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (70, 96, 3), dtype=np.uint8)


# -- OpenPose ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "kind", "maps"),
    [("body_pose_model.pth", "body", 57), ("hand_pose_model.pth", "hand", 22), ("facenet.pth", "face", 71)],
)
def test_the_original_files_are_told_by_their_layers(folder: Path, file: str, kind: str, maps: int) -> None:
    network = load_pose_network(folder / "openpose" / file, PLAN, Device(PLAN))
    assert network.kind == kind
    found = network.maps(np.zeros((24, 40, 3), dtype=np.float32))
    assert found.shape == (3, 5, maps) and np.isfinite(found).all()


@pytest.mark.parametrize("lost", ["conv1_1.bias", "Mconv7_stage6_L2.weight", "conv4_3_CPM.weight"])
def test_a_layer_that_is_missing(lost: str, tmp_path: Path) -> None:
    weights = pose_files.body_weights()
    del weights[lost]
    torch.save(weights, tmp_path / "body.pth")
    with pytest.raises(UnusableModel, match=r"body\.pth"):
        load_pose_network(tmp_path / "body.pth", PLAN, Device(PLAN))


@pytest.mark.parametrize("name", ["Mconv7_stage6_L2", "Mconv1_stage3_L1"])
def test_a_layer_of_another_width(name: str, tmp_path: Path) -> None:
    weights = pose_files.body_weights()
    weights[f"{name}.weight"] = weights[f"{name}.weight"][:-1, :-1]
    torch.save(weights, tmp_path / "body.pth")
    with pytest.raises(UnusableModel):
        load_pose_network(tmp_path / "body.pth", PLAN, Device(PLAN))


@pytest.mark.parametrize("name", [one.name for one in openpose.PREPROCESSORS])
def test_maps_have_the_pictures_shape(name: str, folder: Path, image: np.ndarray) -> None:
    result = run(name, folder, image)
    assert result.map.shape == (64, 88, 3) and result.map.dtype == np.uint8
    assert result.poses is not None
    assert (result.poses[0]["canvas_width"], result.poses[0]["canvas_height"]) == (88, 64)


def test_only_the_networks_that_are_needed_must_be_there(tmp_path: Path, image: np.ndarray) -> None:
    (tmp_path / "openpose").mkdir()
    torch.save(pose_files.body_weights(), tmp_path / "openpose" / "body_pose_model.pth")
    run("openpose", tmp_path, image)
    with pytest.raises(NotFound, match=r"hand_pose_model\.pth"):
        run("openpose_hand", tmp_path, image)
    with pytest.raises(NotFound, match=r"facenet\.pth"):
        run("openpose_face", tmp_path, image)


def test_the_network_of_a_hand_is_no_bodys(tmp_path: Path, image: np.ndarray) -> None:
    (tmp_path / "openpose").mkdir()
    torch.save(pose_files.part_weights(22), tmp_path / "openpose" / "body_pose_model.pth")
    with pytest.raises(UnusableModel, match="of a hand, not of a body"):
        run("openpose", tmp_path, image)


class Known:
    """Networks that see known people in a picture of 512x512, with hands and faces in the middle of their crops."""

    def __init__(self, *people: Any) -> None:
        self._body = body_network(people, 512, 512)

    def auxiliary(self, path: Path, load: Any, kind: Any, on_progress: Any = None, *, keep: bool = True) -> Any:
        from contextlib import nullcontext

        told = {"body_pose_model.pth": "body", "hand_pose_model.pth": "hand", "facenet.pth": "face"}[path.name]
        found = kind.__new__(kind)
        found.kind = told
        found.maps = self._body if told == "body" else lambda x: middles(x, 22 if told == "hand" else 71)
        return nullcontext(found)


def middles(x: np.ndarray, maps: int) -> np.ndarray:
    found = np.zeros((x.shape[0] // 8, x.shape[1] // 8, maps), dtype=np.float32)
    found[found.shape[0] // 2 - 1 : found.shape[0] // 2 + 1, found.shape[1] // 2 - 1 : found.shape[1] // 2 + 1] = 1.0
    return found


def see(name: str, folder: Path, *people: Any) -> PreprocessorResult:
    context = PreprocessorContext((folder,), models=Known(*people))
    picture = np.zeros((512, 512, 3), dtype=np.uint8)
    return find_preprocessor(name).run(picture, resolution=512, slider_1=0, slider_2=0, mask=None, context=context)


RED_NOSE, WHITE, BLUE = (255, 0, 0), (255, 255, 255), (0, 0, 255)


@pytest.mark.parametrize(
    ("name", "body", "hands", "face"),
    [
        ("openpose", True, False, False),
        ("openpose_hand", True, True, False),
        ("openpose_face", True, False, True),
        ("openpose_faceonly", False, False, True),
        ("openpose_full", True, True, True),
    ],
)
def test_each_draws_and_tells_its_parts(folder: Path, name: str, body: bool, hands: bool, face: bool) -> None:
    wanted = person(100, 20, 3.0)
    result = see(name, folder, wanted)
    colours = {tuple(colour) for colour in result.map.reshape(-1, 3).tolist()}
    assert ((255, 170, 0) in colours) == body  # a shoulder
    assert ((255, 255, 255) in colours) == face
    assert ((0, 0, 255) in colours) or not hands
    (told,) = result.poses[0]["people"]
    points = np.array(told["pose_keypoints_2d"]).reshape(18, 3)
    assert (points[:, 2] == 1).all()
    assert np.abs(points[:, :2] - np.array(wanted)).max() <= 8
    assert (told["face_keypoints_2d"] is not None) == face
    assert (told["hand_left_keypoints_2d"] is not None) == hands == (told["hand_right_keypoints_2d"] is not None)
    if hands:
        left = np.array(told["hand_left_keypoints_2d"]).reshape(21, 3)
        assert (left[:, 0] > points[7, 0]).all()  # beyond the wrist, which hangs to the right of the elbow
    if face:
        assert np.array(told["face_keypoints_2d"]).reshape(70, 3)[:, :2].mean(axis=0) == pytest.approx(
            points[0, :2], abs=12
        )


def test_the_json_draws_the_same_picture_again(folder: Path) -> None:
    result = see("openpose_full", folder, person(20, 20, 2.5), person(250, 40, 2.6))
    assert len(result.poses[0]["people"]) == 2
    assert np.array_equal(render_pose(result.poses[0], "pose"), result.map)


def test_nobody_is_a_black_map(folder: Path) -> None:
    result = see("openpose_full", folder)
    assert not result.map.any() and result.poses[0]["people"] == []


# -- DWPose and animals --------------------------------------------------------------------------------------------

# Wholebody's points, of which the body's lie as in STANDING within a box 100 wide and 160 high.
ORDER = {
    6: 2,
    8: 3,
    10: 4,
    5: 5,
    7: 6,
    9: 7,
    12: 8,
    14: 9,
    16: 10,
    11: 11,
    13: 12,
    15: 13,
    0: 0,
    2: 14,
    1: 15,
    4: 16,
    3: 17,
}


def whole_body(hidden: tuple[int, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the crop and scores. Hands lie in a row at the top, the face in one at the bottom."""
    places, scores = np.zeros((133, 2)), np.full(133, 0.9)
    for theirs, ours in ORDER.items():
        places[theirs] = np.array(STANDING[ours]) / (100, 160)
    places[17:23] = 0.5
    places[23:91] = np.stack([np.linspace(0.1, 0.9, 68), np.full(68, 0.95)], axis=1)
    places[91:] = np.stack([np.linspace(0.1, 0.9, 42), np.full(42, 0.05)], axis=1)
    scores[list(hidden)] = 0.1
    return places, scores


def write_dwpose(folder: Path, hidden: tuple[int, ...] = (), box: tuple[float, float] = (60.0, 100.0)) -> None:
    pose_files.write_detector(folder / "openpose" / "yolox_l.onnx", (0,), box)
    places, scores = whole_body(hidden)
    pose_files.write_points(folder / "openpose" / "dw-ll_ucoco_384.onnx", places, scores, (288, 384))


def white_at(*places: tuple[int, int], size: tuple[int, int] = (640, 640), side: int = 8) -> np.ndarray:
    """Black, with white squares."""
    picture = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    for left, top in places:
        picture[top : top + side, left : left + side] = 255
    return picture


def test_dwpose_finds_people_in_their_boxes(tmp_path: Path) -> None:
    write_dwpose(tmp_path)
    result = run("dw_openpose_full", tmp_path, white_at((104, 200), (400, 304)), 640)
    first, second = result.poses[0]["people"]
    for told, (x, y) in ((first, (108, 204)), (second, (404, 308))):
        body = np.array(told["pose_keypoints_2d"]).reshape(18, 3)
        # The box is 60x100, a quarter more around it, and widened to 3:4.
        width, height = 93.75, 125.0
        shares = (body[:, :2] - (x, y)) / (width, height) + 0.5
        wanted = np.array(STANDING) / (100, 160)
        wanted[1] = (wanted[2] + wanted[5]) / 2
        assert (body[:, 2] == 1).all() and np.abs(shares - wanted).max() < 0.005
        hands = [np.array(told[f"hand_{side}_keypoints_2d"]).reshape(21, 3) for side in ("left", "right")]
        assert hands[0][:, 0].max() < hands[1][:, 0].min()
        assert len(told["face_keypoints_2d"]) == 70 * 3
        assert told["face_keypoints_2d"][-6:-3] == told["pose_keypoints_2d"][14 * 3 : 15 * 3]
    assert np.array_equal(render_pose(result.poses[0], "pose"), result.map)


def test_dwpose_tries_the_whole_picture_when_it_sees_nobody(tmp_path: Path) -> None:
    write_dwpose(tmp_path)
    (told,) = run("dw_openpose_full", tmp_path, white_at(), 640).poses[0]["people"]
    body = np.array(told["pose_keypoints_2d"]).reshape(18, 3)
    assert body[0, 0] == pytest.approx(320, abs=2) and body[10, 1] > 600


def test_points_that_are_not_sure_are_absent() -> None:
    places, scores = whole_body(hidden=(5, 9, *range(91, 112)))
    found = person_of(places * 100, scores)
    assert found.body[1] is None and found.body[5] is None and found.body[7] is None and found.body[2]
    assert found.left_hand == () and all(found.right_hand) and len(found.face) == 70
    nobody = person_of(places, np.zeros(133, dtype=np.float32))
    assert not any(nobody.body) and nobody.face == ()


def test_dwpose_without_anybody_is_black(tmp_path: Path) -> None:
    write_dwpose(tmp_path, hidden=tuple(range(133)))
    result = run("dw_openpose_full", tmp_path, white_at((104, 200)), 640)
    assert result.poses[0]["people"] == [] and not result.map.any()


def test_overlapping_boxes_are_one_person(tmp_path: Path) -> None:
    write_dwpose(tmp_path)
    picture = white_at((104, 200), (112, 200), (104, 208))
    assert len(run("dw_openpose_full", tmp_path, picture, 640).poses[0]["people"]) == 1


def test_pictures_that_are_not_square(tmp_path: Path) -> None:
    """The detector sees this one half as large: its box is twice as large in the picture."""
    write_dwpose(tmp_path)
    result = run("dw_openpose_full", tmp_path, white_at((192, 96), size=(1280, 320), side=16), 320)
    (told,) = result.poses[0]["people"]
    assert result.map.shape == (320, 1280, 3)
    nose = np.array(told["pose_keypoints_2d"][:2])
    assert np.abs(nose - (200, 104 + 250 * (20 / 160 - 0.5))).max() < 1


def test_animals(tmp_path: Path) -> None:
    pose_files.write_detector(tmp_path / "openpose" / "yolox_l.onnx", (16,), (80.0, 80.0))
    places = np.stack([np.linspace(0.1, 0.9, 17), np.linspace(0.9, 0.1, 17)], axis=1)
    scores = np.full(17, 0.5)
    scores[16] = 0.0
    pose_files.write_points(tmp_path / "openpose" / "rtmpose-m_ap10k_256.onnx", places, scores, (256, 256))
    result = run("animal_openpose", tmp_path, white_at((304, 304)), 640)
    (animal,) = result.poses[0]["animals"]
    points = np.array(animal).reshape(17, 3)
    assert result.poses[0]["people"] == [] and points[16].tolist() == [0, 0, 0]
    assert np.abs(points[:16, :2] - (308 + 100 * (places[:16] - 0.5))).max() < 1
    assert tuple(result.map[int(points[0, 1]), int(points[0, 0])]) == (150, 255, 255)  # from eye to nose, painted last
    assert np.array_equal(render_pose(result.poses[0], "pose"), result.map)
    # A person is no animal, and nothing is tried where there is none.
    pose_files.write_detector(tmp_path / "openpose" / "yolox_l.onnx", (0,))
    result = run("animal_openpose", tmp_path, white_at((304, 304)), 640)
    assert result.poses[0]["animals"] == [] and not result.map.any()


@pytest.mark.parametrize("name", NAMES)
def test_missing_weights_name_file_and_folder(name: str, tmp_path: Path, image: np.ndarray) -> None:
    with pytest.raises(NotFound) as refused:
        run(name, tmp_path, image)
    assert refused.value.status == 404 and refused.value.field == "unit.module"
    assert str(tmp_path / "openpose") in refused.value.message
    assert any(ending in refused.value.message for ending in (".pth", ".onnx"))


@pytest.mark.parametrize("content", [b"", b"nonsense"])
def test_broken_onnx_files(content: bytes, tmp_path: Path, image: np.ndarray) -> None:
    write_dwpose(tmp_path)
    (tmp_path / "openpose" / "yolox_l.onnx").write_bytes(content)
    with pytest.raises(UnusableModel, match=r"yolox_l\.onnx"):
        run("dw_openpose_full", tmp_path, image)


def test_files_in_each_others_place(tmp_path: Path, image: np.ndarray) -> None:
    write_dwpose(tmp_path)
    detector, points = (tmp_path / "openpose" / name for name in ("yolox_l.onnx", "dw-ll_ucoco_384.onnx"))
    content = detector.read_bytes(), points.read_bytes()
    detector.write_bytes(content[1])
    with pytest.raises(UnusableModel, match="YOLOX"):
        run("dw_openpose_full", tmp_path, image)
    detector.write_bytes(content[0])
    points.write_bytes(content[0])
    with pytest.raises(UnusableModel, match="RTMPose"):
        run("dw_openpose_full", tmp_path, image)
    places, scores = whole_body()
    pose_files.write_points(points, places[:20], scores[:20], (288, 384))
    with pytest.raises(UnusableModel, match="20 points instead of 133"):
        run("dw_openpose_full", tmp_path, image)


def test_without_onnxruntime_the_answer_names_the_package(
    tmp_path: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dwpose(tmp_path)
    monkeypatch.setattr("sdwebui_api.engine.onnx_network.find_spec", lambda name: None)
    with pytest.raises(UnusableModel, match="pip install onnxruntime"):
        run("dw_openpose_full", tmp_path, image)


def test_inputs_of_any_size_tell_none() -> None:
    class Session:
        def __init__(self, *shape: Any) -> None:
            self._shape = shape

        def get_inputs(self) -> list[Any]:
            return [type("Input", (), {"shape": list(self._shape), "name": "x"})]

    assert OnnxNetwork(Session(1, 3, 384, 288), "x").size == (288, 384)
    assert OnnxNetwork(Session("n", 3, "h", "w"), "x").size is None
    assert OnnxNetwork(Session(1, 512), "x").size is None


def test_json_of_nobodys_hands_is_null() -> None:
    told = pose_json([Person(body=(None, (1.0, 2.0)))], [], 4, 5)["people"][0]
    assert told["pose_keypoints_2d"] == [0, 0, 0, 1, 2, 1] and told["face_keypoints_2d"] is None
