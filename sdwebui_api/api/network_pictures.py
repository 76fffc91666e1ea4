"""GET /sd_extra_networks/thumb: the picture beside a model file, small, as the cards of the page show it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from sdwebui_api.api.services import Services, services_of
from sdwebui_api.catalog.beside import PICTURE_SUFFIXES
from sdwebui_api.config.paths import Paths
from sdwebui_api.errors import BadRequest, NotFound

router = APIRouter(prefix="/sd_extra_networks", tags=["extra networks"])

LARGEST = (320, 480)
"""Pixels; twice what a card shows, for fine screens."""
KEPT = {"Cache-Control": "private, max-age=604800"}
"""The page's addresses change with the file."""


@router.get("/thumb", response_class=Response)
async def thumb(
    request: Request, kind: Annotated[str, Query(max_length=40)], file: Annotated[str, Query(max_length=1000)]
) -> Response:
    """`file`: relative to a folder of models of this `kind`; nothing else is ever answered."""
    services = services_of(request)
    folders = network_folders(services)
    if kind not in folders:
        raise BadRequest(f"kind: expected one of {', '.join(folders)}", field="kind")
    return Response(await services.off_loop(small_picture, folders[kind], file), media_type="image/jpeg", headers=KEPT)


def network_folders(services: Services) -> Mapping[str, Sequence[Path]]:
    """Where models of each kind of card are looked for."""
    catalog = services.catalog
    return {
        "lora": catalog.loras.folders,
        "textual_inversion": (Paths.from_flags(services.flags).embeddings_dir,),
        "hypernetworks": catalog.hypernetworks.folders,
        "checkpoints": catalog.checkpoints.folders,
    }


def small_picture(folders: Sequence[Path], file: str) -> bytes:
    """JPEG. Raises NotFound when there is no such picture below `folders`, or when it is none."""
    from PIL import Image

    for folder in folders:
        # Links below the folder may lead elsewhere: only what is a picture, drawn anew, ever leaves.
        path = Path(os.path.normpath(folder / file))
        if path.is_relative_to(folder) and path.suffix.lower() in PICTURE_SUFFIXES and os.path.isfile(path):
            try:
                with Image.open(path) as image:
                    image.draft("RGB", LARGEST)
                    image.thumbnail(LARGEST)
                    buffer = BytesIO()
                    image.convert("RGB").save(buffer, "JPEG", quality=85)
                    return buffer.getvalue()
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                break
    raise NotFound("there is no such picture", field="file")
