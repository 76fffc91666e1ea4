from __future__ import annotations

import base64
import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

from sdwebui_api.engine.embedding_files import hidden_bytes, low_bits_mask, read_embedding
from sdwebui_api.engine.embeddings import EmbeddingDatabase, EmbeddingStore
from sdwebui_api.engine.engine import Engine
from sdwebui_api.engine.text_encoder import Tokenizer
from sdwebui_api.errors import UnusableModel

GOLDEN = Path(__file__).parents[1] / "golden"
VECTORS = torch.arange(24, dtype=torch.float32).reshape(3, 8) / 10


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer()


def as_json(name: str = "inside") -> bytes:
    content = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": {"TORCHTENSOR": VECTORS.tolist()}},
        "name": name,
        "step": 1000,
        "sd_checkpoint": "a22b8a45be",
        "sd_checkpoint_name": "tiny-sd",
    }
    return json.dumps(content).encode()


def test_the_golden_listing(tokenizer: Tokenizer) -> None:
    expected = json.loads((GOLDEN / "api" / "get-embeddings.json").read_text())["response"]
    store = EmbeddingStore([GOLDEN / "models" / "embeddings"])
    store.refresh()
    database = store.database(tokenizer.tokenize, 128)
    for kind in ("loaded", "skipped"):
        rows = {
            name: {
                "step": e.step,
                "sd_checkpoint": e.checkpoint,
                "sd_checkpoint_name": e.checkpoint_name,
                "shape": e.shape,
                "vectors": e.vectors,
            }
            for name, e in getattr(database, kind).items()
        }
        assert rows == expected[kind]
    assert database.loaded["tiny-ti"].shorthash == "d4bed264ab9b"


def test_names_are_found_by_their_tokens_the_longest_first(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for name in ("easy", "easynegative", "easynegative style"):
        save_file({"emb_params": VECTORS}, str(tmp_path / f"{name}.safetensors"))
    store = EmbeddingStore([tmp_path])
    store.refresh()
    database = store.database(tokenizer.tokenize, 8)
    tokens = tokenizer.tokenize("a easynegative style, easynegative, Easy")
    found, offset = [], 0
    while offset < len(tokens):
        embedding, length = database.find_at(tokens, offset)
        found += [embedding.name] if embedding else []
        offset += max(length, 1)
    assert found == ["easynegative style", "easynegative", "easy"]


def test_diffusers_and_one_dimensional_files(tmp_path: Path) -> None:
    torch.save({"<cat-toy>": VECTORS[0].half()}, tmp_path / "toy.bin")
    embedding = read_embedding(tmp_path / "toy.bin", "toy")
    assert embedding is not None
    assert (embedding.name, embedding.vectors, embedding.shape) == ("toy", 1, 8)
    assert embedding.tensor.dtype == torch.float32


def test_parameter_dictionaries_of_older_trainings(tmp_path: Path) -> None:
    parameters = torch.nn.ParameterDict({"*": torch.nn.Parameter(VECTORS)})
    torch.save({"string_to_param": parameters, "name": "x", "step": 5}, tmp_path / "old.pt")
    embedding = read_embedding(tmp_path / "old.pt", "old")
    assert embedding is not None and torch.equal(embedding.tensor, VECTORS)
    assert (embedding.name, embedding.step) == ("old", 5)


def test_sdxl_embeddings_are_as_wide_as_both_encoders(tmp_path: Path) -> None:
    save_file({"clip_l": torch.zeros(2, 8), "clip_g": torch.ones(2, 12)}, str(tmp_path / "xl.safetensors"))
    embedding = read_embedding(tmp_path / "xl.safetensors", "xl")
    assert embedding is not None and (embedding.vectors, embedding.shape) == (2, 20)


def test_png_with_a_text_chunk(tmp_path: Path) -> None:
    text = PngInfo()
    text.add_text("sd-ti-embedding", base64.b64encode(as_json()).decode())
    Image.new("RGB", (64, 64), "red").save(tmp_path / "card.png", pnginfo=text)
    embedding = read_embedding(tmp_path / "card.png", "card")
    assert embedding is not None and torch.equal(embedding.tensor, VECTORS)
    assert (embedding.name, embedding.step, embedding.checkpoint_name) == ("inside", 1000, "tiny-sd")


def with_hidden_json(data: bytes, rows: int = 64) -> Image.Image:
    """The borders as A1111 writes them: low nibbles left, high nibbles right, columns without low bits between."""
    packed = zlib.compress(data)
    columns = -(-len(packed) // (rows * 3))
    block = np.frombuffer(packed.ljust(rows * columns * 3, b"\0"), np.uint8).reshape(rows, columns, 3)
    mask = low_bits_mask(block.size).reshape(block.shape)
    low, high = (block & 15) ^ mask, (block >> 4) ^ mask
    picture = np.full((rows, 40, 3), 0xA0, np.uint8) | np.arange(40, dtype=np.uint8)[None, :, None] % 16
    gap = np.full((rows, 2, 3), 0x80, np.uint8)
    pixels = np.concatenate([low | 0x50, gap, picture, gap, high | 0x50], axis=1)
    return Image.fromarray(pixels.astype(np.uint8))


def test_pictures_with_hidden_data(tmp_path: Path) -> None:
    image = with_hidden_json(as_json("hidden"))
    image.save(tmp_path / "card.webp", lossless=True)
    framed = Image.new("RGB", (image.width + 6, image.height + 4))
    framed.paste(image, (3, 2))
    framed.save(tmp_path / "framed.png")
    for name in ("card.webp", "framed.png"):
        embedding = read_embedding(tmp_path / name, name)
        assert embedding is not None and embedding.name == "hidden", name
        assert torch.equal(embedding.tensor, VECTORS)


def test_the_masking_sequence() -> None:
    assert low_bits_mask(6).tolist() == [(state % 255) & 15 for state in _states(6)]


def _states(count: int) -> list[int]:
    states = [0]
    for _ in range(count):
        states.append((1664525 * states[-1] + 1013904223) % 2**32)
    return states[1:]


def test_ordinary_pictures_hold_no_embedding(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    for name, image in {"noise": Image.fromarray(noise), "black": Image.new("RGB", (8, 8))}.items():
        assert hidden_bytes(image) is None, name
        image.save(tmp_path / f"{name}.png")
        assert read_embedding(tmp_path / f"{name}.png", name) is None


@pytest.mark.parametrize("name", ["x.pt", "x.bin", "x.safetensors", "x.png", "x.webp"])
def test_broken_files_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"garbage" * 20)
    with pytest.raises(UnusableModel):
        read_embedding(tmp_path / name, "x")


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    save_file({"a": VECTORS, "b": VECTORS + 1}, str(tmp_path / "lora.safetensors"))
    with pytest.raises(UnusableModel, match="one table of vectors"):
        read_embedding(tmp_path / "lora.safetensors", "lora")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UnusableModel):
        read_embedding(tmp_path / "list.pt", "list")


@pytest.mark.parametrize(
    "content",
    [
        {"string_to_param": {"*": {"TORCHTENSOR": {"a": 1}}}},
        {"string_to_param": {"*": {"TORCHTENSOR": None}}},
        {"string_to_param": {"*": {"TORCHTENSOR": [["a"]]}}},
        {"string_to_param": {"*": {"TORCHTENSOR": [[]]}}},
        {"string_to_param": [1, 2]},
        {"string_to_param": 5},
        {"clip_l": 1, "clip_g": 2},
        b"[" * 100_000,
    ],
)
def test_whatever_a_picture_holds_the_others_stay(tokenizer: Tokenizer, tmp_path: Path, content: object) -> None:
    packed = content if isinstance(content, bytes) else json.dumps(content).encode()
    info = PngInfo()
    info.add_text("sd-ti-embedding", base64.b64encode(packed).decode())
    Image.new("RGB", (8, 8)).save(tmp_path / "bad.png", pnginfo=info)
    save_file({"emb_params": VECTORS}, str(tmp_path / "good.safetensors"))
    store = EmbeddingStore([tmp_path])
    store.refresh()
    assert list(store.database(tokenizer.tokenize, 8).loaded) == ["good"]


def test_tables_that_do_not_lie_side_by_side_are_refused(tmp_path: Path) -> None:
    save_file({"clip_l": torch.zeros(2, 768), "clip_g": torch.zeros(3, 1280)}, str(tmp_path / "xl.safetensors"))
    with pytest.raises(UnusableModel):
        read_embedding(tmp_path / "xl.safetensors", "xl")


def test_a_step_that_is_no_number_is_none(tmp_path: Path) -> None:
    for step in (float("nan"), float("inf")):
        torch.save({"string_to_param": {"*": VECTORS}, "step": step}, tmp_path / "x.pt")
        embedding = read_embedding(tmp_path / "x.pt", "x")
        assert embedding is not None and embedding.step is None


def test_an_oversized_hidden_text_is_refused(tmp_path: Path) -> None:
    with_hidden_json(b" " * 70 * 2**20).save(tmp_path / "bomb.png")
    with pytest.raises(UnusableModel, match="larger"):
        read_embedding(tmp_path / "bomb.png", "bomb")


def test_refresh_follows_the_folder(tokenizer: Tokenizer, tmp_path: Path) -> None:
    store = EmbeddingStore([tmp_path])
    store.refresh()
    assert store.database(tokenizer.tokenize, 8).loaded == {}
    path = tmp_path / "one.safetensors"
    save_file({"emb_params": VECTORS}, str(path))
    (tmp_path / "broken.pt").write_bytes(b"?")
    before = store.database(tokenizer.tokenize, 8)
    store.refresh()
    after = store.database(tokenizer.tokenize, 8)
    assert before.loaded == {} and list(after.loaded) == ["one"]
    assert after.version != before.version
    store.refresh()
    assert store.database(tokenizer.tokenize, 8) is after
    save_file({"emb_params": VECTORS[:1]}, str(path))
    os.utime(path, (1, 1))
    store.refresh()
    assert store.database(tokenizer.tokenize, 8).loaded["one"].vectors == 1
    path.unlink()
    store.refresh()
    assert store.database(tokenizer.tokenize, 8).loaded == {}


def test_without_hashing_there_is_no_hash(tmp_path: Path) -> None:
    save_file({"emb_params": VECTORS}, str(tmp_path / "one.safetensors"))
    embedding = read_embedding(tmp_path / "one.safetensors", "one", hashing=False)
    assert embedding is not None and embedding.shorthash == ""


def test_an_empty_database_finds_nothing(tokenizer: Tokenizer) -> None:
    assert EmbeddingDatabase([], tokenizer.tokenize, 8).find_at([1, 2], 0) == (None, 0)


def test_an_engine_for_other_embeddings_shares_all_but_them(golden_engine: Engine, tmp_path: Path) -> None:
    torch.save({"only-here": torch.ones(2, 8)}, tmp_path / "mine.bin")
    other = golden_engine.with_embeddings([tmp_path])
    found, shared = other.embeddings(), golden_engine.embeddings()
    assert set(found.skipped) | set(found.loaded) == {"mine"}
    assert "mine" not in {*shared.loaded, *shared.skipped} and shared.version != found.version
    assert other.batcher is golden_engine.batcher and other.device is golden_engine.device
