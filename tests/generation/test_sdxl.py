"""SDXL through the whole pipeline: two text models, LoRAs and textual inversions for both, ControlNets, passes."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.make_checkpoint import write_checkpoint
from sdwebui_api.api.generation_schema import Img2ImgBody, Txt2ImgBody
from sdwebui_api.api.services import Services
from sdwebui_api.app import build
from sdwebui_api.config.flags import parse_flags
from sdwebui_api.engine.networks.control import ControlInput
from sdwebui_api.errors import BadRequest, UnusableModel
from sdwebui_api.generation.request import GenerationResult
from sdwebui_api.generation.training_request import NewEmbedding
from sdwebui_api.jobs.job import Job
from tests.support.fakes import GOLDEN

SMALL = {"prompt": "a red apple", "seed": 5, "steps": 2, "width": 64, "height": 64, "sampler_name": "Euler"}
CLIP_L, CLIP_G = 128, 192
"""Widths of the small text models."""


@dataclass(frozen=True)
class Studio:
    services: Services
    folder: Path

    def run(self, kind: Literal["txt2img", "img2img"] = "txt2img", **fields: Any) -> GenerationResult:
        units, options, script = fields.pop("units", []), fields.pop("options", {}), fields.pop("script", None)
        overrides = {"sd_model_checkpoint": "sdxl.safetensors", "randn_source": "CPU", **options}
        schema = Txt2ImgBody if kind == "txt2img" else Img2ImgBody
        body = schema.model_validate(SMALL | {"override_settings": overrides} | fields)
        services = self.services
        request = services.resolver(kind, body.model_dump(), body.model_fields_set, services.options.snapshot())
        scripts = services.scripts.read(kind, services.catalog, script, None, {"controlnet": {"args": units}})
        result: GenerationResult = services.generator.run(
            replace(request, script=scripts.script, always_on=scripts.always_on), Job("test", kind)
        )
        return result

    def picture(self, **fields: Any) -> np.ndarray:
        return np.asarray(self.run(**fields).images[0].image).astype(int)


@pytest.fixture(scope="module")
def plain(studio: Studio) -> np.ndarray:
    """Without anything special."""
    return studio.picture()


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    folder = tmp_path_factory.mktemp("sdxl-studio")
    for name in ("checkpoints", "loras", "embeddings", "controlnets"):
        (folder / name).mkdir()
    for kind in ("sdxl", "sdxl-refiner", "sdxl-inpainting"):
        write_checkpoint(folder / "checkpoints" / f"{kind}.safetensors", kind, torch.float16, "small")
    for entry in (GOLDEN / "models" / "Stable-diffusion").glob("tiny-sd.*"):
        (folder / "checkpoints" / entry.name).symlink_to(entry)
    save_file(low_rank(KOHYA), folder / "loras" / "kohya.safetensors")
    save_file(low_rank(DIFFUSERS, ("lora_A.weight", "lora_B.weight")), folder / "loras" / "diffusers.safetensors")
    save_file(_embedding(), folder / "embeddings" / "glow.safetensors")
    save_file(_controlnet(), folder / "controlnets" / "edges_xl.safetensors")
    places = {
        "--data-dir": folder / "data",
        "--ckpt-dir": folder / "checkpoints",
        "--lora-dir": folder / "loras",
        "--embeddings-dir": folder / "embeddings",
        "--controlnet-dir": folder / "controlnets",
        "--models-dir": folder / "models",
    }
    words = [word for name, place in places.items() for word in (name, str(place))]
    flags = parse_flags([*words, "--no-half", "--use-cpu", "all", "--nowebui", "--ckpt", "tiny-sd.safetensors"], {})
    return Studio(build(flags), folder)


# (output, input) of layers under kohya's and under diffusers' names
KOHYA = {
    "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (CLIP_L, CLIP_L),
    "lora_te2_text_model_encoder_layers_1_mlp_fc1": (4 * CLIP_G, CLIP_G),
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (128, CLIP_L + CLIP_G),
    "lora_unet_middle_block_1_transformer_blocks_1_ff_net_2": (256, 1024),
    "lora_unet_label_emb_0_0": (256, CLIP_G + 6 * 256),
}
DIFFUSERS = {
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj": (CLIP_L, CLIP_L),
    "text_encoder_2.text_model.encoder.layers.1.mlp.fc1": (4 * CLIP_G, CLIP_G),
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k": (128, CLIP_L + CLIP_G),
    "unet.mid_block.attentions.0.transformer_blocks.1.ff.net.2": (256, 1024),
    "unet.add_embedding.linear_1": (256, CLIP_G + 6 * 256),
}


def low_rank(
    layers: Mapping[str, tuple[int, int]], leaves: tuple[str, str] = ("lora_down.weight", "lora_up.weight")
) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for layer, (out, into) in layers.items():
        tensors[f"{layer}.{leaves[0]}"] = torch.randn(2, into, generator=random) * 0.2
        tensors[f"{layer}.{leaves[1]}"] = torch.randn(out, 2, generator=random) * 0.2
    return tensors


def _embedding() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    return {
        "clip_l": torch.randn(3, CLIP_L, generator=random) * 0.1,
        "clip_g": torch.randn(3, CLIP_G, generator=random) * 0.1,
    }


def controlnet() -> ControlNetModel:
    """For the small base, in diffusers' own form."""
    torch.manual_seed(2)
    network = ControlNetModel(
        block_out_channels=(64, 128, 256),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        transformer_layers_per_block=(1, 2, 2),
        attention_head_dim=(1, 2, 4),
        cross_attention_dim=CLIP_L + CLIP_G,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=CLIP_G + 6 * 256,
    )
    for convolution in (*network.controlnet_down_blocks, network.controlnet_mid_block):
        torch.nn.init.normal_(convolution.weight, std=0.05)
    return network.eval()


def _controlnet() -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in controlnet().state_dict().items()}


def encoded(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean())


def test_a_lora_changes_both_text_models_and_the_unet(studio: Studio, plain: np.ndarray) -> None:
    kohya = studio.run(prompt="a red apple <lora:kohya:0.5>")
    assert not kohya.info["warnings"]
    found = np.asarray(kohya.images[0].image).astype(int)
    assert np.array_equal(found, studio.picture(prompt="a red apple <lora:diffusers:0.5>"))
    assert difference(plain, found) > 0.5
    unet_only = studio.picture(prompt="a red apple <lora:kohya:te=0:unet=0.5>")
    assert difference(unet_only, found) > 0 and difference(unet_only, plain) > 0


def test_networks_of_other_families_are_warned_about(studio: Studio, plain: np.ndarray) -> None:
    """The picture is made without what does not fit."""
    old = {
        "lora_te_text_model_encoder_layers_0_mlp_fc1": (4 * CLIP_L, CLIP_L),
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k": (64, 768),
    }
    save_file(low_rank(old), studio.folder / "loras" / "old.safetensors")
    on_xl = studio.run(prompt="a red apple <lora:old>")
    assert np.array_equal(np.asarray(on_xl.images[0].image), plain)
    assert any("LoRA old" in warning and "known" in warning for warning in on_xl.info["warnings"])
    on_sd1 = studio.run(
        prompt="a red apple <lora:kohya>", options={"sd_model_checkpoint": "tiny-sd.safetensors"}, n_iter=1
    )
    assert any("LoRA kohya" in warning for warning in on_sd1.info["warnings"])


def test_a_textual_inversion_speaks_to_both_text_models(studio: Studio) -> None:
    result = studio.run(prompt="a glow apple")
    assert 'TI hashes: "glow: ' in result.images[0].infotext
    assert difference(np.asarray(result.images[0].image).astype(int), studio.picture(prompt="a gleam apple")) > 0
    sd1 = studio.run(prompt="a glow apple", options={"sd_model_checkpoint": "tiny-sd.safetensors"})
    assert "TI hashes" not in sd1.images[0].infotext


def test_prompts_change_context_and_label_with_the_steps(studio: Studio, plain: np.ndarray) -> None:
    """A prompt that becomes another one after the first step is neither of the two."""
    changing = studio.picture(prompt="[a red apple:a blue car:1]")
    assert difference(changing, plain) > 0 and difference(changing, studio.picture(prompt="a blue car")) > 0
    both = studio.picture(prompt="a red apple AND a blue car :0.5")
    assert difference(both, plain) > 0


def test_clip_skip_is_left_alone_unless_the_option_says_so(studio: Studio, plain: np.ndarray) -> None:
    assert np.array_equal(plain, studio.picture(options={"CLIP_stop_at_last_layers": 3}))
    assert np.array_equal(plain, studio.picture(options={"CLIP_stop_at_last_layers": 2, "sdxl_clip_l_skip": True}))
    skipped = studio.picture(options={"CLIP_stop_at_last_layers": 3, "sdxl_clip_l_skip": True})
    assert difference(plain, skipped) > 0


def test_passes(studio: Studio) -> None:
    """img2img, the hires pass with the refiner, and a refiner after SD1, whose text encoder has nothing in common."""
    start = Image.fromarray(np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    image = studio.run("img2img", init_images=[encoded(start)], denoising_strength=0.6).images[0].image
    assert image.size == (64, 64)
    refiner: dict[str, Any] = {"refiner_checkpoint": "sdxl-refiner", "refiner_switch_at": 0.3}
    both = {"hires_fix_refiner_pass": "both passes"}
    hires = studio.run(enable_hr=True, hr_scale=2, denoising_strength=0.7, options=both, **refiner).images[0]
    assert hires.image.size == (128, 128) and "Refiner: sdxl-refiner" in hires.infotext
    other = {"sd_model_checkpoint": "tiny-sd.safetensors"}
    assert studio.run(options=other, **refiner).images[0].image.size == (64, 64)


def test_an_inpainting_model_refines_every_pass(studio: Studio) -> None:
    refiner: dict[str, Any] = {"refiner_checkpoint": "sdxl-inpainting", "refiner_switch_at": 0.3}
    start = encoded(Image.new("RGB", (64, 64), "gray"))
    assert "Refiner: sdxl-inpainting" in studio.run("img2img", init_images=[start], **refiner).images[0].infotext
    both = {"hires_fix_refiner_pass": "both passes"}
    for upscaler in ("Latent", "Lanczos"):
        hires = {"enable_hr": True, "hr_upscaler": upscaler, "denoising_strength": 0.7}
        assert studio.run(**hires, hr_scale=1.5, options=both, **refiner).images[0].image.size == (96, 96)


def test_what_sdxl_cannot_do_is_said(studio: Studio) -> None:
    start = encoded(Image.new("RGB", (64, 64), "gray"))
    with pytest.raises(BadRequest, match="cannot use a checkpoint of Stable Diffusion XL"):
        studio.run("img2img", init_images=[start], denoising_strength=0.6, script="img2img alternative test")
    trainer, path = studio.services.trainer, studio.folder / "embeddings" / "new.pt"
    assert trainer is not None
    checkpoint = studio.services.catalog.checkpoints.find("sdxl.safetensors")
    with pytest.raises(UnusableModel, match="Stable Diffusion XL, which cannot be trained here"):
        trainer.create_embedding(NewEmbedding("new", path, 1, "*"), checkpoint, None, Job("e", "create-embedding"))
    assert not path.exists()


def test_a_controlnet_is_told_sizes_and_text_too(studio: Studio, plain: np.ndarray) -> None:
    """The residuals are diffusers', and a unit changes the picture."""
    x, t, context = torch.randn(2, 4, 8, 8), torch.tensor([500.0, 300.0]), torch.randn(2, 77, CLIP_L + CLIP_G)
    pooled, sizes, hint = torch.randn(2, CLIP_G), torch.tensor([[64.0, 64, 0, 8, 64, 64]] * 2), torch.rand(2, 3, 64, 64)
    theirs = controlnet()
    embedded = theirs.add_time_proj(sizes.flatten()).reshape(2, -1)
    engine: Any = studio.services.generator._engine  # type: ignore[attr-defined]
    checkpoint = studio.services.catalog.checkpoints.find("sdxl.safetensors")
    path = studio.folder / "controlnets" / "edges_xl.safetensors"
    with torch.no_grad(), engine.lease(checkpoint) as model, engine.control_network(path, model) as network:
        vector = torch.cat([pooled, embedded], dim=1)
        seen = network.embed(hint)
        given = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}, "return_dict": False}
        down, middle = theirs(x, t, context, hint, **given)
        ours = ControlInput(network, seen, torch.ones(2, network.count)).scaled(x, t, context, vector)
    for one, other in zip(ours.tensors, (*down, middle), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    edges = Image.fromarray(np.eye(64, dtype=np.uint8) * 255).convert("RGB")
    unit = {"enabled": True, "module": "none", "model": "edges_xl", "image": encoded(edges)}
    assert difference(studio.picture(units=[unit]), plain) > 0.2
