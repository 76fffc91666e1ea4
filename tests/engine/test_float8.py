"""Weights kept in float8: what it saves, how close the results stay, and LoRAs on top."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sdwebui_api.catalog.checkpoints import CheckpointFile
from sdwebui_api.config.paths import Paths
from sdwebui_api.engine.engine import Engine
from sdwebui_api.engine.load_settings import LoadSettings
from sdwebui_api.engine.model import DiffusionModel
from sdwebui_api.engine.networks.selection import NO_NETWORKS, AppliedLora, NetworkSet
from tests.engine.conftest import MODELS, checkpoints, flags_of
from tests.engine.networks.conftest import STYLE

PLAIN, FLOAT8, WITH_HALF = LoadSettings(), LoadSettings("Enable"), LoadSettings("Enable", keep_half=True)
LORA = NetworkSet((AppliedLora(STYLE),))


@pytest.fixture(scope="module")
def engine(golden_paths: Paths) -> Engine:
    return Engine(flags_of(MODELS), golden_paths)


@pytest.fixture(scope="module")
def file(golden_paths: Paths) -> CheckpointFile:
    return checkpoints(golden_paths)[0]


def noise(model: DiffusionModel) -> Tensor:
    x = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(0))
    context = torch.randn((1, 77, model.text_encoder.width), generator=torch.Generator().manual_seed(1))
    return model.evaluate(x, torch.tensor([500.0]), context)


def predicted(engine: Engine, file: CheckpointFile, settings: LoadSettings, networks: NetworkSet) -> Tensor:
    with engine.lease(file, networks=networks, settings=settings) as model:
        return noise(model)


def test_linear_layers_and_convolutions_take_a_byte_per_weight(engine: Engine, file: CheckpointFile) -> None:
    with engine.lease(file, settings=FLOAT8) as model:
        assert model.float8
        for layer in model.unet.module.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                assert layer.weight.dtype == torch.float8_e4m3fn
    sizes = {str(part.key).split(":")[-1]: part.size for part in engine.loaded() if str(part.key).startswith("unet")}
    with engine.lease(file):
        plain = next(part.size for part in engine.loaded() if str(part.key).endswith("float32"))
    assert sizes["float8"] < plain * 0.27


def test_both_kinds_of_weights_live_side_by_side_and_nearly_agree(engine: Engine, file: CheckpointFile) -> None:
    plain, eight = (predicted(engine, file, settings, NO_NETWORKS) for settings in (PLAIN, FLOAT8))
    assert 0 < (eight - plain).norm() / plain.norm() < 0.1
    assert torch.equal(predicted(engine, file, PLAIN, NO_NETWORKS), plain)


def test_loras_change_float8_weights_too(engine: Engine, file: CheckpointFile) -> None:
    plain = predicted(engine, file, PLAIN, LORA)
    for settings in (FLOAT8, WITH_HALF):
        with_lora = predicted(engine, file, settings, LORA)
        assert (with_lora - plain).norm() / plain.norm() < 0.1
        assert not torch.equal(with_lora, predicted(engine, file, settings, NO_NETWORKS))


def test_half_weights_kept_beside_round_once(engine: Engine, file: CheckpointFile) -> None:
    """From float8 weights a LoRA's sum is rounded twice, from the kept ones once: closer to the exact sum."""
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"

    def weight(settings: LoadSettings) -> Tensor:
        with engine.lease(file, networks=LORA, settings=settings) as model:
            return model.unet.module.get_parameter(name).float()

    exact = weight(PLAIN)
    assert (weight(WITH_HALF) - exact).norm() < 0.9 * (weight(FLOAT8) - exact).norm()


def test_only_sdxl_when_only_sdxl_is_asked_for(engine: Engine, file: CheckpointFile) -> None:
    with engine.lease(file, settings=LoadSettings("Enable for SDXL")) as model, engine.lease(file) as plain:
        assert not model.float8 and model.unet is plain.unet
