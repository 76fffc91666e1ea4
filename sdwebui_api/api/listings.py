"""What there is: flags, samplers, schedules, upscalers, model files, styles, embeddings, scripts."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request

from sdwebui_api.api import response_schema as schema
from sdwebui_api.api.script_args import titles
from sdwebui_api.api.services import Services, services_of
from sdwebui_api.catalog.upscalers import LATENT_UPSCALE_MODES
from sdwebui_api.config.paths import Paths

if TYPE_CHECKING:
    from sdwebui_api.scripting.hooks import Kind

router = APIRouter(prefix="/sdapi/v1", tags=["listings"])

Rows = list[dict[str, Any]]


@router.get("/cmd-flags", **schema.answers(schema.Flags))
async def cmd_flags(request: Request) -> dict[str, Any]:
    """The command line, with secrets hidden. Paths are told where A1111 has them, also when nobody gave them: there is
    a client that tells servers apart by `ui_settings_file`."""
    flags = services_of(request).flags
    paths = Paths.from_flags(flags).by_flag()
    return {name: paths.get(name) if value is None else value for name, value in flags.as_dict().items()}


@router.get("/samplers", **schema.answers(list[schema.SamplerItem]))
async def samplers(request: Request) -> Rows:
    return [dict(row) for row in services_of(request).sampler_rows]


@router.get("/schedulers", **schema.answers(list[schema.SchedulerItem]))
async def schedulers(request: Request) -> Rows:
    return [dict(row) for row in services_of(request).schedule_rows]


@router.get("/upscalers", **schema.answers(list[schema.UpscalerItem]))
async def upscalers(request: Request) -> Rows:
    """Looks into the folders again, for there is no route to refresh them."""
    catalog = services_of(request).catalog.upscalers
    await services_of(request).off_loop(catalog.refresh)
    return [dataclasses.asdict(row) for row in catalog.rows()]


@router.get("/latent-upscale-modes", **schema.answers(list[schema.LatentUpscalerModeItem]))
async def latent_upscale_modes() -> Rows:
    return [{"name": name} for name in LATENT_UPSCALE_MODES]


@router.get("/sd-models", **schema.answers(list[schema.SDModelItem]))
async def sd_models(request: Request) -> Rows:
    """Checkpoints. Hashes appear once they are known; nothing is read here."""
    return [
        {
            "title": file.known_title,
            "model_name": file.model_name,
            "hash": file.known_sha256[:10] if file.known_sha256 else None,
            "sha256": file.known_sha256,
            "filename": str(file.path),
            "config": str(file.config_path) if file.config_path else None,
        }
        for file in services_of(request).catalog.checkpoints.all()
    ]


@router.get("/sd-vae", **schema.answers(list[schema.SDVaeItem]))
async def sd_vae(request: Request) -> Rows:
    return [{"model_name": file.name, "filename": str(file.path)} for file in services_of(request).catalog.vaes.all()]


@router.get("/prompt-styles", **schema.answers(list[schema.PromptStyleItem]))
async def prompt_styles(request: Request) -> Rows:
    return [
        {"name": style.name, "prompt": style.prompt, "negative_prompt": style.negative_prompt}
        for style in services_of(request).catalog.styles.all()
    ]


@router.get("/embeddings", **schema.answers(schema.EmbeddingsResponse))
async def embeddings(request: Request) -> dict[str, Any]:
    """Textual inversions that fit the current checkpoint (`loaded`), and those that do not (`skipped`)."""
    services = services_of(request)
    return await services.off_loop(lambda: services.engine.embeddings(services.current_checkpoint()))


@router.get("/loras")
async def loras(request: Request) -> Rows:
    """LoRAs and their relatives, with what their training tool wrote into them."""
    services = services_of(request)

    def rows() -> Rows:  # opens files it has not seen yet
        return [
            {"name": file.name, "alias": file.alias, "path": str(file.path), "metadata": file.metadata}
            for file in services.catalog.loras.all()
        ]

    return await services.off_loop(rows)


@router.get("/hypernetworks", **schema.answers(list[schema.HypernetworkItem]))
async def hypernetworks(request: Request) -> Rows:
    files = services_of(request).catalog.hypernetworks.all()
    return [{"name": file.name, "path": str(file.path)} for file in files]


@router.get("/face-restorers", **schema.answers(list[schema.FaceRestorerItem]))
async def face_restorers(request: Request) -> Rows:
    """Those whose files are all here."""
    services = services_of(request)
    names = await services.off_loop(services.faces.catalog.present)
    return [{"name": name, "cmd_dir": None} for name in names]


@router.get("/realesrgan-models", **schema.answers(list[schema.RealesrganItem]))
async def realesrgan_models(request: Request) -> Rows:
    """The files in the folder RealESRGAN."""
    files = services_of(request).catalog.upscalers.all()
    return [
        {"name": file.name, "path": str(file.path), "scale": int(file.scale)}
        for file in files
        if file.kind == "RealESRGAN"
    ]


@router.get("/extensions", **schema.answers(list[schema.ExtensionItem]))
async def extensions(request: Request) -> Rows:
    """What lies in the folder extensions beside what came with the program; what git says about it."""
    services = services_of(request)
    found = [extension for extension in services.scripts.extensions if not extension.builtin]
    return await services.off_loop(lambda: [extension.row() for extension in found])


@router.get("/scripts", **schema.answers(schema.ScriptsList))
async def scripts(request: Request) -> dict[str, list[str]]:
    """Titles in lower case, as clients compare them. Only what has an effect or is accepted without one."""
    host = services_of(request).scripts
    return {"txt2img": titles(host, "txt2img"), "img2img": titles(host, "img2img")}


@router.get("/script-info", **schema.answers(list[schema.ScriptInfo]))
async def script_info(request: Request) -> Rows:
    services = services_of(request)
    sections = {
        "extra options": [],
        "refiner": _refiner_args(services),
        "sampler": _sampler_args(services),
        "seed": _seed_args(),
    }
    rows: Rows = []
    kinds: tuple[Kind, Kind] = ("txt2img", "img2img")
    for kind in kinds:
        for always_on in (False, True):
            rows += services.scripts.rows(kind, services.catalog, always_on=always_on)
        rows += [
            {"name": name, "is_alwayson": True, "is_img2img": kind == "img2img", "args": args}
            for name, args in sections.items()
        ]
    return rows


@router.post("/refresh-checkpoints")
async def refresh_checkpoints(request: Request) -> None:
    services = services_of(request)
    await services.off_loop(services.catalog.checkpoints.refresh)


@router.post("/refresh-vae")
async def refresh_vae(request: Request) -> None:
    services = services_of(request)
    await services.off_loop(services.catalog.vaes.refresh)


@router.post("/refresh-loras")
async def refresh_loras(request: Request) -> None:
    """Looks for LoRAs, and for hypernetworks too, for which A1111 has no call."""
    services = services_of(request)
    await services.off_loop(services.catalog.loras.refresh)
    await services.off_loop(services.catalog.hypernetworks.refresh)


@router.post("/refresh-embeddings")
async def refresh_embeddings(request: Request) -> None:
    services = services_of(request)
    await services.off_loop(services.engine.refresh_embeddings)


def _arg(label: str, value: Any, minimum: Any = None, maximum: Any = None, step: Any = None,
         choices: list[str] | None = None) -> dict[str, Any]:  # fmt: skip
    return {"label": label, "value": value, "minimum": minimum, "maximum": maximum, "step": step, "choices": choices}


def _refiner_args(services: Services) -> Rows:
    titles = [file.known_title for file in services.catalog.checkpoints.all()]
    return [_arg("Refiner", False), _arg("Checkpoint", "", choices=titles), _arg("Switch at", 0.8, 0.01, 1.0, 0.01)]


def _sampler_args(services: Services) -> Rows:
    return [
        _arg("Sampling steps", 20, 1, 150, 1),
        _arg("Sampling method", "DPM++ 2M", choices=[row["name"] for row in services.sampler_rows]),
        _arg("Schedule type", "Automatic", choices=[row["label"] for row in services.schedule_rows]),
    ]


def _seed_args() -> Rows:
    return [
        _arg("Seed", -1, step=1),
        _arg("Extra", False),
        _arg("Variation seed", -1, step=1),
        _arg("Variation strength", 0.0, 0, 1, 0.01),
        _arg("Resize seed from width", 0, 0, 2048, 8),
        _arg("Resize seed from height", 0, 0, 2048, 8),
    ]
