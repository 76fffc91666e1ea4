"""Names of every training tool find the layers of a real-sized SD1 UNet (without memory) and of its text encoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from sdwebui_api.engine.families.ldm import assemble_unet
from sdwebui_api.engine.ldm_names import unet_to_diffusers, unet_to_ldm
from sdwebui_api.engine.networks.names import TextLayers, UNetLayers, kohya_to_ldm, part_of, split_tensor_name
from tests.engine.ldm_factory import SD15, unet_shapes

ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def unet() -> Any:
    with torch.device("meta"):
        tensors = {name: torch.empty(shape) for name, shape in unet_shapes(SD15).items()}
    return assemble_unet(tensors, lambda structure: 8).module


@pytest.fixture(scope="module")
def layers(unet: Any) -> UNetLayers:
    return UNetLayers(unet)


@pytest.fixture(scope="module")
def text() -> TextLayers:
    with torch.device("meta"):
        return TextLayers(CLIPTextModel(CLIPTextConfig(num_hidden_layers=2)))


def ldm_modules() -> list[str]:
    return sorted({name.rpartition(".")[0] for name in unet_shapes(SD15)})


def test_the_two_directions_are_inverse() -> None:
    for module in ldm_modules():
        diffusers = unet_to_diffusers(f"{module}.weight", 2)
        assert diffusers is not None
        name = diffusers.removesuffix(".weight")
        assert unet_to_ldm(name, 2, attention_levels={1, 2, 3}) == module


@pytest.mark.parametrize("name", ["conv_in.x", "mid_block.resnets.7.conv1", "down_blocks.0.resnets.0.dropout", "x"])
def test_no_ldm_name(name: str) -> None:
    assert unet_to_ldm(name, 2, attention_levels={1, 2, 3}) is None


def test_every_tool_finds_every_layer(layers: UNetLayers) -> None:
    for module in ldm_modules():
        diffusers = str(unet_to_diffusers(f"{module}.weight", 2)).removesuffix(".weight")
        flat = diffusers.replace(".", "_")
        assert kohya_to_ldm(flat) == module.replace(".", "_")
        names = [f"lora_unet_{flat}", f"oft_unet_{flat}", f"lora_unet_{module.replace('.', '_')}"]
        names += [f"unet.{diffusers}", diffusers, f"diffusion_model.{module}"]
        for name in names:
            assert layers.find(name) == diffusers, name
            assert part_of(name) == "unet"


@pytest.mark.parametrize("name", ["lora_unet_nothing", "unet.down_blocks.9.x", "diffusion_model.x", "lora_unet_"])
def test_unknown_layers(layers: UNetLayers, name: str) -> None:
    assert layers.find(name) is None


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("lora_te_text_model_encoder_layers_1_self_attn_q_proj", "encoder.layers.1.self_attn.q_proj"),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1", "encoder.layers.0.mlp.fc1"),
        ("lora_te_text_model_final_layer_norm", "final_layer_norm"),
        ("text_encoder.text_model.encoder.layers.0.self_attn.k_proj", "encoder.layers.0.self_attn.k_proj"),
        ("text_encoder.text_model.encoder.layers.0.self_attn.to_v", "encoder.layers.0.self_attn.v_proj"),
        ("text_encoder.text_model.encoder.layers.0.self_attn.to_out.0", "encoder.layers.0.self_attn.out_proj"),
        ("lora_te_text_model_encoder_layers_7_mlp_fc1", None),
    ],
)
def test_text_layers(text: TextLayers, name: str, module: str | None) -> None:
    assert text.find(name) == module
    assert part_of(name) == "text"


@pytest.mark.parametrize("name", ["lora_prior_x", "model.embed", "bundle_emb"])
def test_parts_of_other_families(name: str) -> None:
    assert part_of(name) is None


@pytest.mark.parametrize(
    ("name", "layer", "leaf"),
    [
        ("lora_unet_x_proj_in.lora_up.weight", "lora_unet_x_proj_in", "lora_up.weight"),
        ("lora_unet_x.alpha", "lora_unet_x", "alpha"),
        ("lora_unet_x.hada_w1_a", "lora_unet_x", "hada_w1_a"),
        ("oft_unet_x.oft_blocks", "oft_unet_x", "oft_blocks"),
        (f"unet.{ATTENTION}.lora_A.weight", f"unet.{ATTENTION}", "lora_down.weight"),
        (f"unet.{ATTENTION}.lora_B.default.weight", f"unet.{ATTENTION}", "lora_up.weight"),
        (f"base_model.model.{ATTENTION}.lora_B.weight", ATTENTION, "lora_up.weight"),
        (f"unet.{ATTENTION}.lora_magnitude_vector", f"unet.{ATTENTION}", "dora_scale"),
        (f"unet.{ATTENTION}.lora.down.weight", f"unet.{ATTENTION}", "lora_down.weight"),
        (
            "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.up.weight",
            "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
            "lora_up.weight",
        ),
        (
            "mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.down.weight",
            "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0",
            "lora_down.weight",
        ),
        (
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.up.weight",
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
            "lora_up.weight",
        ),
        (
            "diffusion_model.middle_block.1.proj_in.lora_up.weight",
            "diffusion_model.middle_block.1.proj_in",
            "lora_up.weight",
        ),
        ("diffusion_model.out.0.w_norm", "diffusion_model.out.0", "w_norm"),
        (f"unet.{ATTENTION}.alpha", f"unet.{ATTENTION}", "alpha"),
        ("bundle_emb.word.string_to_param.*", "bundle_emb", "word.string_to_param.*"),
    ],
)
def test_names_of_tensors(name: str, layer: str, leaf: str) -> None:
    assert split_tensor_name(name) == (layer, leaf)
