"""ControlNet on the generation tabs: units with their picture, preprocessor, its preview, model and strength."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component
from PIL import Image

from sdwebui_api.api.services import Services
from sdwebui_api.errors import BadRequest, SdWebUIError
from sdwebui_api.jobs.job import Job
from sdwebui_api.webui.context import user_of
from sdwebui_api.webui.generation.form import Body, Form
from sdwebui_api.webui.generation.start_picture import file_text
from sdwebui_api.webui.localization import t
from sdwebui_api.webui.picture_input import PictureInput, read_picture
from sdwebui_api.webui.refusals import named, refusal

NO_MODEL = "None"
UNUSED = -1
"""A slider that a preprocessor does not have; also means "its default"."""
LARGEST = 2048
"""Of any slider of a preprocessor."""

FIELDS = (
    "enabled", "image", "mask", "pixel_perfect", "low_vram", "module", "model", "weight", "guidance_start",
    "guidance_end", "processor_res", "threshold_a", "threshold_b", "control_mode", "resize_mode",
)  # fmt: skip
"""Of a unit on the wire, in the order of the components."""


# Not by a class statement: gradio's metaclass answers that with a file of its own (.pyi) beside this one.
RangedSlider: type[gr.Slider] = ABCMeta.__new__(
    type(gr.Slider),
    "RangedSlider",
    (gr.Slider,),
    {"__module__": __name__, "is_template": True, "preprocess": lambda self, payload: payload},
)
"""`gr.Slider` that takes any number: whoever reads it knows the range, and -1 is none of it.

Gradio holds a number against the range that its answer gave the slider, which the browser may not have read yet: who
generated in the first moment of a page was refused with "Value -1 is less than minimum value 64".
"""


def build(form: Form) -> None:
    count = int(form.page.services.options.snapshot().get("control_net_unit_count", 3))
    with gr.Accordion(t("ControlNet"), open=False, elem_id=form.id("controlnet")), gr.Tabs():
        for index in range(count):
            with gr.Tab(t("Unit {number}", number=index), id=f"{form.kind}_unit_{index}"):
                _Unit(form, index).build()


def model_titles(services: Services) -> list[str]:
    return [NO_MODEL, *services.control.model_list(refresh=True)]


class _Unit:
    """One unit's components while the tab is built; its handlers keep it for the page."""

    def __init__(self, form: Form, index: int) -> None:
        self.form = form
        self.index = index

    def id(self, name: str) -> str:
        return f"{self.form.kind}_controlnet_{self.index}_{name}"

    def key(self, name: str) -> str:
        """In ui-config.json, after the tab's name; A1111's extension writes the labels of all units as one."""
        return f"ControlNet Unit {self.index}/{name}"

    def build(self) -> None:
        with gr.Row(elem_classes=["compact"]):
            enabled = self._check("enable", t("Enable"))
            pixel_perfect = self._check("pixel_perfect", t("Pixel perfect"))
            low_vram = self._check("low_vram", t("Low VRAM"))
        with gr.Row(elem_classes=["compact"]):
            self.image = self.form.add(
                PictureInput(
                    label=t("Control picture"), type="filepath", sources=["upload", "clipboard"], height=260,
                    elem_id=self.id("image"), min_width=200,
                )
            )  # fmt: skip
            self.preview = gr.Image(
                label=t("Preprocessor preview"), interactive=False, height=260, elem_id=self.id("preview"),
                min_width=200, type="filepath", format="png", buttons=["download", "fullscreen"],
            )  # fmt: skip
        with gr.Accordion(t("Mask of the control picture"), open=False, elem_id=self.id("mask_fold")):
            self.mask = self.form.add(
                PictureInput(
                    label=t("White is where the preprocessor looks, or what is repainted"), type="filepath",
                    sources=["upload", "clipboard"], height=200, elem_id=self.id("mask"), min_width=200,
                )
            )  # fmt: skip
        choosing = self._choosing()
        strength = self._strength()
        sliders = [self._slider("processor_res"), self._slider("threshold_a"), self._slider("threshold_b")]
        self._wire(sliders)
        modes = [
            self._numbered("control_mode", t("Control mode"), 0, _control_modes()),
            self._numbered("resize_mode", t("Resize mode"), 1, _resize_modes()),
        ]
        parts = [enabled, self.image, self.mask, pixel_perfect, low_vram, *choosing, *strength, *sliders, *modes]
        self.form.contribute(parts, _write)

    def _check(self, name: str, label: str) -> gr.Checkbox:
        return self.form.add(
            gr.Checkbox(
                label=label, elem_id=self.id(name), container=False, elem_classes=["bare"], min_width=100
            ),
            label=self.key(name),
        )  # fmt: skip

    def _choosing(self) -> list[Component]:
        services = self.form.page.services
        self.type = gr.Dropdown(
            [(t(name), name) for name in services.control.control_types()], value="All", label=t("Control type"),
            elem_id=self.id("type"), min_width=140,
        )  # fmt: skip
        with gr.Row(elem_classes=["seed", "compact"]):
            self.module = self.form.add(
                gr.Dropdown(
                    _modules(services), value="none", label=t("Preprocessor"), elem_id=self.id("module"), min_width=140
                ),
                label=self.key("module"),
            )
            self.run = self.form.page.tool("💥", self.id("run"), t("Run the preprocessor"))
            self.model = self.form.add(
                gr.Dropdown(
                    model_titles(services), value=NO_MODEL, label=t("Control model"), elem_id=self.id("model"),
                    min_width=160,
                ),
                label=self.key("model"),
                choices=model_titles,
            )  # fmt: skip
        return [self.module, self.model]

    def _strength(self) -> list[Component]:
        with gr.Row(elem_classes=["compact"]):
            rows = (
                ("weight", t("Control weight"), 2.0, 1.0),
                ("guidance_start", t("Starting step"), 1.0, 0.0),
                ("guidance_end", t("Ending step"), 1.0, 1.0),
            )
            return [
                self.form.add(
                    gr.Slider(0, most, value, step=0.01, label=label, elem_id=self.id(name), min_width=150),
                    label=self.key(name),
                )
                for name, label, most, value in rows
            ]  # fmt: skip

    def _slider(self, name: str) -> gr.Slider:
        """Its range is the preprocessor's, once one is chosen that has it."""
        slider = RangedSlider(UNUSED, LARGEST, UNUSED, step=0.01, visible=False, elem_id=self.id(name))
        return self.form.add(slider, label=self.key(name))

    def _numbered(self, name: str, label: str, value: int, choices: list[str]) -> gr.Radio:
        numbered = [(choice, number) for number, choice in enumerate(choices)]
        return self.form.add(gr.Radio(numbered, value=value, label=label, elem_id=self.id(name)), label=self.key(name))

    # -- wires -----------------------------------------------------------------------------------------------------

    def _wire(self, sliders: list[gr.Slider]) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
        self.type.input(self._of_type, self.type, [self.module, self.model, *sliders], **quiet)
        self.module.input(self._sliders, self.module, sliders, **quiet)
        self.form.page.following.append(lambda services, values: self._ranges(services, values, sliders))
        inputs = [self.image, self.mask, self.module, *sliders]
        self.run.click(self._preview, inputs, self.preview, api_visibility="private")

    def _of_type(self, name: str, request: gr.Request) -> tuple[Any, ...]:
        """What belongs to the type, and its usual choice."""
        services = self.form.page.services_for(request)
        found = services.control.control_types().get(name)
        if found is None:
            return (gr.skip(),) * 5
        names = {label: value for label, value in _modules(services)}
        modules = [(label, names[label]) for label in found["module_list"] if label in names]
        chosen = names.get(found["default_option"], found["default_option"])
        chosen = chosen if chosen in [value for _, value in modules] else "none"
        return (
            gr.update(choices=modules, value=chosen),
            gr.update(choices=found["model_list"], value=found["default_model"]),
            *_slider_updates_of(services, chosen),
        )

    def _sliders(self, module: str, request: gr.Request) -> list[Any]:
        return _slider_updates_of(self.form.page.services_for(request), module)

    def _ranges(
        self, services: Services, values: Mapping[Component, Any], sliders: Sequence[gr.Slider]
    ) -> dict[Component, dict[str, Any]]:
        """For a page that opens with a preprocessor: its sliders, with the values that were kept where they fit."""
        found = _slider_updates_of(services, values.get(self.module, self.module.value))
        updates: dict[Component, dict[str, Any]] = {}
        for slider, update in zip(sliders, found, strict=True):
            value = values.get(slider, slider.value)
            if update["visible"] and update["minimum"] <= (value or 0) <= update["maximum"]:
                update["value"] = value
            updates[slider] = update
        return updates

    async def _preview(
        self,
        path: str | None,
        mask: str | None,
        module: str,
        resolution: float,
        first: float,
        second: float,
        request: gr.Request,
    ) -> Any:
        services = self.form.page.services_for(request)
        if not path:
            raise refusal(t("There is no control picture yet"))
        try:
            preprocessor = services.control.preprocessor(module, "module")
            if preprocessor.requires_mask and not mask:
                raise BadRequest(t("This preprocessor needs a mask"))

            def detect(job: Job) -> Image.Image:
                found = services.control.detect(
                    preprocessor, [_picture_and_mask(path, mask)], resolution=resolution, thresholds=(first, second),
                    field="module", check=job.check,
                )  # fmt: skip
                return found.images[0]

            job = services.runner.submit(detect, kind="detect", user=user_of(request), summary=preprocessor.name)
            return await job.result()
        except SdWebUIError as error:
            raise refusal(named(error)) from None


def _picture_and_mask(path: str, mask: str | None) -> tuple[Image.Image, Image.Image | None]:
    image = read_picture(path).convert("RGB")
    return image, read_picture(mask).convert("L").resize(image.size) if mask else None


def _modules(services: Services) -> list[tuple[str, str]]:
    """(label, name)"""
    names, labels = services.control.module_list(), services.control.module_list(labels=True)
    return list(zip(labels["module_list"], names["module_list"], strict=True))


def _resolved(services: Services, module: str) -> bool:
    """Whether the first of the preprocessor's sliders is its resolution."""
    try:
        return services.control.preprocessor(module, "module").resolution is not None
    except SdWebUIError:
        detail: Mapping[str, Any] = services.control.module_list()["module_detail"].get(module, {})
        return bool(detail.get("sliders")) and "res" in str(detail["sliders"][0]["name"]).lower()


def _slider_updates_of(services: Services, module: str) -> list[Any]:
    return slider_updates(services.control.module_list()["module_detail"].get(module), _resolved(services, module))


def slider_updates(detail: Mapping[str, Any] | None, with_resolution: bool) -> list[Any]:
    """For resolution, threshold A and threshold B. detail: the row of GET /controlnet/module_list."""
    sliders = list(detail["sliders"]) if detail else []
    shown = sliders if with_resolution else [None, *sliders]
    shown = [*shown, None, None, None][:3]
    return [_slider_update(slider) for slider in shown]


def _slider_update(slider: Mapping[str, Any] | None) -> Any:
    if slider is None:
        return gr.update(visible=False, minimum=UNUSED, value=UNUSED)
    return gr.update(
        visible=True, label=t(slider["name"]), minimum=slider["min"], maximum=slider["max"], step=slider["step"],
        value=slider["value"],
    )  # fmt: skip


def _write(body: Body, *values: Any) -> None:
    unit = dict(zip(FIELDS, values, strict=True))
    if not unit["enabled"]:
        return
    image, mask = unit.pop("image"), unit.pop("mask")
    if image:
        unit["image"] = file_text(image)  # without one img2img's own picture is taken
        if mask:
            unit["mask"] = file_text(mask)
    elif mask:
        raise BadRequest(t("A ControlNet unit has a mask but no picture"))
    entries = body.setdefault("alwayson_scripts", {})
    entries.setdefault("controlnet", {"args": []})["args"].append(unit)


def _control_modes() -> list[str]:
    return [t("Balanced"), t("My prompt is more important"), t("ControlNet is more important")]


def _resize_modes() -> list[str]:
    return [t("Just resize"), t("Crop and resize"), t("Resize and fill")]
