"""In the style of image postprocessors such as ADetailer: paints, and repaints by an img2img run of its own."""

from copy import copy

import gradio as gr
from modules import images, script_callbacks, scripts, shared
from modules.processing import Processed, StableDiffusionProcessingImg2Img, create_infotext, process_images
from modules.ui_components import InputAccordion
from PIL import Image, ImageDraw


class Watermark(scripts.Script):
    def __init__(self):
        self.calls = []

    def title(self):
        return "Watermark"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        with InputAccordion(False, label="Watermark", elem_id=self.elem_id("on")) as enabled:
            text = gr.Textbox(label="Text", value="hello", lines=1)
            repaint = gr.Checkbox(False, label="Repaint")
        return (enabled, text, repaint)

    def setup(self, p, *args):
        p.was_set_up = True

    def before_process(self, p, enabled, text, repaint):
        assert p.was_set_up
        p.order = ["before_process"]

    def process(self, p, *args):
        p.order.append("process")

    def before_process_batch(self, p, *args, **kwargs):
        p.order.append("before_process_batch")
        assert kwargs["prompts"] == p.prompts and kwargs["batch_number"] == p.iteration

    def process_batch(self, p, *args, **kwargs):
        p.order.append("process_batch")

    def process_before_every_sampling(self, p, *args, **kwargs):
        p.order.append("process_before_every_sampling")

    def before_hr(self, p, *args):
        p.order.append("before_hr")

    def post_sample(self, p, ps, *args):
        assert ps.samples.shape[1] == 4
        p.order.append("post_sample")

    def postprocess_batch(self, p, *args, **kwargs):
        assert kwargs["images"].min() >= 0 and kwargs["images"].max() <= 1
        p.order.append("postprocess_batch")

    def postprocess_batch_list(self, p, pp, *args, **kwargs):
        p.order.append("postprocess_batch_list")

    def postprocess_image(self, p, pp, enabled, text, repaint):
        p.order.append("postprocess_image")
        if not enabled or getattr(p, "_wm_disabled", False):
            return
        if repaint:
            pp.image = self.repaint(p, pp.image)
        draw = ImageDraw.Draw(pp.image)
        draw.rectangle((0, 0, 15, 15), fill="#ff00ff")
        p.extra_generation_params["Watermark"] = text

    def repaint(self, p, image):
        mask = Image.new("L", image.size, 0)
        mask.paste(255, (64, 64, 128, 128))
        p2 = StableDiffusionProcessingImg2Img(
            init_images=[image],
            resize_mode=0,
            denoising_strength=0.5,
            mask=mask,
            mask_blur=2,
            inpainting_fill=1,
            inpaint_full_res=False,
            sd_model=p.sd_model,
            outpath_samples=p.outpath_samples,
            outpath_grids=p.outpath_grids,
            prompt="a blue star",
            negative_prompt="",
            styles=p.styles,
            seed=p.seed,
            subseed=p.subseed,
            sampler_name="Euler a",
            batch_size=1,
            n_iter=1,
            steps=4,
            cfg_scale=5,
            width=p.width,
            height=p.height,
            do_not_save_samples=True,
            do_not_save_grid=True,
        )
        p2._wm_disabled = True
        script_runner = copy(p.scripts)
        script_runner.alwayson_scripts = [s for s in script_runner.alwayson_scripts if s.title() == "Watermark"]
        p2.scripts, p2.script_args = script_runner, p.script_args_value
        p2.order = []
        processed = process_images(p2)
        assert isinstance(processed, Processed) and len(processed.images) == 1
        assert p2.order[0] == "before_process" and "postprocess" in p2.order
        p.extra_generation_params["Repainted with"] = processed.infotexts[0].splitlines()[0]
        assert create_infotext(p, p.all_prompts, p.all_seeds, p.all_subseeds, index=0).startswith(p.all_prompts[0])
        return processed.images[0]

    def postprocess_image_after_composite(self, p, pp, *args):
        p.order.append("postprocess_image_after_composite")

    def postprocess(self, p, processed, enabled, text, repaint):
        p.order.append("postprocess")
        if enabled and text == "order":
            processed.extra_generation_params["Order"] = " ".join(p.order)
        if enabled and text == "more":
            processed.images.append(images.resize_image(0, processed.images[0], 64, 64))
            processed.infotexts.append("one more")
        if enabled and text == "options":
            processed.extra_generation_params["Seen"] = (
                f"{shared.opts.CLIP_stop_at_last_layers} {shared.state.job_count}"
            )


def sign(params: script_callbacks.ImageSaveParams):
    if "Watermark: signed" in params.pnginfo.get("parameters", ""):
        params.pnginfo["parameters"] += ", Signed: yes"


def tell(params: script_callbacks.ImageSaveParams):
    print("saved", params.filename, params.p.prompt, flush=True)


script_callbacks.on_before_image_saved(sign)
script_callbacks.on_image_saved(tell)
