"""In the style of extensions that add routes: a listing, and a generation through the whole API."""

import gradio as gr
from fastapi import Body, FastAPI
from modules import paths, script_callbacks, sd_models, sd_samplers, shared
from modules.api.api import decode_base64_to_image, encode_pil_to_base64


def hello_api(_: gr.Blocks, app: FastAPI):
    @app.get("/hello-api/about")
    async def about():
        return {
            "samplers": len(sd_samplers.all_samplers),
            "model": shared.sd_model.sd_checkpoint_info.title,
            "models": list(sd_models.checkpoints_list),
            "idle": shared.state.job_count == 0 and not shared.state.interrupted,
            "same_seed": shared.opts.wildcards_same_seed,
            "data_path": paths.data_path,
        }

    @app.post("/hello-api/flip")
    async def flip(image: str = Body(embed=True)):
        return {"image": encode_pil_to_base64(decode_base64_to_image(image).transpose(0)).decode()}


def on_ui_tabs():
    with gr.Blocks(analytics_enabled=False) as tab:
        gr.Markdown("never shown")
    return [(tab, "Hello", "hello")]


script_callbacks.on_app_started(hello_api)
script_callbacks.on_ui_tabs(on_ui_tabs)
