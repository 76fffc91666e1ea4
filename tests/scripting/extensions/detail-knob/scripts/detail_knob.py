"""In the style of detail daemons: a callback for the time of one request, state on the script itself."""

import gradio as gr
import modules.scripts as scripts
from modules.script_callbacks import on_cfg_denoiser, remove_current_script_callbacks
from modules.ui_components import InputAccordion


class Script(scripts.Script):
    def title(self):
        return "Detail Knob"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        with InputAccordion(False, label="Detail Knob", elem_id=self.elem_id("knob")) as enabled:
            with gr.Column(scale=2):
                amount = gr.Slider(minimum=-1.00, maximum=1.00, step=0.01, value=0.50, label="Amount ")
            gr.Plot(value=None, show_label=False)
        for widget in (enabled, amount):
            if isinstance(widget, gr.components.Slider):
                widget.release(fn=print, show_progress=False, inputs=[amount], outputs=[])
        return [enabled, amount]

    def process(self, p, enabled, amount):
        if enabled:
            self.callback_added = True
            self.counter = 0
            self.schedule = [1 - amount * i / p.steps for i in range(p.steps)]
            on_cfg_denoiser(self.denoiser_callback)
        elif hasattr(self, "callback_added"):
            remove_current_script_callbacks()
            delattr(self, "callback_added")

    def denoiser_callback(self, params):
        params.sigma *= self.schedule[self.counter]
        self.counter += 1

    def postprocess(self, p, processed, enabled, amount):
        if hasattr(self, "callback_added"):
            assert enabled and self.counter == len(self.schedule) == p.steps
            processed.extra_generation_params["Detail Knob"] = f"{amount}: {self.counter}"
            remove_current_script_callbacks()
            delattr(self, "callback_added")
