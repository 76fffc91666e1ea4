"""In the style of dynamic thresholding and CFG rescale: guidance of its own, in a sampler of its own."""

import gradio as gr
from ldm.models.diffusion import ddim
from ldm.modules.diffusionmodules.util import noise_like  # noqa: F401
from modules import (
    patches,
    scripts,
    sd_samplers,
    sd_samplers_common,
    sd_samplers_compvis,
    sd_samplers_kdiffusion,
    shared,
)
from modules.script_callbacks import on_cfg_denoiser, remove_callbacks_for_function
from modules.sd_samplers_kdiffusion import CFGDenoiserKDiffusion


class OldSampler(sd_samplers_compvis.VanillaStableDiffusionSampler):
    """Never made."""


class HalfDenoiser(CFGDenoiserKDiffusion):
    def __init__(self, sampler, p, factor):
        super().__init__(sampler)
        self.owner, self.factor = p, factor

    def combine_denoised(self, x_out, conds_list, uncond, cond_scale):
        assert x_out.shape[0] == sum(map(len, conds_list)) + uncond.shape[0]
        self.owner.extra_generation_params["Mimic steps"] = f"{self.step + 1} of {self.total_steps}"
        return super().combine_denoised(x_out, conds_list, uncond, cond_scale * self.factor)


def doubled(self, x_out, conds_list, uncond, cond_scale):
    return ORIGINAL(self, x_out, conds_list, uncond, cond_scale * 2)


ORIGINAL = sd_samplers_kdiffusion.CFGDenoiser.combine_denoised


class Mimic(scripts.Script):
    number = 0

    def __init__(self):
        grid = next(row for row in scripts.scripts_data if row.script_class.__module__ == "scripts.xyz_grid").module
        grid.axis_options.append(grid.AxisOption("[Mimic] Factor", float, grid.apply_field("mimic_factor")))

    def title(self):
        return "Mimic"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [
            gr.Radio(["off", "sampler", "class", "object", "broken", "forward", "sample"], value="off", label="How")
        ]

    def process_batch(self, p, how, **kwargs):
        if how in ("sampler", "broken"):
            Mimic.number += 1
            self.name = f"{p.sampler_name}_mimic{Mimic.number}"
            known = sd_samplers.all_samplers_map[p.sampler_name]

            def construct(model):
                made = known.constructor(model)
                made.model_wrap_cfg = HalfDenoiser(made, p, 0.5 if how == "sampler" else None)
                return made

            row = sd_samplers_common.SamplerData(self.name, construct, known.aliases, known.options)
            sd_samplers.all_samplers_map[self.name] = row
            p.before, p.sampler_name = p.sampler_name, self.name
        if how == "class":
            ddim.DDIMSampler.p_sample_ddim = doubled
            sd_samplers_kdiffusion.CFGDenoiser.combine_denoised = doubled
        if how == "sample":
            p.sample = print
        if how == "forward":
            sd_samplers_kdiffusion.CFGDenoiser.forward = doubled

        if how == "object":
            shared.opts.mimic_factor = 2
            on_cfg_denoiser(self.patch)

    def patch(self, params):
        """On the object that guides, before every evaluation."""
        if patches.original(__name__, params.denoiser, "combine_denoised"):
            patches.undo(__name__, params.denoiser, "combine_denoised")
        own = params.denoiser.combine_denoised
        patches.patch(
            __name__, params.denoiser, "combine_denoised", lambda a, b, c, d: own(a, b, c, d * shared.opts.mimic_factor)
        )

    def postprocess_batch(self, p, how, **kwargs):
        if how == "object":
            remove_callbacks_for_function(self.patch)
        if how in ("sampler", "broken"):
            assert p.sampler_name == self.name
            p.sampler_name = p.before
            del sd_samplers.all_samplers_map[self.name]
