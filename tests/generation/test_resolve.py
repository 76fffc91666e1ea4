"""Wire values to GenerationRequest: what is filled in, and from where."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from sdwebui_api.api.generation_schema import Txt2ImgBody
from sdwebui_api.config.options import Options
from sdwebui_api.errors import BadRequest, NotFound, Unavailable
from sdwebui_api.imaging.codec import encode_image, to_base64
from sdwebui_api.scripting.compat.translate import attributes
from tests.support.fakes import fake_services


@pytest.fixture
def resolver(tmp_path):
    return fake_services(tmp_path).resolver


def resolve(resolver, options: Options | None = None, **fields):
    body = Txt2ImgBody.model_validate(fields)
    return resolver("txt2img", body.model_dump(), body.model_fields_set, options or Options())


def encode_image_text(image):
    return to_base64(encode_image(image, "png"))


class NativeCheckpoints:
    """The golden checkpoint, as if it named a native size."""

    def __init__(self, real, size) -> None:
        self._file = replace(real.default())
        self._file.__dict__["native_size"] = size

    def default(self):
        return self._file

    def find(self, text, field="sd_model_checkpoint"):
        return self._file


class Files:
    def __init__(self, real, checkpoints) -> None:
        self.checkpoints, self.vaes, self.styles = checkpoints, real.vaes, real.styles


def test_sides_that_are_not_given_are_the_checkpoints_own(resolver):
    native = replace(resolver, files=Files(resolver.files, NativeCheckpoints(resolver.files.checkpoints, (128, 192))))
    request = resolve(native)
    assert (request.width, request.height) == (128, 192)
    request = resolve(native, width=64)
    assert (request.width, request.height) == (64, 192)
    request = resolve(native, Options({"use_native_default_size": False}))
    assert (request.width, request.height) == (512, 512)
    request = resolve(native, override_settings={"use_native_default_size": False}, width=None)
    assert (request.width, request.height) == (512, 512)


def test_without_a_native_size_512(resolver):
    request = resolve(resolver)
    assert (request.width, request.height) == (512, 512)


def test_stored_checkpoint_that_is_gone_is_replaced_with_a_warning(resolver):
    request = resolve(resolver, Options({"sd_model_checkpoint": "gone.safetensors"}))
    assert request.checkpoint.name == "tiny-sd.safetensors" and "gone" in request.warnings[0]


def test_overridden_checkpoint_that_is_unknown_is_an_error(resolver):
    with pytest.raises(NotFound) as caught:
        resolve(resolver, override_settings={"sd_model_checkpoint": "gone"})
    assert caught.value.field == "override_settings.sd_model_checkpoint"
    assert resolve(resolver, override_settings={"sd_model_checkpoint": None}).checkpoint.name == "tiny-sd.safetensors"


def test_no_checkpoint_at_all(resolver):
    class Nothing:
        def default(self):
            return None

    with pytest.raises(Unavailable):
        resolve(replace(resolver, files=Files(resolver.files, Nothing())))


def test_settings_stand_in_for_fields(resolver):
    request = resolve(resolver, Options({"s_churn": 3.0, "tiling": True, "sd_vae": "tiny-vae.safetensors"}))
    assert request.s_churn == 3.0 and request.tiling and request.vae.name == "tiny-vae.safetensors"
    request = resolve(resolver, Options({"s_churn": 3.0, "tiling": True}), s_churn=0, tiling=False)
    assert request.s_churn == 0 and not request.tiling


def test_old_hires_fields(resolver):
    fields = {"enable_hr": True, "denoising_strength": 0.5, "firstphase_width": 64, "firstphase_height": 64}
    request = resolve(resolver, width=256, height=256, **fields)
    assert (request.width, request.height, request.hires.scale) == (64, 64, 2.0)


def test_a_first_picture_gives_its_size(resolver):
    picture, hires = encode_image_text(Image.new("RGBA", (72, 40))), {"enable_hr": True, "denoising_strength": 0.5}
    request = resolve(resolver, firstpass_image=f"data:image/png;base64,{picture}", **hires)
    assert (request.width, request.height) == (72, 40) and request.hires.first_picture.mode == "RGB"
    assert attributes(request)["firstpass_image"] is request.hires.first_picture  # what scripts see of it
    assert (resolve(resolver, firstpass_image=picture, width=64, height=64, **hires).width) == 64
    for wrong in ("no picture", encode_image_text(Image.new("RGB", (7, 64)))):
        with pytest.raises(BadRequest) as caught:
            resolve(resolver, firstpass_image=wrong, **hires)
        assert caught.value.field == "firstpass_image" and caught.value.status == 422
    request = resolve(resolver, firstpass_image="no picture")
    assert request.width == 512 and "enable_hr" in request.warnings[0]


@pytest.mark.parametrize("same", [None, "", "Use same sampler"])
def test_hires_pass_like_the_first(resolver, same):
    request = resolve(resolver, enable_hr=True, denoising_strength=0.5, hr_sampler_name=same, hr_checkpoint_name="")
    assert (request.hires.sampler, request.hires.schedule, request.hires.checkpoint) == (None, None, None)


def test_combined_sampler_names(resolver):
    assert resolve(resolver, sampler_name="lms karras").schedule == "Karras"
    request = resolve(resolver, sampler_name="", sampler_index="DDIM")
    assert (request.sampler, request.schedule) == ("DDIM", "Automatic")
