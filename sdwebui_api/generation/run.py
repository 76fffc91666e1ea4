"""What the stages of one request share while it runs, and how they talk to the engine and the job."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor

from sdwebui_api.control.passes import Adding
from sdwebui_api.engine.families.labels import PictureFacts
from sdwebui_api.engine.load_settings import TAESD
from sdwebui_api.engine.networks.selection import NO_NETWORKS, NetworkSet
from sdwebui_api.generation.latents import decode_latents, encode_images, tensor_to_images
from sdwebui_api.generation.merging_ratio import token_merging_ratio
from sdwebui_api.generation.networks import ModelLeases, choose_networks
from sdwebui_api.generation.plan import Batch, GenerationPlan
from sdwebui_api.generation.request import GenerationRequest
from sdwebui_api.imaging.grid import image_grid
from sdwebui_api.imaging.upscale import WEIGHT_FREE_UPSCALERS, Upscaler
from sdwebui_api.prompting.conditioning import (
    BatchConditioning,
    LabelSchedule,
    PromptTiming,
    UncondSchedule,
    build_conditioning,
    build_uncond,
)
from sdwebui_api.prompting.encoding import EncodingCache, TextConditioner, TextSettings
from sdwebui_api.prompting.extra_networks import parse_extra_networks
from sdwebui_api.prompting.schedule import timelines_differ
from sdwebui_api.sampling.guidance import OnStep, RefinerSwitch, SamplingStopped, StepReport
from sdwebui_api.sampling.names import find_sampler, find_schedule
from sdwebui_api.sampling.noise import ImageNoise
from sdwebui_api.sampling.session import Conditioning, SamplingSettings, refined_model
from sdwebui_api.sampling.settings import SamplingOptions
from sdwebui_api.scripting.chain import HookChain
from sdwebui_api.scripting.hooks import Draft, Files, LendsNetworks, Sampled

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from sdwebui_api.catalog.checkpoints import CheckpointFile
    from sdwebui_api.catalog.vaes import VaeFile
    from sdwebui_api.engine.model import DiffusionModel
    from sdwebui_api.engine.networks.control import ControlNetwork
    from sdwebui_api.imaging.inpaint import PreparedInit
    from sdwebui_api.jobs.job import Job
    from sdwebui_api.postprocess.faces import RestoreFaces


ConcatFor: TypeAlias = "Callable[[DiffusionModel], Tensor | None]"
"""What a model takes besides the latents (inpainting, editing): the pictures, encoded by itself."""


@dataclass(frozen=True)
class RequestModel:
    """A model as one pass of a request uses it: a `sampling.model.Evaluator` that knows whether edges wrap around,
    attention is computed in float32, and which share of the tokens is merged."""

    model: DiffusionModel
    tiling: bool
    upcast: bool = False
    merging: float = 0.0

    @property
    def alphas_cumprod(self) -> Tensor:
        return self.model.alphas_cumprod

    @property
    def prediction_type(self) -> str:
        return self.model.prediction_type

    @property
    def in_channels(self) -> int:
        return self.model.in_channels

    def evaluate(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor,
        *,
        concat: Tensor | None = None,
        control: Adding | None = None,
        vector: Tensor | None = None,
    ) -> Tensor:
        output = self.model.evaluate(
            x,
            t,
            context,
            concat=concat,
            tiling=self.tiling,
            control=() if control is None else control.inputs,
            vector=vector,
            upcast=self.upcast,
            merging=self.merging,
        )
        return output if control is None else control.finish(x, t, output)


@dataclass
class Run:
    """One request on its way. `infotext` gathers, in order, what the stages add (A1111 `extra_generation_params`)."""

    request: GenerationRequest
    job: Job
    encodings: EncodingCache
    files: Files
    lend_network: LendsNetworks
    plan: GenerationPlan = field(init=False)
    model: DiffusionModel = field(init=False)
    """The request's checkpoint with the networks of the current pass."""
    models: ModelLeases = field(init=False)
    hooks: HookChain = field(init=False)
    prepared: PreparedInit | None = None
    """img2img's geometry."""
    upscalers: Mapping[str, Upscaler] = field(default_factory=lambda: WEIGHT_FREE_UPSCALERS)
    """Those of this server, for the hires pass and for start images."""
    censor: Callable[[Image.Image], Image.Image] = field(default=lambda image: image)
    """What pictures go through before they are kept or shown (`--enable-nsfw-censor`)."""
    restore_faces: RestoreFaces | None = None
    """What the option `face_restoration_model` names, when the request wants faces restored."""
    infotext: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    refined: DiffusionModel | None = None
    """The refiner, once the current pass has switched to it."""
    init_image_hash: str | None = None
    networks: NetworkSet = NO_NETWORKS
    """Those of the current pass."""
    lora_hashes: dict[str, str] = field(default_factory=dict)

    # -- models ----------------------------------------------------------------------------------------------------

    def use_networks(self, batch: Batch, *, hires: bool = False) -> None:
        """Take the networks that the first prompt of `batch` (tags included) names for the pass that begins.

        A1111 `extra_networks.activate`; the infotext's hashes are those of both passes together.
        """
        if self.request.disable_extra_networks or not batch.prompts:
            return
        tags = parse_extra_networks(batch.prompts[0])[1]
        chosen = choose_networks(tags, self.request.options, self.models.network_files)
        self.warn(*chosen.warnings)
        self.lora_hashes = {**(self.lora_hashes if hires else {}), **chosen.hashes}
        if self.lora_hashes:
            self.infotext["Lora hashes"] = ", ".join(f"{name}: {hash}" for name, hash in self.lora_hashes.items())
        if not hires:
            self.models.keep_only(chosen.networks)
            self.refined = None
        self.networks = chosen.networks
        self.model = self.borrow(self.request.checkpoint, self.request.vae)

    def borrow(self, checkpoint: CheckpointFile, vae: VaeFile | None) -> DiffusionModel:
        """Another checkpoint, with the networks of the current pass, until the run ends."""
        with self.job.stages.timing("load"):
            model = self.models.get(checkpoint, vae, self.networks)
        self.job.set_text(None)
        self.warn(*model.problems)
        return model

    def evaluator(self, model: DiffusionModel, *, hires_pass: bool = False) -> RequestModel:
        """`model` as this request has it run, for sampling."""
        merging = token_merging_ratio(self.request, hires_pass=hires_pass)
        return RequestModel(model, self.request.tiling, self.request.options.upcast_attn, merging)

    def model_for(self, *, hires_pass: bool) -> DiffusionModel:
        """What a pass runs on, the refiner aside."""
        hires = self.request.hires
        if hires_pass and hires is not None and hires.checkpoint is not None:
            return self.borrow(hires.checkpoint, hires.vae)
        return self.model

    def control_network(self, path: Path, model: DiffusionModel, *, keep: bool = True) -> ControlNetwork:
        """The control model in `path` for `model`, until the run ends; `keep`: it stays in memory afterwards."""
        with self.job.stages.timing("load"):
            network = self.models.control_network(path, model, keep=keep)
        self.job.set_text(None)
        return network

    def warn(self, *warnings: str) -> None:
        """Report in `info.warnings`, each once."""
        self.warnings += [warning for warning in dict.fromkeys(warnings) if warning not in self.warnings]

    # -- what a pass is asked to do --------------------------------------------------------------------------------

    def first_pass_settings(self) -> SamplingSettings:
        request = self.request
        return SamplingSettings(
            sampler=find_sampler(request.sampler),
            schedule=find_schedule(request.schedule),
            steps=request.steps,
            cfg_scale=request.cfg_scale,
            image_cfg_scale=request.init.image_cfg_scale if request.init else None,
            denoising_strength=_or(request.denoising_strength, 1.0),
            eta=request.eta,
            s_min_uncond=request.s_min_uncond,
            s_churn=request.s_churn,
            s_tmin=request.s_tmin,
            s_tmax=request.s_tmax,
            s_noise=request.s_noise,
            options=SamplingOptions.from_options(
                dict(request.options), sdxl=self.model.family.align_your_steps == "sdxl"
            ),
        )

    def noise(self, batch: Batch, shape: tuple[int, ...]) -> ImageNoise:
        """The noise of a batch; `shape` [C, h, w] of one latent."""
        request = self.request
        return ImageNoise(
            shape,
            batch.seeds,
            subseeds=batch.subseeds,
            subseed_strength=request.subseed_strength,
            seed_resize_from_w=request.seed_resize_from_w,
            seed_resize_from_h=request.seed_resize_from_h,
            source=request.options.randn_source,
            device=self.model.device,
            eta_noise_seed_delta=request.options.eta_noise_seed_delta,
        )

    def condition(
        self,
        model: DiffusionModel,
        batch: Batch,
        timing: PromptTiming,
        concat: Tensor | None = None,
        *,
        size: tuple[int, int] | None = None,
        report: bool = True,
        encoded_by: DiffusionModel | None = None,
    ) -> Conditioning:
        """The batch's prompts for `model`, encoded by its text encoder or by that of `encoded_by`.

        `size`: (width, height) of the pass, for models that are told; None: the request's.
        `report`: note in the infotext which embeddings were used; A1111 does so for the first pass only.
        """
        options = self.request.options
        encoder = encoded_by or model
        conditioner = TextConditioner(encoder.text_encoder, encoder.embeddings, self.encodings)
        settings = TextSettings.of(options, model.family.own_clip_skip)
        with self.job.stages.timing("text"):
            uncond = build_uncond(batch.negative_prompts, timing, conditioner, settings)
            cond = build_conditioning(batch.prompts, timing, conditioner, settings)
        if timing.use_old and any(
            timelines_differ(prompts, timing.steps, timing.hires_steps)
            for prompts in (batch.prompts, batch.negative_prompts)
        ):
            self.infotext["Old prompt editing timelines"] = True
        if report:
            found = cond.report.after(uncond.report)
            self.infotext.update(found.infotext(add_hashes=options.textual_inversion_add_hashes_to_infotext))
        return Conditioning(
            cond=cond,
            uncond=uncond,
            empty_prompt=conditioner.empty(self._as_loaded(settings, model)) if options.pad_cond_uncond else None,
            concat=concat,
            edit_model=model.in_channels == 2 * model.latent_channels,
            labels=self._labels(model, cond, uncond, size or (self.request.width, self.request.height)),
        )

    def _as_loaded(self, settings: TextSettings, model: DiffusionModel) -> TextSettings:
        """For the empty prompt that pads others: A1111 encodes it when the checkpoint is loaded, before any override
        (`sd_models.get_empty_cond`)."""
        overridden = "CLIP_stop_at_last_layers" in self.request.override_settings
        return replace(settings, clip_skip=1) if overridden and model.family.own_clip_skip is None else settings

    def _labels(
        self, model: DiffusionModel, cond: BatchConditioning, uncond: UncondSchedule, size: tuple[int, int]
    ) -> LabelSchedule | None:
        """What a model is told of its pictures besides their texts (A1111 `sd_models_xl.get_learned_conditioning`)."""
        if model.family.label is None:
            return None
        options = self.request.options
        top, left = int(options.sdxl_crop_top), int(options.sdxl_crop_left)
        facts = PictureFacts(size[1], size[0], top, left, options.sdxl_refiner_high_aesthetic_score)
        negative = replace(facts, aesthetic_score=options.sdxl_refiner_low_aesthetic_score)
        return LabelSchedule(
            cond, uncond, lambda pooled: model.label(pooled, facts), lambda pooled: model.label(pooled, negative)
        )

    def refiner(
        self,
        settings: SamplingSettings,
        batch: Batch,
        timing: PromptTiming,
        concat: ConcatFor,
        size: tuple[int, int] | None = None,
    ) -> RefinerSwitch | None:
        """The switch to the refiner checkpoint, if this pass has one (A1111 `sd_samplers_common.apply_refiner`).

        `concat`: of the pass; the refiner may be an inpainting or edit model.
        """
        request = self.request
        self.refined = None
        checkpoint = request.refiner_checkpoint
        hires_checkpoint = request.hires.checkpoint if request.hires and settings.hires_pass else None
        if checkpoint is None or checkpoint == (hires_checkpoint or request.checkpoint):
            return None
        wanted = request.options.hires_fix_refiner_pass
        infotext: dict[str, Any] = {}
        if request.hires is not None:
            if wanted == ("first pass" if settings.hires_pass else "second pass"):
                return None
            if wanted != "second pass":
                infotext["Hires refiner"] = wanted
        infotext["Refiner"] = short_title(checkpoint)
        infotext["Refiner switch at"] = request.refiner_switch_at

        def load() -> Any:
            self.refined = model = self.borrow(checkpoint, request.refiner_vae)
            conditioning = self.condition(model, batch, timing, concat(model), size=size, report=False)
            return refined_model(settings, self.evaluator(model, hires_pass=settings.hires_pass), conditioning)

        return RefinerSwitch(request.refiner_switch_at or 0.0, load, infotext)

    # -- scripts ---------------------------------------------------------------------------------------------------

    def take(self, draft: Draft) -> Batch | None:
        """Go on with what a hook made of the draft."""
        self.request, self.plan = draft.request, draft.plan
        return draft.batch

    def finish(self, model: DiffusionModel, sampled: Sampled) -> Tensor:
        """The last latents of a batch to pictures, the scripts' changes included."""
        if model.tiny_vae.decoder is not None:  # after a hires pass too, where A1111 keeps it to itself
            self.infotext["VAE Decoder"] = self.request.options.sd_vae_decode_method
        return self.decode(model, self.hooks.post_sample(sampled).latent)

    def decode(self, model: DiffusionModel, latent: Tensor) -> Tensor:
        """Pictures of a pass that `model` began: decoded by the VAE of the model that ended it, as in A1111."""
        with self.job.stages.timing("decode"):
            return decode_latents(self.refined or model, latent, tiling=self.request.tiling)

    def encode(self, model: DiffusionModel, images: Tensor, noise: Tensor) -> Tensor:
        """Latents of pictures [B, 3, H, W] in [-1, 1] that a pass of `model` starts from."""
        if model.tiny_vae.encodes:
            self.infotext["VAE Encoder"] = self.request.options.sd_vae_encode_method
        with self.job.stages.timing("encode"):
            return encode_images(model, images, noise, tiling=self.request.tiling)

    @contextmanager
    def sampling(self, model: DiffusionModel) -> Iterator[None]:
        """The steps of a pass happen inside."""
        with model.participate(), self.job.stages.timing("sample"):
            yield

    # -- progress --------------------------------------------------------------------------------------------------

    def report_to_job(self, model: DiffusionModel) -> OnStep:
        """Tells the job about every step; ends the pass when the job was interrupted or skipped."""
        options = self.request.options
        whole_grid, kind = options.show_progress_grid, options.show_progress_type

        def report(step: StepReport) -> None:
            latents = step.latent if whole_grid else step.latent[:1]
            self.job.step(step.step, lambda: draw_preview(model, latents, kind))
            if self.job.should_stop:
                raise SamplingStopped

        return report


def draw_preview(model: DiffusionModel, latents: Tensor, kind: str) -> Image.Image:
    """A picture of unfinished `latents` [B, 4, h, w].

    `kind`: "Full", through the VAE; "TAESD", where the model has it; anything else, roughly at one pixel per cell.
    """
    previewer = model.tiny_vae.previewer
    if kind == "Full":
        images = tensor_to_images(model.decode(latents))
    elif kind == TAESD and previewer is not None:
        images = tensor_to_images(previewer.decode(latents))
    else:
        images = [model.preview(latent) for latent in latents]
    return images[0] if len(images) == 1 else image_grid(images)


def short_title(checkpoint: CheckpointFile) -> str:
    """`name [hash]` without the file's ending, as infotexts name a second checkpoint."""
    name = checkpoint.stem
    return f"{name} [{checkpoint.shorthash}]" if checkpoint.shorthash else name


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
