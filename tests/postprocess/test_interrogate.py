"""Captions and tags from tiny models with random weights, made here in the files' real formats."""

from __future__ import annotations

import base64
import io
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from sdwebui_api.api.factory import create_app
from sdwebui_api.config.options import Options
from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.errors import Cancelled, NotFound, UnusableModel
from sdwebui_api.jobs.job import Job
from sdwebui_api.postprocess.interrogate import Interrogator, written_tags
from tests.support.fakes import fake_services

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "on", "the", "moon"]


class LoadsAtOnce:
    """The engine's `auxiliary` without a cache."""

    def auxiliary(self, path, load, kind, on_progress=None):
        from contextlib import nullcontext

        plan = DevicePlan(torch.device("cpu"))
        part = load(path, plan, Device(plan))
        assert isinstance(part, kind)
        return nullcontext(part)


def make_blip(folder) -> None:
    from transformers import BlipConfig, BlipForConditionalGeneration

    torch.manual_seed(1)
    text = {
        "vocab_size": len(WORDS), "hidden_size": 16, "encoder_hidden_size": 16, "intermediate_size": 16,
        "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64,
        "bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 16,
    }  # fmt: skip
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision, projection_dim=16))
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))


def make_clip(folder) -> None:
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(1)
    text = {
        "vocab_size": 49408, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "bos_token_id": 49406, "eos_token_id": 49407,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 16,
    }  # fmt: skip
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    from pathlib import Path

    import sdwebui_api.engine

    data = Path(sdwebui_api.engine.__file__).parent / "data"
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).write_bytes((data / name).read_bytes())


def field(number: int, value: bytes | int) -> bytes:
    """One field of a protobuf message: a number, or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def make_tagger(folder, tags: list[tuple[str, int]]) -> None:
    """An ONNX network [1, 8, 8, 3] → [1, 3]: the mean of each channel over 255, that is blue, green, red."""

    def tensor_type(*shape: int) -> bytes:
        dims = b"".join(field(1, field(1, side)) for side in shape)
        return field(1, field(1, 1) + field(2, dims))

    def value(name: str, *shape: int) -> bytes:
        return field(1, name.encode()) + field(2, tensor_type(*shape))

    def constant(name: str, kind: int, data: bytes, *shape: int) -> bytes:
        return b"".join(field(1, side) for side in shape) + field(2, kind) + field(8, name.encode()) + field(9, data)

    import struct

    axes = constant("axes", 7, struct.pack("<2q", 1, 2), 2)
    most = constant("most", 1, struct.pack("<f", 255.0), 1)
    keep = field(5, field(1, b"keepdims") + field(3, 0) + field(20, 2))
    nodes = [
        field(1, b"in") + field(1, b"axes") + field(2, b"mean") + field(4, b"ReduceMean") + keep,
        field(1, b"mean") + field(1, b"most") + field(2, b"out") + field(4, b"Div"),
    ]
    graph = b"".join(field(1, node) for node in nodes) + field(2, b"tagger")
    graph += field(5, axes) + field(5, most) + field(11, value("in", 1, 8, 8, 3)) + field(12, value("out", 1, 3))
    model = field(1, 8) + field(7, graph) + field(8, field(2, 18))
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model)
    rows = [f"{index},{name},{category},1" for index, (name, category) in enumerate(tags)]
    (folder / "selected_tags.csv").write_text("\n".join(["tag_id,name,category,count", *rows]) + "\n")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "interrogate"


def ask(folder, model: str, job: Job | None = None, color: str = "red", **options) -> str:
    image = Image.new("RGB", (40, 24), color)
    return Interrogator(LoadsAtOnce(), folder).describe(image, model, Options(options), job or Job("1", "interrogate"))


def test_a_caption(folder):
    make_blip(folder / "BLIP")
    caption = ask(folder, "clip", interrogate_clip_min_length=4, interrogate_clip_max_length=8)
    assert caption and not {"[CLS]", "[SEP]", "[PAD]"} & set(caption.split())
    assert caption == ask(folder, "clip", interrogate_clip_min_length=4, interrogate_clip_max_length=8)


def test_words_of_the_lists_follow_the_caption(folder):
    make_blip(folder / "BLIP")
    make_clip(folder / "CLIP")
    (folder / "flavors.top2.txt").write_text("oil\n\nink\npixels\n")
    (folder / "mediums.txt").write_text("a photo\na painting\n")
    (folder / "artists.txt").write_text("nobody\n")
    settings = {"interrogate_clip_max_length": 8, "interrogate_clip_skip_categories": ("artists",)}
    found = ask(folder, "clip", **settings).split(", ")
    assert len(found) == 4 and set(found[1:3]) < {"oil", "ink", "pixels"} and found[3] in ("a photo", "a painting")
    ranked = ask(folder, "clip", **settings, interrogate_return_ranks=True).split(", ")
    assert ranked[1].startswith("(") and 0 < float(ranked[1].rstrip(")").rpartition(":")[2]) <= 1
    limited = ask(folder, "clip", **settings, interrogate_clip_dict_limit=1).split(", ")
    assert limited[1:] == ["oil", "a photo"]


def test_cancelled_between_two_words(folder):
    make_blip(folder / "BLIP")
    job = Job("1", "interrogate")
    job._cancel()
    with pytest.raises(Cancelled):
        ask(folder, "clip", job)


def test_tags(folder):
    pytest.importorskip("onnxruntime")
    make_tagger(folder / "deepdanbooru", [("blue_sky", 0), ("general", 9), ("red_(colour)", 4)])
    assert ask(folder, "deepdanbooru", color="red") == r"red \(colour\)"  # on white bars: still most of it red
    assert ask(folder, "deepdanbooru", color="white") == r"blue sky, red \(colour\)"
    assert ask(folder, "deepdanbooru", color="blue") == "blue sky"


def test_tables_that_do_not_fit(folder):
    pytest.importorskip("onnxruntime")
    make_tagger(folder / "deepdanbooru", [("one", 0)])
    with pytest.raises(UnusableModel, match="1 tags"):
        ask(folder, "deepdanbooru")


def test_options_of_tags():
    scores = {"b_c": 0.9, "a": 0.6, "low": 0.1, "hidden_one": 0.9}

    def written(**options) -> str:
        return written_tags(scores, Options({"deepbooru_filter_tags": "Hidden one, x", **options}))

    assert written() == "a, b c"
    assert written(deepbooru_sort_alpha=False) == "b c, a"
    assert written(deepbooru_use_spaces=False, interrogate_return_ranks=True) == "(a:0.600), (b_c:0.900)"


@pytest.mark.parametrize(
    ("model", "words"), [("clip", "BLIP"), ("deepdanbooru", "selected_tags.csv"), ("other", "Model not found")]
)
def test_absent_models_name_the_folder(folder, model, words):
    with pytest.raises(NotFound, match=words) as caught:
        ask(folder, model)
    assert caught.value.field == "model" and (model == "other" or str(folder) in caught.value.message)


def test_broken_files(folder):
    (folder / "BLIP").mkdir(parents=True)
    (folder / "BLIP" / "config.json").write_text("{}")
    with pytest.raises(UnusableModel):
        ask(folder, "clip")


def test_the_route(tmp_path, monkeypatch):
    services = fake_services(tmp_path)
    client = TestClient(create_app(services), raise_server_exceptions=False)
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    image = base64.b64encode(file.getvalue()).decode()
    answer = client.post("/sdapi/v1/interrogate", json={"image": image})
    assert answer.status_code == 404 and "BLIP" in answer.json()["detail"]
    services.interrogator = SimpleNamespace(describe=lambda image, model, options, job: f"{model} {image.size}")
    answer = client.post("/sdapi/v1/interrogate", json={"image": image})
    assert answer.json() == {"caption": "clip (8, 8)"} and answer.headers["X-Job-Id"]
    services.runner.drain(5)
