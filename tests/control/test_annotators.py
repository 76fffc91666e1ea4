"""Networks of preprocessors in their authors' files: every name and shape fits, and maps are what they should be."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from sdwebui_api.control.preprocessor import PreprocessorContext, PreprocessorResult
from sdwebui_api.control.preprocessors import lama, leres, lines, normals, segmentation
from sdwebui_api.control.preprocessors.leres import depth_shades
from sdwebui_api.control.preprocessors.normals import slopes
from sdwebui_api.control.preprocessors.palette import ANIME_FACE
from sdwebui_api.control.preprocessors.table import find_preprocessor
from sdwebui_api.engine.annotators import dsine, mobile_sam
from sdwebui_api.engine.annotators.anime_face import build_anime_face
from sdwebui_api.engine.annotators.depth_merging import build_depth_merging
from sdwebui_api.engine.annotators.dsine import Camera, build_dsine
from sdwebui_api.engine.annotators.lama import build_lama
from sdwebui_api.engine.annotators.leres import build_leres
from sdwebui_api.engine.annotators.manga_lines import build_manga_lines
from sdwebui_api.engine.annotators.mlsd import build_line_segments, segments
from sdwebui_api.engine.annotators.mobile_sam import build_mobile_sam
from sdwebui_api.engine.annotators.network import filled
from sdwebui_api.engine.annotators.normal_bae import build_normal_bae
from sdwebui_api.engine.annotators.teed import build_teed
from sdwebui_api.errors import NotFound, UnusableModel
from tests.control.annotator_files import Shapes, drawn, layout, shrunk
from tests.control.test_weights import LoadsAtOnce

BUILDS: dict[str, Callable[[Any], torch.nn.Module]] = {
    "anime_face": build_anime_face,
    "depth_merging": build_depth_merging,
    "dsine": build_dsine,
    "lama": build_lama,
    "leres": build_leres,
    "manga_lines": build_manga_lines,
    "mlsd": build_line_segments,
    "mobile_sam": build_mobile_sam,
    "normal_bae": build_normal_bae,
    "teed": build_teed,
}
GENERATOR = "generator."
KEEP = {"dsine": r"(prob|xy|angle|up_prob)_head\.4\.", "anime_face": r"de_block0", "mlsd": r"block23\.conv3"}
"""Tensors whose first dimension is a number of answers rather than a width."""


def published(name: str) -> Shapes:
    """Without what LaMa's file puts before every name."""
    return {tensor.removeprefix(GENERATOR): shape for tensor, shape in layout(name).items()}


def small(name: str) -> dict[str, Tensor]:
    if name == "teed":  # tiny as it is
        return drawn(published(name))
    shapes = shrunk(published(name), KEEP.get(name, r"$^"), whole=r"attention_biases")
    if name == "lama":  # fewer blocks; they take long
        shapes = {tensor: shape for tensor, shape in shapes.items() if not 6 <= int(tensor.split(".")[1]) <= 21}
    found = drawn(shapes)
    if name == "mobile_sam":  # so that it is sure of some masks, and they are stable
        found["mask_decoder.iou_prediction_head.layers.2.bias"] += 1.0
        for tensor in found:
            if re.search(r"output_hypernetworks_mlps\.\d\.layers\.2", tensor):
                found[tensor] *= 1000.0
    return found


@pytest.mark.parametrize("name", BUILDS)
def test_every_tensor_of_the_published_file_has_its_place(name: str) -> None:
    shapes = published(name)
    with torch.device("meta"):
        module = BUILDS[name]({tensor: torch.empty(shape) for tensor, shape in shapes.items()})
    found = {tensor: tuple(value.shape) for tensor, value in module.state_dict().items()}
    assert found == shapes


@pytest.mark.parametrize("name", BUILDS)
def test_a_file_with_something_missing_is_refused(name: str) -> None:
    tensors = small(name)
    del tensors[sorted(tensor for tensor in tensors if tensor.endswith("weight"))[3]]
    with pytest.raises(UnusableModel, match="no network"):
        filled(BUILDS[name], tensors, "no network")


# -- through the preprocessors ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files where they belong, wrapped as they are in the wild."""
    root = tmp_path_factory.mktemp("annotators")

    def put(place: str, content: Any) -> None:
        (root / place).parent.mkdir(exist_ok=True)
        torch.save(content, root / place)

    put("mlsd/mlsd_large_512_fp32.pth", small("mlsd"))
    put("manga_line/erika.pth", {f"module.{name}": value for name, value in small("manga_lines").items()})
    put("TEED/7_model.pth", small("teed"))
    put("TEED/MTEED.pth", small("teed"))
    put("normal_bae/scannet.pt", {"model": {f"module.{name}": v for name, v in small("normal_bae").items()}, "iter": 3})
    put("mobile_sam/mobile_sam.pt", small("mobile_sam"))
    put("leres/latest_net_G.pth", small("depth_merging"))
    put("normal_dsine/dsine.pt", {"model": small("dsine")})
    put("anime_face_segment/Unet.pth", small("anime_face"))
    put(
        "leres/res101.pth",
        {"depth_model": {f"module.{name}": v for name, v in small("leres").items()}, "scheduler": {}},
    )
    generator = {f"{GENERATOR}{name}": value for name, value in small("lama").items()}
    put("lama/ControlNetLama.pth", {"state_dict": generator | {"loss_resnet_pl.weight": torch.zeros(1)}, "epoch": 2})
    return root


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (70, 96, 3), dtype=np.uint8)


def run(name: str, folder: Path, image: np.ndarray, mask: np.ndarray | None = None, **sliders: float) -> np.ndarray:
    one = find_preprocessor(name)
    result: PreprocessorResult = one.run(
        image,
        resolution=64,
        slider_1=one.choose_slider(0, sliders.get("a")),
        slider_2=one.choose_slider(1, sliders.get("b")),
        mask=mask,
        context=PreprocessorContext((folder,), field="unit.module", models=LoadsAtOnce()),
    )
    return result.map


WITH_FILES = [
    one.name
    for one in (*lines.PREPROCESSORS, *normals.PREPROCESSORS, *leres.PREPROCESSORS, *segmentation.PREPROCESSORS)
    if one.name in ("mlsd", "lineart_anime_denoise", "softedge_teed", "softedge_anyline", "normal_bae", "normal_dsine")
    or one.name in ("depth_leres", "depth_leres++", "anime_face_segment")
]


@pytest.mark.parametrize("name", WITH_FILES)
def test_maps(name: str, folder: Path, image: np.ndarray) -> None:
    found = run(name, folder, image)
    assert found.shape == (64, 88, 3) and found.dtype == np.uint8
    assert np.array_equal(found, run(name, folder, image))
    assert not np.array_equal(found, run(name, folder, image[::-1]))


@pytest.mark.parametrize("name", [*WITH_FILES, "mobile_sam", "inpaint_only+lama"])
def test_missing_files_are_named(name: str, tmp_path: Path, image: np.ndarray) -> None:
    with pytest.raises(NotFound) as refused:
        run(name, tmp_path, image)
    assert refused.value.field == "unit.module" and str(tmp_path) in refused.value.message


@pytest.mark.parametrize("name", [*WITH_FILES, "mobile_sam", "inpaint_only+lama"])
def test_other_files_are_refused(name: str, tmp_path: Path, image: np.ndarray) -> None:
    for place in ("mlsd/mlsd_large_512_fp32.pth", "manga_line/erika.pth", "TEED/7_model.pth", "TEED/MTEED.pth",
                  "normal_bae/scannet.pt", "normal_dsine/dsine.pt", "anime_face_segment/UNet.pth", "leres/res101.pth",
                  "lama/ControlNetLama.pth", "mobile_sam/mobile_sam.pt", "leres/latest_net_G.pth"):  # fmt: skip
        (tmp_path / place).parent.mkdir(exist_ok=True)
        torch.save({"some.weight": torch.zeros(3)}, tmp_path / place)
    with pytest.raises(UnusableModel):
        run(name, tmp_path, image)


@pytest.mark.parametrize("size", [(1, 1), (5, 60)])
@pytest.mark.parametrize("name", [*WITH_FILES, "mobile_sam", "inpaint_only+lama"])
def test_any_picture_has_a_map(name: str, size: tuple[int, int], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mobile_sam, "POINTS", 1)
    for picture in (np.zeros((*size, 3), dtype=np.uint8), np.full((*size, 4), 255, dtype=np.uint8)):
        found = run(name, folder, picture)
        assert found.dtype == np.uint8 and found.shape[2] in (3, 4) and min(found.shape[:2]) in (64, *size)


# -- what the maps show ------------------------------------------------------------------------------------------------


def test_segments_of_a_known_answer() -> None:
    answer = np.zeros((5, 20, 30), dtype=np.float32)
    answer[:, 10, 15] = (0.9, -5, -2, 5, 2)
    answer[:, 10, 16] = (0.8, -5, -2, 5, 2)  # beside a surer one
    answer[:, 3, 3] = (0.7, 0.05, 0, 0, 0)  # too short
    answer[:, 17, 20] = (0.05, -5, 0, 5, 0)  # not sure enough
    assert segments(answer, score=0.1, length=0.1).tolist() == [[20, 16, 40, 24]]
    assert len(segments(answer, score=0.01, length=0.1)) == 2
    assert not len(segments(np.zeros((5, 4, 4), dtype=np.float32), score=0.1, length=0.1))


def test_lines_are_white_on_black(folder: Path, image: np.ndarray) -> None:
    many, few = run("mlsd", folder, image, a=0.01), run("mlsd", folder, image, a=0.99)
    assert set(np.unique(many)) == {0, 255} and many.sum() > few.sum()


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_safe_steps_are_tones(steps: int, folder: Path, image: np.ndarray) -> None:
    found = set(np.unique(run("softedge_teed", folder, image, a=steps)))
    assert len(found) > 1 and found <= {int(np.float32(n) / np.float32(steps) * 255) for n in range(steps + 1)}
    assert len(np.unique(run("softedge_teed", folder, image, a=0))) > 10


def test_anyline_keeps_faint_lines(folder: Path) -> None:
    page = np.full((64, 64, 3), 255, dtype=np.uint8)
    page[20:40] = 254
    assert (run("softedge_anyline", folder, page) == 1).any()
    assert not (run("softedge_teed", folder, page) == 1).any()


def test_slopes_of_a_plane() -> None:
    """Nearer to the right: the surface faces left, and is the same everywhere."""
    depth = np.tile(np.arange(20, dtype=np.float32), (20, 1))
    found = slopes(depth, 0.0)
    assert np.allclose(np.linalg.norm(found, axis=0), 1.0, atol=1e-5)
    assert np.allclose(found[:, 5, 5], np.array([8, 0, 2 * np.pi]) / np.hypot(8, 2 * np.pi), atol=1e-4)
    assert np.allclose(slopes(depth, 0.5)[:, 5, 3], (0, 0, 1))  # too far away


@pytest.mark.parametrize("name", ["normal_bae", "normal_dsine"])
def test_normals_have_length_one(name: str, folder: Path, image: np.ndarray) -> None:
    vectors = run(name, folder, image).astype(float) / 127.5 - 1
    assert np.abs(np.linalg.norm(vectors, axis=2) - 1).max() < 0.03


def test_dsine_looks_through_the_camera_and_refines(folder: Path, image: np.ndarray) -> None:
    plain = run("normal_dsine", folder, image)
    assert not np.array_equal(plain, run("normal_dsine", folder, image, a=20))
    assert not np.array_equal(plain, run("normal_dsine", folder, image, b=1))
    for degrees in (0, 180, 360):
        run("normal_dsine", folder, image, a=degrees)


def test_rays_of_a_camera() -> None:
    camera = Camera(64, 32, 90.0)
    rays = camera.rays(torch.zeros(1, 3, 4, 8))[0]
    assert rays.shape == (2, 4, 8) and torch.allclose(rays[0, 0, -1], torch.tensor(28 / 32))
    assert torch.allclose(rays, -rays.flip(1, 2))
    assert camera.step(rays[None]) == pytest.approx((8 / 32, 8 / 32))


def test_turning_is_a_rotation() -> None:
    torch.manual_seed(1)
    vectors, axes = torch.randn(1, 3, 5, 1, 1), torch.nn.functional.normalize(torch.randn(1, 3, 5, 1, 1), dim=1)
    axes[:, :, 0] = 0
    angles = torch.rand(1, 1, 5, 1, 1) * 3
    found = dsine._rotated(vectors, axes, angles)[0, :, :, 0, 0].T
    turns = Rotation.from_rotvec((axes * angles)[0, :, :, 0, 0].T.numpy())
    assert np.allclose(found, turns.apply(vectors[0, :, :, 0, 0].T.numpy()), atol=1e-5)


def test_axes_lie_in_the_surface() -> None:
    torch.manual_seed(2)
    normals_ = torch.nn.functional.normalize(torch.randn(1, 3, 25, 3, 3), dim=1)
    directions = torch.nn.functional.normalize(torch.randn(1, 2, 25, 3, 3), dim=1)
    axes = dsine._axes(directions, normals_, torch.rand(1, 2, 25, 3, 3) - 0.5, (0.1, 0.1))
    assert (axes * normals_).sum(1).abs().max() < 1e-3
    assert torch.allclose(axes.norm(dim=1), torch.ones(1))


def test_near_is_white_and_can_be_cut() -> None:
    depth = np.linspace(3, 7, 101, dtype=np.float32)[None]
    plain = depth_shades(depth, 0, 0)
    assert plain[0, 0] == 255 and plain[0, -1] == 0 and (np.diff(plain[0].astype(int)) <= 0).all()
    near = depth_shades(depth, 40, 0)
    assert (near[0, :40] == 255).all() and np.array_equal(near[0, 41:], plain[0, 41:])
    far = depth_shades(depth, 0, 40)
    assert (far[0, 61:] == 0).all() and np.array_equal(far[0, :60], plain[0, :60])
    assert not depth_shades(np.ones((2, 2), dtype=np.float32), 0, 0).std()


def test_anime_faces_have_seven_colours(folder: Path, image: np.ndarray) -> None:
    found = {tuple(colour) for colour in run("anime_face_segment", folder, image).reshape(-1, 3)}
    assert len(found) > 1 and found <= {tuple(colour) for colour in ANIME_FACE}


def test_everything_is_cut_out(folder: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mobile_sam, "POINTS", 3)  # a real grid takes minutes here
    found = run("mobile_sam", folder, image)
    assert found.shape == (64, 88, 3) and len({tuple(colour) for colour in found.reshape(-1, 3)}) > 1
    assert np.array_equal(found, run("mobile_sam", folder, image))


def test_masks_that_cover_the_same_are_one() -> None:
    masks = torch.zeros(4, 8, 8, dtype=torch.bool)
    masks[0, :, :5], masks[1, :, :4], masks[2, 2:4, 2:4] = True, True, True  # the last one is empty
    scores = torch.tensor([0.9, 0.95, 0.89, 0.99])
    found = mobile_sam._without_doubles(mobile_sam._Found(masks, scores))
    assert [int(mask.sum()) for mask in found.masks] == [32, 4]
    labels = mobile_sam._labels(found)
    assert labels[0, 0] == 1 and labels[2, 2] == 2 and labels[0, 4] == 0


def test_nothing_is_cut_out_of_what_is_unsure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mobile_sam, "POINTS", 2)
    tensors = small("mobile_sam")
    tensors["mask_decoder.iou_prediction_head.layers.2.bias"] -= 9.0
    module = filled(build_mobile_sam, tensors, "")
    with torch.no_grad():
        assert not module(torch.zeros(1, 3, 40, 64)).any()


def test_lama_fills_the_hole_and_nothing_else(folder: Path, image: np.ndarray) -> None:
    mask = np.zeros(image.shape[:2], dtype=np.uint8)
    mask[20:50, 30:70] = 255
    found = run("inpaint_only+lama", folder, image, mask)
    assert found.shape == (70, 96, 4) and np.array_equal(found[:, :, 3], mask)
    assert np.array_equal(found[mask == 0][:, :3], image[mask == 0])
    assert not np.array_equal(found[mask > 0][:, :3], image[mask > 0])
    hidden = image.copy()
    hidden[30:40, 40:60] = 0  # far inside: LaMa sees nothing of it
    assert np.abs(run("inpaint_only+lama", folder, hidden, mask).astype(int) - found).max() <= 1
    assert np.array_equal(run("inpaint_only+lama", folder, np.dstack([image, mask])), found)


def test_lama_without_a_hole_changes_nothing(folder: Path, image: np.ndarray) -> None:
    assert np.array_equal(run("inpaint_only+lama", folder, image)[:, :, :3], image)


def test_lama_is_listed_as_inpainting() -> None:
    (one,) = lama.PREPROCESSORS
    assert one.accepts_mask and one.requires_mask and one.resolution is None and one.tags == ("Inpaint",)
