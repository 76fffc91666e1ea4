"""What img2img starts from: a picture, a sketch, a picture with a drawn or an uploaded mask, or many files."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from PIL import Image, ImageChops

from sdwebui_api.errors import BadRequest
from sdwebui_api.webui.generation.form import Body, Form
from sdwebui_api.webui.localization import t
from sdwebui_api.webui.picture_input import PictureInput, size_of

MASKED = ("inpaint", "inpaint_sketch", "inpaint_upload")
"""The modes that repaint a part."""
BATCH = "batch"
EDITOR_HEIGHT = 520
ENTRIES = {
    "Prompt": t("Prompt"), "Negative prompt": t("Negative prompt"), "Seed": t("Seed"), "CFG scale": t("CFG Scale"),
    "Sampler": t("Sampling method"), "Steps": t("Sampling steps"), "Model hash": t("Checkpoint"),
}  # fmt: skip
"""What a batch can take from its files' infotexts: entry → as it is shown."""

Drawing = Mapping[str, Any]
"""A `gr.ImageEditor`'s value: background, layers and composite, as RGBA pictures (or None)."""


@dataclass
class BatchFields:
    """The files of a batch, and what accompanies them."""

    files: gr.File
    folder: gr.Textbox
    output: gr.Textbox
    masks: gr.Textbox
    take_infos: gr.Checkbox
    infos: gr.Textbox
    entries: gr.CheckboxGroup

    @property
    def components(self) -> list[Component]:
        """In the order of `_write_batch`'s arguments after the mode."""
        return [self.files, self.folder, self.output, self.masks, self.take_infos, self.infos, self.entries]


@dataclass
class StartPicture:
    tabs: gr.Tabs
    mode: gr.Textbox
    """Which of the tabs is open; hidden."""
    picture: gr.Image
    sketch: gr.ImageEditor
    inpaint: gr.ImageEditor
    inpaint_sketch: gr.ImageEditor
    upload: gr.Image
    upload_mask: gr.Image
    batch: BatchFields

    @property
    def pictures(self) -> list[Component]:
        """In the order of `chosen`'s arguments after the mode."""
        return [self.picture, self.sketch, self.inpaint, self.inpaint_sketch, self.upload, self.upload_mask]


def build(form: Form) -> StartPicture:
    page = form.page
    mode = page.add(gr.Textbox("img2img", visible="hidden", elem_id="img2img_mode"))
    with gr.Tabs(elem_id="mode_img2img", selected="img2img") as tabs:
        with _tab(t("img2img"), "img2img", mode):
            picture = page.add(_image("img2img_image"))
        with _tab(t("Sketch"), "sketch", mode):
            sketch = page.add(_editor("img2img_sketch", gr.Brush(default_size=12)))
        with _tab(t("Inpaint"), "inpaint", mode):
            inpaint = page.add(_editor("img2maskimg", _mask_brush()))
        with _tab(t("Inpaint sketch"), "inpaint_sketch", mode):
            inpaint_sketch = page.add(_editor("inpaint_sketch", gr.Brush(default_size=24)))
        with _tab(t("Inpaint upload"), "inpaint_upload", mode):
            upload = page.add(_image("img_inpaint_base"))
            upload_mask = page.add(_image("img_inpaint_mask", t("Mask: white is repainted"), 240))
        with _tab(t("Batch"), BATCH, mode):
            batch = _batch(form)
    page.picture_tabs = tabs
    start = StartPicture(tabs, mode, picture, sketch, inpaint, inpaint_sketch, upload, upload_mask, batch)
    form.contribute([mode, *start.pictures], _write)
    form.contribute([mode, *batch.components], _write_batch)
    return start


def _tab(label: str, id: str, mode: gr.Textbox) -> gr.Tab:
    tab = gr.Tab(label, id=id, elem_id=f"img2img_{id}_tab")
    tab.select(None, None, mode, js=f"() => '{id}'", show_progress="hidden")
    return tab


def _image(id: str, label: str | None = None, height: int = EDITOR_HEIGHT) -> gr.Image:
    return PictureInput(
        label=label or t("Initial picture"), type="filepath", image_mode=None, sources=["upload", "clipboard"],
        elem_id=id, height=height, show_label=label is not None,
        buttons=["fullscreen"],
    )  # fmt: skip


def _editor(id: str, brush: gr.Brush) -> gr.ImageEditor:
    return gr.ImageEditor(
        label=t("Initial picture"), show_label=False, type="pil", image_mode="RGBA", elem_id=id,
        sources=["upload", "clipboard"], brush=brush, eraser=gr.Eraser(default_size=24), transforms=(),
        layers=gr.LayerOptions(allow_additional_layers=False), height=EDITOR_HEIGHT,
    )  # fmt: skip


def _mask_brush() -> gr.Brush:
    return gr.Brush(default_size=32, colors=["#ffffff"], default_color="#ffffff", color_mode="fixed")


def _batch(form: Form) -> BatchFields:
    files = form.page.add(
        gr.File(label=t("Pictures"), file_count="multiple", file_types=["image"], elem_id="img2img_batch_upload")
    )
    folder = _folder(form, "input_dir", t("Or a folder of pictures on the server"), "Input directory")
    output = _folder(
        form, "output_dir", t("Output folder"), "Output directory",
        t("Within the outputs; pictures keep their names there. Empty: as the settings say"),
    )  # fmt: skip
    masks = _folder(
        form, "inpaint_mask_dir", t("Folder of masks"),
        "Inpaint batch mask directory (required for inpaint batch processing only)",
        t("To repaint parts: masks of the pictures' names, or a single one for all"),
    )  # fmt: skip
    return BatchFields(files, folder, output, masks, *_infos(form))


def _folder(form: Form, id: str, shown: str, label: str, info: str | None = None) -> gr.Textbox:
    """label: as in ui-config.json."""
    return form.add(
        gr.Textbox(
            label=shown, placeholder="outputs/…", visible=not form.page.flags.hide_ui_dir_config,
            info=info or t("Within the data directory"), elem_id=f"img2img_batch_{id}",
        ),
        label=label,
    )  # fmt: skip


def _infos(form: Form) -> tuple[gr.Checkbox, gr.Textbox, gr.CheckboxGroup]:
    with gr.Accordion(t("Parameters of the files"), open=False, elem_id="img2img_batch_png_info"):
        take = form.add(
            gr.Checkbox(
                label=t("Take parameters from the files, after this page's prompt"),
                elem_id="img2img_batch_use_png_info",
            ),
            label="Append png info to prompts",
        )
        folder = _folder(
            form, "png_info_dir", t("Folder of the files with the parameters"), "PNG info directory",
            t("Files of the pictures' names. Empty: the pictures themselves"),
        )  # fmt: skip
        entries = form.add(
            gr.CheckboxGroup(
                [(name, entry) for entry, name in ENTRIES.items()], value=list(ENTRIES),
                label=t("What is taken"), elem_id="img2img_batch_png_info_props",
            ),
            label="Parameters to take from png info",
        )  # fmt: skip
    return take, folder, entries


# -- what the request gets ---------------------------------------------------------------------------------------------


def _write(
    body: Body,
    mode: str,
    picture: str | None,
    sketch: Drawing | None,
    inpaint: Drawing | None,
    inpaint_sketch: Drawing | None,
    upload: str | None,
    upload_mask: str | None,
) -> None:
    """`init_images` and `mask`. Raises BadRequest where a picture is missing."""
    if mode == BATCH:
        return  # each file becomes a request of its own
    write: dict[str, Callable[[], object]] = {
        "img2img": lambda: _from_file(body, picture),
        "sketch": lambda: _from_drawing(body, sketch, with_drawn=True),
        "inpaint": lambda: _masked(body, inpaint, with_drawn=False),
        "inpaint_sketch": lambda: _masked(body, inpaint_sketch, with_drawn=True),
        "inpaint_upload": lambda: _with_mask(body, upload, upload_mask),
    }
    write.get(mode, write["img2img"])()


def _write_batch(
    body: Body,
    mode: str,
    files: list[str] | None,
    folder: str | None,
    output: str | None,
    masks: str | None,
    take_infos: bool,
    infos: str | None,
    entries: list[str] | None,
) -> None:
    """For `BatchRun`, which makes requests of it."""
    if mode == BATCH:
        body |= {"batch_files": files, "batch_folder": folder, "batch_output": output, "batch_masks": masks}
        body |= {"batch_infos": infos, "batch_entries": entries} if take_infos else {}


def _from_file(body: Body, path: str | None) -> None:
    body["init_images"] = [file_text(path)]


def _with_mask(body: Body, path: str | None, mask: str | None) -> None:
    _from_file(body, path)
    if not mask:
        raise BadRequest(t("There is no mask yet: upload one"))
    body["mask"] = file_text(mask)


def _from_drawing(body: Body, drawing: Drawing | None, *, with_drawn: bool) -> Drawing:
    if not drawing or drawing.get("background") is None:
        raise BadRequest(t("There is no picture to start from yet"))
    name = "composite" if with_drawn and drawing.get("composite") is not None else "background"
    body["init_images"] = [picture_text(drawing[name])]
    return drawing


def _masked(body: Body, drawing: Drawing | None, *, with_drawn: bool) -> None:
    mask = drawn_area(_from_drawing(body, drawing, with_drawn=with_drawn))
    if mask is None:
        raise BadRequest(t("Nothing is masked yet: paint over what is to change"))
    body["mask"] = picture_text(mask)


def drawn_area(drawing: Drawing) -> Image.Image | None:
    """White where something is drawn, at the background's size; None when nothing is."""
    size = drawing["background"].size
    area = Image.new("L", size)
    for layer in drawing.get("layers") or ():
        if layer is not None:
            drawn = layer.convert("RGBA").getchannel("A")
            drawn = drawn if drawn.size == size else drawn.resize(size, Image.Resampling.NEAREST)
            area = ImageChops.lighter(area, drawn)
    area = area.point(lambda alpha: 255 if alpha > 127 else 0)
    return area if area.getbbox() else None


def file_text(path: str | None) -> str:
    """A file as the API takes pictures. Raises BadRequest when there is none."""
    if not path:
        raise BadRequest(t("There is no picture to start from yet"))
    return base64.b64encode(Path(path).read_bytes()).decode()


def picture_text(picture: Image.Image) -> str:
    buffer = BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()


def chosen_picture(mode: str, *pictures: Any) -> str | Image.Image | None:
    """The file or the picture that `mode` starts from, without what is drawn; `pictures` as `StartPicture.pictures`."""
    chosen = dict(zip(("img2img", "sketch", "inpaint", "inpaint_sketch", "inpaint_upload"), pictures, strict=False))
    found = chosen.get(mode)
    if isinstance(found, Mapping):
        background: Image.Image | None = found.get("background")
        return background
    return found or None


def picture_size(mode: str, *pictures: Any) -> tuple[int, int] | None:
    """Of the picture of `mode`, in pixels; `pictures` as `StartPicture.pictures`. Raises BadRequest."""
    found = chosen_picture(mode, *pictures)
    if not isinstance(found, str):
        return found.size if found is not None else None
    return size_of(found)
