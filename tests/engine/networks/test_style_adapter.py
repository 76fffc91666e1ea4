"""T2I style adapters: words behind the prompt's, made from a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sdwebui_api.engine.engine import Engine
from sdwebui_api.engine.model import DiffusionModel
from sdwebui_api.engine.networks.control import ControlInput
from sdwebui_api.engine.networks.style_adapter import StyleProjection
from sdwebui_api.engine.reading import shapes_of
from sdwebui_api.errors import UnusableModel
from tests.engine.networks.control_factory import CONTEXT, WIDTH, draw, random_encoder

WORDS = 8


def style_tensors(width: int = WIDTH, context: int = CONTEXT) -> dict[str, Tensor]:
    """Names and order as in `t2iadapter_style_sd14v1.pth`, which is 1024 wide and has three blocks."""
    shapes: dict[str, tuple[int, ...]] = {"style_embedding": (1, WORDS, width), "proj": (width, context)}
    for block in range(3):
        place = f"transformer_layes.{block}"
        shapes |= {
            f"{place}.attn.in_proj_weight": (3 * width, width), f"{place}.attn.in_proj_bias": (3 * width,),
            f"{place}.attn.out_proj.weight": (width, width), f"{place}.attn.out_proj.bias": (width,),
            f"{place}.ln_1.weight": (width,), f"{place}.ln_1.bias": (width,),
            f"{place}.mlp.c_fc.weight": (4 * width, width), f"{place}.mlp.c_fc.bias": (4 * width,),
            f"{place}.mlp.c_proj.weight": (width, 4 * width), f"{place}.mlp.c_proj.bias": (width,),
            f"{place}.ln_2.weight": (width,), f"{place}.ln_2.bias": (width,),
        }  # fmt: skip
    for norm in ("ln_post", "ln_pre"):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    return draw(shapes)


@pytest.fixture
def encoders(golden_engine: Engine, tmp_path: Path) -> Iterator[Path]:
    """The folder of image encoders, with a whole CLIP in it, as OpenAI's file is."""
    folder = tmp_path / "clip_vision"
    folder.mkdir()
    save_file({**random_encoder(), "text_model.final_layer_norm.weight": torch.ones(2)}, folder / "clip.safetensors")
    engine: Any = golden_engine
    before, engine._encoder_folders = engine._encoder_folders, (folder,)
    yield folder
    engine._encoder_folders = before


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.save(style_tensors(), tmp_path / "t2iadapter_style.pth")
    return tmp_path / "t2iadapter_style.pth"


def test_every_tensor_has_its_place() -> None:
    shapes = shapes_of(style_tensors(1024, 768))
    with torch.device("meta"):
        assert shapes_of(StyleProjection(shapes).state_dict()) == shapes


def test_words_are_those_of_the_paper(golden_engine: Engine, tiny: DiffusionModel, encoders: Path, path: Path) -> None:
    """The projection written once more with torch's transformer layer, whose blocks are the same but for GELU."""
    tensors = style_tensors()
    projection: Any = StyleProjection(shapes_of(tensors))
    projection.load_state_dict(tensors)
    patches = torch.randn(1, 17, WIDTH)
    x = torch.cat([patches, tensors["style_embedding"]], 1)
    x = nn.functional.layer_norm(x, (WIDTH,), tensors["ln_pre.weight"], tensors["ln_pre.bias"])
    for block in range(3):
        layer = nn.TransformerEncoderLayer(
            WIDTH, 8, 4 * WIDTH, 0.0, lambda h: h * torch.sigmoid(1.702 * h), norm_first=True, batch_first=True
        )
        names = {
            "attn.": "self_attn.",
            "ln_1": "norm1",
            "ln_2": "norm2",
            "mlp.c_fc": "linear1",
            "mlp.c_proj": "linear2",
        }
        state = {}
        for name, tensor in tensors.items():
            if name.startswith(f"transformer_layes.{block}."):
                rest = name.removeprefix(f"transformer_layes.{block}.")
                old = next(old for old in names if rest.startswith(old))
                state[rest.replace(old, names[old])] = tensor
        layer.load_state_dict(state)
        x = layer.eval()(x)
    x = nn.functional.layer_norm(x[:, -WORDS:], (WIDTH,), tensors["ln_post.weight"], tensors["ln_post.bias"])
    with torch.no_grad():
        torch.testing.assert_close(projection(patches), x @ tensors["proj"], atol=1e-4, rtol=1e-4)


def test_the_prompt_gets_longer(golden_engine: Engine, tiny: DiffusionModel, encoders: Path, path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    x, context = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 77, CONTEXT, generator=generator)
    t = torch.tensor([300.0, 300.0])
    with golden_engine.control_network(path, tiny) as network:
        assert (network.kind, network.count, network.forced_conditional) == ("style_adapter", 1, True)
        (words,) = network.embed(torch.rand(1, 3, 50, 40))
        assert words.shape == (1, WORDS, CONTEXT)
        scales = torch.tensor([[0.6], [0.0]])
        found = tiny.evaluate(x, t, context, control=(ControlInput(network, (words.expand(2, -1, -1),), scales),))
    longer = torch.cat([context, torch.cat([words * 0.6, words * 0])], 1)
    torch.testing.assert_close(found, tiny.evaluate(x, t, longer), atol=1e-4, rtol=1e-4)


def test_misfits(golden_engine: Engine, tiny: DiffusionModel, encoders: Path, tmp_path: Path) -> None:
    whole = style_tensors()
    cases = (
        (style_tensors(context=64), "64 wide"),
        ({name: t for name, t in whole.items() if name != "proj"}, "lack 'proj'"),
        ({**whole, "proj": whole["proj"].flatten()}, "unexpected shapes"),
        ({name: t for name, t in whole.items() if name != "ln_pre.bias"}, "missing"),
        (style_tensors(width=96), "image encoder 96 wide"),
    )
    for number, (tensors, words) in enumerate(cases):
        path = tmp_path / f"style{number}.safetensors"
        save_file(tensors, path)
        with pytest.raises(UnusableModel, match=words), golden_engine.control_network(path, tiny):
            pass
