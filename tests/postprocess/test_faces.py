"""Face restoration: geometry with a detector and a restorer that are known, then the networks with random weights."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from sdwebui_api.api.factory import create_app
from sdwebui_api.catalog.face_restorers import FaceRestorerCatalog
from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.engine.face_detection import load_face_detector
from sdwebui_api.engine.face_restorer import load_face_restorer
from sdwebui_api.engine.networks.retinaface import RetinaFace
from sdwebui_api.engine.spandrel_package import spandrel
from sdwebui_api.errors import BadRequest, Cancelled, UnusableModel
from sdwebui_api.imaging.boxes import without_overlaps
from sdwebui_api.imaging.codec import encode_image, to_base64
from sdwebui_api.imaging.faces import SIDE, TEMPLATE, cut_out, lay_back
from sdwebui_api.jobs.job import Job
from sdwebui_api.postprocess.extras import ExtrasSettings, run_extras
from sdwebui_api.postprocess.faces import FaceLibrary
from tests.imaging.golden import psnr
from tests.postprocess.test_interrogate import field
from tests.support.fakes import fake_services


def picture(width: int = 320, height: int = 240) -> Image.Image:
    """Smooth, and different everywhere."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [np.sin(x / 17 + k) * np.cos(y / 23 - k) for k in range(3)]
    return Image.fromarray((np.stack(waves, -1) * 100 + 128).astype(np.uint8))


def face_at(x: float, y: float, side: float, degrees: float = 0.0) -> np.ndarray:
    """Landmarks of a face whose crop has its centre at x, y and this side in the picture."""
    turn = np.deg2rad(degrees)
    rotation = np.array([(np.cos(turn), -np.sin(turn)), (np.sin(turn), np.cos(turn))])
    return ((TEMPLATE - SIDE / 2) * side / SIDE @ rotation.T + (x, y)).astype(np.float32)


FACES = [face_at(90, 110, 120, 12), face_at(230, 120, 150, -30)]


def as_before(faces):
    return [(crop, crop.pixels) for crop in faces]


# -- geometry ----------------------------------------------------------------------------------------------------------


def test_faces_laid_back_as_they_were_leave_the_picture_as_it_was():
    crops = cut_out(picture(), FACES)
    assert [crop.pixels.shape for crop in crops] == [(SIDE, SIDE, 3)] * 2
    assert psnr(lay_back(picture(), as_before(crops)), picture()) >= 35


def test_faces_at_the_edge_and_beyond():
    faces = [face_at(5, 5, 100), face_at(320, 230, 200, 90), face_at(160, 120, 900), face_at(-500, -500, 90)]
    result = lay_back(picture(), as_before(cut_out(picture(), faces)))
    assert result.size == picture().size and psnr(result, picture()) >= 35


def test_crops_are_upright():
    """The landmarks of a turned face come to lie where the template has them."""
    image = Image.new("RGB", (320, 240))
    for x, y in FACES[1]:
        image.paste("white", (round(x) - 2, round(y) - 2, round(x) + 3, round(y) + 3))
    crop = cut_out(image, FACES)[1].pixels
    assert all(crop[round(y), round(x)].min() > 200 for x, y in TEMPLATE)


def test_only_the_faces_change_and_softly():
    crops = cut_out(picture(), FACES)
    result = np.asarray(lay_back(picture(), [(crop, np.zeros_like(crop.pixels)) for crop in crops])).astype(int)
    before = np.asarray(picture()).astype(int)
    assert (result[110, 90] == 0).all() and (result[120, 230] == 0).all()
    assert (result[:30, :30] == before[:30, :30]).all()
    share = 1 - result[120, 150:231].sum(-1) / before[120, 150:231].sum(-1)
    assert share.max() == 1 and np.diff(share).max() < 0.5


def test_what_is_no_face_is_left_out():
    nonsense = [np.zeros((5, 2)), np.full((5, 2), np.nan), face_at(50, 50, 15)]
    assert cut_out(picture(), [np.asarray(each, dtype=np.float32) for each in nonsense]) == []
    assert psnr(lay_back(picture(), []), picture()) == float("inf")


# -- a job -------------------------------------------------------------------------------------------------------------


class FakeDetector:
    def __init__(self, faces) -> None:
        self.faces = faces

    def landmarks(self, image):
        return self.faces


class FakeRestorer:
    def __init__(self) -> None:
        self.weights: list[float] = []

    def restore(self, pixels, weight):
        self.weights.append(weight)
        return np.full_like(pixels, 255)


class FakeEngine:
    def __init__(self, faces) -> None:
        self.detector, self.network, self.opened = FakeDetector(faces), FakeRestorer(), []

    @contextmanager
    def auxiliary(self, path, load, kind, on_progress=None):
        self.opened.append(path.name)
        yield self.detector if kind.__name__ == "FaceDetector" else self.network


def catalog(folder: Path, *files: str, model: str | None = None) -> FaceRestorerCatalog:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    folders = {"GFPGAN": [folder / "GFPGAN"], "CodeFormer": [folder / "Codeformer"]}
    return FaceRestorerCatalog(folders, folder / "facedetection", model)


ALL = (
    "GFPGAN/GFPGANv1.3.pth", "GFPGAN/GFPGANv1.4.pth", "GFPGAN/parsing_parsenet.pth", "Codeformer/codeformer-v0.1.0.pth",
    "facedetection/face_detection_yunet_2023mar.onnx",
)  # fmt: skip


@pytest.fixture(autouse=True)
def codeformer_installed(monkeypatch):
    monkeypatch.setattr("sdwebui_api.catalog.face_restorers.find_spec", lambda name: name)


def test_the_catalog_tells_what_can_run(tmp_path):
    assert catalog(tmp_path).present() == []
    assert catalog(tmp_path, "GFPGAN/GFPGANv1.4.pth").present() == []  # no detector
    found = catalog(tmp_path, *ALL)
    assert found.present() == ["CodeFormer", "GFPGAN"]
    assert found.find("gfpgan").weights.name == "GFPGANv1.4.pth"
    assert found.find("GFPGAN").detector.suffix == ".onnx"
    assert catalog(tmp_path, model="GFPGANv1.3.pth").find("GFPGAN").weights.name == "GFPGANv1.3.pth"
    beside = catalog(tmp_path, "GFPGAN/detection_Resnet50_Final.pth")
    assert beside.find("CodeFormer").detector.name == "detection_Resnet50_Final.pth"


def test_errors_name_files_folders_and_packages(tmp_path, monkeypatch):
    with pytest.raises(BadRequest) as caught:
        catalog(tmp_path).find("GFPGAN", "gfpgan_visibility")
    assert caught.value.field == "gfpgan_visibility" and caught.value.status == 422
    for text in ("GFPGANv1.4.pth", str(tmp_path / "GFPGAN"), "yunet", str(tmp_path / "facedetection")):
        assert text in caught.value.message
    with pytest.raises(BadRequest) as caught:
        catalog(tmp_path).find("RestoreFormer")
    assert "RestoreFormer" in caught.value.message
    monkeypatch.setattr("sdwebui_api.catalog.face_restorers.find_spec", lambda name: None)
    assert catalog(tmp_path, *ALL).present() == ["GFPGAN"]
    with pytest.raises(BadRequest, match="pip install --no-deps spandrel_extra_arches"):
        catalog(tmp_path).find("CodeFormer")


def test_no_face_no_change_and_no_network(tmp_path):
    engine = FakeEngine([])
    restore = FaceLibrary(engine, catalog(tmp_path, *ALL)).for_job(Job("1", "extras")).restorer("GFPGAN")
    assert psnr(restore(picture(), 0.5), picture()) == float("inf")
    assert engine.opened == ["face_detection_yunet_2023mar.onnx"]


def test_several_faces_and_cancelling(tmp_path):
    engine, job = FakeEngine(FACES), Job("1", "extras")
    restore = FaceLibrary(engine, catalog(tmp_path, *ALL)).for_job(job).restorer("CodeFormer")
    result = restore(picture(), 0.25)
    assert engine.network.weights == [0.25, 0.25]
    assert result.getpixel((90, 110)) == result.getpixel((230, 120)) == (255, 255, 255)
    job._cancel()
    with pytest.raises(Cancelled):
        restore(picture(), 0.5)


# -- extras ------------------------------------------------------------------------------------------------------------


class Recorder:
    """Restores by painting all of a picture; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple] = []

    def restorer(self, name, field=None):
        def restore(image, weight):
            self.asked.append((name, image.size, weight))
            return Image.new("RGB", image.size, "red" if name == "GFPGAN" else "blue")

        return restore


def test_extras_restore_and_blend():
    faces, black = Recorder(), Image.new("RGBA", (16, 16), "black")
    settings = ExtrasSettings(gfpgan_visibility=0.5, codeformer_visibility=1, codeformer_weight=0.25)
    result = run_extras(black, settings, faces=faces)
    assert faces.asked == [("GFPGAN", (16, 16), 0.25), ("CodeFormer", (16, 16), 0.25)]
    assert result.infotext == "GFPGAN visibility: 0.5, CodeFormer visibility: 1, CodeFormer weight: 0.25"
    assert result.image.getpixel((8, 8)) == (0, 0, 255)
    half = run_extras(black, ExtrasSettings(gfpgan_visibility=0.5), faces=faces).image
    assert abs(half.getpixel((8, 8))[0] - 127) <= 1


@pytest.mark.parametrize(("first", "size"), [(False, (16, 16)), (True, (32, 32))])
def test_extras_upscale_first(first, size):
    faces = Recorder()
    settings = ExtrasSettings(gfpgan_visibility=1, upscaler_1="Lanczos", upscale_first=first)
    result = run_extras(Image.new("RGB", (16, 16)), settings, faces=faces)
    assert faces.asked[0][1] == size and result.image.size == (32, 32)


def test_the_doors_name_what_is_missing(tmp_path):
    services = fake_services(tmp_path)
    with TestClient(create_app(services)) as client:
        assert client.get("/sdapi/v1/face-restorers").json() == []
        body = {"image": to_base64(encode_image(picture(16, 16), "png")), "codeformer_visibility": 0.5}
        answer = client.post("/sdapi/v1/extra-single-image", json=body)
        assert answer.status_code == 422
        assert "codeformer_visibility" in answer.text and "Codeformer" in answer.text
        services.faces = FaceLibrary(FakeEngine(FACES), catalog(tmp_path, *ALL))
        rows = client.get("/sdapi/v1/face-restorers").json()
        assert rows == [{"name": "CodeFormer", "cmd_dir": None}, {"name": "GFPGAN", "cmd_dir": None}]
        answer = client.post("/sdapi/v1/extra-single-image", json=body)
        assert answer.status_code == 200, answer.text
        assert "CodeFormer visibility: 0.5" in json.loads(answer.text)["html_info"]


# -- networks ----------------------------------------------------------------------------------------------------------

PLAN = DevicePlan(torch.device("cpu"))
DEVICE = Device(PLAN)


def make_yunet(path: Path, offsets: np.ndarray) -> None:
    """YuNet's inputs and outputs, in ONNX. It takes every white block of 8x8 pixels for a face, whose landmarks lie
    `offsets` [5, 2] (in units of 8 pixels) from the block's corner."""

    def tensor(name: str, values: np.ndarray) -> bytes:
        kind = 7 if values.dtype == np.int64 else 1
        dims = b"".join(field(1, side) for side in values.shape)
        return field(5, dims + field(2, kind) + field(8, name.encode()) + field(9, values.tobytes()))

    def numbers(name: str, *values: int) -> bytes:
        return field(5, field(1, name.encode()) + b"".join(field(8, value) for value in values) + field(20, 7))

    def node(kind: str, inputs: list[str], output: str, *attributes: bytes) -> bytes:
        told = b"".join(field(1, name.encode()) for name in inputs) + field(2, output.encode())
        return field(1, told + field(4, kind.encode()) + b"".join(attributes))

    def value(number: int, name: str, *sides: int | str) -> bytes:
        dims = b"".join(field(1, field(1, s) if isinstance(s, int) else field(2, s.encode())) for s in sides)
        return field(number, field(1, name.encode()) + field(2, field(1, field(1, 1) + field(2, dims))))

    nodes, constants, outputs = b"", b"", b""
    for part, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
        constants += tensor(f"shape_{part}", np.array([1, -1, width], dtype=np.int64))
        for stride in (8, 16, 32):
            name = f"{part}_{stride}"
            weight = np.zeros((width, 3, stride, stride), dtype=np.float32)
            bias = np.zeros(width, dtype=np.float32)
            if part in ("cls", "obj") and stride == 8:
                weight[:] = 1 / (3 * 64 * 255)
            if part == "kps":
                bias[:] = offsets.flatten()
            constants += tensor(f"w_{name}", weight) + tensor(f"b_{name}", bias)
            window = numbers("kernel_shape", stride, stride), numbers("strides", stride, stride)
            nodes += node("Conv", ["input", f"w_{name}", f"b_{name}"], f"c_{name}", *window)
            nodes += node("Transpose", [f"c_{name}"], f"t_{name}", numbers("perm", 0, 2, 3, 1))
            nodes += node("Reshape", [f"t_{name}", f"shape_{part}"], name)
            outputs += value(12, name, 1, f"n_{stride}", width)
    graph = nodes + field(2, b"yunet") + constants + value(11, "input", 1, 3, "h", "w") + outputs
    path.write_bytes(field(1, 8) + field(7, graph) + field(8, field(2, 13)))


@pytest.mark.parametrize("scale", [1, 3])
def test_yunet_finds_faces_in_pictures_of_any_size(tmp_path, scale):
    offsets = np.array([(-1, -1), (2, -1), (0.5, 0.5), (-0.5, 2), (1.5, 2)], dtype=np.float32)
    make_yunet(tmp_path / "face_detection_yunet.onnx", offsets)
    detector = load_face_detector(tmp_path / "face_detection_yunet.onnx", PLAN, DEVICE)
    image = Image.new("RGB", (647, 640))
    image.paste("white", (80, 160, 88, 168))
    image.paste((250, 250, 250), (400, 320, 408, 328))
    found = detector.landmarks(image.resize((647 * scale, 640 * scale), Image.Resampling.NEAREST))
    assert len(found) == 2
    for landmarks, corner in zip(found, [(80, 160), (400, 320)], strict=True):
        assert np.abs(landmarks - (np.array(corner) + 8 * offsets) * scale).max() <= 0.02 * scale
    assert detector.landmarks(Image.new("RGB", (3, 700))) == []


@pytest.mark.parametrize("name", ["a.onnx", "a.pth", "a.safetensors"])
def test_broken_detectors_and_restorers(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"no network")
    with pytest.raises(UnusableModel, match=name):
        load_face_detector(path, PLAN, DEVICE)
    if name != "a.onnx":
        with pytest.raises(UnusableModel, match=name):
            load_face_restorer(path, PLAN, DEVICE)


def test_networks_of_other_kinds_are_refused(tmp_path):
    torch.save({"a.weight": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(UnusableModel, match="neither"):
        load_face_restorer(tmp_path / "a.pth", PLAN, DEVICE)
    with pytest.raises(UnusableModel, match="RetinaFace"):
        load_face_detector(tmp_path / "a.pth", PLAN, DEVICE)


def test_retinaface_from_a_file_as_facexlib_has_it(tmp_path):
    network = RetinaFace().eval()
    weights = network.state_dict()
    for name in ("body.layer2.0.downsample.0.weight", "fpn.output1.0.weight", "ssh3.conv7x7_3.1.running_var"):
        assert name in weights
    assert weights["ClassHead.2.conv1x1.weight"].shape == (4, 256, 1, 1)
    assert weights["LandmarkHead.0.conv1x1.weight"].shape == (20, 256, 1, 1)
    for name, tensor in weights.items():
        if "Head" in name:
            tensor.zero_()
    weights["ClassHead.1.conv1x1.bias"][1] = 20.0  # every first anchor (64 pixels) of the middle level is a face
    torch.save(
        {f"module.{name}": tensor for name, tensor in weights.items()}, tmp_path / "detection_Resnet50_Final.pth"
    )
    found = load_face_detector(tmp_path / "detection_Resnet50_Final.pth", PLAN, DEVICE).landmarks(picture(96, 64))
    centres = sorted({tuple(map(float, landmarks[0])) for landmarks in found})
    assert (8.0, 8.0) in centres and len(centres) == len(found) > 1
    assert all((x - 8) % 16 == (y - 8) % 16 == 0 for x, y in centres)


def test_boxes_that_overlap_are_one_face():
    boxes = np.array([(0, 0, 10, 10), (1, 1, 11, 11), (20, 0, 30, 10)], dtype=np.float32)
    assert without_overlaps(boxes, 0.4) == [0, 2]
    assert without_overlaps(np.zeros((0, 4), dtype=np.float32), 0.4) == []


@pytest.mark.slow
def test_gfpgan_with_random_weights(monkeypatch):
    spandrel()
    from spandrel.architectures.GFPGAN import GFPGAN  # type: ignore[import-not-found]

    torch.manual_seed(0)
    weights = GFPGAN(
        out_size=512, num_style_feat=512, channel_multiplier=2, decoder_load_path=None, fix_decoder=False, num_mlp=8,
        input_is_latent=True, different_w=True, narrow=1, sft_half=True,
    ).state_dict()  # fmt: skip
    check_network(monkeypatch, {"params_ema": weights}, weighted=False)


@pytest.mark.slow
def test_codeformer_with_random_weights(monkeypatch):
    pytest.importorskip("einops")
    spandrel()
    package = pytest.importorskip("spandrel_extra_arches.architectures.CodeFormer")
    torch.manual_seed(0)
    network = package.CodeFormer(dim_embd=64, n_layers=1)
    for name, parameter in network.named_parameters():
        if "fuse_convs_dict" in name and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    check_network(monkeypatch, {"params_ema": network.state_dict()}, weighted=True)


def check_network(monkeypatch, content, *, weighted: bool) -> None:
    monkeypatch.setattr("sdwebui_api.engine.face_restorer.read_pickle", lambda path: content)
    network = load_face_restorer(Path("a.pth"), PLAN, DEVICE)
    face = np.asarray(picture(SIDE, SIDE))
    result = network.restore(face, 0.0)
    assert result.shape == face.shape and result.dtype == np.uint8 and result.std() > 0
    if weighted:
        assert (network.restore(face, 1.0) != result).any()
