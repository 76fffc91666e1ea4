"""Wire values become a `GenerationRequest`: defaults filled in, every name looked up, every image decoded.

This is the only module that knows A1111's names and habits of a request (`modules/api/api.py`,
`modules/processing.py`); what it returns is complete and says nothing about how it was asked for.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sdwebui_api.config.options import Options, coerce_values
from sdwebui_api.errors import BadRequest, NotFound, PayloadTooLarge, Unavailable
from sdwebui_api.generation.hires import hires_size, old_first_pass_size
from sdwebui_api.generation.request import (
    LARGEST_RANDOM_SEED,
    MAX_PIXELS_PER_BATCH,
    MAX_SIDE,
    GenerationRequest,
    HiresPass,
    InitImage,
    InpaintMask,
)
from sdwebui_api.imaging.resize import ResizeMode
from sdwebui_api.prompting.styles import StyleTexts

if TYPE_CHECKING:
    from PIL import Image

    from sdwebui_api.catalog.checkpoints import CheckpointFile
    from sdwebui_api.catalog.vaes import VaeFile

A1111_SIZE = (512, 512)
MIN_SIDE = 8
LATENT_SCALE = 8
"""Pixels per latent cell of every family there is."""
MAX_PIXELS_PER_REQUEST = 2**30
"""Of all pictures together: they wait in memory (3 GB as RGB) until the answer leaves."""
MAX_INIT_PIXELS = 2**27
"""Of all start images together: small files unpack to gigabytes."""
SAME = frozenset({"", "None", "none", "Use same checkpoint", "Use same sampler", "Use same scheduler"})
"""What the page and infotexts write where "as in the first pass" is meant."""


class Checkpoints(Protocol):
    def find(self, text: str, field: str = ...) -> CheckpointFile: ...

    def default(self) -> CheckpointFile | None: ...


class Vaes(Protocol):
    def resolve(self, option_value: str | None, checkpoint: CheckpointFile, field: str = ...) -> VaeFile | None: ...


class Styles(Protocol):
    def all(self) -> Sequence[StyleTexts]: ...


class ModelFiles(Protocol):
    """What is looked up: the part of the catalog that a request may name."""

    @property
    def checkpoints(self) -> Checkpoints: ...

    @property
    def vaes(self) -> Vaes: ...

    @property
    def styles(self) -> Styles: ...


class SamplerNames(Protocol):
    """Reads the names of samplers and schedules; `sampler_names.SamplingNames`."""

    def __call__(
        self, sampler: str, schedule: str | None, *, sampler_field: str = ..., schedule_field: str = ...
    ) -> tuple[str, str]:
        """(canonical sampler, canonical schedule label). Raises BadRequest naming one of the fields."""
        ...


@dataclass(frozen=True)
class Resolver:
    """Resolves requests against one server's files. Stateless; may be called from any thread."""

    files: ModelFiles
    sampler_names: SamplerNames
    upscaler_names: Sequence[str]
    """Every accepted `hr_upscaler`: the latent modes and the image upscalers."""

    def __call__(
        self, kind: Literal["txt2img", "img2img"], values: Mapping[str, Any], given: AbstractSet[str], stored: Options
    ) -> GenerationRequest:
        """`values`: every field of the schema; `given`: those the client sent; `stored`: the server's options.

        Raises BadRequest, NotFound, PayloadTooLarge or Unavailable, naming the field. Decodes images: takes time.
        """
        return _Resolution(self, kind, values, given, stored).request()


@dataclass
class _Resolution:
    """One request on its way; the steps share what is known so far."""

    resolver: Resolver
    kind: Literal["txt2img", "img2img"]
    values: Mapping[str, Any]
    given: AbstractSet[str]
    stored: Options
    warnings: list[str] = field(default_factory=list)
    first_picture: Image.Image | None = None

    def request(self) -> GenerationRequest:
        values = self.values
        overrides = values["override_settings"] or {}
        coerced, warnings = coerce_values(overrides, "override_settings", self.stored.table)
        self.warnings += warnings
        self.options = options = self.stored.with_values(coerced)
        checkpoint = self._checkpoint(overrides)
        self.first_picture = self._first_picture()
        width, height = self._size(checkpoint)
        sampler, schedule = self._sampler()
        hires = None
        if values.get("enable_hr"):
            width, height, box = self._hires_box(width, height)
            hires = self._hires(width, height, box, overrides)
        init = self._init() if self.kind == "img2img" else None
        batch_size = self._batch_size(init, width, height)
        return GenerationRequest(
            kind=self.kind,
            options=options,
            checkpoint=checkpoint,
            vae=self._vae(overrides, checkpoint),
            prompt=values["prompt"],
            negative_prompt=values["negative_prompt"],
            styles=tuple(values["styles"] or ()),
            seed=_seed(values["seed"]),
            random_seed=values["seed"] in (None, -1),
            subseed=_seed(values["subseed"]),
            subseed_strength=values["subseed_strength"],
            seed_resize_from_w=values["seed_resize_from_w"],
            seed_resize_from_h=values["seed_resize_from_h"],
            sampler=sampler,
            schedule=schedule,
            batch_size=batch_size,
            n_iter=values["n_iter"],
            steps=values["steps"],
            cfg_scale=values["cfg_scale"],
            width=width,
            height=height,
            restore_faces=bool(_or_option(values["restore_faces"], options.face_restoration)),
            tiling=_or_option(values["tiling"], options.tiling),
            # A1111's API ties both to `save_images`, whatever the fields of the same name say.
            do_not_save_samples=not values["save_images"],
            do_not_save_grid=not values["save_images"],
            eta=values["eta"],
            denoising_strength=values["denoising_strength"],
            s_min_uncond=_or_option(values["s_min_uncond"], options.s_min_uncond),
            s_churn=_or_option(values["s_churn"], options.s_churn),
            s_tmin=_or_option(values["s_tmin"], options.s_tmin),
            # webuiapi always sends 0, which must not mean "never any noise".
            s_tmax=_or_option(values["s_tmax"], options.s_tmax) or float("inf"),
            s_noise=_or_option(values["s_noise"], options.s_noise),
            **self._refiner(overrides),
            disable_extra_networks=values["disable_extra_networks"],
            hires=hires,
            init=init,
            override_settings=coerced,
            warnings=tuple(self.warnings),
        )

    def _checkpoint(self, overrides: Mapping[str, Any]) -> CheckpointFile:
        checkpoints = self.resolver.files.checkpoints
        wanted = overrides.get("sd_model_checkpoint")
        if wanted:
            return checkpoints.find(self.options.sd_model_checkpoint, "override_settings.sd_model_checkpoint")
        if self.stored.sd_model_checkpoint:
            try:
                return checkpoints.find(self.stored.sd_model_checkpoint, "sd_model_checkpoint")
            except NotFound as error:
                # The file of the settings is gone: any checkpoint is better than none, as in A1111.
                self.warnings.append(f"{error.message}; the default checkpoint is used")
        found = checkpoints.default()
        if found is None:
            raise Unavailable("There is no checkpoint. Put one into model_store/Stable-diffusion and refresh")
        return found

    def _vae(self, overrides: Mapping[str, Any], checkpoint: CheckpointFile) -> VaeFile | None:
        name = self.options.sd_vae if overrides.get("sd_vae") else self.stored.sd_vae
        field = "override_settings.sd_vae" if overrides.get("sd_vae") else "sd_vae"
        return self.resolver.files.vaes.resolve(name, checkpoint, field)

    def _size(self, checkpoint: CheckpointFile) -> tuple[int, int]:
        """The request's; for a side it does not give, that of its first picture, or the checkpoint's native one."""
        values = self.values
        native = checkpoint.native_size if self.options.use_native_default_size else None
        first = self.first_picture.size if self.first_picture is not None else None
        default_width, default_height = first or native or A1111_SIZE
        width = values["width"] if "width" in self.given else default_width
        height = values["height"] if "height" in self.given else default_height
        # The old way to ask for a hires pass (A1111 `StableDiffusionProcessingTxt2Img.__post_init__`).
        if values.get("firstphase_width") or values.get("firstphase_height"):
            width = values["firstphase_width"] or width
            height = values["firstphase_height"] or height
        for name, side in (("firstphase_width", width), ("firstphase_height", height)):
            if side < MIN_SIDE:
                raise BadRequest(f"A picture has at least {MIN_SIDE} pixels a side; 0 means not given", field=name)
        return width, height

    def _sampler(self) -> tuple[str, str]:
        field = "sampler_name" if self.values["sampler_name"] else "sampler_index"
        schedule = self.values["scheduler"] or None
        return self.resolver.sampler_names(
            self.values[field], schedule, sampler_field=field, schedule_field="scheduler"
        )

    def _hires_box(self, width: int, height: int) -> tuple[int, int, tuple[int, int]]:
        """Size of the first pass, and the box of the second one (0: free). The old way asks for the second's size."""
        if self.options.use_old_hires_fix_width_height:
            return *old_first_pass_size(width, height), (width, height)
        return width, height, (self.values["hr_resize_x"], self.values["hr_resize_y"])

    def _hires(self, width: int, height: int, box: tuple[int, int], overrides: Mapping[str, Any]) -> HiresPass:
        values = self.values
        if values["denoising_strength"] is None:
            raise BadRequest("denoising_strength is needed with enable_hr", field="denoising_strength")
        self._check_hires_size(width, height, box)
        upscaler = values["hr_upscaler"] or None
        if upscaler and upscaler not in self.resolver.upscaler_names:
            raise BadRequest(
                f"Upscaler {upscaler!r} not found", field="hr_upscaler", choices=self.resolver.upscaler_names
            )
        sampler, schedule = self._hires_sampler()
        checkpoint = self._named_checkpoint("hr_checkpoint_name")
        return HiresPass(
            scale=values["hr_scale"],
            resize_x=box[0],
            resize_y=box[1],
            upscaler=upscaler,
            steps=values["hr_second_pass_steps"],
            checkpoint=checkpoint,
            vae=self._vae(overrides, checkpoint) if checkpoint else None,
            sampler=sampler,
            schedule=schedule,
            prompt=values["hr_prompt"],
            negative_prompt=values["hr_negative_prompt"],
            first_picture=self.first_picture,
        )

    def _first_picture(self) -> Image.Image | None:
        """What the hires pass starts from instead of a first pass. Without a hires pass nobody reads it, as in A1111
        (`StableDiffusionProcessingTxt2Img.sample`)."""
        text, name = self.values.get("firstpass_image"), "firstpass_image"
        if not text:
            return None
        if not self.values.get("enable_hr"):
            self.warnings.append(f"{name}: it had no effect, for enable_hr is not set")
            return None
        picture = _decode(text, name)
        if min(picture.size) < MIN_SIDE:
            raise BadRequest(f"A start picture has at least {MIN_SIDE} pixels a side", field=name)
        if picture.width * picture.height > MAX_INIT_PIXELS:
            raise PayloadTooLarge(f"The start picture has more than {MAX_INIT_PIXELS} pixels", field=name)
        return picture.convert("RGB")

    def _hires_sampler(self) -> tuple[str | None, str | None]:
        sampler, schedule = _unless_same(self.values["hr_sampler_name"]), _unless_same(self.values["hr_scheduler"])
        if sampler is None and schedule is None:
            return None, None
        first = self.values["sampler_name"] or self.values["sampler_index"]
        found, label = self.resolver.sampler_names(
            sampler or first, schedule, sampler_field="hr_sampler_name", schedule_field="hr_scheduler"
        )
        # A name such as "DPM++ 2M Karras" brings its schedule along.
        brings_schedule = sampler is not None and found.lower() != sampler.lower() and label != "Automatic"
        if not schedule and not brings_schedule and self.values["scheduler"]:
            # The first pass's by name: its preference for Karras, say, says nothing about another sampler.
            _, label = self.resolver.sampler_names(found, self.values["scheduler"])
            return found, label
        return (found if sampler else None), (label if schedule or brings_schedule else None)

    def _check_hires_size(self, width: int, height: int, box: tuple[int, int]) -> None:
        """Of what the first pass is enlarged to, before anything is cropped: far larger than `box` for odd shapes."""
        name = "hr_resize_x" if box[0] else "hr_resize_y" if box[1] else "hr_scale"
        box_pass = HiresPass(scale=self.values["hr_scale"], resize_x=box[0], resize_y=box[1])
        target = hires_size(width, height, box_pass, LATENT_SCALE)
        if min(target.width, target.height, *filter(None, box)) < MIN_SIDE:
            raise BadRequest(f"The second pass would be smaller than {MIN_SIDE} pixels a side", field=name)
        pixels = target.width * target.height
        if max(target.width, target.height) > MAX_SIDE or pixels * self.values["batch_size"] > MAX_PIXELS_PER_BATCH:
            raise BadRequest(f"The second pass of {target.width}x{target.height} is too large", field=name)
        self._check_total(pixels * self.values["batch_size"])

    def _check_total(self, pixels_per_batch: int) -> None:
        if pixels_per_batch * self.values["n_iter"] > MAX_PIXELS_PER_REQUEST:
            most = max(1, MAX_PIXELS_PER_REQUEST // pixels_per_batch)
            raise BadRequest(f"At most {most} batches of this size fit into one request", field="n_iter")

    def _refiner(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        checkpoint = self._named_checkpoint("refiner_checkpoint")
        if checkpoint is None:
            return {}
        return {
            "refiner_checkpoint": checkpoint,
            "refiner_vae": self._vae(overrides, checkpoint),
            "refiner_switch_at": self.values["refiner_switch_at"],
        }

    def _named_checkpoint(self, name: str) -> CheckpointFile | None:
        text = _unless_same(self.values[name])
        return self.resolver.files.checkpoints.find(text, name) if text else None

    def _init(self) -> InitImage:
        values = self.values
        if not values["init_images"]:
            raise NotFound("Init image not found")
        latent_mask = values["latent_mask"]
        images = _decode_all(values["init_images"])
        if (
            values["resize_mode"] == ResizeMode.LATENT
            and min(side for image in images for side in image.size) < MIN_SIDE
        ):
            raise BadRequest(
                f"Resize mode 3 needs start images of at least {MIN_SIDE} pixels a side", field="init_images"
            )
        return InitImage(
            images=images,
            resize_mode=values["resize_mode"],
            mask=self._mask(),
            latent_mask=_decode(latent_mask, "latent_mask") if latent_mask else None,
            image_cfg_scale=values["image_cfg_scale"],
            initial_noise_multiplier=_or_option(
                values["initial_noise_multiplier"], self.options.initial_noise_multiplier
            ),
        )

    def _mask(self) -> InpaintMask | None:
        values = self.values
        if values["mask"] is None:
            return None
        blur = values["mask_blur"]
        return InpaintMask(
            image=_decode(values["mask"], "mask"),
            blur_x=values["mask_blur_x"] if blur is None else blur,
            blur_y=values["mask_blur_y"] if blur is None else blur,
            round=values["mask_round"],
            fill=values["inpainting_fill"],
            full_resolution=values["inpaint_full_res"],
            full_resolution_padding=values["inpaint_full_res_padding"],
            invert=bool(values["inpainting_mask_invert"]),
        )

    def _batch_size(self, init: InitImage | None, width: int, height: int) -> int:
        size: int = self.values["batch_size"]
        if init and len(init.images) > size:
            raise BadRequest(f"{len(init.images)} images for a batch of {size}", field="init_images")
        if width * height * size > MAX_PIXELS_PER_BATCH:
            name = "batch_size" if width * height <= MAX_PIXELS_PER_BATCH else "width"
            raise BadRequest(f"{size} pictures of {width}x{height} at once are too much", field=name)
        self._check_total(width * height * size)
        return size


def _decode_all(texts: Sequence[Any]) -> tuple[Image.Image, ...]:
    images: list[Image.Image] = []
    for index, text in enumerate(texts):
        images.append(_decode(text, f"init_images[{index}]"))
        if sum(image.width * image.height for image in images) > MAX_INIT_PIXELS:
            raise PayloadTooLarge(
                f"The start images together have more than {MAX_INIT_PIXELS} pixels", field=f"init_images[{index}]"
            )
    return tuple(images)


def _decode(text: Any, field: str) -> Image.Image:
    from sdwebui_api.imaging.codec import decode_image

    if not isinstance(text, (str, bytes)):
        raise BadRequest("An image is a text: base64, a data URI or a URL", field=field)
    return decode_image(text, field)


def _seed(seed: int | None) -> int:
    """-1 is drawn here, so that the request, its infotext and its retries agree."""
    return random.randrange(LARGEST_RANDOM_SEED) if seed is None or seed == -1 else seed


def _unless_same(name: str | None) -> str | None:
    return None if name is None or name in SAME else name


def _or_option(value: Any, option: Any) -> Any:
    return option if value is None else value
