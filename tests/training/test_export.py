"""The exported file against two independent witnesses: the shipped file's names and shapes, and diffusers' readers."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from torch import Tensor

from training.export import configuration, read_checkpoint, schedule_buffers, shift_text_mean, write_checkpoint
from training.ldm_layout import TEXT, architecture_of, from_ldm, to_ldm
from training.models import EMBEDDED, Architecture, Networks, build_text_encoder, build_unet, build_vae
from training.vocabulary import token_ids

SHIPPED = Path(__file__).parents[2] / "model_store" / "Stable-diffusion" / "emoji-mini.safetensors"


def _networks(architecture: Architecture, rows: int | None = None) -> Networks:
    torch.manual_seed(0)
    networks = Networks(build_vae(architecture), build_text_encoder(architecture, rows), build_unet(architecture))
    for network in (networks.vae, networks.text_encoder, networks.unet):
        network.eval()
        with torch.no_grad():
            for parameter in network.parameters():  # norms and biases too, or exchanged ones would go unnoticed
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return networks


@pytest.fixture(scope="module")
def networks(architecture: Architecture) -> Networks:
    return _networks(architecture)


@pytest.fixture(scope="module")
def checkpoint(networks: Networks, architecture: Architecture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "tiny.safetensors"
    write_checkpoint(path, networks, architecture, 64)
    return path


def test_the_embedded_architecture_has_exactly_the_shipped_keys_and_shapes() -> None:
    with torch.device("meta"):
        empty = Networks(build_vae(EMBEDDED), build_text_encoder(EMBEDDED), build_unet(EMBEDDED))
        ours = {key: list(weight.shape) for key, weight in to_ldm(empty, EMBEDDED).items()}
    ours |= {key: list(buffer.shape) for key, buffer in schedule_buffers().items()}
    with safe_open(SHIPPED, "pt") as file:
        shipped = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
        for key, buffer in schedule_buffers().items():
            torch.testing.assert_close(file.get_tensor(key), buffer, rtol=1e-5, atol=1e-6)
    assert ours == shipped


def test_the_embedded_configuration_is_the_shipped_one() -> None:
    shipped = yaml.safe_load(SHIPPED.with_suffix(".yaml").read_text(encoding="utf-8"))
    assert yaml.safe_load(configuration(EMBEDDED, 128)) == shipped


def test_what_is_read_back_is_what_was_trained(
    checkpoint: Path, networks: Networks, architecture: Architecture
) -> None:
    read, read_architecture = read_checkpoint(checkpoint)
    assert read_architecture == architecture
    for name in ("vae", "text_encoder", "unet"):
        trained, written = getattr(networks, name).state_dict(), getattr(read, name).state_dict()
        assert trained.keys() == written.keys()
        for key, weight in trained.items():
            assert torch.equal(weight.half().float(), written[key]), key


def test_diffusers_reads_the_same_networks(checkpoint: Path, networks: Networks) -> None:
    from diffusers.loaders import single_file_utils as reader
    from safetensors.torch import load_file

    state = load_file(checkpoint)
    original = yaml.safe_load(checkpoint.with_suffix(".yaml").read_text(encoding="utf-8"))
    unet_settings = reader.create_unet_diffusers_config_from_ldm(original, state, image_size=64)
    vae_settings = reader.create_vae_diffusers_config_from_ldm(original, state, image_size=64)
    _assert_same(networks.unet, reader.convert_ldm_unet_checkpoint(dict(state), unet_settings))
    _assert_same(networks.vae, reader.convert_ldm_vae_checkpoint(dict(state), vae_settings))
    text = {key.removeprefix(TEXT): weight for key, weight in state.items() if key.startswith(TEXT)}
    del text["embeddings.position_ids"]
    _assert_same(networks.text_encoder, text)
    assert unet_settings["attention_head_dim"] == networks.unet.config.attention_head_dim


def _assert_same(network: Any, state: dict[str, Tensor]) -> None:
    own = network.state_dict()
    assert own.keys() == state.keys()
    for key, weight in own.items():
        assert torch.equal(weight.half(), state[key].reshape(weight.shape)), key


@pytest.mark.parametrize("blocks", [1, 2])
def test_dimensions_are_read_off_the_weights(blocks: int, architecture: Architecture) -> None:
    wanted = replace(
        architecture, unet_blocks=blocks, vae_blocks=3 - blocks, unet_multipliers=(1, 2, 3), vocabulary=100
    )
    state = to_ldm(_networks(wanted, 100), wanted)
    assert architecture_of(state) == wanted
    assert from_ldm(state, wanted).unet.config.layers_per_block == blocks


def test_metadata_and_dtypes(checkpoint: Path) -> None:
    with safe_open(checkpoint, "pt") as file:
        metadata = file.metadata()
        dtypes = {key: file.get_tensor(key).dtype for key in file.keys()}  # noqa: SIM118
    with safe_open(SHIPPED, "pt") as file:
        assert metadata.keys() == file.metadata().keys()
    assert metadata["modelspec.resolution"] == "64x64" and metadata["modelspec.title"] == "tiny"
    assert dtypes.pop(TEXT + "embeddings.position_ids") is torch.int64
    buffers = schedule_buffers()
    assert all(dtype is (torch.float32 if key in buffers else torch.float16) for key, dtype in dtypes.items())


def test_a_weight_beyond_half_precision_is_refused(
    networks: Networks, architecture: Architecture, tmp_path: Path
) -> None:
    unet = copy.deepcopy(networks.unet)
    with torch.no_grad():
        unet.conv_out.bias[0] = 1e6
    with pytest.raises(ValueError, match=r"out\.2\.bias does not fit"):
        write_checkpoint(tmp_path / "x.safetensors", replace(networks, unet=unet), architecture, 64)
    assert not (tmp_path / "x.safetensors").exists()


def test_the_text_mean_moves_and_the_unet_answers_the_same(networks: Networks, tokenizer: Any) -> None:
    shifted = copy.deepcopy(networks)
    ids = token_ids(["a red apple", "a dog and a rocket", ""], tokenizer)
    x, times = torch.randn(3, 4, 8, 8), torch.tensor([10, 500, 900])
    with torch.no_grad():
        before = networks.unet(x, times, networks.text_encoder(input_ids=ids).last_hidden_state).sample
        shift_text_mean(shifted, ids)
        text = shifted.text_encoder(input_ids=ids).last_hidden_state
        after = shifted.unet(x, times, text).sample
    assert float(text.mean()) == pytest.approx(-0.25, abs=1e-4)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)
