"""`--enable-nsfw-censor` with a tiny classifier that finds red pictures unsafe."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from sdwebui_api.api.factory import create_app
from sdwebui_api.app import build, serve
from sdwebui_api.errors import NotFound, UnusableModel
from sdwebui_api.postprocess.censor import tells_unsafe
from tests.support.fakes import golden_flags
from tests.support.server import _model_tree


def make_classifier(folder: Path, labels: tuple[str, str] = ("normal", "nsfw"), bias: float = 0.0) -> None:
    """A vision transformer whose every weight is zero but those that make its answer; `bias` favours the second."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=32, patch_size=16,
        id2label=dict(enumerate(labels)), label2id={label: index for index, label in enumerate(labels)},
    )  # fmt: skip
    model = ViTForImageClassification(config)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([0.0, bias]))
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 32, "width": 32}}))


def flags_for(folder: Path, *more: str):
    models = _model_tree(folder / "models")
    return golden_flags(folder, "--models-dir", str(models), "--enable-nsfw-censor", "--max-step-batch", "1", *more)


def generate(folder: Path, bias: float) -> Image.Image:
    flags = flags_for(folder)
    make_classifier(folder / "models" / "nsfw", bias=bias)
    services = build(flags)
    body = {"prompt": "a red apple", "steps": 1, "width": 64, "height": 64, "save_images": True}
    answer = TestClient(create_app(services)).post("/sdapi/v1/txt2img", json=body)
    assert answer.status_code == 200, answer.text
    services.runner.drain(5)
    saved = [path for path in (folder / "outputs").rglob("*.png")]
    returned = Image.open(io.BytesIO(base64.b64decode(answer.json()["images"][0])))
    assert len(saved) == 1 and Image.open(saved[0]).tobytes() == returned.tobytes()
    return returned


def test_unsafe_pictures_are_black_and_saved_black(tmp_path):
    assert generate(tmp_path, bias=5.0).getextrema() == ((0, 0),) * 3


def test_safe_pictures_stay(tmp_path):
    assert generate(tmp_path, bias=-5.0).getextrema() != ((0, 0),) * 3


def test_without_weights_the_server_does_not_start(tmp_path, capsys):
    flags = flags_for(tmp_path)
    with pytest.raises(NotFound, match="nsfw"):
        build(flags)
    assert serve(flags) == 1
    assert str(tmp_path / "models" / "nsfw") in capsys.readouterr().err


def test_nor_with_a_classifier_of_something_else(tmp_path):
    flags = flags_for(tmp_path)
    make_classifier(tmp_path / "models" / "nsfw", ("cat", "dog"))
    with pytest.raises(UnusableModel, match="labels"):
        build(flags)


def test_labels():
    assert all(map(tells_unsafe, ("nsfw", "Porn", "hentai", "sexy", "NSFW content", "nudity", "unsafe")))
    assert not any(map(tells_unsafe, ("normal", "sfw", "neutral", "not nsfw", "non-nsfw", "drawings", "safe")))
