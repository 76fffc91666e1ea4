"""What a picture shows, into img2img's prompt: a caption (CLIP) or tags (DeepBooru)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr
from PIL import Image

from sdwebui_api.api.services import Services
from sdwebui_api.errors import SdWebUIError
from sdwebui_api.jobs.job import Job
from sdwebui_api.webui.context import user_of
from sdwebui_api.webui.generation.form import Form
from sdwebui_api.webui.generation.prompt import PromptArea
from sdwebui_api.webui.generation.start_picture import StartPicture, chosen_picture
from sdwebui_api.webui.localization import t
from sdwebui_api.webui.picture_input import read_picture
from sdwebui_api.webui.refusals import refusal

MODELS = (
    ("clip", "interrogate", "📎", t("Interrogate CLIP: describe the picture in the prompt")),
    ("deepdanbooru", "deepbooru", "📦", t("Interrogate DeepBooru: tags of the picture into the prompt")),
)
"""(model, elem_id, symbol, tool tip)"""


def build(form: Form, area: PromptArea, start: StartPicture) -> None:
    """Buttons beside the prompt. Models that are not here: the message says which files belong where."""
    with area.tools:
        for model, id, symbol, hint in MODELS:
            _wire(form, form.page.tool(symbol, form.id(id), hint), model, area, start)


def _wire(form: Form, button: gr.Button, model: str, area: PromptArea, start: StartPicture) -> None:
    async def ask(request: gr.Request, mode: str, *pictures: Any) -> str:
        services = form.page.services_for(request)
        found = chosen_picture(mode, *pictures)
        if found is None:
            raise refusal(t("There is no picture to start from yet"))
        try:
            await services.off_loop(services.interrogator.check, model)
            work = _work(services, model, found)
            job = services.runner.submit(work, kind="interrogate", user=user_of(request), summary=model)
            return str(await job.result())
        except SdWebUIError as error:
            raise refusal(error.message) from None

    inputs = [start.mode, *start.pictures]
    button.click(ask, inputs, area.prompt, show_progress="minimal", api_visibility="private", concurrency_limit=None)


def _work(services: Services, model: str, found: str | Image.Image) -> Any:
    options: Mapping[str, Any] = services.options.snapshot()

    def work(job: Job) -> str:
        if isinstance(found, str):
            return services.interrogator.describe(read_picture(found).convert("RGB"), model, options, job)
        return services.interrogator.describe(found.convert("RGB"), model, options, job)

    return work
