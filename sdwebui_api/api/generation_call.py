"""From a checked body to a submitted job: what every door does alike, before and after the pictures are made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import ValidationError

from sdwebui_api.api.eas_answer import EasCall
from sdwebui_api.api.eas_extras import read_extras, without_extras
from sdwebui_api.api.eas_results import Delivery, delivery
from sdwebui_api.api.generation_schema import GenerationBody
from sdwebui_api.api.infotext import read_infotext
from sdwebui_api.api.options import store_options
from sdwebui_api.api.script_args import read_sections, without_sections
from sdwebui_api.api.services import Services
from sdwebui_api.config.options import Options
from sdwebui_api.errors import BadRequest, NotFound, SdWebUIError
from sdwebui_api.generation.infotext_request import fields_of_infotext
from sdwebui_api.generation.request import GenerationRequest, GenerationResult
from sdwebui_api.jobs.job import Job, PreviewSettings

Kind = Literal["txt2img", "img2img"]


@dataclass(frozen=True)
class Prepared:
    request: GenerationRequest
    echo: dict[str, Any]
    """The answer's `parameters`."""
    stored: Options
    """The server's options at admission: the answer's file format follows them, not the overrides (A1111)."""
    delivery: Delivery | None
    """None: the pictures are in the answer."""

    @property
    def facts(self) -> dict[str, Any]:
        """For `--api-log`."""
        request = self.request
        return {
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "checkpoint": request.checkpoint.name,
            "sampler": request.sampler,
            "schedule": request.schedule,
            "steps": request.steps,
            "width": request.width,
            "height": request.height,
            "pictures": request.batch_size * request.n_iter,
            "seed": request.seed,
        }

    def info(self, result: GenerationResult, job_id: str, more_warnings: list[str]) -> dict[str, Any]:
        """What of `info` is ours."""
        warnings = [*self.request.warnings, *result.info.get("warnings", ()), *more_warnings]
        return {"job_id": job_id, "warnings": list(dict.fromkeys(warnings))}


def prepare(
    services: Services, kind: Kind, body: GenerationBody, pictures: dict[str, Any], call: EasCall | None
) -> Prepared:
    """`pictures`: the fields that hold pictures, fetched; the echo keeps their URLs."""
    stored = services.options.snapshot()
    extras = read_extras(body.alwayson_scripts)
    goes = delivery(services, call, extras, save_images=body.save_images)
    if body.infotext:
        body = _with_infotext(services, kind, body, stored)
    values = body.model_dump()
    scripts, alwayson = services.scripts, without_extras(pictures["alwayson_scripts"])
    replaced = read_sections(scripts, kind, alwayson)
    replaced["override_settings"] = {**(values["override_settings"] or {}), **extras.overrides(services.catalog)}
    named = scripts.read(kind, services.catalog, body.script_name, body.script_args, without_sections(alwayson))
    resolved = services.resolver(kind, {**values, **pictures, **replaced}, body.model_fields_set, stored)
    resolved = replace(resolved, script=named.script, always_on=named.always_on)
    if goes is not None:
        resolved = goes.wanted(resolved, grid=not body.do_not_save_grid)
    if extras.image_link and kind == "txt2img":
        warning = "alwayson_scripts.image_link: txt2img starts from no picture, it had no effect"
        resolved = replace(resolved, warnings=(*resolved.warnings, warning))
    for side in ("width", "height"):
        if side not in body.model_fields_set:
            values[side] = getattr(resolved, side)
    if kind == "img2img" and not values["include_init_images"]:
        values["init_images"] = values["mask"] = None
    return Prepared(resolved, values, stored, goes)


def _with_infotext(services: Services, kind: Kind, body: GenerationBody, stored: Options) -> GenerationBody:
    """The body with what its `infotext` says where the client says nothing; the echo shows it."""
    params = read_infotext(services, body.infotext or "", stored)
    given = body.model_dump(include=body.model_fields_set)
    overrides = body.override_settings or {}
    names = services.resolver.sampler_names
    found = fields_of_infotext(params, kind, body.model_fields_set, overrides, stored, names)
    merged = {
        **_with_refiner_of_this_server(services, found.fields),
        **given,
        "override_settings": {**found.override_settings, **overrides},
    }
    try:
        return type(body).model_validate(merged)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(map(str, problem["loc"]))
        raise BadRequest(f"infotext: {name}: {problem['msg']}", field="infotext") from None


def _with_refiner_of_this_server(services: Services, fields: dict[str, Any]) -> dict[str, Any]:
    """An infotext's refiner by its title here; left out where it is not here, as in A1111."""
    named = fields.get("refiner_checkpoint")
    if named is None:
        return fields
    try:
        return {**fields, "refiner_checkpoint": services.catalog.checkpoints.find(named, "infotext").title}
    except NotFound:
        return {name: value for name, value in fields.items() if name != "refiner_checkpoint"}


def persist(services: Services, body: GenerationBody) -> list[str]:
    """The overrides become settings. The pictures exist already, so a failure is only a warning."""
    try:
        store_options(services, body.override_settings or {})
    except SdWebUIError as error:
        return [f"override_settings were not stored: {error.message}"]
    return []


def submit(services: Services, kind: Kind, prepared: Prepared, user: str | None, id: str | None) -> Job:
    options, resolved, generator = prepared.request.options, prepared.request, services.generator
    return services.runner.submit(
        lambda job: generator.run(resolved, job),
        prepare=lambda gone: generator.prepare(resolved, gone),
        kind=kind,
        id=id,
        user=user,
        summary=resolved.prompt[:200],
        preview=PreviewSettings(
            # Unfinished pictures cannot be judged.
            enabled=options.live_previews_enable and not services.flags.enable_nsfw_censor,
            every_n_steps=options.show_progress_every_n_steps,
            image_format=options.live_previews_image_format,
        ),
    )
