"""The LoRA learns a style beside a frozen UNet, and its file is one that the server's own reader applies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import nn

from sdwebui_api.engine.networks.names import UNetLayers
from training.adaptation import write_half
from training.glyphs import Glyph
from training.lora_layers import LowRank, UNetLora, lora_from_kohya, lora_to_kohya
from training.models import EMBEDDED, Architecture, Networks, build_text_encoder, build_unet, build_vae, prepare
from training.style_trainer import StyleBatches, StyleSettings, StyleTrainer, blueprint, metadata

CPU = torch.device("cpu")
SHIPPED = Path(__file__).parents[2] / "model_store" / "Lora" / "emoji-blueprint.safetensors"
SETTINGS = StyleSettings(size=64, rank=2, batch=4, scenes=6, muon_rate=1e-2, adam_rate=5e-3)


@pytest.fixture
def networks(architecture: Architecture) -> Networks:
    torch.manual_seed(0)
    parts = build_vae(architecture), build_text_encoder(architecture), build_unet(architecture)
    return Networks(*(prepare(part, CPU).requires_grad_(False).eval() for part in parts))


def test_blueprint_turns_white_paper_navy_and_outlines_white() -> None:
    picture = Image.new("RGB", (64, 64), "white")
    picture.paste((20, 20, 20), (16, 16, 48, 48))
    pixels = np.asarray(blueprint(picture)).astype(int)
    red, _, blue = pixels[2, 2]
    assert blue > 2 * red and pixels[2, 2].sum() < 200
    assert pixels[32, 32, 2] > 200 and pixels[14:18, 32].min(axis=1).max() > 240


def test_the_shipped_file_is_small_and_every_layer_is_one_of_the_embedded_models() -> None:
    assert SHIPPED.stat().st_size < 2e6
    with torch.device("meta"):
        layers = UNetLayers(build_unet(EMBEDDED))
    with safe_open(SHIPPED, "pt") as file:
        assert file.metadata()["ss_output_name"] == "emoji-blueprint"
        found = {layers.find(key.split(".")[0]) for key in file.keys()}  # noqa: SIM118
        assert None not in found and len(found) * 3 == len(list(file.keys()))


def test_names_lead_to_the_layer_that_was_trained(networks: Networks, architecture: Architecture) -> None:
    lora, layers = UNetLora(networks.unet, 2), UNetLayers(networks.unet)
    keys = [key for key in lora_to_kohya(lora, architecture) if key.endswith(".alpha")]
    assert [layers.find(key.removesuffix(".alpha")) for key in keys] == lora.names


def test_a_written_lora_reads_back_to_the_same_pictures(
    networks: Networks, architecture: Architecture, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    inputs = torch.randn(1, 4, 8, 8), torch.tensor([500]), torch.randn(1, 77, 32)
    plain = _eps(networks, *inputs)
    lora = UNetLora(networks.unet, 2)
    torch.testing.assert_close(_eps(networks, *inputs), plain)  # it begins as nothing
    with torch.no_grad():
        for weight in lora.parameters():
            weight.copy_((weight + 0.1 * torch.randn_like(weight)).half())
    styled = _eps(networks, *inputs)
    write_half(tmp_path / "l.safetensors", lora_to_kohya(lora, architecture), metadata("l", SETTINGS, 1))
    lora.detach()
    torch.testing.assert_close(_eps(networks, *inputs), plain)
    lora_from_kohya(load_file(tmp_path / "l.safetensors"), networks.unet, architecture)
    torch.testing.assert_close(_eps(networks, *inputs), styled)
    assert not torch.allclose(styled, plain, atol=1e-3)


@torch.no_grad()
def _eps(networks: Networks, *inputs: Any) -> torch.Tensor:
    return networks.unet(*inputs).sample


@pytest.mark.parametrize("layer", [nn.Linear(6, 5), nn.Conv2d(6, 5, 3, stride=2, padding=1)])
def test_an_addition_has_the_shape_of_its_layer(layer: Any) -> None:
    x = torch.randn(2, 6) if isinstance(layer, nn.Linear) else torch.randn(2, 6, 8, 8)
    assert LowRank(layer, 3)(x).shape == layer(x).shape
    with pytest.raises(TypeError, match="LayerNorm"):
        LowRank(nn.LayerNorm(6), 3)


def test_it_learns_a_fixed_batch_and_resumes(
    networks: Networks, glyphs: list[Glyph], tokenizer: Any, tmp_path: Path
) -> None:
    batches = StyleBatches(glyphs, networks, tokenizer, SETTINGS)
    trainer = StyleTrainer(SETTINGS, networks, CPU)
    latents, ids = batches.batch(0)
    assert latents.shape == (4, 4, 8, 8) and ids.shape == (4, 77)
    losses = [trainer.step(latents, ids, 0.2)["loss"] for _ in range(14)]
    assert losses[-1] < 0.9 * losses[0]
    trainer.save(tmp_path / "style.pt")
    following = trainer.step(latents, ids, 0.2)
    trainer.lora.detach()
    again = StyleTrainer(SETTINGS, networks, CPU)
    again.load(tmp_path / "style.pt")
    assert again.step(latents, ids, 0.2) == following
