"""The controls that txt2img and img2img share: sampling, size, batches, guidance, seed, refiner.

Each part is a function that builds its components into a `Form`; tabs put the parts where they like.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gradio as gr

from sdwebui_api.api.services import Services
from sdwebui_api.webui.generation.form import Body, Form
from sdwebui_api.webui.localization import t

LARGEST_SIDE = 2048
ASPECTS = ((1, 1), (4, 3), (3, 2), (16, 9))

SHOW = "(shown) => ({__type__: 'update', visible: shown})"
"""For a check box's change: shows a group, without asking the server."""


def checkpoint_titles(services: Services) -> list[tuple[str, str]]:
    """(title, file name). A title grows by its hash once that is known: as a value it would be lost then."""
    return [(file.known_title, file.name) for file in services.catalog.checkpoints.all()]


def sampler_names(services: Services) -> list[str]:
    hidden = services.options.snapshot().hide_samplers
    return [row["name"] for row in services.sampler_rows if row["name"] not in hidden]


def schedule_names(services: Services) -> list[tuple[str, str]]:
    """(shown, name)"""
    return [
        (t("Automatic") if row["label"] == "Automatic" else row["label"], row["label"])
        for row in services.schedule_rows
    ]


def sampling(form: Form) -> None:
    """Sampler, schedule, steps."""
    services = form.page.services
    with gr.Row(elem_classes=["compact"]):
        form.field(
            "sampler_name",
            gr.Dropdown(
                sampler_names(services), value="DPM++ 2M", label=t("Sampling method"), elem_id=form.id("sampling"),
                min_width=140,
            ),
            label="Sampling method",
            infotext="Sampler",
            choices=sampler_names,
        )  # fmt: skip
        form.field(
            "scheduler",
            gr.Dropdown(
                schedule_names(services), value="Automatic", label=t("Schedule type"), elem_id=form.id("scheduler"),
                min_width=140,
            ),
            label="Schedule type",
            infotext="Schedule type",
        )  # fmt: skip
        form.field(
            "steps",
            gr.Slider(1, 150, 20, step=1, label=t("Sampling steps"), elem_id=form.id("steps"), min_width=200),
            label="Sampling steps",
            infotext="Steps",
        )


@dataclass
class Size:
    width: gr.Slider
    height: gr.Slider


def size(form: Form, tools: bool = True) -> Size:
    """Width and height, with the buttons that swap them or set their ratio (keeping the area)."""
    checkpoint = form.page.services.current_checkpoint()
    wide, high = (checkpoint.native_size if checkpoint else None) or (512, 512)
    with gr.Row(elem_classes=["size"]):
        with gr.Column(scale=4, min_width=180):
            width = form.field(
                "width",
                gr.Slider(64, LARGEST_SIDE, wide, step=8, label=t("Width"), elem_id=form.id("width")),
                label="Width",
                infotext="Size-1",
            )
            height = form.field(
                "height",
                gr.Slider(64, LARGEST_SIDE, high, step=8, label=t("Height"), elem_id=form.id("height")),
                label="Height",
                infotext="Size-2",
            )
        if tools:
            with gr.Column(scale=0, min_width=96, elem_classes=["size-tools"]):
                swap = form.page.tool("⇅", form.id("res_switch_btn"), t("Swap width and height"))
                swap.click(None, [width, height], [width, height], js="(w, h) => [h, w]", show_progress="hidden")
                for across, down in ASPECTS:
                    _aspect(form, across, down, width, height)
    return Size(width, height)


def _aspect(form: Form, across: int, down: int, width: gr.Slider, height: gr.Slider) -> None:
    """Keeps the area, and whether the picture stands or lies."""
    name = f"{across}:{down}"
    button = form.page.tool(name, form.id(f"aspect_{across}_{down}"), t("Set the ratio of the sides, keep the area"))
    js = f"""(w, h) => {{
        const ratio = h > w ? {down} / {across} : {across} / {down};
        const fit = (side) => Math.min({LARGEST_SIDE}, Math.max(64, Math.round(side / 8) * 8));
        return [fit(Math.sqrt(w * h * ratio)), fit(Math.sqrt(w * h / ratio))];
    }}"""
    button.click(None, [width, height], [width, height], js=js, show_progress="hidden")


def batches(form: Form) -> None:
    most = form.page.flags.max_batch_count
    with gr.Column(min_width=180):
        form.field(
            "n_iter",
            gr.Slider(1, most, 1, step=1, label=t("Batch count"), elem_id=form.id("batch_count")),
            label="Batch count",
        )
        form.field(
            "batch_size",
            gr.Slider(1, 8, 1, step=1, label=t("Batch size"), elem_id=form.id("batch_size")),
            label="Batch size",
            infotext="Batch size",
        )


def guidance(form: Form) -> None:
    form.field(
        "cfg_scale",
        gr.Slider(1, 30, 7, step=0.5, label=t("CFG Scale"), elem_id=form.id("cfg_scale")),
        label="CFG Scale",
        infotext="CFG scale",
    )


@dataclass
class Seed:
    seed: gr.Number
    reuse: gr.Button
    subseed: gr.Number
    reuse_subseed: gr.Button


def seed(form: Form) -> Seed:
    """The seed with dice and recycling, and its extras. The tab wires `reuse` to its results (`results.wire_seed`)."""
    page = form.page
    with gr.Row(elem_classes=["seed", "compact"]):
        number = form.field(
            "seed",
            gr.Number(-1, label=t("Seed"), precision=0, elem_id=form.id("seed"), min_width=120, scale=4),
            label="Seed",
            infotext="Seed",
        )
        dice = page.tool("🎲", form.id("random_seed"), t("A new seed every time"))
        reuse = page.tool("♻️", form.id("reuse_seed"), t("The seed of the picture that is shown"))
        extra = form.add(
            gr.Checkbox(
                label=t("Extra"),
                elem_id=form.id("seed_extra"),
                container=False,
                elem_classes=["bare"],
                min_width=80,
                scale=1,
            ),
            label="Extra",
        )
    dice.click(None, None, number, js="() => -1", show_progress="hidden")
    with gr.Column(visible=bool(extra.value), elem_id=form.id("seed_extras"), elem_classes=["more"]) as more:
        subseed, reuse_subseed = _seed_extras(form, extra)
    extra.change(None, extra, more, js=SHOW, show_progress="hidden")
    return Seed(number, reuse, subseed, reuse_subseed)


def _seed_extras(form: Form, extra: gr.Checkbox) -> tuple[gr.Number, gr.Button]:
    with gr.Row(elem_classes=["seed", "compact"]):
        subseed = form.add(
            gr.Number(-1, label=t("Variation seed"), precision=0, elem_id=form.id("subseed"), min_width=120, scale=4),
            label="Variation seed",
            infotext="Variation seed",
        )
        dice = form.page.tool("🎲", form.id("random_subseed"), t("A new variation every time"))
        reuse = form.page.tool("♻️", form.id("reuse_subseed"), t("The variation seed of the picture that is shown"))
        strength = form.add(
            gr.Slider(0, 1, 0, step=0.01, label=t("Variation strength"), elem_id=form.id("subseed_strength")),
            label="Variation strength",
            infotext="Variation seed strength",
        )
    dice.click(None, None, subseed, js="() => -1", show_progress="hidden")
    with gr.Row(elem_classes=["compact"]):
        from_width = form.add(
            gr.Slider(
                0, LARGEST_SIDE, 0, step=8, label=t("Resize seed from width"), elem_id=form.id("seed_resize_from_w")
            ),
            label="Resize seed from width",
            infotext="Seed resize from-1",
        )
        from_height = form.add(
            gr.Slider(
                0, LARGEST_SIDE, 0, step=8, label=t("Resize seed from height"), elem_id=form.id("seed_resize_from_h")
            ),
            label="Resize seed from height",
            infotext="Seed resize from-2",
        )
    form.contribute([extra, subseed, strength, from_width, from_height], _write_seed_extras)
    return subseed, reuse


def _write_seed_extras(body: Body, extra: bool, subseed: int, strength: float, width: int, height: int) -> None:
    if extra:
        body |= {"subseed": subseed, "subseed_strength": strength}
        body |= {"seed_resize_from_w": width, "seed_resize_from_h": height}


def refiner(form: Form) -> None:
    """Another checkpoint for the last steps."""
    on = form.add(
        gr.Checkbox(label=t("Refiner"), elem_id=form.id("enable_refiner"), container=False, elem_classes=["bare"]),
        label="Refiner",
    )
    with (
        gr.Column(visible=bool(on.value), elem_id=form.id("refiner"), elem_classes=["more"]) as more,
        gr.Row(elem_classes=["compact"]),
    ):
        checkpoint = form.add(
            gr.Dropdown(
                checkpoint_titles(form.page.services), value=None, label=t("Checkpoint"), elem_id=form.id("checkpoint")
            ),
            label="Checkpoint",
            infotext="Refiner",
            choices=checkpoint_titles,
        )
        switch = form.add(
            gr.Slider(0.01, 1, 0.8, step=0.01, label=t("Switch at"), elem_id=form.id("switch_at")),
            label="Switch at",
            infotext="Refiner switch at",
        )
    on.change(None, on, more, js=SHOW, show_progress="hidden")

    def write(body: Body, wanted: bool, name: str | None, at: float) -> None:
        if wanted and name:
            body |= {"refiner_checkpoint": name, "refiner_switch_at": at}

    form.contribute([on, checkpoint, switch], write)


def same_or(choices: Sequence[str | tuple[str, str]], same: str) -> list[tuple[str, str]]:
    """`choices` after one that means "as in the first pass"; its value is A1111's English word."""
    return [(t(same), same), *((one, one) if isinstance(one, str) else one for one in choices)]
