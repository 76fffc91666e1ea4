"""In the style of latent couples and resharpeners: what it registers and patches once stays for every request."""

import gradio as gr
from modules import script_callbacks, scripts, shared
from modules.sd_samplers_common import InterruptedException
from modules.sd_samplers_kdiffusion import KDiffusionSampler

original = KDiffusionSampler.callback_state


def callback(self, d):
    if getattr(self, "trail", 0) == 1:
        raise InterruptedException
    if getattr(self, "trail", 0):
        self.p.extra_generation_params["Trail"] = d["i"] + 1
        d["x"] += self.trail
    return original(self, d)


KDiffusionSampler.callback_state = callback


def on_ui_settings():
    shared.opts.add_option(key="trail_negative", info=shared.OptionInfo(1.5, label="Trail", section=("trail", "Trail")))


class Trail(scripts.Script):
    def __init__(self):
        self.amount = 0.0
        script_callbacks.on_ui_settings(on_ui_settings)

    def title(self):
        return "Trail"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return gr.Slider(0, 1, value=0, label="Latent"), gr.Slider(0, 1, value=0, label="Prediction")

    def process(self, p, latent, prediction):
        assert (p.all_hr_prompts is None) == (not getattr(p, "enable_hr", False))
        KDiffusionSampler.trail = latent
        self.amount = prediction
        if prediction and not hasattr(self, "callbacks_added"):
            script_callbacks.on_cfg_denoised(self.denoised)
            self.callbacks_added = True

    def denoised(self, params):
        if self.amount:
            params.x[-1:] *= 1 - self.amount * shared.opts.trail_negative


def name(params):
    assert params.filename.endswith(".png")
    if "Trail" in params.pnginfo["parameters"]:
        print("will save", params.filename, flush=True)


script_callbacks.on_before_image_saved(name)


def pasted(infotext, params):
    if "Trail" in params:
        params["Trail"] = {"steps": int(params["Trail"])}


script_callbacks.on_infotext_pasted(pasted)
script_callbacks.on_script_unloaded(lambda: setattr(KDiffusionSampler, "callback_state", original))
