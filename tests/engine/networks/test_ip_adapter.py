from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from safetensors.torch import save_file
from torch import Tensor

from sdwebui_api.engine.engine import Engine
from sdwebui_api.engine.model import DiffusionModel
from sdwebui_api.engine.networks.control import ControlInput
from sdwebui_api.engine.networks.ip_adapter import Resampler, attending_pictures, cross_attentions
from sdwebui_api.errors import UnusableModel
from tests.engine.networks.control_factory import CONTEXT, TOKENS, WIDTH, draw, random_adapter, random_encoder


@pytest.fixture
def encoders(golden_engine: Engine, tmp_path: Path) -> Iterator[Path]:
    """The folder where the engine looks for image encoders, with a tiny random one in it."""
    folder = tmp_path / "clip_vision"
    folder.mkdir()
    save_file(random_encoder(), folder / "clip_h.safetensors")
    engine: Any = golden_engine
    before, engine._encoder_folders = engine._encoder_folders, (folder,)
    yield folder
    engine._encoder_folders = before


def attention(model: DiffusionModel) -> dict[str, Tensor]:
    layers = {number: layer.to_k.weight.shape[0] for number, layer in cross_attentions(model.unet.module)}
    return {name: tensor for name, tensor in random_adapter(layers).items() if name.startswith("ip_adapter.")}


def plain() -> dict[str, Tensor]:
    return random_adapter({})


def full() -> dict[str, Tensor]:
    shapes = {"proj.0.weight": (WIDTH, WIDTH), "proj.0.bias": (WIDTH,), "proj.2.weight": (CONTEXT, WIDTH)}
    shapes |= {"proj.2.bias": (CONTEXT,), "proj.3.weight": (CONTEXT,), "proj.3.bias": (CONTEXT,)}
    return draw({f"image_proj.{name}": shape for name, shape in shapes.items()})


def plus() -> dict[str, Tensor]:
    inner = 128
    shapes: dict[str, tuple[int, ...]] = {
        "latents": (1, 6, inner), "proj_in.weight": (inner, WIDTH), "proj_in.bias": (inner,),
        "proj_out.weight": (CONTEXT, inner), "proj_out.bias": (CONTEXT,),
        "norm_out.weight": (CONTEXT,), "norm_out.bias": (CONTEXT,),
    }  # fmt: skip
    for layer in range(2):
        for name in ("0.norm1", "0.norm2", "1.0"):
            shapes |= {f"layers.{layer}.{name}.weight": (inner,), f"layers.{layer}.{name}.bias": (inner,)}
        shapes |= {f"layers.{layer}.0.to_{part}.weight": (inner, inner) for part in ("q", "out")}
        shapes[f"layers.{layer}.0.to_kv.weight"] = (2 * inner, inner)
        shapes |= {f"layers.{layer}.1.1.weight": (256, inner), f"layers.{layer}.1.3.weight": (inner, 256)}
    return draw({f"image_proj.{name}": shape for name, shape in shapes.items()})


def saved(folder: Path, tensors: dict[str, Tensor], suffix: str = ".safetensors") -> Path:
    path = folder / f"ip-adapter{suffix}"
    if suffix == ".safetensors":
        save_file(tensors, path)
    else:
        parts = ("image_proj", "ip_adapter")
        split = {part: {n.partition(".")[2]: t for n, t in tensors.items() if n.startswith(part)} for part in parts}
        torch.save(split, path)
    return path


def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "x": torch.randn(2, 4, 8, 8, generator=generator),
        "t": torch.tensor([300.0, 300.0]),
        "context": torch.randn(2, 77, CONTEXT, generator=generator),
    }


@pytest.mark.parametrize("form", [plain, full, plus])
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_forms(
    golden_engine: Engine, tiny: DiffusionModel, encoders: Path, tmp_path: Path, form: Any, suffix: str
) -> None:
    path = saved(tmp_path, {**form(), **attention(tiny)}, suffix)
    before = tiny.evaluate(**inputs())
    with golden_engine.control_network(path, tiny) as network:
        assert (network.kind, network.count) == ("ip_adapter", len(cross_attentions(tiny.unet.module)))
        seen, unseen = network.embed(torch.rand(1, 3, 50, 40))
        assert seen.shape == unseen.shape and seen.shape[2] == CONTEXT and not torch.allclose(seen, unseen)
        tokens = (torch.cat([seen, unseen]),)
        found = tiny.evaluate(**inputs(), control=(ControlInput(network, tokens, torch.ones(2, network.count)),))
        none = tiny.evaluate(**inputs(), control=(ControlInput(network, tokens, torch.zeros(2, network.count)),))
    assert torch.equal(none, before) and torch.equal(tiny.evaluate(**inputs()), before)
    assert (found - before).abs().amax(dim=(1, 2, 3)).min() > 1e-3


def test_attention_equals_diffusers(
    golden_engine: Engine, tiny: DiffusionModel, encoders: Path, tmp_path: Path
) -> None:
    weights = attention(tiny)
    path = saved(tmp_path, {**plain(), **weights})
    unet = tiny.unet.module
    number, layer = cross_attentions(unet)[0]
    width = layer.to_k.weight.shape[0]
    hidden, context = torch.randn(1, 16, width), torch.randn(1, 77, CONTEXT)
    with golden_engine.control_network(path, tiny) as network, torch.no_grad():
        tokens = network.embed(torch.rand(1, 3, 32, 32))[:1]
        scales = torch.full((1, network.count), 0.7)
        with attending_pictures(unet, [ControlInput(network, tokens, scales)]):
            ours = layer(hidden, encoder_hidden_states=context)
        processor = IPAdapterAttnProcessor2_0(width, CONTEXT, num_tokens=(TOKENS,), scale=[0.7])
        processor.to_k_ip[0].weight.copy_(weights[f"ip_adapter.{number}.to_k_ip.weight"])
        processor.to_v_ip[0].weight.copy_(weights[f"ip_adapter.{number}.to_v_ip.weight"])
        theirs = processor(layer, hidden, encoder_hidden_states=(context, [tokens[0][:, None]]))
    torch.testing.assert_close(ours, theirs)


def test_resampler_equals_diffusers() -> None:
    tensors = {name.removeprefix("image_proj."): tensor for name, tensor in plus().items()}
    ours = Resampler({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    ours.load_state_dict(tensors)
    theirs = IPAdapterPlusImageProjection(
        WIDTH, CONTEXT, 128, depth=2, dim_head=64, heads=2, num_queries=6, ffn_ratio=2
    )
    renamed = {}
    for name, tensor in tensors.items():
        if name.endswith("to_kv.weight"):
            stem = name.removesuffix("0.to_kv.weight")
            renamed[f"{stem}attn.to_k.weight"], renamed[f"{stem}attn.to_v.weight"] = tensor.chunk(2)
            continue
        for old, new in (
            (".0.norm1.", ".ln0."), (".0.norm2.", ".ln1."), (".0.to_q.", ".attn.to_q."),
            (".0.to_out.", ".attn.to_out.0."), (".1.0.", ".ff.0."), (".1.1.", ".ff.1.net.0.proj."),
            (".1.3.", ".ff.1.net.2."),
        ):  # fmt: skip
            if name.startswith("layers.") and old in name[7:]:
                name = name[:7] + name[7:].replace(old, new, 1)
                break
        renamed[name] = tensor
    theirs.load_state_dict(renamed)
    features = torch.randn(2, 17, WIDTH)
    with torch.no_grad():
        torch.testing.assert_close(ours(features), theirs(features))


def test_a_missing_encoder_names_its_folder(
    golden_engine: Engine, tiny: DiffusionModel, encoders: Path, tmp_path: Path
) -> None:
    path = saved(tmp_path, {**plain(), **attention(tiny)})
    (encoders / "clip_h.safetensors").unlink()
    with pytest.raises(UnusableModel, match=rf"clip_h.pth.*{encoders}"), golden_engine.control_network(path, tiny):
        pass


def test_misfits(golden_engine: Engine, tiny: DiffusionModel, encoders: Path, tmp_path: Path) -> None:
    fewer = {name: tensor for name, tensor in attention(tiny).items() if ".1." not in name}
    unknown = {"image_proj.weight": torch.zeros(1), **attention(tiny)}
    for tensors, words in ((plain() | fewer, "cross-attentions"), (unknown, "unknown form")):
        path = saved(tmp_path, tensors)
        with pytest.raises(UnusableModel, match=words), golden_engine.control_network(path, tiny):
            pass
