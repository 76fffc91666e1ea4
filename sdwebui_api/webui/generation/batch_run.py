"""img2img's Generate button: one request, or a series of them for the files of a batch."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from sdwebui_api.api.images import read_png_info
from sdwebui_api.api.services import Services
from sdwebui_api.config.paths import Paths
from sdwebui_api.errors import BadRequest, SdWebUIError
from sdwebui_api.generation.infotext_request import fields_of_infotext
from sdwebui_api.storage.local import LocalStorage
from sdwebui_api.webui.context import user_of
from sdwebui_api.webui.generation.form import Body
from sdwebui_api.webui.generation.run import Run, Updates
from sdwebui_api.webui.generation.start_picture import BATCH, StartPicture, file_text
from sdwebui_api.webui.localization import t
from sdwebui_api.webui.page_series import start_series
from sdwebui_api.webui.picture_input import size_of
from sdwebui_api.webui.refusals import named, refusal

KEEP_NAMES = {
    "samples_save": True, "save_to_dirs": False, "save_images_add_number": False,
    "save_images_replace_action": "Add number suffix",
}  # fmt: skip
"""Settings of pictures that are named as the files they were made of."""
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
            beside = await services.off_loop(Beside.of, services, body)
            parts = [(file.name, partial(body_of, services, body, file, beside)) for file in files]
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
    found = pictures_in(services, folder)
    if len(found) > MOST_FILES:
        raise BadRequest(
            t("There are {count} pictures in this folder, {most} at most", count=len(found), most=MOST_FILES)
        )
    return found


def pictures_in(services: Services, folder: str) -> list[Path]:
    """In the order of their names. Raises BadRequest when there are none, or when the folder is elsewhere."""
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
    return found


@dataclass(frozen=True)
class Beside:
    """What accompanies the files of a batch."""

    output: str = ""
    """The folder that takes the pictures, below the data directory; empty: what the settings say."""
    masks: Sequence[Path] = ()
    """A single one is for all files, several for those of their names."""
    infos: Sequence[Path] = ()
    """Files whose parameters those of the same names take; none: they take their own."""
    entries: Collection[str] = ()
    """Which parameters are taken (`start_picture.ENTRIES`)."""

    @classmethod
    def of(cls, services: Services, body: Body) -> Beside:
        """Takes its entries out of `body`. Raises BadRequest for folders that are not there, or not for pictures."""
        names = ("output", "masks", "infos", "entries")
        output, masks, infos, entries = (body.pop(f"batch_{name}", None) for name in names)
        if services.flags.hide_ui_dir_config:
            output = masks = infos = None
        if output and output.strip():
            LocalStorage(Paths.from_flags(services.flags).data_dir).folder(output, "outdir_samples")
        return cls(
            (output or "").strip(),
            pictures_in(services, masks) if masks and masks.strip() else (),
            pictures_in(services, infos) if infos and infos.strip() else (),
            entries or (),
        )

    def mask_of(self, file: Path) -> Path | None:
        """Raises BadRequest when there are masks, but none for this file."""
        if len(self.masks) < 2:
            return self.masks[0] if self.masks else None
        return _same_name(self.masks, file, t("There is no mask for {name}", name=file.name))

    def info_of(self, file: Path) -> Path:
        """Whose parameters count for `file`. Raises BadRequest when there is none."""
        missing = t("There are no parameters for {name}", name=file.name)
        return _same_name(self.infos, file, missing) if self.infos else file


def _same_name(files: Sequence[Path], file: Path, missing: str) -> Path:
    found = [one for one in files if one.stem == file.stem]
    if not found:
        raise BadRequest(missing)
    return next((one for one in found if one.name == file.name), found[0])


def body_of(services: Services, body: Body, file: Path, beside: Beside) -> Body:
    """The request for one file. Raises BadRequest when the file is no picture, or has gone, or lacks its mask."""
    own = {**body, "override_settings": dict(body.get("override_settings") or {})}
    factor = own.pop("scale_by", None)
    sides = size_of(file)
    own["init_images"] = [file_text(str(file))]
    mask = beside.mask_of(file)
    if mask is not None:
        size_of(mask)
        own["mask"] = file_text(str(mask))
    if beside.entries:
        _take_parameters(services, own, read_png_info(services, beside.info_of(file).read_bytes()), beside.entries)
    if beside.output:
        own["override_settings"] |= {
            "outdir_samples": beside.output,
            **KEEP_NAMES,
            "samples_filename_pattern": file.stem,
        }
    if factor:
        own |= {
            name: max(8, round(side * factor / 8) * 8) for name, side in zip(("width", "height"), sides, strict=True)
        }
    return own


def _take_parameters(services: Services, body: Body, told: Mapping[str, Any], entries: Collection[str]) -> None:
    """The chosen ones of `told` (of `read_png_info`); both prompts follow those of the page."""
    parameters = {name: value for name, value in told["parameters"].items() if name in entries}
    if "Sampler" in parameters:
        parameters["Schedule type"] = told["parameters"].get("Schedule type", "Automatic")
    names = services.resolver.sampler_names
    found = fields_of_infotext(parameters, "txt2img", (), {}, services.options.snapshot(), names).fields
    for prompt in ("prompt", "negative_prompt"):
        if found.get(prompt):
            found[prompt] = f"{body.get(prompt) or ''} {found[prompt]}".strip()
    body |= found
    if parameters.get("Model hash"):
        # As a title is written: files with the same contents are told apart by their names, renamed ones are found.
        digits, name = parameters["Model hash"], told["parameters"].get("Model")
        body["override_settings"]["sd_model_checkpoint"] = f"{name} [{digits}]" if name else str(digits)
