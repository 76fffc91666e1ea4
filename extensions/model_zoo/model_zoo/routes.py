"""Below /model_zoo/v1: models, download.

What changes something has a method (PUT, DELETE) that other sites cannot send from a visitor's browser unless
`--cors-allow-origins` names them. Only what the catalogue offers is fetched: no request names an address.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request

from model_zoo.catalogue import LOCAL_NAME, Catalogue, Entry, Place, place_of, read_catalogue
from model_zoo.downloads import Download, Downloads, shown
from sdwebui_api.api.services import Services, services_of, user_of
from sdwebui_api.config.flags import Flags, UserFlags
from sdwebui_api.config.paths import Paths
from sdwebui_api.errors import BadRequest, NotFound, NotStored, Unauthorized, nearest

router = APIRouter(prefix="/model_zoo/v1", tags=["ModelZoo"])


def _services(request: Request) -> Services:
    """As the caller sees them. Raises Unauthorized where the page asks for a log-in and nobody is known."""
    services = services_of(request)
    if (services.flags.gradio_auth or services.flags.gradio_auth_path) and user_of(request) is None:
        raise Unauthorized("Not authenticated")
    return services


def _downloads(request: Request) -> Downloads:
    downloads: Downloads = request.app.state.model_zoo_downloads
    return downloads


@router.get("/models")
async def list_models(request: Request) -> dict[str, Any]:
    """`{"models": [...], "problems": [...], "data_dir": path, "local_catalogue": path}`.

    A model has the catalogue's fields, `folder`, `local` (of the owner's own catalogue), and how it stands: `state`
    (absent, partial, waiting, downloading, verifying, installed, other), `received`, `total`, `bytes_per_second`,
    `error`.
    """
    services, downloads = _services(request), _downloads(request)
    catalogue = await services.off_loop(read_catalogue, _owners_folder(services.flags))
    places, problems = [], list(catalogue.problems)
    for entry in catalogue.entries.values():
        try:
            places.append((entry, place_of(entry, services.flags)))
        except BadRequest as error:
            problems.append(f"{entry.id}: {error.message}")
    found = [(entry, place, downloads.find(place)) for entry, place in places]
    rows = await services.off_loop(lambda: [_row(catalogue, *one) for one in found])
    home, local = Paths.from_flags(services.flags).data_dir, _owners_folder(services.flags) / LOCAL_NAME
    return {"models": rows, "problems": problems, "data_dir": str(home), "local_catalogue": str(local)}


def _owners_folder(flags: Flags) -> Path:
    """The server's data directory: users add nothing to what is offered."""
    return Paths.from_flags(flags.server if isinstance(flags, UserFlags) else flags).data_dir


def _row(catalogue: Catalogue, entry: Entry, place: Place, download: Download | None) -> dict[str, Any]:
    stands = shown(entry, place, download)
    return {**entry.model_dump(), "folder": str(place.target.parent), "local": entry.id in catalogue.local, **stands}


@router.put("/download")
async def start_download(request: Request, id: str) -> dict[str, Any]:
    """Begins, or goes on with what has arrived. Answers at once, as `models` lists it; 409: it is there."""
    services, downloads = _services(request), _downloads(request)
    catalogue, entry, place = await _find(services, id)
    download = downloads.start(entry, place, lambda: _arrived(services))
    return await services.off_loop(_row, catalogue, entry, place, download)


@router.delete("/download")
async def stop_download(request: Request, id: str, discard: bool = False) -> dict[str, Any]:
    """Stops it; what has arrived is kept for another time, unless `discard`."""
    services, downloads = _services(request), _downloads(request)
    catalogue, entry, place = await _find(services, id)
    await downloads.cancel(place)
    if discard:
        try:
            downloads.discard(place)
        except OSError as error:
            raise NotStored(f"{place.part} cannot be removed: {error.strerror}") from error
    return await services.off_loop(_row, catalogue, entry, place, downloads.find(place))


async def _find(services: Services, id: str) -> tuple[Catalogue, Entry, Place]:
    """Raises NotFound, and BadRequest for an entry whose file has no place here."""
    catalogue = await services.off_loop(read_catalogue, _owners_folder(services.flags))
    entry = catalogue.entries.get(id)
    if entry is None:
        raise NotFound(f"There is no model {id[:100]!r}", field="id", choices=nearest(id, catalogue.entries))
    return catalogue, entry, await services.off_loop(place_of, entry, services.flags)


def _arrived(services: Services) -> None:
    """The new file can be chosen."""
    services.catalog.refresh()
    services.engine.refresh_embeddings()
