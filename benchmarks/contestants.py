"""One way of drawing pictures from a checkpoint, in a process of its own: ours or a peer's, asked by `generation.py`.

    python -m benchmarks.contestants NAME FAMILY CHECKPOINT SIZE

Reads one JSON object per line, `{"steps": 4, "pictures": 1}`, and answers each with one: `{"seconds": …, "memory": …}`.

- `ours`: the server's own generator with the process set up as the server's, without HTTP. Several pictures are that
  many clients at once. `ours-blade`: the same with that flag.
- `diffusers-half`, `diffusers-fp32`: StableDiffusion(XL)Pipeline as it comes, in half precision (bf16 on a CPU, fp16 on
  a GPU) or fp32. `diffusers-compiled`: the former with `torch.compile` on the UNet. Several pictures are one batch.
- `a1111-style`: fp32 eager with the negative prompt in the same batch and softmax written out between two matrix
  products, which is what A1111 chooses on a CPU (InvokeAI's attention); no A1111 code runs here.

Peers get their prompts encoded already; ours has its cache of encodings. Both decode, and end with a PIL image.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch

from benchmarks.folders import passing_folder

PROMPT = "a lighthouse on a cliff, oil painting"
NEGATIVE = "blurry"
NAMES = ("ours", "ours-blade", "diffusers-half", "diffusers-fp32", "diffusers-compiled", "a1111-style")

_SD1: Mapping[str, Any] = {"cross_attention_dim": 768, "attention_head_dim": 8}
_SDXL: Mapping[str, Any] = {
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
UNETS: Mapping[str, Mapping[str, Any]] = {"sd1": _SD1, "sdxl": _SDXL}
VAE: Mapping[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
}


class Contestant(Protocol):
    def draw(self, steps: int, pictures: int) -> None: ...


class Ours:
    """The generator behind every door of the server."""

    def __init__(self, checkpoint: Path, size: int, *flags: str) -> None:
        from sdwebui_api.engine.allocator import keep_large_blocks

        keep_large_blocks()
        from benchmarks.bare_engine import BareEngine

        models = passing_folder("benchmark-models")
        (models / "Stable-diffusion").mkdir()
        (models / "Stable-diffusion" / "benchmark.safetensors").symlink_to(checkpoint.resolve())
        self._engine = BareEngine(models, "--no-hashing", *flags)
        self._size = size

    def draw(self, steps: int, pictures: int) -> None:
        with ThreadPoolExecutor(pictures) as clients:
            list(clients.map(lambda seed: self._engine.generate(self._body(steps, seed)), range(pictures)))

    def _body(self, steps: int, seed: int) -> dict[str, Any]:
        return {
            "prompt": PROMPT,
            "negative_prompt": NEGATIVE,
            "seed": seed,
            "steps": steps,
            "width": self._size,
            "height": self._size,
            "sampler_name": "Euler",
            "scheduler": "Normal",
        }


class Diffusers:
    """A pipeline of diffusers, converted by diffusers from the same file."""

    def __init__(self, family: str, checkpoint: Path, size: int, name: str) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        half = torch.float16 if device.type == "cuda" else torch.bfloat16
        dtype = torch.float32 if name in ("diffusers-fp32", "a1111-style") else half
        unet, vae = load_modules(family, checkpoint, dtype)
        if name == "a1111-style":
            from diffusers.models.attention_processor import AttnProcessor

            unet.set_attn_processor(AttnProcessor())
        self._pipeline = _pipeline(family, unet, vae).to(device)
        if name == "diffusers-compiled":
            self._pipeline.unet = torch.compile(self._pipeline.unet)
        self._pipeline.set_progress_bar_config(disable=True)
        self._size = size
        self._embeddings = _embeddings(unet.config, device, dtype)

    def draw(self, steps: int, pictures: int) -> None:
        self._pipeline(
            **self._embeddings,
            height=self._size,
            width=self._size,
            num_inference_steps=steps,
            num_images_per_prompt=pictures,
            guidance_scale=7.0,
            output_type="pil",
        )


def load_modules(family: str, checkpoint: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """UNet and VAE by diffusers' own conversion, tensor by tensor into `dtype`."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
    from safetensors import safe_open

    unet, vae = meta_modules(family)
    with safe_open(checkpoint, framework="pt") as file:
        wanted = ("model.diffusion_model.", "first_stage_model.")
        tensors = {name: file.get_tensor(name).to(dtype) for name in file.keys() if name.startswith(wanted)}  # noqa: SIM118
    unet.load_state_dict(convert_ldm_unet_checkpoint(dict(tensors), dict(unet.config)), assign=True)
    vae.load_state_dict(convert_ldm_vae_checkpoint(dict(tensors), dict(vae.config)), assign=True)
    return unet.eval().requires_grad_(False), vae.eval().requires_grad_(False)


def meta_modules(family: str) -> tuple[Any, Any]:
    """The networks without memory; for counting operations too."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(**UNETS[family]).eval(), AutoencoderKL(**VAE).eval()


def _pipeline(family: str, unet: Any, vae: Any) -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

    scheduler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    if family == "sdxl":
        return StableDiffusionXLPipeline(
            vae=vae, unet=unet, scheduler=scheduler, text_encoder=None, text_encoder_2=None, tokenizer=None,
            tokenizer_2=None, add_watermarker=False,
        )  # fmt: skip
    return StableDiffusionPipeline(
        vae=vae, unet=unet, scheduler=scheduler, text_encoder=None, tokenizer=None, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def _embeddings(config: Any, device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape).to(device, dtype)

    width = config.cross_attention_dim
    found = {"prompt_embeds": noise(1, 77, width), "negative_prompt_embeds": noise(1, 77, width)}
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        found |= {"pooled_prompt_embeds": noise(1, pooled), "negative_pooled_prompt_embeds": noise(1, pooled)}
    return found


def contestant(name: str, family: str, checkpoint: Path, size: int) -> Contestant:
    if name == "ours" or name.startswith("ours-"):
        return Ours(checkpoint, size, *(f"--{flag}" for flag in name.split("-")[1:]))
    return Diffusers(family, checkpoint, size, name)


def memory() -> dict[str, float]:
    """Bytes: the most that this process ever had resident, and on the GPU."""
    peak = {"ram": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0}
    if torch.cuda.is_available():
        peak["gpu"] = float(torch.cuda.max_memory_allocated())
    return peak


def main() -> None:
    name, family, checkpoint, size = sys.argv[1:]
    # What a library prints must not be taken for an answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    before = memory()["ram"]
    drawing = contestant(name, family, Path(checkpoint), int(size))
    print(json.dumps({"ready": name, "before": before}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        begin = time.perf_counter()
        drawing.draw(asked["steps"], asked["pictures"])
        seconds = time.perf_counter() - begin
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        print(json.dumps({"seconds": seconds, "faults": faults, "memory": memory()}), file=answers, flush=True)


if __name__ == "__main__":
    main()
