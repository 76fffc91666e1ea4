"""DensePose's TorchScript files: scripts of the tests' own that find known bodies, and the operators they call."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdwebui_api.control.preprocessor import PreprocessorContext
from sdwebui_api.control.preprocessors.densepose import painted
from sdwebui_api.control.preprocessors.table import find_preprocessor
from sdwebui_api.engine.annotators.vision_ops import nms, provide_vision_ops, roi_align
from sdwebui_api.errors import NotFound, UnusableModel
from tests.control.test_weights import LoadsAtOnce

NAMES = ("densepose", "densepose_parula")


class Bodies(nn.Module):
    """Finds the same three boxes in any picture, two of which are one body. Its left half is part 3, the right 24;
    the corners are background."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes = nn.Parameter(torch.tensor([[10.0, 20.0, 50.0, 60.0], [11.0, 20.0, 51.0, 60.0], [-8, -8, 8, 8]]))
        outline = torch.full((2, 8, 8), -1.0)
        outline[1, 1:-1, 1:-1] = 1.0
        self.outline = nn.Parameter(outline)
        parts = torch.zeros(25, 8, 8)
        parts[3, :, :4] = 1.0
        parts[24, :, 4:] = 1.0
        self.parts = nn.Parameter(parts)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        assert x.dtype == torch.uint8 and x.shape[0] == 3
        kept = torch.ops.torchvision.nms(self.boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)
        rois = torch.zeros(len(kept), 5)
        seen = torch.ops.torchvision.roi_align(x[None].float(), rois, 0.25, 7, 7, 2, True)
        count = len(kept) + int(seen.sum() * 0)
        outline, parts = self.outline[None].repeat(count, 1, 1, 1), self.parts[None].repeat(count, 1, 1, 1)
        return self.boxes[kept], outline, parts, parts, parts


class Writes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, "stolen")
        return x


class Other(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def write(module: nn.Module, folder: Path) -> None:
    provide_vision_ops()
    (folder / "densepose").mkdir(exist_ok=True)
    torch.jit.script(module).save(str(folder / "densepose" / "densepose_r50_fpn_dl.torchscript"))


def run(name: str, folder: Path) -> np.ndarray:
    context = PreprocessorContext((folder,), field="unit.module", models=LoadsAtOnce())
    picture = np.full((64, 96, 3), 200, dtype=np.uint8)
    return find_preprocessor(name).run(picture, resolution=64, slider_1=0, slider_2=0, mask=None, context=context).map


def level(part: int, colours: int) -> tuple[int, ...]:
    bgr = cv2.applyColorMap(np.array([[int(part * 255 / 24)]], dtype=np.uint8), colours)[0, 0]
    return tuple(int(value) for value in bgr[::-1])


def test_bodies_are_painted_within_their_boxes(tmp_path: Path) -> None:
    write(Bodies(), tmp_path)
    found = run("densepose_parula", tmp_path)
    assert found.shape == (64, 96, 3)
    assert tuple(found[40, 20]) == level(3, cv2.COLORMAP_PARULA)
    assert tuple(found[40, 40]) == level(24, cv2.COLORMAP_PARULA)
    assert not found[20, 10].any() and not found[40, 60:].any()  # a corner of the outline; outside of all boxes
    assert tuple(found[3, 3]) == level(24, cv2.COLORMAP_PARULA)  # of the box that begins outside of the picture
    assert np.array_equal(found, run("densepose_parula", tmp_path))


def test_the_other_colours_have_a_purple_ground(tmp_path: Path) -> None:
    write(Bodies(), tmp_path)
    found = run("densepose", tmp_path)
    assert tuple(found[60, 90]) == (68, 1, 84)
    assert tuple(found[40, 20]) == level(3, cv2.COLORMAP_VIRIDIS)
    assert np.array_equal(found[40, 20], painted(np.array([[3]], dtype=np.uint8), parula=False)[0, 0])


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"densepose_r50_fpn_dl\.torchscript") as refused:
        run(name, tmp_path)
    assert refused.value.field == "unit.module" and str(tmp_path / "densepose") in refused.value.message


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04broken"])
def test_broken_files(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "densepose").mkdir()
    (tmp_path / "densepose" / "densepose_r50_fpn_dl.torchscript").write_bytes(content)
    with pytest.raises(UnusableModel):
        run("densepose", tmp_path)


def test_weights_without_a_program(tmp_path: Path) -> None:
    (tmp_path / "densepose").mkdir()
    torch.save({"a": torch.zeros(1)}, tmp_path / "densepose" / "densepose_r50_fpn_dl.torchscript")
    with pytest.raises(UnusableModel, match="TorchScript"):
        run("densepose", tmp_path)


def test_another_program_is_no_densepose(tmp_path: Path) -> None:
    write(Other(), tmp_path)
    with pytest.raises(UnusableModel, match="no DensePose"):
        run("densepose", tmp_path)


def test_a_program_that_writes_files_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Writes(), tmp_path)
    with pytest.raises(UnusableModel, match="reads or writes files"):
        run("densepose", tmp_path)
    assert not (tmp_path / "stolen").exists()


# -- operators -----------------------------------------------------------------------------------------------------


def test_the_surest_boxes_stay() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [20, 0, 30, 10], [0, 0, 10, 10]])
    assert nms(boxes, torch.tensor([0.5, 0.9, 0.1, 0.2]), 0.4).tolist() == [1, 2]
    assert nms(boxes, torch.tensor([0.5, 0.9, 0.1, 0.2]), 0.99).tolist() == [1, 0, 2]
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.4).tolist() == []


def naive(image: Tensor, box: list[float], scale: float, cells: int, samples: int, aligned: bool) -> Tensor:
    """Point by point, after the definition."""
    left, top, right, bottom = (side * scale - (0.5 if aligned else 0.0) for side in box)
    width, height = right - left, bottom - top
    if not aligned:
        width, height = max(width, 1.0), max(height, 1.0)
    across, down = (samples or max(int(np.ceil(side / cells)), 1) for side in (width, height))
    found = torch.zeros(image.shape[0], cells, cells)
    for row in range(cells):
        for column in range(cells):
            for i in range(down):
                for j in range(across):
                    y = top + (row + (i + 0.5) / down) * height / cells
                    x = left + (column + (j + 0.5) / across) * width / cells
                    found[:, row, column] += read(image, y, x) / (down * across)
    return found


def read(image: Tensor, y: float, x: float) -> Tensor:
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return torch.zeros(image.shape[0])
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    above = image[:, y0, x0] * (1 - (x - x0)) + image[:, y0, x1] * (x - x0)
    below = image[:, y1, x0] * (1 - (x - x0)) + image[:, y1, x1] * (x - x0)
    return above * (1 - (y - y0)) + below * (y - y0)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("samples", [0, 2])
def test_regions_are_read_as_defined(samples: int, aligned: bool) -> None:
    torch.manual_seed(1)
    features = torch.randn(2, 3, 9, 14)
    rois = torch.tensor([[0, 4.0, 2, 40, 30], [1, -9, -9, 20, 60], [0, 7, 7, 7.5, 7.5], [1, 50, 30, 70, 50]])
    found = roi_align(features, rois, 0.25, 3, 3, samples, aligned)
    for index, (picture, *box) in enumerate(rois.tolist()):
        wanted = naive(features[int(picture)], box, 0.25, 3, samples, aligned)
        assert torch.allclose(found[index], wanted, atol=1e-5), index
    assert roi_align(features, rois[:0], 0.25, 3, 3, samples, aligned).shape == (0, 3, 3, 3)
