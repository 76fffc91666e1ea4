"""Finished pictures enlarged, and their faces restored: one, or many."""

from __future__ import annotations

import html
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.processing_utils import save_bytes_to_cache

from sdwebui_api.api.images import ExtrasFields, enlarge_all
from sdwebui_api.api.services import Services
from sdwebui_api.config.paths import Paths
from sdwebui_api.errors import BadRequest
from sdwebui_api.generation.saving import output_folder
from sdwebui_api.storage.local import LocalStorage, next_sequence_number
from sdwebui_api.webui import sending
from sdwebui_api.webui.context import PageBuilder
from sdwebui_api.webui.generation.batch_run import batch_files
from sdwebui_api.webui.generation.panel import SHOW
from sdwebui_api.webui.localization import t
from sdwebui_api.webui.page_jobs import PageJob, Picture
from sdwebui_api.webui.picture_input import PictureInput, size_of
from sdwebui_api.webui.server_messages import said
from sdwebui_api.webui.tool_run import ToolRun, Updates, checked

log = logging.getLogger(__name__)

SINGLE, SEVERAL, FOLDER = "single", "several", "folder"
BY, TO = 0, 1
"""`resize_mode`."""
MOST_FILES = 1000

Fields = dict[str, Component]


def build(page: PageBuilder) -> None:
    run = ToolRun(page, "extras_generate", t("Generate"))
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=320, elem_classes=["settings"]):
            mode, picture, files, folder = _sources(page)
            fields = {**_resizing(page), **_upscalers(page), **_faces(page)}
        with gr.Column(scale=1, min_width=320, elem_classes=["results"]):
            run.buttons()
            run.bar()
            gallery = page.add(
                gr.Gallery(
                    label=t("Output"), show_label=False, elem_id="extras_gallery", columns=4, height=512, preview=True,
                    object_fit="contain", interactive=False, buttons=["download", "fullscreen"],
                )
            )  # fmt: skip
            actions = gr.Row(elem_classes=["result-actions"], elem_id="extras_actions")
            info = gr.HTML("", elem_id="extras_html_info", elem_classes=["infotext"], padding=False)
            shown = gr.State(0)  # which picture is looked at
    names = list(fields)
    page.when_complete(lambda: _send_buttons(page, actions, gallery, shown))

    async def start(services: Services, user: str | None, *values: Any) -> PageJob:
        kind, one, several, named, *rest = values
        body = checked(ExtrasFields, dict(zip(names, rest, strict=True)))
        if kind == FOLDER:
            paths = [str(file) for file in await services.off_loop(batch_files, services, None, named)]
        else:
            paths = ([one] if one else []) if kind == SINGLE else list(several or ())
        return await _start(page, services, user, paths, body)

    def show(job: PageJob) -> Updates:
        files = [str(one.path) for one in job.pictures]
        return {gallery: gr.update(value=files, selected_index=0 if files else None), info: _info_html(job), shown: 0}

    run.wire([mode, picture, files, folder, *fields.values()], start, [gallery, info, shown], show)


def _send_buttons(page: PageBuilder, actions: gr.Row, gallery: gr.Gallery, shown: gr.State) -> None:
    """The picture that is looked at goes on alone: its file says how it was drawn, not the fields of a tab."""

    def look(event: gr.SelectData) -> int:
        return int(event.index)

    def read(pictures: Sequence[tuple[str, str | None]] | None, index: int) -> sending.Sent | None:
        return sending.Sent(pictures[min(index, len(pictures) - 1)][0], "") if pictures else None

    gallery.select(look, None, shown, queue=False, show_progress="hidden", api_visibility="private")
    with actions:
        sending.buttons(page, "extras", [gallery, shown], read, leave_out=("txt2img",))


async def _start(
    page: PageBuilder, services: Services, user: str | None, paths: list[str], body: ExtrasFields
) -> PageJob:
    if not paths:
        raise BadRequest(t("There is no picture yet"))
    if len(paths) > MOST_FILES:
        raise BadRequest(t("{most} pictures at most", most=MOST_FILES))
    kind = services.options.snapshot().samples_format

    readable, broken = await services.off_loop(_readable, paths)
    if not readable:
        raise BadRequest(broken[0])

    def work(job: Any) -> list[tuple[bytes, str]]:
        pictures = [(Path(path).read_bytes(), Path(path).name) for path in readable]
        return enlarge_all(services, job, pictures, body)

    def keep(page_job: PageJob, results: list[tuple[bytes, str]]) -> None:
        page_job.warnings = [*broken, *_save(services, [data for data, _ in results])]
        page_job.pictures = [
            Picture(Path(save_bytes_to_cache(data, f"{Path(path).stem}.{kind}", str(page.jobs.cache))), done, "extras")
            for path, (data, done) in zip(readable, results, strict=False)
        ]

    job = services.runner.submit(work, kind="extras", user=user, summary="extras")
    return page.jobs.follow(services, job, user, keep)


def _readable(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those that are pictures, and what is said of the others: one of many stops nothing."""
    readable, broken = [], []
    for path in paths:
        try:
            size_of(path)
        except BadRequest as error:
            broken.append(error.message)
        else:
            readable.append(path)
    return readable, broken


def _save(services: Services, pictures: Sequence[bytes]) -> list[str]:
    """Into the folder of the option `outdir_extras_samples`, where `samples_save` is on. Answers with warnings."""
    options = services.options.snapshot()
    if not options.samples_save:
        return []
    storage = LocalStorage(Paths.from_flags(services.flags).data_dir)
    try:
        folder = output_folder(storage, options, "extras")
        for data in pictures:
            first = next_sequence_number(folder)
            storage.save_new(folder, lambda number: f"{number:05}.{options.samples_format}", data, first)
    except (OSError, BadRequest):
        log.warning("extras: pictures could not be saved", exc_info=True)
        return [t("The pictures could not be saved; the log tells more")]
    return []


def _sources(page: PageBuilder) -> tuple[gr.Textbox, gr.Image, gr.File, gr.Textbox]:
    mode = page.add(gr.Textbox(SINGLE, visible="hidden", elem_id="extras_mode"))
    with gr.Tabs(elem_id="mode_extras", selected=SINGLE):
        with gr.Tab(t("Single picture"), id=SINGLE, elem_id="extras_single_tab") as one:
            picture = page.add(
                PictureInput(
                    label=t("Picture"), type="filepath", image_mode=None, sources=["upload", "clipboard"], height=420,
                    elem_id="extras_image",
                )
            )  # fmt: skip
        with gr.Tab(t("Several files"), id=SEVERAL, elem_id="extras_batch_process_tab") as several:
            files = page.add(
                gr.File(label=t("Pictures"), file_count="multiple", file_types=["image"], elem_id="extras_image_batch")
            )
        with gr.Tab(
            t("Folder"), id=FOLDER, elem_id="extras_batch_directory_tab", visible=not page.flags.hide_ui_dir_config
        ) as whole:
            folder = page.add(
                gr.Textbox(
                    label=t("A folder of pictures on the server"), placeholder="outputs/…",
                    info=t("Within the data directory"), elem_id="extras_batch_input_dir",
                ),
                saved="extras/Input directory",
            )  # fmt: skip
    for tab, name in ((one, SINGLE), (several, SEVERAL), (whole, FOLDER)):
        tab.select(None, None, mode, js=f"() => '{name}'", show_progress="hidden")
    return mode, picture, files, folder


def _resizing(page: PageBuilder) -> Fields:
    mode = page.add(
        gr.Radio([(t("Scale by"), BY), (t("Scale to"), TO)], value=BY, label=t("Resize"), elem_id="extras_resize_mode"),
        saved="extras/Resize mode",
    )
    with gr.Row(elem_classes=["compact"], visible=mode.value == BY) as by:
        factor = page.add(
            gr.Slider(1, 8, 4, step=0.05, label=t("Resize factor"), elem_id="extras_upscaling_resize"),
            saved="extras/Resize",
        )
    with gr.Row(elem_classes=["compact"], visible=mode.value == TO) as to:
        wide = page.add(
            gr.Slider(64, 8192, 512, step=8, label=t("Width"), elem_id="extras_upscaling_resize_w"),
            saved="extras/Width",
        )
        high = page.add(
            gr.Slider(64, 8192, 512, step=8, label=t("Height"), elem_id="extras_upscaling_resize_h"),
            saved="extras/Height",
        )
        crop = page.add(
            gr.Checkbox(True, label=t("Crop to fit"), elem_id="extras_upscaling_crop"), saved="extras/Crop to fit"
        )
    js = "(mode) => [{__type__: 'update', visible: mode === 0}, {__type__: 'update', visible: mode === 1}]"
    mode.change(None, mode, [by, to], js=js, show_progress="hidden")
    return {
        "resize_mode": mode,
        "upscaling_resize": factor,
        "upscaling_resize_w": wide,
        "upscaling_resize_h": high,
        "upscaling_crop": crop,
    }


def _upscalers(page: PageBuilder) -> Fields:
    names = upscaler_names(page.services)
    first_choice = next((name for name in ("R-ESRGAN 4x+", "Lanczos") if name in names), "None")
    with gr.Row(elem_classes=["compact"]):
        first = page.add(
            gr.Dropdown(names, value=first_choice, label=t("Upscaler 1"), elem_id="extras_upscaler_1"),
            saved="extras/Upscaler 1",
            choices=upscaler_names,
        )
        second = page.add(
            gr.Dropdown(names, value="None", label=t("Upscaler 2"), elem_id="extras_upscaler_2"),
            saved="extras/Upscaler 2",
            choices=upscaler_names,
        )
        visible = page.add(
            gr.Slider(
                0, 1, 0, step=0.01, label=t("Upscaler 2 visibility"), elem_id="extras_upscaler_2_visibility",
                min_width=160,
            ),
            saved="extras/Upscaler 2 visibility",
        )  # fmt: skip
    return {"upscaler_1": first, "upscaler_2": second, "extras_upscaler_2_visibility": visible}


def upscaler_names(services: Services) -> list[str]:
    return [row.name for row in services.catalog.upscalers.rows()]


def _faces(page: PageBuilder) -> Fields:
    on = page.add(
        gr.Checkbox(label=t("Restore faces"), elem_id="extras_faces", container=False, elem_classes=["bare"]),
        saved="extras/Restore faces",
    )
    with gr.Column(visible=bool(on.value), elem_classes=["more"]) as more:
        gfpgan = page.add(
            gr.Slider(0, 1, 0, step=0.01, label=t("GFPGAN visibility"), elem_id="extras_gfpgan_visibility"),
            saved="extras/GFPGAN visibility",
        )
        codeformer = page.add(
            gr.Slider(0, 1, 0, step=0.01, label=t("CodeFormer visibility"), elem_id="extras_codeformer_visibility"),
            saved="extras/CodeFormer visibility",
        )
        weight = page.add(
            gr.Slider(
                0, 1, 0, step=0.01, label=t("CodeFormer weight"), info=t("0: the most change, 1: the least"),
                elem_id="extras_codeformer_weight",
            ),
            saved="extras/CodeFormer weight (0 = maximum effect, 1 = minimum effect)",
        )  # fmt: skip
        order = page.add(
            gr.Checkbox(label=t("Upscale before restoring faces"), elem_id="extras_upscale_first"),
            saved="extras/Upscale Before Restoring Faces",
        )
    on.change(None, on, more, js=SHOW, show_progress="hidden")
    on.input(None, on, [gfpgan, codeformer], js="(on) => on ? [1, 0] : [0, 0]", show_progress="hidden")
    return {
        "gfpgan_visibility": gfpgan,
        "codeformer_visibility": codeformer,
        "codeformer_weight": weight,
        "upscale_first": order,
    }


def _info_html(job: PageJob) -> str:
    lines = list(dict.fromkeys(one.infotext for one in job.pictures if one.infotext))
    done = "<br>".join(map(html.escape, lines))
    warnings = "".join(f'<div class="warning-line">{html.escape(said(one))}</div>' for one in job.warnings)
    time = t("Time taken: {seconds} s", seconds=f"{job.seconds:.1f}")
    return f'<div class="infotext-text">{done}</div>{warnings}<div class="note">{time}</div>'
