from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from sdwebui_api.errors import BadRequest
from sdwebui_api.generation.plan import Batch
from sdwebui_api.generation.request import GenerationRequest, InitImage, InpaintMask
from sdwebui_api.imaging.inpaint import PreparedInit
from sdwebui_api.scripting.arguments import read_arguments
from sdwebui_api.scripting.hooks import Blend, MaskOverlay, PicturePlace, Sampled
from tests.scripts.fakes import module, request

soft = module("extensions/soft-inpainting/scripts/soft_inpainting.py")
PLAIN = MaskOverlay(None, None)


def hooks(*given: Any, base: GenerationRequest | None = None) -> Any:
    script = soft.SoftInpainting()
    return script.hooks(base or masked(), read_arguments(script.args, list(given), "args"))


def masked() -> GenerationRequest:
    mask = InpaintMask(Image.new("L", (64, 64), "white"))
    return request("img2img", init=InitImage((Image.new("RGB", (64, 64), "red"),), mask=mask))


def running(base: GenerationRequest) -> Any:
    return SimpleNamespace(request=base, prepared=PreparedInit(images=()), infotext={}, warnings=[])


def latents(value: float = 1.0) -> torch.Tensor:
    return torch.full((1, 4, 8, 8), value)


def test_it_has_no_part_in_what_is_no_soft_inpainting() -> None:
    assert hooks() is None
    assert hooks(False, 1) is None
    assert hooks(True, base=request("img2img")) is None
    assert hooks(True, base=request()) is None
    assert hooks(True) is not None


@pytest.mark.parametrize("given", [(True, 9), (True, 1, 0.5, 0.5), (True, 1, 0.5, 4, 2), (True, -1)])
def test_values_out_of_range(given: tuple[Any, ...]) -> None:
    with pytest.raises(BadRequest):
        hooks(*given)


def test_grey_parts_of_the_mask_stay_grey() -> None:
    base = masked()
    changed = hooks(True).before_process(base, running(base))
    assert changed.init is not None and changed.init.mask is not None
    assert changed.init.mask.round is False


def test_blending_keeps_magnitudes() -> None:
    """Two opposite textures: a plain mean would be nothing at all."""
    first, second = latents(1.0), latents(-0.9)
    mixed = soft.blend_latents(first, second, torch.full((8, 8), 0.5), 4)
    assert float(torch.linalg.vector_norm(mixed[0, :, 0, 0])) == pytest.approx(1.9, abs=0.05)
    assert torch.allclose(soft.blend_latents(first, second, torch.zeros(8, 8), 4), first, atol=1e-4)
    assert torch.allclose(soft.blend_latents(first, second, torch.ones(8, 8), 4), second, atol=1e-4)


def test_the_start_image_holds_more_at_low_noise() -> None:
    part = hooks(True, 1, 1.0, 1)
    current, start, keep = latents(1.0), latents(0.0), torch.full((8, 8), 0.5)

    def blended(level: float | None) -> float:
        blend = Blend(current * 0, current, start, keep, level)
        return float(part.blend(blend, running(masked())).blended.mean())

    assert blended(10.0) < blended(1.0) < blended(0.1)
    assert blended(None) == 1.0


@pytest.mark.parametrize("level", [900.0, None])
def test_samplers_that_count_in_timesteps_keep_the_plain_blend(level: float | None) -> None:
    base = replace(masked(), sampler="DDIM")
    blend = Blend(latents(0.25), latents(1.0), latents(0.0), torch.full((8, 8), 0.5), level)
    assert hooks(True, base=base).blend(blend, running(base)) is blend


def test_what_did_not_change_is_covered_by_the_original() -> None:
    part, base = hooks(True), masked()
    latent = latents(0.0)
    latent[..., :4] = 50.0
    batch = Batch(0, ("a",), ("",), (1,), (1,))
    part.post_sample(Sampled(latent, batch, latents(0.0), torch.zeros(8, 8)), running(base))
    overlay = part.postprocess_maskoverlay(PLAIN, PicturePlace(batch, 0, 0), running(base))
    assert overlay.overlay.getpixel((2, 32))[3] < 10
    assert overlay.overlay.getpixel((61, 32))[3] > 200
    assert overlay.mask.getpixel((2, 32)) > 245


def test_without_a_blend_nothing_is_covered() -> None:
    part, base = hooks(True), masked()
    batch = Batch(0, ("a",), ("",), (1,), (1,))
    part.post_sample(Sampled(latents(), batch), running(base))
    assert part.postprocess_maskoverlay(PLAIN, PicturePlace(batch, 0, 0), running(base)) is PLAIN
