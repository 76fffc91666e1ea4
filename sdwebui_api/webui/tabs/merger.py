"""A new checkpoint from others: all that POST merge-checkpoints takes."""

from __future__ import annotations

import html
import json
from typing import Any, get_args

import gradio as gr
from gradio.components import Component

from sdwebui_api.api.merging import MergeBody, merge_as_job, recipe_of
from sdwebui_api.api.services import Services
from sdwebui_api.errors import BadRequest, SdWebUIError
from sdwebui_api.webui.context import PageBuilder
from sdwebui_api.webui.generation.panel import checkpoint_titles
from sdwebui_api.webui.localization import t
from sdwebui_api.webui.page_jobs import PageJob
from sdwebui_api.webui.refusals import refusal
from sdwebui_api.webui.tool_run import ToolRun, Updates, checked

NO_VAE = "None"
MODELS = {
    "primary_model_name": t("Model A (primary)"),
    "secondary_model_name": t("Model B (secondary)"),
    "tertiary_model_name": t("Model C (tertiary)"),
}
TAKEN = {"Weighted sum": 2, "Add difference": 3, "No interpolation": 1}
"""Interpolation method → how many of the models it reads."""
FORMATS = get_args(MergeBody.model_fields["checkpoint_format"].annotation)

Fields = dict[str, Component]


def build(page: PageBuilder) -> None:
    run = ToolRun(page, "modelmerger_merge", t("Merge"), cancels=True, makes_models=True)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320, elem_classes=["settings"]):
            models = _models(page)
            fields = {**models, **_method(page), **_file(page), **_metadata(page, models)}
        with gr.Column(scale=1, min_width=320, elem_classes=["results"]):
            run.buttons()
            run.bar()
            info = gr.HTML(_explained(), elem_id="modelmerger_html_info", padding=False)
    names = list(fields)

    async def start(services: Services, user: str | None, *values: Any) -> PageJob:
        given = dict(zip(names, values, strict=True))
        _check_chosen(given)
        body = checked(MergeBody, {**given, "metadata": _read_metadata(given["metadata"])})
        recipe = await services.off_loop(recipe_of, services, body)
        summary = ", ".join(source.name for source in recipe.sources)[:200]
        job = services.runner.submit(
            lambda job: merge_as_job(services, job, recipe), kind="merge", user=user, summary=summary
        )
        return page.jobs.follow(services, job, user, lambda page_job, answer: page_job.info.update(answer))

    def show(job: PageJob) -> Updates:
        saved = t("Saved as {path}", path=html.escape(job.info["filename"]))
        time = t("Time taken: {seconds} s", seconds=f"{job.seconds:.1f}")
        return {info: f'<div class="infotext-text">{saved}</div><div class="note">{time}</div>'}

    run.wire(list(fields.values()), start, [info], show)


def _check_chosen(given: dict[str, Any]) -> None:
    """Said before the files are read. Raises BadRequest."""
    for letter, name in zip("ABC"[: TAKEN[given["interp_method"]]], MODELS, strict=False):
        if not given[name]:
            raise BadRequest(t("Choose model {letter} first", letter=letter))


def _models(page: PageBuilder) -> Fields:
    with gr.Row(elem_classes=["compact"]):
        return {
            name: page.add(
                gr.Dropdown(
                    checkpoint_titles(page.services), value=None, label=label, min_width=160,
                    elem_id=f"modelmerger_{name}",
                ),
                choices=checkpoint_titles,
            )
            for name, label in MODELS.items()
        }  # fmt: skip


def _method(page: PageBuilder) -> Fields:
    methods = [
        (t("No interpolation"), "No interpolation"),
        (t("Weighted sum"), "Weighted sum"),
        (t("Add difference"), "Add difference"),
    ]
    method = page.add(
        gr.Radio(methods, value="Weighted sum", label=t("Interpolation method"), elem_id="modelmerger_interp_method"),
        saved="modelmerger/Interpolation Method",
    )
    amount = page.add(
        gr.Slider(
            0, 1, 0.3, step=0.05, label=t("Multiplier (M): 0 is model A"), elem_id="modelmerger_interp_amount"
        ),
        saved="modelmerger/Multiplier (M) - set to 0 to get model A",
    )  # fmt: skip
    return {"interp_method": method, "multiplier": amount}


def _file(page: PageBuilder) -> Fields:
    with gr.Row(elem_classes=["compact"]):
        name = page.add(
            gr.Textbox(
                label=t("Name of the new file"), placeholder=t("Empty: made from the formula"), max_lines=1,
                elem_id="modelmerger_custom_name",
            )
        )  # fmt: skip
        vae = page.add(
            gr.Dropdown(_vaes(page.services), value=NO_VAE, label=t("Bake in VAE"), elem_id="modelmerger_bake_in_vae"),
            choices=_vaes,
        )
    with gr.Row(elem_classes=["compact"]):
        format = page.add(
            gr.Radio(
                list(FORMATS), value=FORMATS[0], label=t("Checkpoint format"), min_width=160,
                elem_id="modelmerger_checkpoint_format",
            )
        )  # fmt: skip
        half = page.add(
            gr.Checkbox(label=t("Save as float16"), min_width=160, elem_id="modelmerger_save_as_half"),
            saved="modelmerger/Save as float16",
        )  # fmt: skip
    sources = [t("A, B or C"), t("Model B"), t("Model C"), t("None")]
    config = page.add(
        gr.Radio(
            [(label, number) for number, label in enumerate(sources)], value=0, label=t("Copy config from"),
            elem_id="modelmerger_config_method",
        )
    )  # fmt: skip
    discard = page.add(
        gr.Textbox(
            label=t("Discard weights with matching name"), placeholder=t("A regular expression"),
            elem_id="modelmerger_discard_weights",
        )
    )  # fmt: skip
    return {
        "custom_name": name,
        "bake_in_vae": vae,
        "checkpoint_format": format,
        "save_as_half": half,
        "config_source": config,
        "discard_weights": discard,
    }


def _vaes(services: Services) -> list[tuple[str, str]]:
    """Without "Automatic": which one is baked in must be said."""
    return [(t("None"), NO_VAE), *((file.name, file.name) for file in services.catalog.vaes.all())]


def _metadata(page: PageBuilder, models: Fields) -> Fields:
    with gr.Accordion(t("Metadata"), open=False, elem_id="modelmerger_metadata"):
        save = page.add(gr.Checkbox(True, label=t("Save metadata"), elem_id="modelmerger_save_metadata"))
        recipe = page.add(gr.Checkbox(True, label=t("Add the merge recipe"), elem_id="modelmerger_add_merge_recipe"))
        copied = page.add(
            gr.Checkbox(True, label=t("Copy the models' metadata"), elem_id="modelmerger_copy_metadata_fields")
        )
        own = page.add(
            gr.Code("{}", language="json", label=t("Metadata of your own (JSON)"), elem_id="modelmerger_metadata_json")
        )
        read = page.add(
            gr.Button(t("Read the metadata of the chosen models"), size="sm", elem_id="modelmerger_read_metadata")
        )
    _wire_reading(page, read, models, own)
    return {"save_metadata": save, "add_merge_recipe": recipe, "copy_metadata_fields": copied, "metadata": own}


def _wire_reading(page: PageBuilder, read: gr.Button, models: Fields, target: Component) -> None:
    async def show(request: gr.Request, *titles: str | None) -> str:
        services = page.services_for(request)
        try:
            found = await services.off_loop(_metadata_of, services, dict(zip(models, titles, strict=True)))
        except SdWebUIError as error:
            raise refusal(error.message) from None
        return json.dumps(found, indent=4, ensure_ascii=False)

    read.click(show, list(models.values()), target, show_progress="hidden", api_visibility="private")


def _metadata_of(services: Services, titles: dict[str, str | None]) -> dict[str, str]:
    """Of all that are chosen, A's word counting most, as the merge copies it. Raises NotFound."""
    find = services.catalog.checkpoints.find
    files = [find(title, field) for field, title in titles.items() if title]
    return {name: value for file in reversed(files) for name, value in file.metadata.items()}


def _read_metadata(text: str | None) -> dict[str, str]:
    """Values of other types as their JSON text: a safetensors header holds texts alone."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise BadRequest(t("The metadata is no JSON: {problem}", problem=str(error)[:200])) from None
    if not isinstance(value, dict):
        raise BadRequest(t("The metadata is no JSON object"))
    return {name: one if isinstance(one, str) else json.dumps(one) for name, one in value.items()}


def _explained() -> str:
    lines = (t("Weighted sum: A × (1 − M) + B × M"), t("Add difference: A + (B − C) × M"),
             t("No interpolation: A alone, to convert it, bake in a VAE or leave out weights"),
             t("A new file is written into the folder of checkpoints, never over another one"))  # fmt: skip
    return "".join(f'<div class="note">{line}</div>' for line in lines)
