"""A1111's hooks as ours: one `Hooks` object per run of the pipeline calls all of the extensions' scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sdwebui_api.errors import SdWebUIError
from sdwebui_api.generation.plan import Batch
from sdwebui_api.generation.request import GenerationRequest, GenerationResult
from sdwebui_api.prompting.extra_networks import parse_extra_networks
from sdwebui_api.sampling.evaluation import Combined, Denoised, EvaluationInputs, Guided, Moment
from sdwebui_api.sampling.guidance import SamplingStopped
from sdwebui_api.scripting.chain import report_error
from sdwebui_api.scripting.compat import translate
from sdwebui_api.scripting.compat.models import SD_MODEL
from sdwebui_api.scripting.compat.params import (
    AfterCFGCallbackParams,
    CFGDenoisedParams,
    CFGDenoiserParams,
    ExtraNetworkParams,
    ImageSaveParams,
    MaskBlendArgs,
    PostprocessBatchListArgs,
    PostprocessImageArgs,
    PostProcessMaskOverlayArgs,
    PostSampleArgs,
)
from sdwebui_api.scripting.compat.processing import (
    make_p,
    never_called,
    processed_from,
    request_of,
    result_from,
    show,
)
from sdwebui_api.scripting.compat.runner import ScriptRunner
from sdwebui_api.scripting.compat.samplers import (
    ImageRNGFacade,
    KDiffusionSampler,
    call_back,
    replaced,
    without_effect,
)
from sdwebui_api.scripting.compat.world import World, callbacks_of, job_view
from sdwebui_api.scripting.hooks import (
    Blend,
    Draft,
    Hooks,
    MaskOverlay,
    PictureFile,
    PicturePlace,
    Running,
    Sampled,
    SamplingStart,
)

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from sdwebui_api.catalog.checkpoints import CheckpointFile

# Our hook → the methods and callbacks of A1111 that are called there.
_METHODS: dict[str, tuple[str, ...]] = {
    "before_process": ("setup", "before_process"),
    "process": ("process",),
    "before_process_batch": ("before_process_batch",),
    "process_batch": ("after_extra_networks_activate", "process_batch"),
    "before_hires": ("before_hr",),
    "before_sampling": ("process_before_every_sampling",),
    "blend": ("on_mask_blend",),
    "post_sample": ("post_sample",),
    "postprocess_batch": ("postprocess_batch", "postprocess_batch_list"),
    "postprocess_image": ("postprocess_image",),
    "postprocess_maskoverlay": ("postprocess_maskoverlay",),
    "postprocess_image_after_composite": ("postprocess_image_after_composite",),
    "postprocess": ("postprocess",),
}
_CALLBACKS = {
    "cfg_denoiser": "cfg_denoiser",
    "cfg_denoised": "cfg_denoised",
    "after_cfg": "cfg_after_cfg",
    "before_save": "before_image_saved",
    "saved": "image_saved",
}


class LegacyHooks(Hooks):
    """The part of all A1111 scripts in one run. They share one `p`, as there.

    Changes of `p` are taken over after every call; `run` is what counts between calls.
    """

    def __init__(self, world: World, runner: ScriptRunner, script_args: tuple[Any, ...], p: Any = None) -> None:
        self._world = world
        self._runner = runner
        self._args = script_args
        self._p = p
        self._shown: dict[str, Any] = {}
        self._networks: dict[str, list[Any]] = {}
        self._own_sampler: tuple[str, str] | None = None
        """Name of a sampler that a script made, and of ours that it samples with."""

    def takes_part_in(self, name: str) -> bool:
        if name == "before_sampling":
            return True  # p.sampler and p.rng are made there
        if name == "combine":
            return self._p is not None and replaced(
                getattr(self._p.sampler, "model_wrap_cfg", None), "combine_denoised"
            )
        if name == "after_cfg" and self._p is not None and replaced(self._p.sampler, "callback_state"):
            return True
        if name in _CALLBACKS:
            return bool(callbacks_of(_CALLBACKS[name]))
        if name == "process" and callbacks_of("model_loaded"):
            return True
        if name in ("before_process_batch", "process_batch", "postprocess") and self._world.extra_networks:
            return True
        return self._runner.has(*_METHODS[name])

    # -- hooks -------------------------------------------------------------------------------------------------------

    def before_process(self, request: GenerationRequest, run: Running) -> GenerationRequest:
        run.request = request
        self._call(run, None, "setup")
        self._call(run, None, "before_process")
        return run.request

    def process(self, draft: Draft, run: Running) -> Draft:
        self._announce(run.request.checkpoint)
        self._call(run, None, "process")
        return Draft(run.request, run.plan)

    def before_process_batch(self, draft: Draft, run: Running) -> Draft:
        batch = self._call_batch(run, draft.batch, "before_process_batch")
        self._networks = {}
        for network in parse_extra_networks(batch.prompts[0])[1] if batch and batch.prompts else ():
            self._networks.setdefault(network.kind, []).append(ExtraNetworkParams(list(network.items)))
        return Draft(run.request, run.plan, batch)

    def process_batch(self, draft: Draft, run: Running) -> Draft:
        self._with_networks(run, "activate")
        networks = self._networks
        batch = self._call_batch(run, draft.batch, "after_extra_networks_activate", extra_network_data=networks)
        return Draft(run.request, run.plan, self._call_batch(run, batch, "process_batch"))

    def before_hires(self, draft: Draft, run: Running) -> Draft:
        p = self._of(run)
        p.is_hr_pass = True
        self._call(run, draft.batch, "before_hr")
        return Draft(run.request, run.plan, draft.batch)

    def before_sampling(self, start: SamplingStart, run: Running) -> SamplingStart:
        p = self._of(run)
        p.is_hr_pass = start.hires_pass
        p.rng, p.sampler = ImageRNGFacade(start.noise, start.batch), self._sampler(start, run, p)
        x = start.noise if start.latent is None else start.latent
        cond = start.conditioning
        self._call(run, None, "process_before_every_sampling", x=x, noise=start.noise, c=cond.cond, uc=cond.uncond)
        return start

    def cfg_denoiser(self, inputs: EvaluationInputs, run: Running) -> EvaluationInputs:
        params = CFGDenoiserParams(
            inputs.x, inputs.concat, inputs.levels, _step(inputs.at), inputs.at.steps, inputs.cond, inputs.uncond,
            self._denoiser(run, inputs.at),
        )  # fmt: skip
        self._callback(run, "cfg_denoiser", params)
        return EvaluationInputs(
            params.x, params.sigma, params.image_cond, params.text_cond, params.text_uncond, inputs.at
        )

    def cfg_denoised(self, denoised: Denoised, run: Running) -> Denoised:
        # Only changes in place count: A1111 does not read the attribute again.
        self._callback(run, "cfg_denoised", CFGDenoisedParams(denoised.x, _step(denoised.at), denoised.at.steps, None))
        return denoised

    def after_cfg(self, guided: Guided, run: Running) -> Guided:
        params = AfterCFGCallbackParams(guided.x, _step(guided.at), guided.at.steps)
        self._callback(run, "cfg_after_cfg", params)
        sampler = self._of(run).sampler
        if guided.latent is not None and replaced(sampler, "callback_state"):
            with self._view(run), _reported(run, sampler.callback_state, "callback_state"):
                params.x = call_back(sampler, guided.latent, params.x, guided.level, guided.at)
        return replace(guided, x=params.x)

    def combine(self, combined: Combined, run: Running) -> Combined:
        parts = [list(image) for image in combined.parts]
        guided, denoiser = combined.guided, self._denoiser(run, combined.at)
        with self._view(run), _reported(run, denoiser.combine_denoised, "combine_denoised"):
            guided = denoiser.combine_denoised(combined.predictions, parts, combined.uncond, combined.scale)
        return replace(combined, guided=guided)

    def blend(self, blend: Blend, run: Running) -> Blend:
        p = self._of(run)
        args = MaskBlendArgs(
            blend.current, 1 - blend.keep, blend.init_latent, blend.keep, blend.blended,
            denoiser=None if blend.is_final else p.sampler.model_wrap_cfg, sigma=blend.level,
        )  # fmt: skip
        self._call(run, None, "on_mask_blend", args)
        return replace(blend, blended=args.blended_latent)

    def post_sample(self, sampled: Sampled, run: Running) -> Sampled:
        p = self._of(run)
        p.init_latent, p.mask = sampled.init_latent, sampled.keep
        p.nmask = None if sampled.keep is None else 1 - sampled.keep
        args = PostSampleArgs(sampled.latent)
        self._call(run, sampled.batch, "post_sample", args)
        return replace(sampled, latent=args.samples)

    def postprocess_batch(self, pictures: list[Tensor], batch: Batch, run: Running) -> list[Tensor]:
        import torch

        if self._runner.has("postprocess_batch") and pictures:
            stacked = torch.stack(pictures)
            self._call(run, batch, "postprocess_batch", images=stacked, batch_number=batch.index)
            pictures = list(stacked)
        args = PostprocessBatchListArgs(pictures)
        self._call(run, batch, "postprocess_batch_list", args, batch_number=batch.index)
        return args.images

    def postprocess_image(self, image: Image.Image, place: PicturePlace, run: Running) -> Image.Image:
        args = PostprocessImageArgs(image, place.index)
        self._of(run).batch_index = place.position
        self._call(run, place.batch, "postprocess_image", args)
        return args.image

    def postprocess_maskoverlay(self, overlay: MaskOverlay, place: PicturePlace, run: Running) -> MaskOverlay:
        args = PostProcessMaskOverlayArgs(place.position, overlay.mask, overlay.overlay)
        self._call(run, place.batch, "postprocess_maskoverlay", args)
        return MaskOverlay(args.mask_for_overlay, args.overlay_image)

    def postprocess_image_after_composite(self, image: Image.Image, place: PicturePlace, run: Running) -> Image.Image:
        args = PostprocessImageArgs(image, place.index)
        self._of(run).batch_index = place.position
        self._call(run, place.batch, "postprocess_image_after_composite", args)
        return args.image

    def before_save(self, picture: PictureFile, run: Running) -> PictureFile:
        params = self._save_params(picture, run)
        self._callback(run, "before_image_saved", params)
        return replace(picture, image=params.image, infotext=params.pnginfo.get("parameters") or "")

    def saved(self, picture: PictureFile, run: Running) -> PictureFile:
        self._callback(run, "image_saved", self._save_params(picture, run))
        return picture

    def _save_params(self, picture: PictureFile, run: Running) -> ImageSaveParams:
        """Before it is written the file's name is one of its folder and format: another may take the number."""
        p = self._of(run)
        path = picture.path
        if path is None:
            folder = self._world.paths.resolve(str(p.outpath_samples or "outputs"))
            folder.mkdir(parents=True, exist_ok=True)
            path = str(folder / f"{run.request.seed}.{run.request.options.samples_format}")
        return ImageSaveParams(picture.image, p, path, {"parameters": picture.infotext})

    def postprocess(self, result: GenerationResult, run: Running) -> GenerationResult:
        p = self._of(run)
        self._with_networks(run, "deactivate")
        processed = processed_from(p, result)
        roles = {id(image.image): image for image in result.images}
        self._call(run, None, "postprocess", processed)
        changed = result_from(processed)
        images = [roles.get(id(image.image), image) for image in changed.images]
        for image, text in zip(images, processed.infotexts, strict=False):
            image.infotext = text
        return GenerationResult(images, {**result.info, **changed.info})

    def _with_networks(self, run: Running, method: str) -> None:
        """`activate` or `deactivate` of the kinds of tags that extensions registered."""
        for kind, network in self._world.extra_networks.items():
            params = self._networks.get(kind, [])
            arguments = (params,) if method == "activate" else ()
            with self._view(run):
                try:
                    if params or method == "activate":
                        getattr(network, method)(self._of(run), *arguments)
                except (SdWebUIError, SamplingStopped):
                    raise
                except Exception as error:
                    report_error(run.warnings, f"<{kind}:…>", method, error)

    # -- samplers ----------------------------------------------------------------------------------------------------

    @property
    def _seen_sampler(self) -> Any:
        """`p.sampler` of the pass that runs; None before the first."""
        return self._p.sampler if self._p is not None else None

    def _sampler(self, start: SamplingStart, run: Running, p: Any) -> Any:
        """`p.sampler` of a pass, as extensions make or patch it."""
        from sdwebui_api.scripting.compat.modules import sd_samplers

        name = start.settings.sampler.name
        if self._own_sampler is not None and self._own_sampler[1] == name:
            name = self._own_sampler[0]
        with self._view(run):
            try:
                sampler = sd_samplers.create_sampler(name, SD_MODEL)
                sampler.p = sampler.model_wrap_cfg.p = p
                idle = [*without_effect(sampler), *never_called(p)]
            except (SdWebUIError, SamplingStopped):
                raise
            except Exception as error:
                report_error(run.warnings, f"sampler {name}", "create_sampler", error)
                sampler, idle = KDiffusionSampler(start.settings.sampler.name), []
                sampler.p = sampler.model_wrap_cfg.p = p
        for method in idle:
            warning = f"an extension replaced {method}, which this server does not call"
            if warning not in run.warnings:
                run.warnings.append(warning)
        return sampler

    def _denoiser(self, run: Running, at: Moment) -> Any:
        return self._of(run).sampler.model_wrap_cfg.at(at)

    def _ours(self, name: Any, run: Running) -> Any:
        """The sampler of ours behind the name of one that a script made; other names as they are."""
        from sdwebui_api.scripting.compat.modules import sd_samplers

        self._own_sampler = None
        row = sd_samplers.all_samplers_map.get(name) if isinstance(name, str) else None
        if row is None or any(row is known for known in sd_samplers.all_samplers):
            return name
        base: str = run.request.sampler
        with _reported(run, row.constructor, f"making the sampler {name!r}"):
            base = row.constructor(SD_MODEL).sdwebui_sampler.name
            self._own_sampler = name, base
        return base

    # -- calling -----------------------------------------------------------------------------------------------------

    def _of(self, run: Running) -> Any:
        """The p of this run, made at the first call."""
        if self._p is None:
            self._p = make_p(run.request, self._runner, self._args)
        p = self._p
        if p.extra_generation_params is not run.infotext:
            run.infotext.update(p.extra_generation_params)
            p.extra_generation_params = run.infotext
        p.sdwebui_warnings = run.warnings
        return p

    def _call(self, run: Running, batch: Batch | None, method: str, *args: Any, **kwargs: Any) -> Batch | None:
        """`method` of every script, with p as the run has it; then the run as they left p. Returns the batch."""
        if not self._runner.has(method):
            return batch
        p = self._of(run)
        with self._view(run):
            self._show(p, run, batch)
            self._runner.call(method, p, *args, **kwargs)
            return self._take(p, run, batch)

    def _call_batch(self, run: Running, batch: Batch | None, method: str, **more: Any) -> Batch | None:
        """The same with the batch's lists as arguments: those on p, so that changing them in place counts."""
        assert batch is not None
        if not self._runner.has(method):
            return batch
        p = self._of(run)
        with self._view(run):
            self._show(p, run, batch)
            lists = {"prompts": p.prompts, "seeds": p.seeds, "subseeds": p.subseeds}
            self._runner.call(method, p, batch_number=batch.index, **lists, **more)
            return self._take(p, run, batch)

    def _callback(self, run: Running, category: str, params: Any) -> None:
        with self._view(run):
            for callback in callbacks_of(category):
                try:
                    callback.callback(params)
                except (SdWebUIError, SamplingStopped):
                    raise
                except Exception as error:
                    report_error(run.warnings, callback.script.rpartition("/")[2], f"on_{category}", error)

    def _announce(self, checkpoint: CheckpointFile) -> None:
        """`on_model_loaded` is called when a job's checkpoint is another than the job's before."""
        if self._world.announced_model != checkpoint.path:
            self._world.announced_model = checkpoint.path
            self._world.callbacks.call("model_loaded", SD_MODEL)

    def _view(self, run: Running) -> Any:
        return job_view("a script").within(run.request, getattr(run, "model", None))

    def _show(self, p: Any, run: Running, batch: Batch | None) -> None:
        shown = translate.attributes(run.request)
        if self._own_sampler is not None and self._own_sampler[1] == run.request.sampler:
            shown["sampler_name"] = self._own_sampler[0]
        plan = getattr(run, "plan", None)
        if plan is not None:
            shown |= translate.plan_attributes(plan)
            if run.request.hires is None:
                # A1111 lays these out only for a second pass, and scripts ask by them whether there is one.
                shown |= {"all_hr_prompts": None, "all_hr_negative_prompts": None}
            p.main_prompt, p.main_negative_prompt = plan.main.prompt, plan.main.negative_prompt
        if batch is not None:
            shown |= translate.batch_attributes(batch)
            p.iteration = batch.index
        if run.prepared is not None:
            p.paste_to, p.mask_for_overlay = run.prepared.paste_to, run.prepared.mask_for_overlay
            p.overlay_images = list(run.prepared.overlays) or None
        show(p, shown)
        # Lists are compared later: the ones on p may be changed in place.
        self._shown = {name: _copy(value) for name, value in shown.items()}

    def _take(self, p: Any, run: Running, batch: Batch | None) -> Batch | None:
        changed = {name: getattr(p, name) for name, before in self._shown.items() if _differs(getattr(p, name), before)}
        for name, value in list(run.infotext.items()):
            if callable(value) and not isinstance(value, _Computed):
                run.infotext[name] = _Computed(value, p)
        found = job_view("a script")
        if p.is_img2img and run.request.kind == "txt2img" and run.request.init is None:
            # A script gave p another class: start images in a txt2img request.
            run.request = replace(request_of(p, run.request), kind=run.request.kind, always_on=run.request.always_on)
        if found.options is not run.request.options:
            # `opts.x = …` counts for this request, from here on.
            run.request = replace(run.request, options=found.options)
        if not changed:
            return batch
        context = found.context
        if "sampler_name" in changed:
            changed["sampler_name"] = self._ours(changed["sampler_name"], run)
        run.request = translate.with_attributes(run.request, changed, context)
        if getattr(run, "plan", None) is not None:
            run.plan = translate.plan_from(run.plan, changed)
        return translate.batch_from(batch, changed) if batch is not None else None


@contextmanager
def _reported(run: Running, function: Any, place: str) -> Iterator[None]:
    """An error of an extension's function that nobody's hook is; the request goes on without what it does."""
    try:
        yield
    except (SdWebUIError, SamplingStopped):
        raise
    except Exception as error:
        report_error(run.warnings, getattr(function, "__module__", None) or "extensions", place, error)


@dataclass(frozen=True)
class _Computed:
    """An infotext entry that A1111 works out per picture: a function of p, index and the lists."""

    function: Callable[..., Any]
    p: Any

    def __call__(self, index: int) -> Any:
        p = self.p
        try:
            return self.function(
                p=p, index=index, all_prompts=p.all_prompts, all_negative_prompts=p.all_negative_prompts,
                all_seeds=p.all_seeds, all_subseeds=p.all_subseeds, comments=None, iteration=0,
                position_in_batch=index, use_main_prompt=False, prompt_text=None, negative_prompt_text=None,
                uses_ensd=False, opts=None,
            )  # fmt: skip
        except Exception as error:
            report_error(p.sdwebui_warnings, getattr(self.function, "__name__", "a function"), "the infotext", error)
            return None


def _copy(value: Any) -> Any:
    return list(value) if isinstance(value, list) else dict(value) if isinstance(value, dict) else value


def _differs(value: Any, before: Any) -> bool:
    if value is before:
        return False
    if isinstance(value, list) and isinstance(before, list) and len(value) == len(before):
        return any(_differs(a, b) for a, b in zip(value, before, strict=True))
    try:
        return bool(value != before)
    except (RuntimeError, ValueError, TypeError):
        return True


def _step(at: Moment) -> int:
    """A1111's `state.sampling_step` during an evaluation: it counts up after the first one of a step."""
    return max(-(-at.number * at.steps // max(at.total, 1)) - 1, 0)
