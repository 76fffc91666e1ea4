"""Loopback, SD upscale, both outpaintings: which requests they make."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from sdwebui_api.errors import SdWebUIError
from sdwebui_api.generation.request import GenerationResult, InitImage, InpaintMask
from sdwebui_api.imaging.inpaint import FILL_UNNAMED, LATENT_NOISE, ORIGINAL
from sdwebui_api.scripting.hooks import Script
from tests.scripts.fakes import FakeContext, arguments, module, request


def run(script: Script, *given: Any, context: FakeContext | None = None, **changes: Any) -> GenerationResult:
    context = context or FakeContext()
    base = request("img2img", **{"denoising_strength": 0.6, **changes})
    return script.run(base, arguments(script, "img2img", context, *given), context)


def loopback(*given: Any, **how: Any) -> GenerationResult:
    return run(module("scripts/loopback.py").Loopback(), *given, **how)


def upscale(*given: Any, **how: Any) -> GenerationResult:
    return run(module("scripts/sd_upscale.py").SdUpscale(), *given, **how)


def poor_man(*given: Any, **how: Any) -> GenerationResult:
    return run(module("scripts/poor_mans_outpainting.py").PoorMansOutpainting(), *given, **how)


def mk2(*given: Any, **how: Any) -> GenerationResult:
    return run(module("scripts/outpainting_mk_2.py").OutpaintingMk2(), *given, **how)


def starts(context: FakeContext) -> list[Any]:
    """The colour of every run's start image."""
    return [one.init.images[0].getpixel((0, 0)) for one in context.requests if one.init]


# -- loopback ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("curve", "strengths"),
    [("Linear", [0.6, 0.5, 0.4]), ("Aggressive", [0.6, 0.4586, 0.4]), ("Lazy", [0.6, 0.5414, 0.4])],
)
def test_the_strength_follows_the_curve(curve: str, strengths: list[float]) -> None:
    context = FakeContext()
    loopback(3, 0.4, curve, context=context)
    assert [one.denoising_strength for one in context.requests] == pytest.approx(strengths, abs=1e-4)


def test_each_loop_starts_from_the_one_before() -> None:
    context = FakeContext()
    result = loopback(3, 0.6, context=context)
    assert starts(context) == [(255, 0, 0), (10, 0, 0), (20, 0, 0)]
    assert [one.seed for one in context.requests] == [7, 8, 9]
    assert [one.init.posterior_seed for one in context.requests if one.init] == [None, 7, 8]
    assert [image.role for image in result.images] == ["grid"] + ["sample"] * 3
    assert context.titles[0] == "Iteration 1/3, batch 1/1"


def test_files_say_what_a1111_writes_into_them() -> None:
    """Each loop its own text, which `info` does not show; nothing in what a script put together."""
    result = loopback(2, 0.6)
    grid, *loops = result.images
    assert [image.infotext for image in loops] == ["a red apple 7", "a red apple 8"]
    assert result.info["infotexts"] == ["a red apple 7"] * 3
    put_together = [grid, *upscale(None, 16, "Lanczos", 2.0).images, *mk2(None, 64).images, *poor_man(32).images]
    assert not any(image.described for image in put_together)
    assert all(image.described for image in loops)


def test_batches_begin_anew_and_give_their_last_picture() -> None:
    context = FakeContext()
    result = loopback(2, 0.6, context=context, n_iter=2)
    assert starts(context) == [(255, 0, 0), (10, 0, 0), (255, 0, 0), (30, 0, 0)]
    assert len(result.images) == 3
    assert context.total == 4


def test_a_mask_is_filled_in_the_first_loop_only() -> None:
    context = FakeContext()
    mask = InpaintMask(Image.new("L", (64, 64), "white"), fill=LATENT_NOISE)
    loopback(2, 0.6, context=context, init=InitImage((Image.new("RGB", (64, 64)),), mask=mask))
    assert [one.init.mask.fill for one in context.requests] == [LATENT_NOISE, ORIGINAL]


def test_what_a_picture_shows_joins_the_prompt() -> None:
    context = FakeContext()
    loopback(2, 0.6, "Linear", "CLIP", context=context)
    assert [one.prompt for one in context.requests] == ["a red apple, clip 255", "a red apple, clip 10"]


def test_loopback_interrupted() -> None:
    context = FakeContext(interrupt_after=2)
    result = loopback(5, 0.6, context=context)
    assert context.calls == 2
    assert len(result.images) == 1
    assert len(loopback(5, 0.6, context=FakeContext(interrupt_after=1)).images) == 1


@pytest.mark.parametrize(
    "given", [(0,), (2.5,), (2, 2.0), (2, 0.5, "Steep"), (2, 0.5, ["Lazy"]), (2, 0.5, "Linear", "Oracle")]
)
def test_loopback_refuses(given: tuple[Any, ...]) -> None:
    with pytest.raises(SdWebUIError) as caught:
        loopback(*given)
    assert caught.value.field


# -- SD upscale --------------------------------------------------------------------------------------------------------


def test_tiles_of_the_enlarged_picture() -> None:
    context = FakeContext()
    result = upscale(None, 16, "Lanczos", 2.0, context=context)
    assert result.images[0].image.size == (128, 128)
    assert [one.seed for one in context.requests] == list(range(7, 16))
    assert context.total == 9
    assert context.titles[-1] == "Batch 9 out of 9"
    assert result.info["extra_generation_params"] == {"SD upscale overlap": 16, "SD upscale upscaler": "Lanczos"}


def test_tiles_in_batches_several_times_over() -> None:
    context = FakeContext()
    result = upscale(None, 16, "lanczos", 2.0, context=context, batch_size=4, n_iter=2)
    assert [one.batch_size for one in context.requests] == [4, 4, 1, 4, 4, 1]
    assert [one.seed for one in context.requests] == [7, 8, 9, 8, 9, 10]
    assert len(result.images) == 2


def test_an_upscaler_by_its_place() -> None:
    context = FakeContext()
    upscale(None, 16, 0, 2.0, context=context)
    assert context.calls == 1


def test_tiles_after_an_interrupt_stay_as_they_were() -> None:
    context = FakeContext(interrupt_after=1)
    image = upscale(None, 0, "Nearest", 2.0, context=context).images[0].image
    assert [image.getpixel(xy) for xy in ((0, 0), (127, 127))] == [(10, 0, 0), (255, 0, 0)]


@pytest.mark.parametrize(
    "given", [(None, 64), (None, 16.5), (None, 16, "Oracle"), (None, 16, 9), (None, 16, "Lanczos", 1000.0)]
)
def test_upscale_refuses(given: tuple[Any, ...]) -> None:
    with pytest.raises(SdWebUIError) as caught:
        upscale(*given)
    assert caught.value.field


# -- outpainting -------------------------------------------------------------------------------------------------------


def test_poor_man_paints_only_tiles_with_something_new() -> None:
    context = FakeContext()
    image = poor_man(32, 4, "fill", ["left"], context=context).images[0].image
    assert image.size == (128, 64)
    assert context.calls == 2
    first = context.requests[0].init
    assert first is not None and first.mask is not None
    assert (first.mask.fill, first.mask.blur_x, first.mask.full_resolution) == (FILL_UNNAMED, 8, False)
    assert first.mask.image.getpixel((0, 0)) == 255


@pytest.mark.parametrize(("given", "fill"), [("original", ORIGINAL), ("latent noise", LATENT_NOISE), (0, 0), (1, 1)])
def test_masked_content_by_name_and_index(given: object, fill: int) -> None:
    context = FakeContext()
    poor_man(32, 4, given, ["up"], context=context)
    assert context.requests[0].init.mask.fill == fill


@pytest.mark.parametrize("given", [(0,), (32, -1), (32, 4, "nothing"), (32, 4, "fill", ["north"]), (32, 4, 7), (64,)])
def test_poor_man_refuses(given: tuple[Any, ...]) -> None:
    with pytest.raises(SdWebUIError) as caught:
        poor_man(*given)
    assert caught.value.field


def test_mk2_grows_side_by_side() -> None:
    context = FakeContext()
    result = mk2(None, 32, 2, ["left", "right", "down"], context=context)
    assert context.calls == 3
    assert context.total == 3
    assert result.images[0].image.size == (128, 128)
    masks = [one.init.mask for one in context.requests if one.init]
    assert [(mask.blur_x, mask.blur_y) for mask in masks] == [(8, 8)] * 3
    assert [mask.image.getpixel((0, 5))[0] for mask in masks[:2]] == [255, 0]


def test_mk2_keeps_the_picture_away_from_the_new_side() -> None:
    context = FakeContext()
    image = mk2(None, 64, 2, ["right"], context=context, width=64, height=64).images[0].image
    assert context.requests[0].width == 64
    assert image.getpixel((10, 10)) == (255, 0, 0)
    assert image.getpixel((120, 10)) == (10, 0, 0)


def test_mk2_with_several_pictures_has_a_grid() -> None:
    context = FakeContext()
    result = mk2(None, 64, 2, ["up"], context=context, batch_size=2)
    assert [image.role for image in result.images] == ["grid", "sample", "sample"]
    assert len(context.requests[0].init.images) == 2


@pytest.mark.parametrize("given", [(None, 32, -1), (None, 32, 2, ["up"], 9.0), (None, 32, 2, ["up"], 1.0, 2.0)])
def test_mk2_refuses(given: tuple[Any, ...]) -> None:
    with pytest.raises(SdWebUIError) as caught:
        mk2(*given)
    assert caught.value.field
