"""Fails wherever its argument says; selectable and always on."""

import gradio as gr
from modules import scripts, shared
from modules.processing import process_images


class Troublemaker(scripts.Script):
    def title(self):
        return "Troublemaker"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [
            gr.Dropdown(["nowhere", "process", "postprocess_image", "model", "json"], value="nowhere", label="Where")
        ]

    def process(self, p, where):
        if where == "process":
            raise ValueError("trouble in process")
        if where == "model":
            print(shared.sd_model.model.diffusion_model.middle_block)

        if where == "json":
            p.extra_generation_params |= {"Object": object, "Not a number": float("nan"), "Script": self}

    def before_process_batch(self, p, where, **kwargs):
        if where == "json":
            kwargs["prompts"][0] = "a star"

    def postprocess_image(self, p, pp, where):
        if where == "postprocess_image":
            raise KeyError("trouble in postprocess_image")


class Twice(scripts.Script):
    def title(self):
        return "Twice"

    def ui(self, is_img2img):
        return [gr.Slider(1, 4, value=2, step=1, label="Times"), gr.Radio(["a", "b"], label="Word", value="a")]

    def run(self, p, times, word):
        shared.state.job_count = times
        first = None
        for number in range(times):
            p.extra_generation_params["Time"] = f"{word}{number}"
            p.seed = p.seed + (1 if number else 0)
            processed = process_images(p)
            if first is None:
                first = processed
            else:
                first.images += processed.images
                first.infotexts += processed.infotexts
                first.all_seeds += processed.all_seeds
        return first
