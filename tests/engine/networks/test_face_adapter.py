"""IP-Adapters for faces: FaceID, its plus forms and InstantID, in the layouts of their authors' files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.unet import UNet2DConditionLoadersMixin
from safetensors.torch import save_file
from torch import Tensor

from sdwebui_api.engine.engine import Engine
from sdwebui_api.engine.model import DiffusionModel
from sdwebui_api.engine.networks.control import ControlInput
from sdwebui_api.engine.networks.face_adapter import FACE_ID, IDENTITY, INSTANT_ID, FaceAdapter, face_projection
from sdwebui_api.engine.networks.ip_adapter import cross_attentions
from sdwebui_api.engine.reading import shapes_of
from sdwebui_api.errors import UnusableModel
from tests.engine.networks.control_factory import CONTEXT, TOKENS, WIDTH, draw, random_adapter, random_encoder


@pytest.fixture
def encoders(golden_engine: Engine, tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "clip_vision"
    folder.mkdir()
    engine: Any = golden_engine
    before, engine._encoder_folders = engine._encoder_folders, (folder,)
    yield folder
    engine._encoder_folders = before


def attention(model: DiffusionModel) -> dict[str, Tensor]:
    """With the LoRA weights that FaceID's files hold beside."""
    layers = {number: layer.to_k.weight.shape[0] for number, layer in cross_attentions(model.unet.module)}
    tensors = {name: tensor for name, tensor in random_adapter(layers).items() if name.startswith("ip_adapter.")}
    return tensors | {f"ip_adapter.{number}.to_q_lora.down.weight": torch.zeros(4, 8) for number in (0, 1, 2)}


def face_id() -> dict[str, Tensor]:
    """As `ip-adapter-faceid_sd15.bin`."""
    hidden = 2 * IDENTITY
    shapes = {
        "proj.0.weight": (hidden, IDENTITY), "proj.0.bias": (hidden,), "proj.2.weight": (TOKENS * CONTEXT, hidden),
        "proj.2.bias": (TOKENS * CONTEXT,), "norm.weight": (CONTEXT,), "norm.bias": (CONTEXT,),
    }  # fmt: skip
    return draw({f"image_proj.{name}": shape for name, shape in shapes.items()})


def queries(prefix: str, depth: int, width: int, inner: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(depth):
        for name in ("0.norm1", "0.norm2", "1.0"):
            shapes |= {f"{prefix}layers.{layer}.{name}.{part}": (width,) for part in ("weight", "bias")}
        shapes[f"{prefix}layers.{layer}.0.to_q.weight"] = (inner, width)
        shapes[f"{prefix}layers.{layer}.0.to_kv.weight"] = (2 * inner, width)
        shapes[f"{prefix}layers.{layer}.0.to_out.weight"] = (width, inner)
        shapes[f"{prefix}layers.{layer}.1.1.weight"] = (4 * width, width)
        shapes[f"{prefix}layers.{layer}.1.3.weight"] = (width, 4 * width)
    return shapes


def plus() -> dict[str, Tensor]:
    """As `ip-adapter-faceid-plusv2_sd15.bin`."""
    mark = "image_proj.perceiver_resampler."
    shapes = queries(mark, 4, CONTEXT, CONTEXT) | {
        f"{mark}proj_in.weight": (CONTEXT, WIDTH), f"{mark}proj_in.bias": (CONTEXT,),
        f"{mark}proj_out.weight": (CONTEXT, CONTEXT), f"{mark}proj_out.bias": (CONTEXT,),
        f"{mark}norm_out.weight": (CONTEXT,), f"{mark}norm_out.bias": (CONTEXT,),
    }  # fmt: skip
    return face_id() | draw(shapes)


def instant_id() -> dict[str, Tensor]:
    """As InstantID's `ip-adapter.bin`."""
    inner, mark = 128, "image_proj."
    return draw(
        queries(mark, 2, inner, inner)
        | {
            f"{mark}latents": (1, 16, inner),
            f"{mark}proj_in.weight": (inner, IDENTITY), f"{mark}proj_in.bias": (inner,),
            f"{mark}proj_out.weight": (CONTEXT, inner), f"{mark}proj_out.bias": (CONTEXT,),
            f"{mark}norm_out.weight": (CONTEXT,), f"{mark}norm_out.bias": (CONTEXT,),
        }
    )  # fmt: skip


def saved(folder: Path, tensors: dict[str, Tensor], name: str = "ip-adapter-face.bin") -> Path:
    """As the authors' pickles of two dictionaries."""
    parts = ("image_proj", "ip_adapter")
    torch.save(
        {part: {n.partition(".")[2]: t for n, t in tensors.items() if n.startswith(part)} for part in parts},
        folder / name,
    )
    return folder / name


def identity(seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(1, IDENTITY, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize(
    ("form", "recogniser", "tokens"),
    [(face_id, FACE_ID, TOKENS), (plus, FACE_ID, TOKENS), (instant_id, INSTANT_ID, 16)],
)
def test_forms(
    golden_engine: Engine,
    tiny: DiffusionModel,
    encoders: Path,
    tmp_path: Path,
    form: Any,
    recogniser: str,
    tokens: int,
) -> None:
    if form is plus:
        save_file(random_encoder(), encoders / "clip_h.safetensors")
    path = saved(tmp_path, {**form(), **attention(tiny)})
    given = {
        "x": torch.randn(2, 4, 8, 8), "t": torch.tensor([300.0, 300.0]), "context": torch.randn(2, 77, CONTEXT)
    }  # fmt: skip
    before = tiny.evaluate(**given)
    picture = torch.rand(1, 3, 50, 40)
    with golden_engine.control_network(path, tiny) as network:
        assert isinstance(network, FaceAdapter) and network.recogniser == recogniser
        seen, unseen = network.embed_face(picture, identity())
        assert seen.shape == unseen.shape == (1, tokens, CONTEXT) and not torch.allclose(seen, unseen)
        other, _ = network.embed_face(picture, identity(1))
        assert not torch.allclose(seen, other)
        elsewhere, _ = network.embed_face(1 - picture, identity())
        assert torch.equal(seen, elsewhere) != (form is plus)
        hint = (torch.cat([seen, unseen]),)
        found = tiny.evaluate(**given, control=(ControlInput(network, hint, torch.ones(2, network.count)),))
        none = tiny.evaluate(**given, control=(ControlInput(network, hint, torch.zeros(2, network.count)),))
    assert torch.equal(none, before)
    assert (found - before).abs().amax(dim=(1, 2, 3)).min() > 1e-3


@pytest.mark.parametrize("shortcut", [False, True])
@pytest.mark.parametrize("form", [face_id, plus])
def test_projections_equal_diffusers(form: Any, shortcut: bool) -> None:
    tensors = form()
    ours, own = face_projection(tensors, shapes_of(tensors), shortcut=shortcut)
    ours.load_state_dict(own)
    theirs: Any = UNet2DConditionLoadersMixin._convert_ip_adapter_image_proj_to_diffusers(
        None, dict(own), low_cpu_mem_usage=False
    )
    features = torch.randn(1, 17, WIDTH)
    with torch.no_grad():
        if form is plus:
            theirs.clip_embeds, theirs.shortcut = features[None], shortcut
            found, wanted = ours(identity(), features), theirs(identity())
        else:
            found, wanted = ours(identity()), theirs(identity())
    assert torch.allclose(found, wanted, atol=1e-5)


def test_the_files_name_tells_the_second_version(
    golden_engine: Engine, tiny: DiffusionModel, encoders: Path, tmp_path: Path
) -> None:
    save_file(random_encoder(), encoders / "clip_h.safetensors")
    tensors = {**plus(), **attention(tiny)}
    found = []
    for name in ("ip-adapter-faceid-plus_sd15.bin", "ip-adapter-faceid-plusv2_sd15.bin"):
        with golden_engine.control_network(saved(tmp_path, tensors, name), tiny) as network:
            assert isinstance(network, FaceAdapter)
            found.append(network.embed_face(torch.full((1, 3, 32, 32), 0.5), identity())[0])
    assert not torch.allclose(found[0], found[1])


@pytest.mark.parametrize("lost", ["image_proj.norm.bias", "image_proj.proj.2.weight"])
def test_incomplete_files(
    lost: str, golden_engine: Engine, tiny: DiffusionModel, encoders: Path, tmp_path: Path
) -> None:
    tensors = {**face_id(), **attention(tiny)}
    del tensors[lost]
    path = saved(tmp_path, tensors)
    with pytest.raises(UnusableModel, match="ip-adapter-face"), golden_engine.control_network(path, tiny):
        pass


def test_plus_without_its_image_encoder(
    golden_engine: Engine, tiny: DiffusionModel, encoders: Path, tmp_path: Path
) -> None:
    path = saved(tmp_path, {**plus(), **attention(tiny)})
    with pytest.raises(UnusableModel, match="CLIP image encoder"), golden_engine.control_network(path, tiny):
        pass
