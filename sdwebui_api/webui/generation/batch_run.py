"""img2img's Generate button: one request, or a series of them for the files of a batch."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from sdwebui_api.api.services import Services
from sdwebui_api.config.paths import Paths
from sdwebui_api.errors import BadRequest, SdWebUIError
from sdwebui_api.webui.context import user_of
from sdwebui_api.webui.generation.form import Body
from sdwebui_api.webui.generation.run import Run, Updates
from sdwebui_api.webui.generation.start_picture import BATCH, StartPicture, file_text
from sdwebui_api.webui.localization import t
from sdwebui_api.webui.page_series import start_series
from sdwebui_api.webui.picture_input import size_of
from sdwebui_api.webui.refusals import named, refusal

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".gif", ".tif", ".tiff")
MOST_FILES = 1000


@dataclass
class BatchRun(Run):
    start: StartPicture = field(kw_only=True)

    async def _generate(self, values: Mapping[Component, Any], request: gr.Request) -> AsyncIterator[Updates]:
        if values[self.start.mode] != BATCH:
            async for updates in super()._generate(values, request):
                yield updates
            return
        async for updates in self._each(values, request):
            yield updates

    async def _each(self, values: Mapping[Component, Any], request: gr.Request) -> AsyncIterator[Updates]:
        """The files in turn, also when the browser has gone. Interrupt ends the whole; what is there then stays."""
        page, user = self.form.page, user_of(request)
        services = page.services_for(request)
        try:
            body = await services.off_loop(self.form.body, values)
            files = await services.off_loop(
                batch_files, services, body.pop("batch_files", None), body.pop("batch_folder", None)
            )
            parts = [(file.name, partial(_body_of, body, file)) for file in files]
            most = services.options.snapshot().img2img_batch_show_results_limit
            series = await start_series(page.jobs, services, "img2img", parts, user, most)
        except SdWebUIError as error:
            raise refusal(named(error)) from None
        async for updates in self.follow(series, request):
            yield updates


def batch_files(services: Services, uploaded: list[str] | None, folder: str | None) -> list[Path]:
    """In the order of their names. Raises BadRequest when there are none, or when the folder is elsewhere."""
    if uploaded:
        return [Path(file) for file in uploaded]
    if not folder or not folder.strip() or services.flags.hide_ui_dir_config:
        raise BadRequest(t("There are no pictures yet: upload some, or name a folder"))
    root = Paths.from_flags(services.flags).data_dir.resolve()
    try:
        place = (root / folder.strip()).resolve()
        there = place.is_relative_to(root) and place.is_dir()
        files = list(place.iterdir()) if there else []
    except (OSError, ValueError):  # what can be no name, or may not be read
        there = False
    if not there:
        raise BadRequest(t("There is no such folder in the data directory"))
    found = sorted(file for file in files if file.suffix.lower() in SUFFIXES and file.is_file())
    if not found:
        raise BadRequest(t("There are no pictures in this folder"))
    if len(found) > MOST_FILES:
        raise BadRequest(
            t("There are {count} pictures in this folder, {most} at most", count=len(found), most=MOST_FILES)
        )
    return found


def _body_of(body: Body, file: Path) -> Body:
    """Raises BadRequest when the file is no picture, or has gone."""
    own = {**body}
    factor = own.pop("scale_by", None)
    sides = size_of(file)
    own["init_images"] = [file_text(str(file))]
    if factor:
        own |= {
            name: max(8, round(side * factor / 8) * 8) for name, side in zip(("width", "height"), sides, strict=True)
        }
    return own
