"""Whole requests on the golden checkpoint: behaviour of A1111 that the recordings do not show."""

from __future__ import annotations

import base64
import errno
import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sdwebui_api.api.generation_schema import Img2ImgBody
from sdwebui_api.config.options import Options
from sdwebui_api.engine.tiny_vae import TinyVaeFiles
from sdwebui_api.errors import BadRequest, Diverged
from sdwebui_api.generation.latents import images_to_tensor, tensor_to_images
from sdwebui_api.generation.script_context import PipelineCall
from sdwebui_api.jobs.job import Job
from sdwebui_api.scripting.hooks import Batch, Hooks, Running
from sdwebui_api.storage import local
from tests.generation.conftest import SMALL, Studio
from tests.support.tiny_vaes import published_decoder, published_encoder, write

HIRES: dict[str, Any] = {"enable_hr": True, "denoising_strength": 0.6, "hr_scale": 1.5}


def encoded(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def gradient(size: int = 64) -> Image.Image:
    ramp = np.linspace(0, 255, size, dtype=np.uint8)
    return Image.fromarray(np.stack([np.tile(ramp, (size, 1)), np.tile(ramp[:, None], (1, size))] * 2, -1)[..., :3])


def pixels(result: Any, index: int = 0) -> np.ndarray:
    return np.asarray(result.images[index].image, dtype=np.int16)


class StopsAt(Job):
    """A job that is interrupted or skipped once a part (a pass) has ended, or in the middle of the first one."""

    def __init__(self, *, interrupt: bool = False, at_part: int = 0) -> None:
        super().__init__("test", "txt2img")
        self._interrupts, self._at_part, self._parts = interrupt, at_part, 0

    def step(self, step: int, preview: Any = None) -> None:
        super().step(step, preview)
        if self._parts == self._at_part:
            self._stop()

    def next_part(self) -> None:
        super().next_part()
        self._parts += 1

    def _stop(self) -> None:
        self.interrupt() if self._interrupts else self.skip()


# -- hires pass ----------------------------------------------------------------------------------------------------


def test_default_upscaler_is_not_mentioned(studio: Studio) -> None:
    unnamed, named = studio.txt2img(**HIRES), studio.txt2img(**HIRES, hr_upscaler="Latent")
    assert "Hires upscaler" not in unnamed.images[0].infotext
    assert "Hires upscaler: Latent" in named.images[0].infotext
    assert np.array_equal(pixels(unnamed), pixels(named))


def test_second_pass_inherits_a_schedule_that_was_named(studio: Studio) -> None:
    """Karras is DPM++ 2M's preference too, but the client asked for it: it holds for the other sampler as well."""
    sampler = {"sampler_name": "DPM++ 2M", "hr_sampler_name": "Euler"}
    inherited = studio.txt2img(**HIRES, **sampler, scheduler="Karras")
    named = studio.txt2img(**HIRES, **sampler, scheduler="Karras", hr_scheduler="Karras")
    preferred = studio.txt2img(**HIRES, **sampler)
    assert np.array_equal(pixels(inherited), pixels(named))
    assert not np.array_equal(pixels(inherited), pixels(preferred))


def test_old_hires_size_option(studio: Studio) -> None:
    result = studio.txt2img(
        enable_hr=True, denoising_strength=0.5, steps=1, width=96, height=64, hr_scale=3,
        override_settings={"use_old_hires_fix_width_height": True},
    )  # fmt: skip
    assert result.images[0].image.size == (96, 64)
    assert "Size: 640x448" in result.images[0].infotext and "Hires resize: 96x64" in result.images[0].infotext


def test_a_given_picture_takes_the_place_of_the_first_pass(studio: Studio) -> None:
    fields = {**HIRES, "hr_upscaler": "Lanczos"}
    both, first, job = studio.txt2img(**fields), studio.txt2img(), Job("test", "txt2img")
    second = studio.txt2img(**fields, firstpass_image=encoded(first.images[0].image), job=job)
    assert np.array_equal(pixels(both), pixels(second)) and both.images[0].infotext == second.images[0].infotext
    assert (job.snapshot().job_count, job.snapshot().sampling_steps) == (1, 3)


def test_a_given_picture_of_another_size(studio: Studio) -> None:
    """It is stretched; in latent space each picture of a batch starts from a draw of its own."""
    picture = encoded(gradient().resize((50, 44)).convert("RGBA"))
    for upscaler in ("Latent", "Lanczos"):
        fields = {**HIRES, "hr_upscaler": upscaler, "batch_size": 2, "steps": 2, "save_images": True}
        options = {"save_images_before_highres_fix": True}
        result = studio.txt2img(**fields, firstpass_image=picture, n_iter=2, override_settings=options)
        shown = [image.image for image in result.images if image.role == "sample"]
        assert [image.size for image in shown] == [(96, 96)] * 4
        assert len({image.tobytes() for image in shown}) == 4
    assert not [name for name in studio.files() if "before" in name]  # the client has it


def test_whole_numbers_of_overrides_are_shown_as_they_were_sent(studio: Studio) -> None:
    options = {"rho": 5, "sigma_max": 10.0, "sigma_min": 0.1}
    text = studio.txt2img(sampler_name="DPM++ 2M", override_settings=options).images[0].infotext
    assert "Schedule min sigma: 0.1, Schedule max sigma: 10.0, Schedule rho: 5," in text


def test_prompts_are_padded_by_what_was_encoded_with_the_checkpoint(studio: Studio) -> None:
    """A1111 encodes the padding when it loads a checkpoint: an override of clip skip comes too late for it."""
    fields: dict[str, Any] = {"prompt": "a fish", "negative_prompt": "blue " * 80, "steps": 2}
    overridden = {"pad_cond_uncond": True, "CLIP_stop_at_last_layers": 2}
    by_override = studio.txt2img(Options({"randn_source": "CPU"}), **fields, override_settings=overridden)
    by_settings = studio.txt2img(Options({"randn_source": "CPU", **overridden}), **fields)
    assert by_override.images[0].infotext == by_settings.images[0].infotext
    assert not np.array_equal(pixels(by_override), pixels(by_settings))


def test_embeddings_of_the_hires_prompt_do_not_replace_the_first_pass_ones(studio: Studio) -> None:
    result = studio.txt2img(**HIRES, prompt="a tiny-ti", hr_prompt="a tiny-emb")
    assert 'TI hashes: "tiny-ti: ' in result.images[0].infotext


@pytest.mark.parametrize("upscaler", ["Latent", "Lanczos"])
def test_pictures_before_the_hires_pass_are_saved_when_wanted(studio: Studio, upscaler: str) -> None:
    options = {"save_images_before_highres_fix": True, "samples_filename_pattern": "[seed]"}
    fields = HIRES | {"batch_size": 2, "n_iter": 2, "hr_upscaler": upscaler, "override_settings": options, "steps": 1}
    studio.txt2img(**fields)
    assert studio.files() == []
    studio.txt2img(**fields, save_images=True)
    before = [f"{seed}-before-highres-fix.png" for seed in range(5, 9)]
    grid = [name for name in studio.files() if name.startswith("0000")]
    assert [name for name in studio.files() if name not in grid] == sorted(
        [*before, *(f"{s}.png" for s in range(5, 9))]
    )
    saved = next((studio.data_dir / "outputs").rglob("*-5-before-highres-fix.png"))
    assert Image.open(saved).size == (64, 64)


def test_skipped_first_pass_skips_the_second_one_too(studio: Studio) -> None:
    """The enlarged picture comes back as it is."""
    job = StopsAt()
    result = studio.txt2img(**HIRES, job=job, n_iter=2, steps=4)
    assert [image.image.size for image in result.images] == [(96, 96)] * 2
    assert job.snapshot().job_no == 4


def test_interrupted_first_pass_comes_back_small(studio: Studio) -> None:
    result = studio.txt2img(**HIRES, job=StopsAt(interrupt=True), n_iter=2, steps=4)
    assert [image.image.size for image in result.images] == [(64, 64)]


# -- TAESD in place of the VAE ---------------------------------------------------------------------------------------


@pytest.fixture
def taesd(studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where its files belong, empty."""
    generator: Any = studio.services.generator
    monkeypatch.setattr(generator._engine, "_tiny_vaes", TinyVaeFiles(tmp_path / "VAE-taesd"))
    return tmp_path / "VAE-taesd"


def methods(encode: str = "Full", decode: str = "Full") -> dict[str, Any]:
    return {"override_settings": {"sd_vae_encode_method": encode, "sd_vae_decode_method": decode}}


def test_taesd_encodes_and_decodes_where_the_settings_say_so(studio: Studio, taesd: Path) -> None:
    write(taesd, "taesd_encoder.pth", published_encoder())
    write(taesd, "taesd_decoder.safetensors", published_decoder())
    found = {}
    for encode in ("Full", "TAESD"):
        for decode in ("Full", "TAESD"):
            result = studio.img2img(init_images=[encoded(gradient())], steps=2, **methods(encode, decode))
            text = result.images[0].infotext
            assert ("VAE Encoder: TAESD" in text, "VAE Decoder: TAESD" in text) == (
                encode == "TAESD",
                decode == "TAESD",
            )
            assert not result.info["warnings"]
            found[encode, decode] = pixels(result).tobytes()
    assert len(set(found.values())) == 4
    fields = {"init_images": [encoded(gradient())], "denoising_strength": 0.0, "steps": 1, "sampler_name": "DDIM"}
    with torch.no_grad():
        latents = published_encoder()(images_to_tensor([gradient()]).add(1).div(2))
        expected = tensor_to_images(published_decoder()(latents) * 2 - 1)[0]
    difference = np.abs(pixels(studio.img2img(**fields, **methods("TAESD", "TAESD"))) - np.asarray(expected))
    assert difference.max() <= 3


def test_taesd_in_the_hires_pass(studio: Studio, taesd: Path) -> None:
    write(taesd, "taesd_encoder.pth", published_encoder())
    write(taesd, "taesd_decoder.pth", published_decoder())
    both = methods("TAESD", "TAESD")
    through_pictures = studio.txt2img(**HIRES, hr_upscaler="Lanczos", steps=1, **both).images[0]
    assert through_pictures.image.size == (96, 96)
    assert "VAE Encoder: TAESD, VAE Decoder: TAESD" in through_pictures.infotext
    assert "VAE Encoder" not in studio.txt2img(**HIRES, steps=1, **both).images[0].infotext


def test_a_missing_taesd_is_named_before_any_step(studio: Studio, taesd: Path) -> None:
    for run, field in (
        (lambda: studio.txt2img(**methods(decode="TAESD")), "sd_vae_decode_method"),
        (lambda: studio.txt2img(**HIRES, hr_upscaler="Lanczos", **methods("TAESD")), "sd_vae_encode_method"),
        (lambda: studio.img2img(init_images=[encoded(gradient())], **methods("TAESD")), "sd_vae_encode_method"),
    ):
        with pytest.raises(BadRequest, match=r"no taesd_(en|de)coder\.pth") as caught:
            run()
        assert caught.value.field == field and str(taesd) in caught.value.message
    plain = studio.txt2img()
    assert np.array_equal(pixels(studio.txt2img(**methods("TAESD"))), pixels(plain))  # nothing there is encoded


@pytest.mark.parametrize("there", [True, False])
def test_previews_by_taesd(studio: Studio, taesd: Path, there: bool) -> None:
    if there:
        write(taesd, "taesd_decoder.pth", published_decoder())
    sizes: set[tuple[int, int]] = set()

    class Watched(Job):
        def step(self, step: int, preview: Any = None) -> None:
            sizes.add(preview().size)
            super().step(step, preview)

    studio.txt2img(job=Watched("test", "txt2img"), override_settings={"show_progress_type": "TAESD"})
    assert sizes == {(64, 64) if there else (8, 8)}


# -- several checkpoints -------------------------------------------------------------------------------------------


def test_every_checkpoint_brings_its_own_vae(studio: Studio) -> None:
    """`tiny-other` has the weights of `tiny-sd` but a VAE beside it, which Automatic finds for it alone."""
    plain, other = studio.txt2img(**HIRES), studio.txt2img(**HIRES, hr_checkpoint_name="tiny-other")
    assert not np.array_equal(pixels(plain), pixels(other))
    checkpoint = {"sd_model_checkpoint": "tiny-other", "randn_source": "CPU"}
    whole = studio.txt2img(**HIRES, override_settings=checkpoint)
    assert np.array_equal(pixels(other), pixels(whole))
    inside = {"sd_vae": "None", "randn_source": "CPU"}
    same = studio.txt2img(**HIRES, hr_checkpoint_name="tiny-other", override_settings=inside)
    assert np.array_equal(pixels(plain), pixels(same))


@pytest.mark.parametrize("kind", ["txt2img", "img2img"])
def test_the_refiners_vae_decodes_what_it_refined(studio: Studio, kind: str) -> None:
    fields = {} if kind == "txt2img" else {"init_images": [encoded(gradient())], "denoising_strength": 0.7}
    run = getattr(studio, kind)
    refined = run(**fields, refiner_checkpoint="tiny-other", refiner_switch_at=0.2, steps=6)
    plain, late = run(**fields, steps=6), run(**fields, refiner_checkpoint="tiny-other", refiner_switch_at=1, steps=6)
    assert np.array_equal(pixels(plain), pixels(late))
    assert not np.array_equal(pixels(plain), pixels(refined))
    assert "Refiner switch at: 0.2" in refined.images[0].infotext


def test_refiner_without_a_time_switches_at_once_and_names_none(studio: Studio) -> None:
    text = studio.txt2img(refiner_checkpoint="tiny-other").images[0].infotext
    assert "Refiner: tiny-other" in text and "Refiner switch at" not in text


def test_refiner_is_compared_with_the_checkpoint_of_the_pass(studio: Studio) -> None:
    two = HIRES | {"hr_checkpoint_name": "tiny-other", "refiner_switch_at": 0.1}
    assert "Refiner" not in studio.txt2img(**two, refiner_checkpoint="tiny-other").images[0].infotext
    assert "Refiner: tiny-sd" in studio.txt2img(**two, refiner_checkpoint="tiny-sd").images[0].infotext


# -- img2img -------------------------------------------------------------------------------------------------------


def test_any_seed_works_for_start_images_too(studio: Studio) -> None:
    for seed in (-5, 2**64 - 1):
        assert studio.img2img(init_images=[encoded(gradient())], seed=seed, batch_size=2, steps=1).info["seed"] == seed


def test_fewer_start_images_than_the_batch_has_room_for(studio: Studio) -> None:
    """Each gives one picture per batch; the seeds that nobody used are told, as A1111 tells them."""
    images = [encoded(gradient()), encoded(gradient().rotate(90))]
    result = studio.img2img(init_images=images, seed=5, batch_size=3, n_iter=2, steps=1)
    assert len(result.images) == len(result.info["infotexts"]) == 4
    assert result.info["all_seeds"] == [5, 6, 7, 8, 9, 10] and result.info["batch_size"] == 2
    assert ["Seed: 7," in text for text in result.info["infotexts"]] == [False, False, True, False]


def test_a_repainted_part_is_pasted_back_by_the_upscaler_of_the_settings(studio: Studio) -> None:
    """Generated at 64x64 and pasted into 128x128: twice the same pixel in every direction with Nearest."""
    mask = Image.new("L", (128, 128), 255)
    options = {"upscaler_for_img2img": "Nearest", "randn_source": "CPU"}
    fields = {"init_images": [encoded(gradient(128))], "mask": encoded(mask), "mask_blur": 0}
    result = studio.img2img(**fields, override_settings=options)
    found = pixels(result)
    assert found.shape == (128, 128, 3) and np.array_equal(found[::2, ::2], found[1::2, 1::2])


def test_start_images_are_kept_when_wanted(studio: Studio) -> None:
    image = gradient()
    digest = hashlib.md5(image.tobytes(), usedforsecurity=False).hexdigest()
    options = {"save_init_img": True, "samples_format": "jpg"}
    result = studio.img2img(init_images=[encoded(image)], override_settings=options)
    assert f"Init image hash: {digest}" in result.images[0].infotext
    assert studio.files() == [f"{digest}.png"]


# -- saving --------------------------------------------------------------------------------------------------------


def test_unfinished_pictures_are_saved_only_when_wanted(studio: Studio) -> None:
    options = {"samples_filename_pattern": "[seed]"}
    studio.txt2img(job=StopsAt(), n_iter=2, steps=4, save_images=True, override_settings=options | {"grid_save": False})
    assert studio.files() == ["6.png"]
    options |= {"save_incomplete_images": True, "grid_save": False}
    studio.txt2img(job=StopsAt(interrupt=True), steps=4, save_images=True, override_settings=options)
    assert studio.files() == ["5.png", "6.png"]


def test_the_picture_before_colour_correction_has_its_overlay(studio: Studio) -> None:
    """Outside of the mask it is the start image."""
    mask = Image.new("L", (64, 64))
    mask.paste(255, (40, 40, 64, 64))
    image = gradient()
    options = {"save_images_before_color_correction": True, "img2img_color_correction": True}
    studio.img2img(
        init_images=[encoded(image)], mask=encoded(mask), mask_blur=0, inpaint_full_res=False, inpainting_fill=1,
        save_images=True, override_settings=options,
    )  # fmt: skip
    saved = next((studio.data_dir / "outputs").rglob("*-before-color-correction.png"))
    corner = (0, 0, 32, 32)
    assert np.array_equal(np.asarray(Image.open(saved).crop(corner)), np.asarray(image.crop(corner)))


# -- the rest ------------------------------------------------------------------------------------------------------


def test_old_prompt_timelines_are_mentioned_when_they_matter(studio: Studio) -> None:
    old = {"use_old_scheduling": True}
    entry = "Old prompt editing timelines: True"
    assert entry in studio.txt2img(prompt="[a:b:1.5]", override_settings=old).images[0].infotext
    assert entry not in studio.txt2img(prompt="[a:b:2]", override_settings=old).images[0].infotext


@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ SDE"])
@pytest.mark.parametrize("source", ["CPU", "NV"])
def test_any_seed_works(studio: Studio, sampler: str, source: str) -> None:
    for seed in (-5, 2**32 + 5, 2**63 - 1, 2**64 - 1):
        fields = {"sampler_name": sampler, "override_settings": {"randn_source": source}, "steps": 1}
        result = studio.txt2img(seed=seed, batch_size=2, **fields)
        assert result.info["all_seeds"] == [seed, seed + 1]


# -- what nobody can do ----------------------------------------------------------------------------------------------


def test_a_full_disk_costs_a_warning_and_not_the_picture(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(local, "_write_temporary", full)
    result = studio.txt2img(save_images=True, batch_size=2)
    assert [image.role for image in result.images] == ["grid", "sample", "sample"]
    assert result.info["warnings"] == ["a picture could not be saved: No space left on device"]


def test_numbers_that_overflow_are_the_requests_mistake(studio: Studio) -> None:
    with pytest.raises(Diverged) as caught:
        studio.txt2img(sampler_name="Heun", s_churn=1e9, s_noise=1e300)
    assert caught.value.status == 422


# -- scripts -------------------------------------------------------------------------------------------------------


class _Adds(Hooks):
    """One more picture in every batch."""

    def postprocess_batch(self, pictures: list[Tensor], batch: Batch, run: Running) -> list[Tensor]:
        return [*pictures, pictures[0]]


def test_a_picture_that_a_script_adds_has_no_start_image(studio: Studio) -> None:
    """With one start image for each picture there is none for it: neither laid over nor matched in colour, as in
    A1111; it failed the request."""
    fields = {
        "init_images": [encoded(gradient()), encoded(gradient().rotate(90))], "batch_size": 2,
        "mask": encoded(Image.new("L", (64, 64), 255)), "inpaint_full_res": False, "denoising_strength": 0.5,
        "override_settings": {"randn_source": "CPU", "img2img_color_correction": True},
    }  # fmt: skip
    body = Img2ImgBody.model_validate(SMALL | fields)
    request = studio.services.resolver("img2img", body.model_dump(), body.model_fields_set, Options())
    generator: Any = studio.services.generator
    result = generator.pipeline(request, Job("test", "img2img"), PipelineCall(hooks=(_Adds(),)))
    assert len(result.images) == 3
