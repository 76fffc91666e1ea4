"""In the style of latent modifiers (CFG rescale, dynamic thresholding, noise multipliers)."""

import gradio as gr
import modules.scripts as scripts
from modules import devices, prompt_parser, shared
from modules.processing import StableDiffusionProcessing, StableDiffusionProcessingTxt2Img
from modules.script_callbacks import (
    AfterCFGCallbackParams,
    CFGDenoisedParams,
    CFGDenoiserParams,
    on_cfg_after_cfg,
    on_cfg_denoised,
    on_cfg_denoiser,
    remove_callbacks_for_function,
)


class Script(scripts.Script):
    def __init__(self):
        self.seen = {}
        on_cfg_denoiser(self.denoiser_callback)
        on_cfg_denoised(self.denoised_callback)
        on_cfg_after_cfg(self.after_callback)

    def title(self):
        return "CFG Rescale"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        with gr.Accordion("Rescale", open=False):
            active = gr.Checkbox(value=False, default=False, label="Active")
            factor = gr.Slider(0.0, 1.0, value=1.0, step=0.05, label="Factor")
        return [active, factor]

    def process(self, p: StableDiffusionProcessing, active, factor):
        p._cfg_rescale = factor if active else None
        if active:
            p.extra_generation_params["CFG rescale"] = factor
            p._cfg_rescale_steps = []

    def process_before_every_sampling(self, p, active, factor, **kwargs):
        if active:
            assert kwargs["x"].shape == kwargs["noise"].shape
            _, cond = prompt_parser.reconstruct_multicond_batch(kwargs["c"], 0)
            assert cond.shape[0] == len(p.prompts)
            assert kwargs["x"].device == devices.device == shared.sd_model.device

    def denoiser_callback(self, params: CFGDenoiserParams):
        p = params.denoiser.p
        if getattr(p, "_cfg_rescale", None) is not None:
            p._cfg_rescale_steps.append(
                (params.sampling_step, params.total_sampling_steps, shared.state.sampling_steps)
            )

    def denoised_callback(self, params: CFGDenoisedParams):
        # The shape of a prompt part and a negative prompt per picture.
        assert params.x.ndim == 4

    def after_callback(self, params: AfterCFGCallbackParams):
        job = shared.state.job
        params.x = params.x * shared.opts.data.get("cfg_rescale_always", 1.0)
        self.seen.setdefault(job, 0)
        self.seen[job] += 1

    def postprocess_batch(self, p, active, factor, **kwargs):
        if active:
            assert kwargs["images"].shape[1] == 3 and kwargs["batch_number"] == p.iteration
            p.extra_generation_params["CFG rescale steps"] = len(p._cfg_rescale_steps)
            assert isinstance(p, StableDiffusionProcessingTxt2Img)

    def unload(self):
        remove_callbacks_for_function(self.after_callback)


def scale_uncond(params: CFGDenoisedParams):
    factor = shared.opts.data.get("cfg_rescale_test_factor", None)
    if factor:
        params.x[:] = params.x * float(factor)


on_cfg_denoised(scale_uncond)


def on_ui_settings():
    shared.opts.add_option("cfg_rescale_test_factor", shared.OptionInfo("", "factor", section=("t", "T")).info("x"))


from modules import script_callbacks  # noqa: E402

script_callbacks.on_ui_settings(on_ui_settings)
