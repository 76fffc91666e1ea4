"""Loading and switching: seconds and memory, beside diffusers and beside a plain copy of the same bytes.

    python -m benchmarks.loading [--family sd1 | sdxl] [--rounds 3] [--alone] [--write]

A full-size checkpoint of random weights (float16, original layout) is made in a temporary folder. Fresh processes load
it in turn, this server's engine and diffusers' `from_single_file` with its configuration in a local folder, both with
everything imported and the file in the page cache: seconds, and the peak of resident memory above what the process had
before, as a share of the weights it then holds (`--alone`: without diffusers, which would take 24 GB for SDXL). Then
one process keeps two checkpoints and switches between them, and merges LoRAs of rank 32 on every layer of attention
blocks and text encoder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.make_checkpoint import write_checkpoint
from benchmarks.throughput import ROOT, machine, write_report
from sdwebui_api.engine.devices import default_dtype

RANK = 32
TITLES = {"sd1": "SD1.5", "sdxl": "SDXL"}
_CLIP_L: Mapping[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
_CLIP_G: Mapping[str, Any] = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "hidden_act": "gelu", "projection_dim": 1280,
}  # fmt: skip


# -- one load in a process of its own ------------------------------------------------------------------------------


def load_once(who: str, path: Path, configuration: Path) -> dict[str, float]:
    """Seconds, bytes of weights, and the peak of resident bytes above those before."""
    load = _our_load(path) if who == "ours" else _diffusers_load(path, configuration)
    with path.open("rb") as file:  # the page cache is warm
        while file.read(2**24):
            pass
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before, started = _status("VmRSS"), time.perf_counter()
    modules = load()
    seconds = time.perf_counter() - started
    _ = [parameter.sum() for parameter in _parameters(modules)]  # mapped pages are touched
    return {"seconds": seconds, "weights": _bytes(modules), "peak": _status("VmHWM") - before}


def _our_load(path: Path) -> Callable[[], list[nn.Module]]:
    import transformers.models.clip.modeling_clip  # noqa: F401

    from sdwebui_api.engine.filling import Weights
    from sdwebui_api.engine.loading import OpenCheckpoint

    def load() -> list[nn.Module]:
        opened, cpu = OpenCheckpoint(path, None), torch.device("cpu")
        weights = Weights(_dtype(), cpu)
        vae = Weights(_dtype(), cpu, channels_last=True)
        return [opened.load_unet(weights), opened.load_text_encoder(weights), opened.load_vae(vae)]

    return load


def _diffusers_load(path: Path, configuration: Path) -> Callable[[], list[nn.Module]]:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    kind: Any = StableDiffusionXLPipeline if (configuration / "text_encoder_2").exists() else StableDiffusionPipeline

    def load() -> list[nn.Module]:
        more = {"config": str(configuration), "torch_dtype": _dtype(), "local_files_only": True}
        pipeline = kind.from_single_file(str(path), **more)
        return [part for part in pipeline.components.values() if isinstance(part, nn.Module)]

    return load


def _dtype() -> torch.dtype:
    return default_dtype(torch.device("cpu"))


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _parameters(modules: Iterable[nn.Module]) -> list[Tensor]:
    return [parameter.detach() for module in modules for parameter in module.parameters()]


def _bytes(modules: Iterable[nn.Module]) -> int:
    return sum(parameter.nbytes for parameter in _parameters(modules))


def write_configuration(folder: Path, family: str) -> None:
    """What diffusers would fetch from a hub for `family`."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTokenizer

    big = family == "sdxl"
    tokenizer = CLIPTokenizer.from_pretrained(str(ROOT / "sdwebui_api" / "engine" / "data"), local_files_only=True)
    parts = {"": ("transformers", "CLIPTextModel", _CLIP_L)}
    if big:
        parts["_2"] = ("transformers", "CLIPTextModelWithProjection", _CLIP_G)
    index: dict[str, Any] = {"_class_name": "StableDiffusionXLPipeline" if big else "StableDiffusionPipeline"}
    for suffix, (library, kind, config) in parts.items():
        CLIPTextConfig(**config, architectures=[kind]).save_pretrained(folder / f"text_encoder{suffix}")
        tokenizer.save_pretrained(folder / f"tokenizer{suffix}")
        index |= {f"text_encoder{suffix}": [library, kind], f"tokenizer{suffix}": [library, "CLIPTokenizer"]}
    with torch.device("meta"):
        UNet2DConditionModel(**_unet_configuration(big)).save_config(folder / "unet")
        AutoencoderKL(**_vae_configuration()).save_config(folder / "vae")
    EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    ).save_config(folder / "scheduler")
    for name, kind in (
        ("unet", "UNet2DConditionModel"),
        ("vae", "AutoencoderKL"),
        ("scheduler", "EulerDiscreteScheduler"),
    ):
        index[name] = ["diffusers", kind]
    index |= {"image_encoder": [None, None], "feature_extractor": [None, None]}
    if not big:
        index["safety_checker"] = [None, None]
    (folder / "model_index.json").write_text(json.dumps(index))


def _unet_configuration(big: bool) -> dict[str, Any]:
    if not big:
        return {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
    return {
        "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20],
        "block_out_channels": [320, 640, 1280], "transformer_layers_per_block": [1, 2, 10],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }  # fmt: skip


def _vae_configuration() -> dict[str, Any]:
    return {
        "sample_size": 512, "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4,
        "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    }  # fmt: skip


# -- switching -------------------------------------------------------------------------------------------------------


def switch(models: Path) -> dict[str, float]:
    """Seconds of switching between checkpoints and LoRAs in one engine; the weights and what they take in memory."""
    from sdwebui_api.catalog.checkpoints import CheckpointCatalog
    from sdwebui_api.catalog.networks import LoraCatalog
    from sdwebui_api.config.flags import parse_flags
    from sdwebui_api.config.paths import Paths
    from sdwebui_api.engine.allocator import keep_large_blocks
    from sdwebui_api.engine.engine import Engine
    from sdwebui_api.engine.networks.selection import NO_NETWORKS, AppliedLora, NetworkSet

    keep_large_blocks()  # as the server does
    words = ["--use-cpu", "all", "--sd-dynamic-cache", "--min-ram-reserved", "1"]
    flags = parse_flags([*words, "--models-dir", str(models), "--embeddings-dir", str(models / "embeddings")], {})
    paths = Paths.from_flags(flags)
    engine, checkpoints = Engine(flags, paths), CheckpointCatalog(paths.checkpoint_dirs, None)
    checkpoints.refresh()
    first, second = checkpoints.all()

    def seconds(checkpoint: Any, networks: Any = NO_NETWORKS) -> float:
        started = time.perf_counter()
        with engine.lease(checkpoint, networks=networks):
            return time.perf_counter() - started

    before = _status("VmRSS")
    cold = [seconds(checkpoint) for checkpoint in (first, second)]
    weights = sum(part.size for part in engine.loaded())
    found = {
        "cold": median(cold),
        "switch": median([seconds(checkpoint) for _ in range(20) for checkpoint in (first, second)]),
        "resident": (_status("VmRSS") - before) / weights,
        "weights": weights / 2,
        "copy": _copy_seconds(weights // 2),
    }
    loras = models / "Lora"
    loras.mkdir(exist_ok=True)
    with engine.lease(first) as model:
        for name, seed in (("a", 1), ("b", 2)):
            save_file(_lora(model, seed), str(loras / f"{name}.safetensors"))
    catalog = LoraCatalog((loras,), None)
    catalog.refresh()
    one, other = (NetworkSet((AppliedLora(file),)) for file in catalog.all())
    merged = [seconds(first, networks) for networks in (one, other)]
    return found | {
        "merge_first": merged[0],
        "merge_next": merged[1],
        "lora": median([seconds(first, networks) for _ in range(10) for networks in (one, other)]),
        "none": median([seconds(first) for _ in range(10)]),
    }


def _copy_seconds(size: int) -> float:
    """By a gigabyte at most, so that it fits beside two checkpoints."""
    piece = min(size, 2**30)
    source, target = torch.ones(piece, dtype=torch.uint8), torch.ones(piece, dtype=torch.uint8)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        target.copy_(source)
        times.append(time.perf_counter() - started)
    return median(times) * size / piece


def _lora(model: Any, seed: int) -> dict[str, Tensor]:
    """Random, of every linear layer and 1x1 convolution in the attention blocks, and of the first text encoder."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}

    def add(name: str, weight: Tensor) -> None:
        shape = (1, 1) if weight.ndim == 4 else ()
        down = torch.randn((RANK, weight.shape[1], *shape), generator=generator) * weight.shape[1] ** -0.5
        tensors[f"{name}.lora_A.weight"] = down.half()
        up = torch.randn((len(weight), RANK, *shape), generator=generator)
        tensors[f"{name}.lora_B.weight"] = (up * 0.02).half()

    for name, layer in model.unet.module.named_modules():
        if ".attentions." in name and isinstance(layer, nn.Linear | nn.Conv2d):
            add(f"unet.{name}", layer.weight)
    width = 768
    for index in range(12):
        for layer in ("q_proj", "k_proj", "v_proj", "out_proj"):
            add(f"text_encoder.text_model.encoder.layers.{index}.self_attn.{layer}", torch.empty(width, width))
        add(f"text_encoder.text_model.encoder.layers.{index}.mlp.fc1", torch.empty(4 * width, width))
        add(f"text_encoder.text_model.encoder.layers.{index}.mlp.fc2", torch.empty(width, 4 * width))
    return tensors


# -- the whole run ---------------------------------------------------------------------------------------------------


def measured(family: str, rounds: int, alone: bool) -> tuple[dict[str, list[dict[str, float]]], dict[str, float]]:
    loads: dict[str, list[dict[str, float]]] = {"ours": []} if alone else {"ours": [], "diffusers": []}
    with tempfile.TemporaryDirectory() as folder:
        models, configuration = Path(folder) / "models", Path(folder) / "configuration"
        checkpoints = models / "Stable-diffusion"
        checkpoints.mkdir(parents=True)
        path = checkpoints / "one.safetensors"
        write_checkpoint(path, family)
        write_configuration(configuration, family)
        for _ in range(rounds):
            for who in loads:
                loads[who].append(_child("load", who, str(path), str(configuration)))
        (checkpoints / "two.safetensors").symlink_to(path)
        return loads, _child("switch", str(models))


def _child(*words: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.loading", "--child", *words]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(" ".join(words[:2]), {name: round(value, 4) for name, value in found.items()}, flush=True)
    return found


def report(family: str, loads: Mapping[str, Sequence[Mapping[str, float]]], switches: Mapping[str, float]) -> str:
    def middle(who: str, what: str) -> float:
        return median(run[what] for run in loads[who])

    ours, copy = middle("ours", "seconds"), switches["copy"]
    peaks = {who: f"{median(run['peak'] / run['weights'] for run in loads[who]):.2f}" for who in loads}
    theirs, ratio = "not measured", ""
    if "diffusers" in loads:
        theirs, ratio = f"{middle('diffusers', 'seconds'):.2f}", f"{ours / middle('diffusers', 'seconds'):.2f}"
    lines = [
        f"Machine: {machine()}. {TITLES[family]}, float16 in the file, "
        f"{str(_dtype()).removeprefix('torch.')} in memory: {middle('ours', 'weights') / 1e9:.2f} GB.",
        "",
        f"| {TITLES[family]} | this engine | diffusers `from_single_file` | ratio |",
        "|---|---|---|---|",
        f"| seconds to load, page cache warm | {ours:.2f} | {theirs} | {ratio} |",
        f"| peak of resident memory, of the weights | {peaks['ours']} | {peaks.get('diffusers', theirs)} | |",
        "",
        "| two checkpoints in RAM | ms | of a plain copy of the weights |",
        "|---|---|---|",
        f"| a plain copy of one's weights | {copy * 1000:.0f} | 1 |",
        f"| switching to the other | {switches['switch'] * 1000:.2f} | {switches['switch'] / copy:.4f} |",
        "",
        f"Both together take {switches['resident']:.2f} of their weights in memory.",
        "",
        f"| LoRA of rank {RANK} on attention blocks and text encoder | ms |",
        "|---|---|",
        f"| merged for the first time | {switches['merge_first'] * 1000:.0f} |",
        f"| another one, merged for the first time | {switches['merge_next'] * 1000:.0f} |",
        f"| switching between the two later | {switches['lora'] * 1000:.2f} |",
        f"| back to none | {switches['none'] * 1000:.2f} |",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=sorted(TITLES), default="sd1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help="without the peer")
    parser.add_argument("--write", action="store_true", help="put the result into benchmarks/README.md")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        task, *words = arguments.child
        answer = load_once(words[0], Path(words[1]), Path(words[2])) if task == "load" else switch(Path(words[0]))
        print(json.dumps(answer))
        return
    text = report(arguments.family, *measured(arguments.family, arguments.rounds, arguments.alone))
    print(text)
    if arguments.write:
        write_report(text, f"loading-{arguments.family}")


if __name__ == "__main__":
    main()
