"""In the style of the wildcards and dynamic-prompts extensions: `__name__` becomes a line of a file, per picture."""

import os
import random

import gradio as gr
from modules import script_callbacks, scripts, shared

base_dir = scripts.basedir()
wildcards_dir = getattr(shared.cmd_opts, "wildcards_dir", None) or os.path.join(base_dir, "wildcards")


class WildcardsScript(scripts.Script):
    def title(self):
        return "Simple wildcards"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        with gr.Group(), gr.Accordion("Wildcards", open=False):
            enabled = gr.Checkbox(label="Wildcards enabled", value=True, elem_id=self.elem_id("enabled"))
            with gr.Row():
                pick = gr.Dropdown(["random", "by number"], value="random", label="How to choose")
                offset = gr.Slider(0, 10, value=0, step=1, label="Offset")
        enabled.change(fn=lambda on: gr.update(visible=on), inputs=[enabled], outputs=[pick])
        self.infotext_fields = [(offset, "Wildcard offset")]
        return [enabled, pick, offset]

    def replace_wildcard(self, text, gen, number):
        with open(os.path.join(wildcards_dir, f"{text}.txt"), encoding="utf8") as f:
            lines = f.read().splitlines()
        return lines[number % len(lines)] if number is not None else gen.choice(lines)

    def replace_prompts(self, prompts, seeds, pick, offset):
        res = []
        for i, text in enumerate(prompts):
            gen = random.Random()
            gen.seed(seeds[0 if shared.opts.wildcards_same_seed else i])
            number = i + offset if pick == "by number" else None
            chunks = text.split("__")
            res.append("".join(self.replace_wildcard(c, gen, number) if n % 2 else c for n, c in enumerate(chunks)))
        return res

    def process(self, p, enabled, pick, offset):
        if not enabled:
            return
        original_prompt = p.all_prompts[0]
        p.all_prompts = self.replace_prompts(p.all_prompts, p.all_seeds, pick, offset)
        if getattr(p, "all_hr_prompts", None) is not None:
            p.all_hr_prompts = self.replace_prompts(p.all_hr_prompts, p.all_seeds, pick, offset)
        if original_prompt != p.all_prompts[0]:
            p.extra_generation_params["Wildcard prompt"] = original_prompt
            p.extra_generation_params["Wildcard number"] = lambda p, index, **_: f"{index} of {len(p.all_prompts)}"


def on_ui_settings():
    shared.opts.add_option(
        "wildcards_same_seed",
        shared.OptionInfo(False, "Use same seed for all images", section=("wildcards", "Wildcards")),
    )


script_callbacks.on_ui_settings(on_ui_settings)
