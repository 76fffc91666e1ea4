"""Random checkpoints have the layout of the real ones: diffusers' own conversion finds every tensor it wants."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from safetensors import safe_open

from benchmarks.make_checkpoint import checkpoint_weights, layout_of, write_checkpoint

SD1 = {"cross_attention_dim": 768, "attention_head_dim": 8}
SD2 = {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
REFINER = SDXL | {
    "block_out_channels": (384, 768, 1536, 1536),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": 4,
    "attention_head_dim": [6, 12, 24, 24],
    "cross_attention_dim": 1280,
    "projection_class_embeddings_input_dim": 2560,
}
FULL_SIZE = {
    "sd1": (SD1, 859_520_964),
    "sd1-inpainting": (SD1 | {"in_channels": 9}, 859_535_364),
    "sd2-v": (SD2, 865_910_724),
    "sdxl": (SDXL, 2_567_463_684),
    "sdxl-refiner": (REFINER, 2_259_526_660),
}


def _shapes(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@pytest.mark.parametrize("family", FULL_SIZE)
def test_full_size_names_and_shapes_are_those_that_diffusers_converts(family: str) -> None:
    config, parameters = FULL_SIZE[family]
    weights = checkpoint_weights(layout_of(family))
    with torch.device("meta"):
        wanted = UNet2DConditionModel(**config)
        tensors = {name: torch.empty(weight.shape) for name, weight in weights.items()}
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
        )
    unet = convert_ldm_unet_checkpoint(dict(tensors), dict(wanted.config))
    assert _shapes(unet) == _shapes(wanted.state_dict())
    assert sum(tensor.numel() for tensor in unet.values()) == parameters
    assert _shapes(convert_ldm_vae_checkpoint(dict(tensors), dict(vae.config))) == _shapes(vae.state_dict())


def test_small_file_is_a_safetensors_file_of_finite_weights(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "small.safetensors", "sdxl-v", width="small")
    weights = checkpoint_weights(layout_of("sdxl-v", "small"))
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == set(weights)
        assert file.metadata() == {"modelspec.architecture": "stable-diffusion-xl-v1-base"}
        assert file.get_tensor("ztsnr").numel() == 0
        positions = file.get_tensor("conditioner.embedders.0.transformer.text_model.embeddings.position_ids")
        assert positions.tolist() == [list(range(77))]
        matrix = file.get_tensor("conditioner.embedders.1.model.transformer.resblocks.2.attn.in_proj_weight")
    assert matrix.shape == (3 * 192, 192)
    assert matrix.dtype == torch.float16
    assert matrix.float().std().item() == pytest.approx(192**-0.5, rel=0.02)
    assert torch.linalg.matrix_rank(matrix.float()) == 192
