"""Upscaler networks: tiny ones with random weights, written to files as they are found in the wild."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.engine.spandrel_package import spandrel
from sdwebui_api.engine.upscaler import Tiling, UpscalerNetwork, load_upscaler
from sdwebui_api.errors import Cancelled, UnusableModel

PLAN = DevicePlan(torch.device("cpu"))
DEVICE = Device(PLAN)


def compact(scale: int = 2) -> dict[str, torch.Tensor]:
    from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact  # type: ignore[import-not-found]

    torch.manual_seed(0)
    return SRVGGNetCompact(num_feat=8, num_conv=2, upscale=scale).state_dict()


def esrgan() -> dict[str, torch.Tensor]:
    """The names of Real-ESRGAN's own files ("conv_first", "body.0.rdb1…")."""
    torch.manual_seed(0)
    feat, grow = 8, 32  # spandrel knows no other growth
    shapes = {"conv_first": (3, feat), "conv_body": (feat, feat), "conv_up1": (feat, feat), "conv_up2": (feat, feat)}
    shapes |= {"conv_hr": (feat, feat), "conv_last": (feat, 3)}
    for dense in (1, 2, 3):
        for conv in range(1, 6):
            shapes[f"body.0.rdb{dense}.conv{conv}"] = (feat + (conv - 1) * grow, grow if conv < 5 else feat)
    tensors = {}
    for name, (inner, outer) in shapes.items():
        tensors[f"{name}.weight"] = torch.randn(outer, inner, 3, 3) * 0.1
        tensors[f"{name}.bias"] = torch.full((outer,), 0.1)
    return tensors


def swinir() -> dict[str, torch.Tensor]:
    spandrel()
    from spandrel.architectures.SwinIR.__arch.SwinIR import SwinIR  # type: ignore[import-not-found]

    torch.manual_seed(0)
    network = SwinIR(
        upscale=2, img_size=16, window_size=8, depths=[1], embed_dim=12, num_heads=[2], mlp_ratio=2,
        upsampler="pixelshuffledirect",
    )  # fmt: skip
    return network.state_dict()


def old_esrgan() -> dict[str, torch.Tensor]:
    """The names of the first ESRGAN files ("model.1.sub.0.RDB1…"), which most community models have."""
    from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet  # type: ignore[import-not-found]

    torch.manual_seed(0)
    return RRDBNet(num_filters=8, num_blocks=1, scale=4).state_dict()


def dat() -> dict[str, torch.Tensor]:
    from spandrel.architectures.DAT.__arch.DAT import DAT  # type: ignore[import-not-found]

    torch.manual_seed(0)
    network = DAT(
        img_size=16, embed_dim=32, split_size=[8, 8], depth=[2], num_heads=[2], expansion_factor=2.0, upscale=2,
        upsampler="pixelshuffledirect",
    )  # fmt: skip
    return network.state_dict()


def hat() -> dict[str, torch.Tensor]:
    from spandrel.architectures.HAT.__arch.HAT import HAT  # type: ignore[import-not-found]

    torch.manual_seed(0)
    network = HAT(
        img_size=16, embed_dim=12, depths=[1], num_heads=[2], window_size=8, compress_ratio=3, squeeze_factor=3,
        upscale=2, upsampler="pixelshuffle",
    )  # fmt: skip
    return network.state_dict()


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    channels = len(mode)
    values = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(values, mode)


def load(path: Path) -> UpscalerNetwork:
    return load_upscaler(path, PLAN, DEVICE)


@pytest.fixture(scope="module", autouse=True)
def _without_torchvision():
    spandrel()


@pytest.mark.parametrize(
    ("make", "scale", "wrapped"),
    [
        (esrgan, 4, "params_ema"),
        (esrgan, 4, None),
        (old_esrgan, 4, None),
        (compact, 2, "params"),
        (swinir, 2, "params"),
        (dat, 2, "params"),
        (hat, 2, "params_ema"),
    ],
)
def test_files_of_the_common_layouts(make, scale, wrapped, tmp_path):
    path = tmp_path / "network.pth"
    torch.save({wrapped: make()} if wrapped else make(), path)
    network = load(path)
    assert network.scale == scale
    result = network.enlarge(noise(19, 13))
    assert result.size == (19 * scale, 13 * scale) and result.mode == "RGB"
    assert np.asarray(result).std() > 0.5


def test_safetensors_gives_the_same(tmp_path):
    torch.save(compact(), tmp_path / "a.pth")
    save_file(compact(), tmp_path / "a.safetensors")
    image = noise(16, 16)
    pictures = [np.asarray(load(tmp_path / name).enlarge(image)) for name in ("a.pth", "a.safetensors")]
    assert (pictures[0] == pictures[1]).all()


def test_tiles_leave_no_seams(tmp_path):
    """A convolution of a small reach gives the same picture, cut or whole, where tiles overlap by more than it."""
    torch.save(compact(), tmp_path / "a.pth")
    network = load(tmp_path / "a.pth")
    image = noise(70, 45)
    seen = []
    whole = np.asarray(network.enlarge(image, Tiling(0, 0)), dtype=int)
    cut = np.asarray(network.enlarge(image, Tiling(24, 12), lambda done, total: seen.append((done, total))), dtype=int)
    assert len(seen) > 8 and seen[-1] == (len(seen), len(seen))
    # At a tile's own border the network sees zeros, with a weight that is next to nothing there.
    assert np.abs(whole - cut).mean() < 1


def test_the_alpha_channel_is_kept(tmp_path):
    torch.save(compact(), tmp_path / "a.pth")
    image = noise(16, 16, "RGBA")
    result = load(tmp_path / "a.pth").enlarge(image)
    assert result.mode == "RGBA" and result.getchannel("A").getextrema()[1] > 0


def test_ends_between_two_tiles(tmp_path):
    torch.save(compact(), tmp_path / "a.pth")
    seen = []

    def stop(done: int, total: int) -> None:
        seen.append(done)
        if done == 2:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        load(tmp_path / "a.pth").enlarge(noise(64, 64), Tiling(16, 4), stop)
    assert seen == [1, 2]


class _Evil:
    def __reduce__(self):
        return (open, ("/tmp/should-never-exist-upscaler", "w"))


@pytest.mark.parametrize("content", ["evil", "empty", "other", "list", "garbage"])
def test_files_that_cannot_be_used(content, tmp_path):
    path = tmp_path / "bad.pth"
    if content == "garbage":
        path.write_bytes(b"no weights at all")
    elif content == "evil":
        path.write_bytes(pickle.dumps({"params": _Evil()}))
    else:
        torch.save({"empty": {}, "other": {"weight": torch.zeros(3, 3)}, "list": [torch.zeros(1)]}[content], path)
    with pytest.raises(UnusableModel) as caught:
        load(path)
    assert "bad.pth" in caught.value.message
    assert not Path("/tmp/should-never-exist-upscaler").exists()


def test_half_precision_that_overflows_is_done_again():
    """A network whose first answer in fp16 is NaN (a stand-in: CPUs here have no fp16 kernels worth waiting for)."""

    class Descriptor:
        scale = 1
        model = torch.nn.Conv2d(3, 3, 1).half()

        def __call__(self, image: torch.Tensor) -> torch.Tensor:
            return image * float("nan") if image.dtype == torch.float16 else image

    network = UpscalerNetwork(Descriptor(), torch.float16, Device(PLAN))
    image = noise(8, 8)
    assert (np.asarray(network.enlarge(image)) == np.asarray(image)).all()
    assert network._dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fp16_on_a_gpu_is_close_to_fp32_on_the_cpu(tmp_path):
    torch.save(esrgan(), tmp_path / "a.pth")
    plan = DevicePlan(torch.device("cuda"), unet_dtype=torch.float16)
    image = noise(40, 40)
    half = load_upscaler(tmp_path / "a.pth", plan, Device(plan)).enlarge(image)
    assert np.abs(np.asarray(half, dtype=int) - np.asarray(load(tmp_path / "a.pth").enlarge(image))).max() <= 2


def test_spandrel_is_not_needed_until_a_network_is(monkeypatch, tmp_path):
    import sdwebui_api.engine.spandrel_package as package

    monkeypatch.setattr(package, "find_spec", lambda name: None)
    monkeypatch.setattr(package, "sys", SimpleNamespace(modules={}))
    torch.save(compact(), tmp_path / "a.pth")
    with pytest.raises(UnusableModel, match="requirements-no-deps"):
        load(tmp_path / "a.pth")
