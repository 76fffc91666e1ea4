"""What `gradio_client` may call by name: `client.predict("a red apple", steps=20, api_name="/txt2img")`."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from sdwebui_api.errors import SdWebUIError
from sdwebui_api.webui.context import PageBuilder, user_of
from sdwebui_api.webui.refusals import refusal


def build(page: PageBuilder) -> None:
    """Called once, inside of the Blocks."""

    async def txt2img(
        request: gr.Request,
        prompt: str,
        negative_prompt: str = "",
        steps: int = 20,
        width: int = 512,
        height: int = 512,
        cfg_scale: float = 7.0,
        seed: int = -1,
        sampler_name: str = "DPM++ 2M",
        scheduler: str = "Automatic",
        batch_size: int = 1,
        n_iter: int = 1,
        more: str = "{}",
    ) -> tuple[list[dict[str, Any]], str]:
        """Pictures from a prompt. `more`: further fields of POST /sdapi/v1/txt2img, as JSON.

        Answers the files and the JSON text of `info`.
        """
        body = {
            "prompt": prompt, "negative_prompt": negative_prompt, "steps": steps, "width": width, "height": height,
            "cfg_scale": cfg_scale, "seed": seed, "sampler_name": sampler_name, "scheduler": scheduler,
            "batch_size": batch_size, "n_iter": n_iter,
        }  # fmt: skip
        return await _pictures(page, {**body, **_object(more)}, request)

    gr.api(txt2img, api_name="txt2img", concurrency_limit=None)


async def _pictures(page: PageBuilder, body: dict[str, Any], request: gr.Request) -> tuple[list[dict[str, Any]], str]:
    services = page.services_for(request)
    try:
        job = await page.jobs.start(services, "txt2img", {"save_images": True, **body}, user_of(request))
    except SdWebUIError as error:
        raise refusal(error.message) from None
    await job.ended.wait()
    if job.error:
        raise refusal(job.error)
    page.clean_later(picture.path for picture in job.pictures)
    files = [{"path": str(picture.path), "meta": {"_type": "gradio.FileData"}} for picture in job.pictures]
    return files, json.dumps(job.info)


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise refusal("more: expected a JSON object")
    return found
