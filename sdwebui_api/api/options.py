"""GET and POST options."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request

from sdwebui_api.api.response_schema import Options as OptionsAnswer
from sdwebui_api.api.response_schema import answers
from sdwebui_api.api.services import Services, services_of
from sdwebui_api.config.paths import Paths
from sdwebui_api.errors import BadRequest
from sdwebui_api.generation.saving import FOLDER_OPTIONS
from sdwebui_api.storage.local import LocalStorage

log = logging.getLogger(__name__)

router = APIRouter(prefix="/sdapi/v1", tags=["options"])

VAE_WORDS = ("automatic", "auto", "none", "")


@router.get("/options", **answers(OptionsAnswer))
async def get_options(request: Request) -> dict[str, Any]:
    """All settings, one flat object."""
    services = services_of(request)
    checkpoint = services.current_checkpoint()
    if checkpoint is not None and checkpoint.known_sha256 is None:
        return await services.off_loop(_current, services)  # has to be hashed first
    return _current(services)


@router.post("/options")
async def set_options(request: Request, values: Annotated[dict[str, Any], Body()]) -> None:
    """Takes over any subset, or the whole object; all of it or, when a value is wrong, nothing.

    As in A1111, folders are no mistake: one that nothing can be saved in stays as it was, and the log says so.
    """
    services = services_of(request)
    unusable = await services.off_loop(unusable_folders, services, values)
    for name, error in unusable.items():
        log.warning("%s is not taken over: %s", name, error.message)
    try:
        await apply_options(services, {name: value for name, value in values.items() if name not in unusable})
    except BadRequest as error:
        # The body is the object of options itself.
        error.field = (error.field or "").removeprefix("options.") or None
        raise


async def apply_options(services: Services, values: Mapping[str, Any]) -> None:
    """Stores `values`, all or none, and begins to load another checkpoint when they chose one.

    Raises BadRequest(422) and NotFound naming the setting, SdWebUIError when they cannot be saved.
    """
    if await services.off_loop(store_options, services, values):
        checkpoint = services.current_checkpoint()
        if checkpoint is not None:
            services.executor.submit(_warm, services, checkpoint)


def _current(services: Services) -> dict[str, Any]:
    values = services.options.snapshot().as_dict()
    checkpoint = services.current_checkpoint()
    if checkpoint is not None:
        values["sd_model_checkpoint"] = checkpoint.title
        values["sd_checkpoint_hash"] = checkpoint.sha256 or ""
    return values


def store_options(services: Services, values: Mapping[str, Any]) -> bool:
    """Checks names of files and folders, stores; True when another checkpoint is the current one now."""
    before = services.current_checkpoint()
    accepted = dict(values)
    wanted = accepted.pop("sd_model_checkpoint", None)
    if wanted is not None and str(wanted).strip():
        found = services.catalog.checkpoints.find(str(wanted))
        # GET shows the current one also where none is stored: to post it back changes nothing.
        if found != before or not services.options.is_frozen("sd_model_checkpoint"):
            accepted["sd_model_checkpoint"] = found.title
    vae = accepted.get("sd_vae")
    if vae is not None and str(vae).strip().lower() not in VAE_WORDS:
        accepted["sd_vae"] = services.catalog.vaes.find(str(vae)).name
    for error in unusable_folders(services, accepted).values():
        raise error
    for warning in services.options.update(accepted):
        log.warning("%s", warning)
    return services.current_checkpoint() != before


def unusable_folders(services: Services, values: Mapping[str, Any]) -> dict[str, BadRequest]:
    """Of `values` the folders outside of those that may be written to, with what is to be said of each.

    Now, not when somebody else's picture cannot be saved. What is set already passes: clients post it all back.
    """
    storage, stored = LocalStorage(Paths.from_flags(services.flags).data_dir), services.options.snapshot()
    found: dict[str, BadRequest] = {}
    for name in sorted(FOLDER_OPTIONS & values.keys()):
        folder = values[name]
        if isinstance(folder, str) and folder and folder != stored[name]:
            try:
                storage.folder(folder, f"options.{name}")
            except BadRequest as error:
                found[name] = error
    return found


def _warm(services: Services, checkpoint: Any) -> None:
    try:
        services.engine.warm(checkpoint)
    except Exception:
        # The next request meets the same error and reports it to its client.
        log.warning("%s could not be loaded", checkpoint.name, exc_info=True)
