"""✨ below the pictures of txt2img: the one that is looked at, enlarged by the hires pass, takes its own place."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component

from sdwebui_api.api.infotext import read_infotext
from sdwebui_api.api.services import Services
from sdwebui_api.errors import SdWebUIError
from sdwebui_api.webui.context import user_of
from sdwebui_api.webui.generation.form import Body
from sdwebui_api.webui.generation.run import QUIET, Run, Updates
from sdwebui_api.webui.generation.start_picture import file_text
from sdwebui_api.webui.localization import t
from sdwebui_api.webui.page_jobs import Picture, Place
from sdwebui_api.webui.picture_input import size_of
from sdwebui_api.webui.refusals import named, refusal


@dataclass
class Upscaling:
    """A1111 `txt2img.txt2img_upscale`: the tab's settings, the picture's seed and size."""

    run: Run

    def wire(self) -> None:
        """Once `run` is wired."""
        form, results = self.run.form, self.run.results
        with results.actions:
            hint = t("Create an upscaled version of the current image using hires fix settings")
            button = form.page.tool("✨", form.id("upscale"), hint)
        self._on = form.page.components[form.id("enable_hr")]
        shown: set[Block] = {results.gallery, results.infotexts, results.shown, self.run.job_id}
        button.click(self._upscale, form.inputs | shown, self.run.outputs, **QUIET)

    async def _upscale(self, values: Mapping[Component, Any], request: gr.Request) -> AsyncIterator[Updates]:
        form = self.run.form
        services, user = form.page.services_for(request), user_of(request)
        place = self._place(values, user)
        picture = place.pictures[place.index]
        if picture.role != "sample":
            raise refusal(t("Only a single picture can be upscaled: choose one beside the grid"))
        try:
            body = await services.off_loop(self._body, services, values, picture)
            job = await form.page.jobs.start(services, form.kind, body, user, place)
        except SdWebUIError as error:
            raise refusal(named(error)) from None
        async for updates in self.run.follow(job, request):
            yield updates

    def _place(self, values: Mapping[Component, Any], user: str | None) -> Place:
        """The picture that is looked at, among the others."""
        run = self.run
        shown: Sequence[tuple[str, str | None]] | None = values[run.results.gallery]
        if not shown:
            raise refusal(t("There is no picture yet"))
        job = run.form.page.jobs.find(values[run.job_id], user)
        if job is not None and len(job.pictures) == len(shown):
            pictures: Sequence[Picture] = job.pictures
        else:  # the server has forgotten the job, the browser has not
            texts = [*values[run.results.infotexts], *[""] * len(shown)]
            pictures = [Picture(Path(file), text, "sample") for (file, _), text in zip(shown, texts, strict=False)]
        return Place(pictures, min(values[run.results.shown], len(pictures) - 1))

    def _body(self, services: Services, values: Mapping[Component, Any], picture: Picture) -> Body:
        body = self.run.form.body({**values, self._on: True})
        wide, high = size_of(picture.path)
        body |= {"firstpass_image": file_text(str(picture.path)), "width": wide, "height": high}
        body |= {"batch_size": 1, "n_iter": 1}
        parameters = read_infotext(services, picture.infotext, services.options.snapshot())
        for field, name in (("seed", "Seed"), ("subseed", "Variation seed")):
            if str(parameters.get(name, "")).isdigit():
                body[field] = int(parameters[name])
        return body
