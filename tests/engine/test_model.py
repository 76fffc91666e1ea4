from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sdwebui_api.engine.model import DiffusionModel
from sdwebui_api.errors import SdWebUIError

CASES = Path(__file__).parents[1] / "golden" / "cases"


def encode_text(model: DiffusionModel, text: str, clip_skip: int = 1) -> Tensor:
    tokenizer = model.text_encoder.tokenizer
    words = tokenizer.tokenize(text)
    tokens = [tokenizer.bos_id, *words, *[tokenizer.eos_id] * (76 - len(words))]
    return model.text_encoder.forward(torch.tensor([tokens]), [[]], clip_skip).context


def euler(
    model: DiffusionModel, text: str, *, seed: int, steps: int, clip_skip: int = 1, tiling: bool = False
) -> Tensor:
    """Euler with guidance 7 over uniform timesteps, as A1111's default schedule; the latent."""
    table = ((1 - model.alphas_cumprod) / model.alphas_cumprod).sqrt().log()
    times = torch.linspace(999, 0, steps)
    low, part = times.floor().long(), times.frac()
    sigmas = torch.lerp(table[low], table[times.ceil().long()], part).exp()
    sigmas = torch.cat([sigmas, sigmas.new_zeros(1)])
    context = torch.cat([encode_text(model, text, clip_skip), encode_text(model, "", clip_skip)])
    x = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(seed)) * sigmas[0]
    with model.participate():
        for index in range(steps):
            scaled = torch.cat([x, x]) / (sigmas[index] ** 2 + 1).sqrt()
            cond, uncond = model.evaluate(scaled, times[index].expand(2), context, tiling=tiling).chunk(2)
            x = x + (uncond + (cond - uncond) * 7) * (sigmas[index + 1] - sigmas[index])
    return x


def pixels(image: Tensor) -> np.ndarray:
    return ((image[0].clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0).numpy().astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-9)))


def golden(case: str) -> np.ndarray:
    return np.asarray(Image.open(CASES / case / "image-0.png").convert("RGB"))


def test_a_picture_as_a1111_makes_it(tiny: DiffusionModel) -> None:
    image = tiny.decode(euler(tiny, "a red apple", seed=100, steps=10))
    assert psnr(pixels(image), golden("sampler-euler")) > 65


def test_clip_skip_as_a1111_does_it(tiny: DiffusionModel) -> None:
    image = tiny.decode(euler(tiny, "a butterfly", seed=_seed("clip-skip-2"), steps=10, clip_skip=2))
    assert psnr(pixels(image), golden("clip-skip-2")) > 65


def test_tiling_as_a1111_does_it(tiny: DiffusionModel) -> None:
    latent = euler(tiny, "strawberries", seed=_seed("tiling"), steps=10, tiling=True)
    assert psnr(pixels(tiny.decode(latent, tiling=True)), golden("tiling")) > 65


def _seed(case: str) -> int:
    import json

    return int(json.loads((CASES / case / "request.json").read_text())["body"]["seed"])


def test_jobs_together_get_what_they_get_alone(tiny: DiffusionModel) -> None:
    texts = ["a red apple", "a cat", "a star", "a house"]
    alone = [euler(tiny, text, seed=index, steps=5) for index, text in enumerate(texts)]
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(euler, tiny, text, seed=index, steps=5) for index, text in enumerate(texts)]
        together = [future.result(timeout=120) for future in futures]
    for a, b in zip(alone, together, strict=True):
        assert (a - b).abs().max() < 1e-3


def test_tiling_does_not_leak_into_other_jobs(tiny: DiffusionModel) -> None:
    plain = euler(tiny, "a cat", seed=1, steps=3)
    with ThreadPoolExecutor(2) as pool:
        tiled = pool.submit(euler, tiny, "a cat", seed=1, steps=3, tiling=True)
        other = pool.submit(euler, tiny, "a cat", seed=1, steps=3)
        assert (other.result(timeout=120) - plain).abs().max() < 1e-3
        assert (tiled.result(timeout=120) - plain).abs().max() > 0.05


def test_sizes_that_do_not_halve_evenly(tiny: DiffusionModel) -> None:
    output = tiny.evaluate(torch.randn(1, 4, 11, 13), torch.tensor([500.0]), torch.randn(1, 77, 128))
    assert output.shape == (1, 4, 11, 13) and output.dtype == torch.float32


def test_the_autoencoder_goes_there_and_back(tiny: DiffusionModel) -> None:
    picture = torch.from_numpy(golden("sampler-euler").copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    latents = tiny.encode(picture.repeat(2, 1, 1, 1), None)
    assert latents.shape == (2, 4, 16, 16)
    assert psnr(pixels(tiny.decode(latents[:1])), golden("sampler-euler")) > 25
    noise = torch.randn((2, 4, 16, 16), generator=torch.Generator().manual_seed(0))
    drawn = tiny.encode(picture.repeat(2, 1, 1, 1), noise)
    assert torch.equal(drawn, tiny.encode(picture.repeat(2, 1, 1, 1), noise))
    assert 0 < (drawn - latents).abs().mean() < 0.2
    assert torch.allclose(tiny.encode(picture, torch.zeros(1, 4, 16, 16)), latents[:1], atol=1e-5)


def test_a_preview_resembles_the_picture(tiny: DiffusionModel) -> None:
    latent = euler(tiny, "a red apple", seed=100, steps=10)
    preview = tiny.preview(latent[0])
    small = Image.fromarray(golden("sampler-euler")).resize((16, 16), Image.Resampling.BOX)
    assert preview.size == (16, 16) and preview.mode == "RGB"
    assert psnr(np.asarray(preview), np.asarray(small)) > 17


def test_not_a_number_latents_are_reported(tiny: DiffusionModel) -> None:
    with pytest.raises(SdWebUIError, match="not-a-number"):
        tiny.decode(torch.full((1, 4, 8, 8), float("nan")))


def test_results_may_be_changed_in_place(tiny: DiffusionModel) -> None:
    output = tiny.evaluate(torch.randn(1, 4, 8, 8), torch.tensor([500.0]), torch.randn(1, 77, 128))
    output.mul_(2)
    tiny.decode(output).clamp_(-1, 1)
    assert not output.requires_grad
