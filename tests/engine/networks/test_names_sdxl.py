"""The same for SDXL: a UNet with three levels and a label embedding, and two text models."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.make_checkpoint import checkpoint_weights, layout_of
from sdwebui_api.engine.families import recognise
from sdwebui_api.engine.families.base import Assembly, Family
from sdwebui_api.engine.model_config import ModelConfig
from sdwebui_api.engine.networks.names import TextLayers, UNetLayers, part_of


def assembled(name: str) -> tuple[Family, Assembly, Assembly]:
    """Family, UNet and text models of the real size, without memory."""
    with torch.device("meta"):
        tensors = {key: torch.empty(weight.shape) for key, weight in checkpoint_weights(layout_of(name)).items()}
    family = recognise({key: tuple(tensor.shape) for key, tensor in tensors.items()})
    unet = family.assemble_unet(family.select_unet(tensors), ModelConfig())
    return family, unet, family.assemble_text(family.select_text(tensors), ModelConfig())


@pytest.fixture(scope="module")
def base() -> tuple[Family, Assembly, Assembly]:
    return assembled("sdxl")


@pytest.mark.parametrize("name", ["sdxl", "sdxl-refiner"])
def test_every_weight_has_its_place(name: str, base: Any) -> None:
    family, *parts = base if name == "sdxl" else assembled(name)
    assert family.name == name.replace("-", "_")
    for part in parts:
        wanted = {key: tuple(tensor.shape) for key, tensor in part.module.state_dict().items()}
        found = {key: tuple(tensor.shape) for key, tensor in part.tensors.items()}
        assert wanted == found


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("lora_unet_input_blocks_4_1_proj_in", "down_blocks.1.attentions.0.proj_in"),
        (
            "lora_unet_middle_block_1_transformer_blocks_9_attn2_to_k",
            "mid_block.attentions.0.transformer_blocks.9.attn2.to_k",
        ),
        ("lora_unet_output_blocks_2_2_conv", "up_blocks.0.upsamplers.0.conv"),
        ("lora_unet_up_blocks_0_upsamplers_0_conv", "up_blocks.0.upsamplers.0.conv"),
        ("lora_unet_label_emb_0_0", "class_embedding.linear_1"),
        ("lora_unet_add_embedding_linear_2", "class_embedding.linear_2"),
        ("unet.add_embedding.linear_1", "class_embedding.linear_1"),
        ("unet.up_blocks.0.attentions.2.proj_out", "up_blocks.0.attentions.2.proj_out"),
        ("lora_unet_down_blocks_0_attentions_0_proj_in", None),
    ],
)
def test_unet_layers(base: Any, name: str, module: str | None) -> None:
    assert UNetLayers(base[1].module).find(name) == module
    assert part_of(name) == "unet"


G_LAYER = "clip_g.text_model.encoder.layers.31.mlp.fc1"


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("lora_te1_text_model_encoder_layers_0_self_attn_q_proj", "clip_l.encoder.layers.0.self_attn.q_proj"),
        ("lora_te2_text_model_encoder_layers_31_mlp_fc1", G_LAYER),
        ("text_encoder_2.text_model.encoder.layers.31.mlp.fc1", G_LAYER),
        ("text_encoder.text_model.encoder.layers.11.mlp.fc2", "clip_l.encoder.layers.11.mlp.fc2"),
        ("lora_te2_text_projection", "clip_g.text_projection"),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1", None),  # SD1's
        ("lora_te1_text_model_encoder_layers_31_mlp_fc1", None),
    ],
)
def test_text_layers(base: Any, name: str, module: str | None) -> None:
    family, _, text = base
    assert TextLayers(text.module, family.towers).find(name) == module
    assert part_of(name) == "text"
