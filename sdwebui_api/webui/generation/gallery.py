"""What a generation tab shows while it works and afterwards: progress, live preview, pictures, their parameters."""

from __future__ import annotations

import html
import shutil
import time
import uuid
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from sdwebui_api.api.infotext import read_infotext
from sdwebui_api.api.services import Services
from sdwebui_api.config.paths import Paths
from sdwebui_api.errors import SdWebUIError, not_stored
from sdwebui_api.storage.local import LocalStorage
from sdwebui_api.webui.generation.form import Form
from sdwebui_api.webui.generation.panel import Seed
from sdwebui_api.webui.generation.results import Results
from sdwebui_api.webui.localization import t
from sdwebui_api.webui.page_jobs import PageJob, Sight
from sdwebui_api.webui.refusals import refusal
from sdwebui_api.webui.server_messages import said

Pictures = Sequence[tuple[str, str | None]]
"""A gallery's value as handlers get it: (file, caption)."""


def build(form: Form) -> Results:
    with gr.Column(elem_id=form.id("results"), elem_classes=["results"], scale=1, min_width=320):
        progress = gr.HTML("", elem_id=form.id("progress"), elem_classes=["progress-box"], padding=False)
        gallery = form.page.add(
            gr.Gallery(
                label=t("Output"), show_label=False, elem_id=form.id("gallery"), columns=4, height=512, preview=True,
                object_fit="contain", interactive=False, buttons=["download", "fullscreen"],
            )
        )  # fmt: skip
        with gr.Row(elem_classes=["result-actions"], elem_id=form.id("result_actions")) as actions:
            save = form.page.tool(
                "💾", form.id("save"), t("Save a copy of the shown picture into the folder for saving")
            )
            zipped = form.page.tool("🗃️", form.id("save_zip"), t("All pictures as one zip file"))
        files = gr.File(label=t("Files"), visible=False, interactive=False, elem_id=form.id("files"))
        info = gr.HTML("", elem_id=form.id("html_info"), elem_classes=["infotext"], padding=False)
        infotexts, shown = gr.State([]), gr.State(0)
    results = Results(progress, gallery, info, infotexts, shown, files, actions)
    form.page.results[form.kind] = results
    _wire_looking(results)
    _wire_saving(form, results, save, zipped)
    return results


def wire_seed(form: Form, results: Results, seed: Seed) -> None:
    """♻️ takes the seed from the parameters of the picture that is shown."""
    for button, number, name in (
        (seed.reuse, seed.seed, "Seed"),
        (seed.reuse_subseed, seed.subseed, "Variation seed"),
    ):
        _reuse(form, results, button, number, name)


def _reuse(form: Form, results: Results, button: gr.Button, number: gr.Number, name: str) -> None:
    def reuse(infotexts: list[str], shown: int, request: gr.Request) -> Any:
        services = form.page.services_for(request)
        if not infotexts:
            return gr.skip()
        found = read_infotext(services, infotexts[min(shown, len(infotexts) - 1)], services.options.snapshot())
        value = found.get(name)
        return int(value) if value is not None and str(value).isdigit() else gr.skip()

    inputs = [results.infotexts, results.shown]
    button.click(reuse, inputs, number, queue=False, show_progress="hidden", api_visibility="private")


def _wire_looking(results: Results) -> None:
    def look(infotexts: list[str], event: gr.SelectData) -> tuple[int, str]:
        index = int(event.index)
        return index, infotext_html(infotexts[index]) if index < len(infotexts) else ""

    results.gallery.select(
        look, results.infotexts, [results.shown, results.info], queue=False, show_progress="hidden",
        api_visibility="private",
    )  # fmt: skip


def _wire_saving(form: Form, results: Results, save: gr.Button, zipped: gr.Button) -> None:
    async def save_one(pictures: Pictures | None, shown: int, request: gr.Request) -> Any:
        if not pictures:
            raise refusal(t("There is no picture yet"))
        services = form.page.services_for(request)
        selected = services.options.snapshot().save_selected_only
        chosen = [pictures[min(shown, len(pictures) - 1)]] if selected else pictures
        for file, _ in chosen:
            kept = await services.off_loop(_keep, services, file)
        gr.Info(t("Saved as {path}", path=html.escape(str(kept))))
        return gr.update(value=None, visible=False)

    async def zip_all(pictures: Pictures | None, request: gr.Request) -> Any:
        if not pictures:
            raise refusal(t("There is no picture yet"))
        services = form.page.services_for(request)
        archive = await services.off_loop(_zip, [Path(file) for file, _ in pictures], form.page.jobs.cache)
        form.page.clean_later([archive])
        return gr.update(value=[str(archive)], visible=True)

    inputs = [results.gallery, results.shown]
    save.click(save_one, inputs, results.files, show_progress="hidden", api_visibility="private")
    zipped.click(zip_all, results.gallery, results.files, show_progress="hidden", api_visibility="private")


def _keep(services: Services, file: str) -> Path:
    """A copy in the folder of the option `outdir_save`, which has to lie within the outputs."""
    storage = LocalStorage(Paths.from_flags(services.flags).data_dir)
    try:
        folder = storage.folder(services.options.snapshot().outdir_save, "outdir_save")
    except SdWebUIError as error:
        raise refusal(error.message) from None
    source = Path(file)
    target = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}-{source.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    except OSError as error:
        raise refusal(not_stored(source.name, folder, error).message) from None
    return target


def _zip(files: Sequence[Path], cache: Path) -> Path:
    """In a folder of the cache that nobody can guess."""
    target = cache / uuid.uuid4().hex / f"pictures-{time.strftime('%Y%m%d-%H%M%S')}.zip"
    try:
        target.parent.mkdir(parents=True)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for number, file in enumerate(files):
                archive.write(file, f"{number:03}-{file.name}")
    except OSError as error:
        shutil.rmtree(target.parent, ignore_errors=True)
        raise refusal(not_stored(target.name, cache, error).message) from None
    return target


def infotext_html(text: str) -> str:
    """The parameters as they are, readable."""
    return f'<div class="infotext-text">{html.escape(text)}</div>' if text else ""


def summary_html(job: PageJob) -> str:
    """Below the pictures of a job: parameters of the one that is shown, warnings, time."""
    parts = [infotext_html(job.pictures[job.shown].infotext)] if job.pictures else []
    parts += [f'<div class="warning-line">{html.escape(said(warning))}</div>' for warning in job.warnings]
    if job.job.state == "cancelled":
        parts.append(f'<div class="note">{t("Cancelled before it began")}</div>')
    elif job.error:
        parts.append(f'<div class="error-line">{html.escape(said(job.error))}</div>')
    parts.append(f'<div class="note">{t("Time taken: {seconds} s", seconds=f"{job.seconds:.1f}")}</div>')
    return "".join(parts)


def progress_html(sight: Sight) -> str:
    """The bar with its words, and the picture as it is now."""
    percent = round(100 * sight.fraction)
    picture = f'<img class="live-preview" alt="" src="{sight.preview}">' if sight.preview else ""
    return (
        f'<div class="progress" role="progressbar" aria-valuenow="{percent}" aria-valuemin="0" aria-valuemax="100">'
        f'<div class="progress-bar" style="width:{percent}%"></div>'
        f'<span class="progress-text">{_words(sight, percent)}</span></div>{picture}'
    )


def _words(sight: Sight, percent: int) -> str:
    if sight.state == "queued":
        return t("Waiting: {count} ahead", count=sight.ahead) if sight.ahead else t("Waiting: the next one is yours")
    words = [f"{percent}%"]
    if sight.steps:
        words.append(t("step {step} of {steps}", step=sight.step, steps=sight.steps))
    if sight.eta is not None and 0 < sight.fraction < 1:
        words.append(t("{seconds} s left", seconds=max(1, round(sight.eta))))
    if sight.text:
        words.append(html.escape(said(sight.text)))
    return " · ".join(words)
