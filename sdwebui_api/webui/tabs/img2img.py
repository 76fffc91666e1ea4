"""Pictures from pictures: whole, sketched over, repainted in part, or a folder of them."""

from __future__ import annotations

import gradio as gr

from sdwebui_api.errors import BadRequest
from sdwebui_api.webui import remembered
from sdwebui_api.webui.context import PageBuilder
from sdwebui_api.webui.generation import (
    control_units,
    gallery,
    interrogate,
    networks,
    overrides,
    panel,
    prompt,
    scripts,
    start_picture,
)
from sdwebui_api.webui.generation.batch_run import BatchRun
from sdwebui_api.webui.generation.form import Body, Form
from sdwebui_api.webui.generation.results import Results
from sdwebui_api.webui.generation.start_picture import BATCH, MASKED, StartPicture
from sdwebui_api.webui.localization import t
from sdwebui_api.webui.refusals import refusal


def build(page: PageBuilder) -> None:
    form = Form(page, "img2img")
    area = prompt.build(form)
    with gr.Tabs(elem_id="img2img_extra_tabs"):
        results, seed, start = _generation(form)
        networks.build(form, results)
    # What makes stores of its own stands outside of the tabs: gradio counts every child of theirs as a tab.
    gallery.wire_seed(form, results, seed)
    interrogate.build(form, area, start)
    BatchRun(form, area, results, start=start).wire()
    remembered.wire(form)


def _generation(form: Form) -> tuple[Results, panel.Seed, StartPicture]:
    with gr.Tab(t("Generation"), id="img2img_generation"), gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=320, elem_id="img2img_settings", elem_classes=["settings"]):
            start = start_picture.build(form)
            _mask_settings(form, start)
            seed = _settings(form, start)
        results = gallery.build(form)
    return results, seed, start


def _settings(form: Form, start: StartPicture) -> panel.Seed:
    _resize_mode(form)
    panel.sampling(form)
    with gr.Row(elem_classes=["compact"]):
        with gr.Column(scale=3, min_width=280):
            _size(form, start)
        with gr.Column(scale=2, min_width=180):
            panel.batches(form)
    panel.guidance(form)
    form.field(
        "denoising_strength",
        gr.Slider(0, 1, 0.75, step=0.01, label=t("Denoising strength"), elem_id="img2img_denoising_strength"),
        label="Denoising strength",
        infotext="Denoising strength",
    )
    seed = panel.seed(form)
    panel.refiner(form)
    overrides.build(form)
    control_units.build(form)
    scripts.build(form)
    return seed


def _resize_mode(form: Form) -> None:
    names = (t("Just resize"), t("Crop and resize"), t("Resize and fill"), t("Just resize (latent upscale)"))
    form.field(
        "resize_mode",
        gr.Dropdown(
            [(name, number) for number, name in enumerate(names)],
            value=0,
            label=t("Resize mode"),
            elem_id="resize_mode",
        ),
        label="Resize mode",
    )


def _size(form: Form, start: StartPicture) -> None:
    """Sides in pixels, or a factor of the picture's own."""
    size = panel.size(form)
    with gr.Row(elem_classes=["seed", "compact"]):
        by = form.add(
            gr.Slider(
                0, 4, 0, step=0.05, label=t("Resize by (0: to width and height)"), elem_id="img2img_scale",
                min_width=180, scale=4,
            ),
            label="Scale",
        )  # fmt: skip
        take = form.page.tool("📐", "img2img_detect_image_size_btn", t("Width and height of the picture"))

    def own_size(mode: str, *pictures: object) -> tuple[object, object]:
        try:
            found = start_picture.picture_size(mode, *pictures)
        except BadRequest as error:
            raise refusal(error.message) from None
        return (found and (_side(found[0], 1), _side(found[1], 1))) or (gr.skip(), gr.skip())

    inputs = [start.mode, *start.pictures]
    take.click(own_size, inputs, [size.width, size.height], show_progress="hidden", api_visibility="private")
    form.contribute([by, *inputs], _write_scale)


def _write_scale(body: Body, factor: float, mode: str, *pictures: object) -> None:
    if not factor:
        return
    found = start_picture.picture_size(mode, *pictures)
    if found is None:
        body["scale_by"] = factor  # a file of a batch: its size is known when its turn comes
    else:
        body |= {"width": _side(found[0], factor), "height": _side(found[1], factor)}


def _side(pixels: int, factor: float) -> int:
    return max(8, round(pixels * factor / 8) * 8)


def _mask_settings(form: Form, start: StartPicture) -> None:
    """Shown for the modes that repaint a part, and sent for these alone."""
    with gr.Column(visible=False, elem_id="inpaint_controls", elem_classes=["more"]) as group:
        blur = form.add(
            gr.Slider(0, 64, 4, step=1, label=t("Mask blur"), elem_id="img2img_mask_blur"),
            label="Mask blur",
            infotext="Mask blur",
        )
        with gr.Row(elem_classes=["compact"]):
            invert = form.add(
                _numbered((t("Inpaint masked"), t("Inpaint not masked")), t("Mask mode"), "img2img_mask_mode"),
                label="Mask mode",
            )
            fill = form.add(
                _numbered(
                    (t("fill"), t("original"), t("latent noise"), t("latent nothing")),
                    t("Masked content"),
                    "img2img_inpainting_fill",
                    1,
                ),
                label="Masked content",
            )
        with gr.Row(elem_classes=["compact"]):
            whole = form.add(
                _numbered((t("Whole picture"), t("Only masked")), t("Inpaint area"), "img2img_inpaint_full_res"),
                label="Inpaint area",
            )
            padding = form.add(
                gr.Slider(
                    0,
                    256,
                    32,
                    step=4,
                    label=t("Only masked padding, pixels"),
                    elem_id="img2img_inpaint_full_res_padding",
                ),
                label="Only masked padding, pixels",
            )
    shown = " || ".join(f"mode === '{mode}'" for mode in MASKED)
    js = f"(mode, masks) => ({{__type__: 'update', visible: {shown} || (mode === '{BATCH}' && !!masks)}})"
    masks = start.batch.masks
    for one in (start.mode, masks):
        one.change(None, [start.mode, masks], group, js=js, show_progress="hidden")
    form.contribute([start.mode, masks, blur, invert, fill, whole, padding], _write_mask_settings)


def _numbered(names: tuple[str, ...], label: str, id: str, value: int = 0) -> gr.Radio:
    return gr.Radio([(name, number) for number, name in enumerate(names)], value=value, label=label, elem_id=id)


def _write_mask_settings(
    body: Body, mode: str, masks: str | None, blur: int, invert: int, fill: int, area: int, padding: int
) -> None:
    if mode in MASKED or (mode == BATCH and masks):
        body |= {"mask_blur": blur, "inpainting_mask_invert": invert, "inpainting_fill": fill}
        body |= {"inpaint_full_res": bool(area), "inpaint_full_res_padding": padding}
