"""In the style of tiled upscalers: choices by their number, the upscalers' own methods."""

import gradio as gr
from modules import images, scripts, shared
from modules.processing import Processed, process_images


class Steps(float):
    """In the style of guidance schedules: another number in every product."""

    def __mul__(self, other):
        self.asked = getattr(self, "asked", 0) + 1
        return other * (7.0 if self.asked > 2 else 1.0)

    __rmul__ = __mul__


class Enlarge(scripts.Script):
    def title(self):
        return "Enlarge"

    def ui(self, is_img2img):
        names = [row.name for row in shared.sd_upscalers]
        return [
            gr.Dropdown(names, value="None", type="index", label="Upscaler"),
            gr.Radio(["plain", "scheduled", "wrong"], value="plain", type="index", label="Guidance"),
        ]

    def run(self, p, number, guidance):
        if guidance == 2:
            raise IndexError("no such tile")
        if guidance == 1:
            p.cfg_scale = Steps(p.cfg_scale)
        upscaler = shared.sd_upscalers[number]
        found = process_images(p)
        p.extra_generation_params["Enlarged with"] = upscaler.name
        picture = upscaler.scaler.upscale(found.images[0], 2, upscaler.data_path)
        grid = images.split_grid(picture, 96, 96, 16)
        for _, _, row in grid.tiles:
            for tile in row:
                tile[2] = tile[2].copy()
        return Processed(p, [images.combine_grid(grid)], p.seed, "enlarged")
