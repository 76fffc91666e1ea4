"""TAESD's files in their published layout, against a network built here layer by layer as it was published."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.engine.engine import Engine
from sdwebui_api.engine.families.sd1 import SD1
from sdwebui_api.engine.families.sdxl import SDXL
from sdwebui_api.engine.load_settings import LoadSettings
from sdwebui_api.engine.tiny_vae import TinyVaeFiles, load_tiny_decoder, load_tiny_encoder
from sdwebui_api.errors import BadRequest, Diverged, OutOfMemory, UnusableModel
from tests.support.tiny_vaes import published_decoder, published_encoder, write

PLAN = DevicePlan(torch.device("cpu"))
DEVICE = Device(PLAN)


@torch.no_grad()
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_both_halves_compute_what_was_published(tmp_path: Path, ending: str) -> None:
    encoder, decoder = published_encoder(), published_decoder()
    pictures, latents = torch.rand(2, 3, 64, 40) * 2 - 1, torch.randn(2, 4, 8, 5) * 4
    encoded = load_tiny_encoder(write(tmp_path, f"taesd_encoder{ending}", encoder), PLAN, DEVICE).encode(pictures)
    assert torch.allclose(encoded, encoder((pictures + 1) / 2), atol=1e-5)
    decoded = load_tiny_decoder(write(tmp_path, f"taesd_decoder{ending}", decoder), PLAN, DEVICE).decode(latents)
    assert torch.allclose(decoded, decoder(latents) * 2 - 1, atol=1e-5)


def test_sides_are_rounded_as_the_vae_rounds_them(tmp_path: Path) -> None:
    encoder = load_tiny_encoder(write(tmp_path, "taesd_encoder.pth", published_encoder()), PLAN, DEVICE)
    assert encoder.encode(torch.zeros(1, 3, 20, 33)).shape == (1, 4, 2, 4)


def test_tiling_wraps_edges(tmp_path: Path) -> None:
    decoder = load_tiny_decoder(write(tmp_path, "taesd_decoder.pth", published_decoder()), PLAN, DEVICE)
    latent = torch.randn(1, 4, 8, 8)
    turned = decoder.decode(latent.roll(3, dims=-1), tiling=True)
    assert torch.allclose(turned, decoder.decode(latent, tiling=True).roll(24, dims=-1), atol=1e-5)
    assert not torch.allclose(turned, decoder.decode(latent.roll(3, dims=-1)), atol=1e-3)


def test_not_a_number_and_too_much_are_told(tmp_path: Path) -> None:
    decoder = load_tiny_decoder(write(tmp_path, "taesd_decoder.pth", published_decoder()), PLAN, DEVICE)
    with pytest.raises(Diverged):
        decoder.decode(torch.full((1, 4, 2, 2), float("nan")))
    with pytest.raises(OutOfMemory, match="megapixels"):
        decoder.decode(torch.zeros(1, 4, 1, 1).expand(1, 4, 2**16, 2**16))


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    swapped = write(tmp_path, "taesd_decoder.safetensors", published_encoder())
    with pytest.raises(UnusableModel, match=r"taesd_decoder\.safetensors.*TAESD decoder"):
        load_tiny_decoder(swapped, PLAN, DEVICE)
    whole = tmp_path / "taesd_encoder.pth"
    torch.save(published_encoder(), whole)  # a pickled module, which could run any code
    with pytest.raises(UnusableModel, match="can run any"):
        load_tiny_encoder(whole, PLAN, DEVICE)


def test_families_have_files_of_their_own(
    tmp_path: Path, golden_engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    files = TinyVaeFiles(tmp_path)
    write(tmp_path, "taesd_decoder.pth", published_decoder())
    decodes, previews = LoadSettings(tiny_decoder=True), LoadSettings(tiny_previews=True)
    with ExitStack() as held:
        lent = files.lend(decodes, SD1, golden_engine.auxiliary, held)
        assert lent.decoder is not None and lent.previewer is None and not lent.encodes
        with pytest.raises(BadRequest, match=r"no taesdxl_decoder\.pth .*put it into") as caught:
            files.lend(decodes, SDXL, golden_engine.auxiliary, held)
        assert caught.value.field == "sd_vae_decode_method" and str(tmp_path) in caught.value.message
        assert files.lend(previews, SD1, golden_engine.auxiliary, held).previewer is lent.decoder
        for _ in range(2):
            assert files.lend(previews, SDXL, golden_engine.auxiliary, held).previewer is None
    assert [record.message for record in caplog.records if "taesdxl_decoder" in record.message] == [
        record.message for record in caplog.records
    ][:1]
