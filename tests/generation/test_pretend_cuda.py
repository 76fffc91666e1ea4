"""Whole requests on a CUDA device that is only pretended (`tests/support/pretend_cuda.py`): that every tensor is where
and in the precision in which CUDA wants it, that nothing waits for the GPU in a step, that memory is given back, and
that the pictures are those of the CPU. No GPU computes here: its kernels, its speed and its real memory stay untested.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sdwebui_api.app import build
from sdwebui_api.config.flags import parse_flags
from sdwebui_api.engine import blocks, devices
from sdwebui_api.engine.compiled import CompiledNetwork
from sdwebui_api.engine.engine import Engine
from sdwebui_api.engine.vae import Vae
from sdwebui_api.errors import OutOfMemory
from tests.generation.conftest import Studio
from tests.generation.test_generator import encoded, gradient
from tests.support.fakes import GOLDEN
from tests.support.pretend_cuda import PretendCuda, PretendCudaError, pretending

CANNY = {
    "alwayson_scripts": {
        "controlnet": {
            "args": [
                {"enabled": True, "module": "canny", "model": "control_sd15_tiny_canny", "image": encoded(gradient())}
            ]
        }
    }
}
REFERENCE = {
    "alwayson_scripts": {
        "controlnet": {
            "args": [{"enabled": True, "module": "reference_adain+attn", "model": "None", "image": encoded(gradient())}]
        }
    }
}
FLOAT8 = {"fp8_storage": "Enable", "cache_fp16_weight": True}
HIRES = {"enable_hr": True, "denoising_strength": 0.6, "hr_scale": 1.5}


@dataclass
class Workshop:
    """A server's generator that believes in a GPU."""

    gpu: PretendCuda
    studio: Studio

    @property
    def engine(self) -> Engine:
        engine: Engine = self.studio.services.generator._engine  # type: ignore[attr-defined]
        return engine


@contextmanager
def workshop(folder: Path, *words: str, gpu: PretendCuda | None = None) -> Iterator[Workshop]:
    gpu = gpu or PretendCuda()
    models = GOLDEN / "models"
    flags = parse_flags(
        [
            "--nowebui", "--data-dir", str(folder), "--models-dir", str(models), "--embeddings-dir",
            str(models / "embeddings"), "--ckpt", "tiny-sd.safetensors", *words,
        ],
        {},
    )  # fmt: skip
    with pretending(gpu):
        yield Workshop(gpu, Studio(build(flags), folder))


@pytest.fixture(scope="module")
def resident(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """In float32, so that its pictures can be compared with those of the recordings' server."""
    with workshop(tmp_path_factory.mktemp("pretend-cuda"), "--no-half") as made:
        return made


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 where CUDA would have float16, which few CPUs compute in less than seconds per picture."""
    monkeypatch.setattr(devices, "default_dtype", lambda device: torch.bfloat16)


def mask() -> str:
    from PIL import Image

    found = Image.new("L", (64, 64))
    found.paste(255, (16, 16, 48, 48))
    return encoded(found)


def pixels(result: Any) -> np.ndarray:
    return np.stack([np.asarray(one.image, dtype=np.int16) for one in result.images if one.role == "sample"])


# -- the pretence itself -------------------------------------------------------------------------------------------


def test_what_cuda_refuses_is_refused() -> None:
    with pretending(PretendCuda()) as gpu:
        here, there = torch.ones(2, 3), torch.ones(2, 3, device="cuda")
        assert there.device == (there + 1).half().device == torch.zeros_like(there).device == torch.device("cuda", 0)
        assert (there * torch.tensor(2.0)).is_cuda and there[torch.tensor([0])].is_cuda and not there.cpu().is_cuda
        index, norm = torch.tensor([0], device="cuda"), torch.ones(3, device="cuda")
        for wrong in (
            lambda: there + here,
            lambda: torch.cat([there, here]),
            lambda: here[index],
            lambda: here * torch.tensor(2.0, device="cuda"),
            lambda: torch.randn(3, device="cuda", generator=torch.Generator()),
            lambda: nn.functional.layer_norm(there.half(), (3,), norm),
        ):
            with pytest.raises(PretendCudaError):
                wrong()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        assert len(gpu.mixes) == 6
        gpu.total = gpu.allocated() + 100
        with pytest.raises(torch.OutOfMemoryError):
            torch.zeros(100, device="cuda")
        module = nn.Linear(2, 2)
        module.weight.data = module.weight.data.cuda()
        assert module.weight.is_cuda and not module.bias.is_cuda
    assert not torch.cuda.is_available() and not torch.ones(1).is_cuda


def test_pinned_memory_that_is_used_again_too_early_is_noticed() -> None:
    with pretending(PretendCuda()):
        pinned = torch.zeros(4, pin_memory=True)
        pinned.to("cuda", non_blocking=True)
        pinned.fill_(1)
        with pytest.raises(PretendCudaError, match="overwritten"):
            torch.cuda.synchronize()


# -- pictures ------------------------------------------------------------------------------------------------------

SAME: dict[str, dict[str, Any]] = {
    "batch with variation": {"batch_size": 2, "subseed_strength": 0.3, "sampler_name": "Euler a"},
    "AND, editing": {"prompt": "a [cat:dog:0.5] (big:1.2) AND apple :0.5", "negative_prompt": "b", "batch_size": 2},
    "sde": {"sampler_name": "DPM++ SDE", "override_settings": {"randn_source": "NV"}},
    "ddim cfg++": {"sampler_name": "DDIM CFG++"},
    "lcm": {"sampler_name": "LCM", "cfg_scale": 1},
    "hires latent": HIRES,
    "networks": {"prompt": "a tiny-ti <lora:tiny-style:1> <lora:tiny-conv:0.5> <hypernet:tiny-hyper:1>"},
    "token merging, tiling": {"override_settings": {"token_merging_ratio": 0.5, "randn_source": "CPU"}, "tiling": True},
    "controlnet": CANNY | {"batch_size": 2},
    "reference": REFERENCE,
    "img2img ddim": {"init_images": [encoded(gradient())], "denoising_strength": 0.7, "sampler_name": "DDIM"},
    "inpaint": {"init_images": [encoded(gradient())], "mask": mask(), "inpainting_fill": 2},
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_the_pictures_are_those_of_the_cpu(studio: Studio, resident: Workshop, name: str) -> None:
    fields = {"steps": 2} | SAME[name]
    way = "img2img" if "init_images" in fields else "txt2img"
    with pretending(resident.gpu) as gpu:
        gpu.mixes.clear()
        ours = getattr(resident.studio, way)(**fields)
        assert gpu.mixes == []
    assert np.abs(pixels(ours) - pixels(getattr(studio, way)(**fields))).max() <= 1


def test_gpu_noise_is_what_the_nv_source_computes(resident: Workshop) -> None:
    with pretending(resident.gpu):
        drawn, computed = (
            pixels(resident.studio.txt2img(sampler_name=sampler, override_settings={"randn_source": source}))
            for sampler in ("Euler a",)
            for source in ("GPU", "NV")
        )
    assert np.array_equal(drawn, computed)


@pytest.mark.parametrize(
    "sampler", ["Euler a", "DPM++ 2M", "DPM++ SDE", "LMS", "DPM++ 3M SDE", "DDIM", "PLMS", "UniPC"]
)
def test_no_step_waits_for_the_gpu(resident: Workshop, sampler: str) -> None:
    """Four steps wait no more often than two: prompts, schedules and pictures do, once."""
    fields = {"prompt": "a [cat:dog:0.5] AND b", "batch_size": 2, "sampler_name": sampler, "scheduler": "Karras"}
    small = {"width": 16, "height": 16, "override_settings": {"randn_source": "GPU"}}
    waits = []
    with pretending(resident.gpu) as gpu:
        for steps in (4, 2, 4):  # the first for what is computed once
            gpu.waits.clear()
            resident.studio.txt2img(**fields, **small, steps=steps)
            waits.append(sorted(f"{wait.what} {wait.where}" for wait in gpu.waits))
    assert waits[1] == waits[2]


def test_jobs_side_by_side_share_forward_passes(resident: Workshop, studio: Studio) -> None:
    """One with a ControlNet, two that fit together; each gets the picture it gets alone on the CPU."""
    requests: list[dict[str, Any]] = [{"seed": 1}, {"seed": 2, "sampler_name": "Heun"}, CANNY | {"seed": 3}]
    alone = [pixels(studio.txt2img(steps=4, **fields)) for fields in requests]
    with pretending(resident.gpu) as gpu, ThreadPoolExecutor(len(requests)) as threads:
        gpu.mixes.clear()
        together = threads.map(lambda fields: pixels(resident.studio.txt2img(steps=4, **fields)), requests)
        assert all(np.abs(ours - expected).max() <= 1 for ours, expected in zip(together, alone, strict=True))
        assert gpu.mixes == [] and resident.engine.batcher.statistics.largest > 1


# -- half precision, and weights that come and go --------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--opt-channelslast", "--medvram", "--lowvram"])
def test_half_precision(half: None, tmp_path: Path, flag: str) -> None:
    with workshop(tmp_path, flag) as made:
        assert made.engine.plan.unet_dtype == torch.bfloat16
        for fields in (
            {},
            CANNY | {"prompt": "<lora:tiny-style:1> <hypernet:tiny-hyper:1>"},
            REFERENCE | {"override_settings": {"upcast_attn": True}},
            {
                "prompt": "<lora:tiny-style:1>",
                "override_settings": {"fp8_storage": "Enable", "cache_fp16_weight": True},
            },
        ):
            assert pixels(made.studio.txt2img(**{"steps": 1} | fields)).std() > 0
        assert pixels(made.studio.img2img(steps=1, init_images=[encoded(gradient())], mask=mask())).std() > 0
        assert made.gpu.mixes == []
        if flag != "--opt-channelslast":
            made.engine.device.forget()
            assert made.gpu.allocated() < 2**20  # what rests in RAM is not on the GPU


def test_a_vae_that_overflows_goes_on_in_float32(half: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Vae._image

    def overflowing(vae: Vae, latent: torch.Tensor) -> torch.Tensor:
        image = plain(vae, latent)
        return image if vae._dtype == torch.float32 else image * float("nan")

    monkeypatch.setattr(Vae, "_image", overflowing)
    with workshop(tmp_path, "--medvram") as made:
        first, again = (pixels(made.studio.txt2img(steps=1)) for _ in range(2))
        assert np.array_equal(first, again) and made.gpu.mixes == []


def test_weights_that_rest_in_ram(tmp_path: Path) -> None:
    """Two forms of a checkpoint, one of which has to rest in RAM: pictures stay the same while they come and go."""
    limits = {"sd_checkpoints_limit": 2, "sd_checkpoints_keep_in_cpu": True, "randn_source": "CPU"}
    with workshop(tmp_path, "--no-half") as made:
        other = limits | {"sd_vae": "tiny-vae.safetensors", "fp8_storage": "Enable"}
        pictures = []
        for settings in (limits, other, limits, other):
            pictures.append(pixels(made.studio.txt2img(steps=1, override_settings=settings)))
        assert np.array_equal(pictures[0], pictures[2]) and np.array_equal(pictures[1], pictures[3])
        assert made.gpu.mixes == []


# -- memory --------------------------------------------------------------------------------------------------------


def test_a_gpu_that_runs_out_of_memory(tmp_path: Path) -> None:
    with workshop(tmp_path, "--no-half") as made:
        gpu, fields = made.gpu, {"steps": 1, "override_settings": {"randn_source": "CPU"}}
        expected = pixels(made.studio.txt2img(**fields))
        made.studio.txt2img(**fields, prompt="<lora:tiny-style:1>")
        before, crowded = gpu.allocated(), len(made.engine.loaded())

        failing: list[str] = []

        def fails_once(name: str, size: int) -> bool:
            failing.append(name)
            return "conv" in name and sum("conv" in one for one in failing) == 1

        # Idle weights (the LoRA's) make room, and the job never learns of it.
        gpu.fails_at = fails_once
        assert np.array_equal(pixels(made.studio.txt2img(**fields)), expected)
        assert failing and len(made.engine.loaded()) < crowded and gpu.allocated() < before
        before = gpu.allocated()
        # With nothing left to give: the job's own error, no tensor stays, and the next job is served.
        gpu.fails_at = lambda name, size: "conv" in name
        with pytest.raises(OutOfMemory, match="not enough memory") as failure:
            made.studio.txt2img(**fields)
        gpu.fails_at = lambda name, size: False
        failure.value.__context__ = failure.value.__cause__ = None  # as the runner does to what it remembers
        kept = failure.value.with_traceback(None)
        del failure
        gc.collect()
        assert gpu.allocated() <= before, kept
        assert np.array_equal(pixels(made.studio.txt2img(**fields)), expected)


def test_pinned_ram_is_taken_in_pieces_and_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(blocks, "PINNED", 1024)
    empty = torch.empty

    def refusing(*args: Any, **kwargs: Any) -> torch.Tensor:
        if kwargs.get("pin_memory"):
            raise RuntimeError("CUDA error: out of memory")
        return empty(*args, **kwargs)

    with pretending(PretendCuda()):
        block = blocks.Block(5120, torch.device("cpu"), pinned=True)
        taken = [block.take(size) for size in (1000, 500, 2000)]
        assert [one.untyped_storage().nbytes() for one in taken] == [1024, 1024, 2048]
        assert all(one.is_pinned() for one in taken)
        monkeypatch.setattr(torch, "empty", refusing)
        last = block.take(1024)
        assert len(last) == 1024 and not last.is_pinned() and "pinned" in caplog.text


# -- several GPUs, graphs, xformers ----------------------------------------------------------------------------------


def test_the_second_of_two_gpus(tmp_path: Path) -> None:
    with workshop(tmp_path, "--no-half", "--device-id", "1", gpu=PretendCuda(count=2)) as made:
        assert pixels(made.studio.txt2img(**CANNY, steps=1)).std() > 0
        assert made.gpu.mixes == [] and made.gpu.allocated(torch.device("cuda", 0)) == 0
        assert made.gpu.allocated(torch.device("cuda", 1)) > 2**20


def test_a_replayed_graph_gives_what_the_network_gives(resident: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The capture holds nothing that waits, and a replay reads its inputs' memory, not what was captured."""
    monkeypatch.setattr(nn.Module, "compile", lambda module, **options: None)
    checkpoint = resident.studio.services.catalog.checkpoints.all()[0]
    with pretending(resident.gpu) as gpu, resident.engine.lease(checkpoint) as model, torch.inference_mode():
        module = model.unet.module
        network = CompiledNetwork(module, gpu.full(0), model.unet.holding)
        seen = 0
        for seed in range(3):
            generator = torch.Generator().manual_seed(seed)
            sample, context = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 77, 128, generator=generator)
            inputs = {
                "sample": sample.cuda(),
                "timestep": torch.tensor([seed * 100.0]).cuda(),
                "encoder_hidden_states": context.cuda(),
            }
            with model.unet.holding():
                expected = module(**inputs, return_dict=False)[0]
                found = network.predict(inputs)
            for thread in threading.enumerate():
                if thread.name == "blade":
                    thread.join()
            if found is not None:
                seen += 1
                assert torch.equal(found, expected)
        assert seen == 2 and gpu.captured == 1 and gpu.replayed == 2 and network.ready == 1
