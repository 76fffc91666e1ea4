"""Units that read faces, through the whole pipeline: FaceID and InstantID with small networks of their own forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from sdwebui_api.errors import BadRequest, NotFound
from tests.control import pose_files
from tests.engine.networks import test_face_adapter as forms
from tests.engine.networks.control_factory import random_adapter, random_encoder
from tests.generation.conftest import Studio
from tests.generation.test_controlnet import CANNY, arrays, encoded, run, unit

LANDMARKS = np.array([(-15, -15), (15, -15), (0, 0), (-12, 15), (12, 15)], dtype=np.float32)
LAYERS = {1: 128, 3: 192, 5: 192, 7: 192, 9: 128, 11: 128, 13: 192}
"""Of the golden UNet."""


@pytest.fixture
def files(studio: Studio) -> Path:
    """Adapters beside the golden control models, and InsightFace's two packs. Returns the packs' folder."""
    folder = studio.services.catalog.control_models.folders[0].parent
    packs = folder / "annotators" / "insightface" / "models"
    if not packs.exists():
        write_adapters(folder)
        pose_files.write_face_detector(packs / "buffalo_l" / "det_10g.onnx", LANDMARKS)
        pose_files.write_face_detector(packs / "antelopev2" / "scrfd_10g_bnkps.onnx", LANDMARKS)
        pose_files.write_recogniser(packs / "buffalo_l" / "w600k_r50.onnx")
        pose_files.write_recogniser(packs / "antelopev2" / "glintr100.onnx")
    return packs


def write_adapters(folder: Path) -> None:
    attention = {name: tensor for name, tensor in random_adapter(LAYERS).items() if name.startswith("ip_adapter.")}
    for name, form in (("faceid", forms.face_id), ("faceid-plusv2", forms.plus), ("instant_id", forms.instant_id)):
        forms.saved(folder / "ControlNet", {**form(), **attention}, f"ip-adapter-{name}_tiny.bin")
    (folder / "annotators" / "clip_vision").mkdir(parents=True, exist_ok=True)
    save_file(random_encoder(), folder / "annotators" / "clip_vision" / "clip_h.safetensors")


def somebody(seed: int, place: tuple[int, int] = (320, 320)) -> str:
    """A face around a white square of 8x8 pixels, drawn by `seed`; all else is black."""
    canvas = Image.new("RGB", (640, 640))
    coarse = np.random.default_rng(seed).integers(0, 90, (6, 6, 3), dtype=np.uint8)
    canvas.paste(Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC), (place[0] - 48, place[1] - 48))
    canvas.paste("white", (*place, place[0] + 8, place[1] + 8))
    return encoded(canvas)


def face_unit(module: str, model: str, image: str, **fields: Any) -> dict[str, Any]:
    return unit(module=module, model=f"ip-adapter-{model}_tiny", image=image, **fields)


def pictures(studio: Studio, *units: dict[str, Any]) -> np.ndarray:
    return arrays(run(studio, *units))[0]


@pytest.mark.parametrize(
    ("module", "model"),
    [
        ("ip-adapter_face_id", "faceid"),
        ("ip-adapter_face_id_plus", "faceid-plusv2"),
        ("ip-adapter-auto", "faceid"),
        ("instant_id_face_embedding", "instant_id"),
    ],
)
def test_who_is_shown_changes_the_picture(studio: Studio, files: Path, module: str, model: str) -> None:
    found = pictures(studio, face_unit(module, model, somebody(1)))
    assert (found != pictures(studio)).any()
    assert (found != pictures(studio, face_unit(module, model, somebody(2)))).any()
    assert (found == pictures(studio, face_unit(module, model, somebody(1)))).all()


def test_where_the_face_is_does_not_matter_for_faceid(studio: Studio, files: Path) -> None:
    one, other = (
        pictures(studio, face_unit("ip-adapter_face_id", "faceid", somebody(1, place)))
        for place in ((320, 320), (160, 400))
    )
    assert np.abs(one - other).max() <= 1


def test_several_pictures_of_somebody_are_averaged(studio: Studio, files: Path) -> None:
    one = face_unit("ip-adapter_face_id", "faceid", somebody(1))
    both = {**one, "image": [{"image": somebody(1)}, {"image": somebody(2)}]}
    twice = {**one, "image": [{"image": somebody(1)}, {"image": somebody(1)}]}
    found = pictures(studio, one)
    assert np.abs(found - pictures(studio, twice)).max() <= 1
    assert (found != pictures(studio, both)).any()


@pytest.mark.parametrize("module", ["ip-adapter_face_id", "ip-adapter-auto"])
def test_a_picture_without_a_face_is_refused(studio: Studio, files: Path, module: str) -> None:
    blank = encoded(Image.new("RGB", (640, 640)))
    with pytest.raises(BadRequest, match="no face") as refused:
        run(studio, face_unit(module, "faceid", blank))
    assert refused.value.field == "alwayson_scripts.controlnet.args[0].module" and refused.value.status == 422


def test_missing_recognisers_are_named(studio: Studio, files: Path) -> None:
    path = files / "buffalo_l" / "w600k_r50.onnx"
    path.rename(path.with_suffix(".aside"))
    try:
        with pytest.raises(NotFound, match=r"w600k_r50\.onnx") as refused:
            run(studio, face_unit("ip-adapter_face_id", "faceid", somebody(1)))
    finally:
        path.with_suffix(".aside").rename(path)
    assert str(path.parent) in refused.value.message


def test_face_preprocessors_are_for_adapters(studio: Studio, files: Path) -> None:
    with pytest.raises(BadRequest, match="IP-Adapters") as refused:
        run(studio, unit(module="instant_id_face_embedding", image=somebody(1)))
    assert refused.value.field == "alwayson_scripts.controlnet.args[0].module"


def test_instantids_controlnet_reads_the_face_instead_of_the_prompt(studio: Studio, files: Path) -> None:
    embedding = face_unit("instant_id_face_embedding", "instant_id", somebody(1), weight=0.0)
    landmarks = unit(module="instant_id_face_keypoints", model=CANNY, image=somebody(1), processor_res=640)
    alone = pictures(studio, landmarks)
    told = pictures(studio, embedding, landmarks)
    assert (alone != told).any()
    assert np.array_equal(told, pictures(studio, landmarks, embedding))
    # The adapter itself counts for nothing here, and another unit's ControlNet reads the prompt.
    assert np.array_equal(
        pictures(studio, unit(image=somebody(1))), pictures(studio, unit(image=somebody(1)), embedding)
    )
    other = face_unit("instant_id_face_embedding", "instant_id", somebody(2), weight=0.0)
    assert (told != pictures(studio, other, landmarks)).any()


def test_landmarks_come_behind_the_picture(studio: Studio, files: Path) -> None:
    landmarks = unit(module="instant_id_face_keypoints", model=CANNY, image=somebody(1), processor_res=640)
    (shown,) = arrays(run(studio, landmarks), "detected_map")
    assert shown.shape == (64, 64, 3) and shown.any()
