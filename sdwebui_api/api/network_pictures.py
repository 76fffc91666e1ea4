"""What stands beside and inside a model file: its picture, small as the cards of the page show it or as it is, and its
metadata. A1111's page asks for both, and so do clients that list LoRAs with their pictures.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from sdwebui_api.api.services import Services, services_of
from sdwebui_api.catalog.beside import PICTURE_SUFFIXES
from sdwebui_api.catalog.networks import unpacked
from sdwebui_api.config.paths import Paths
from sdwebui_api.errors import BadRequest, NotFound

router = APIRouter(prefix="/sd_extra_networks", tags=["extra networks"])

LARGEST = (320, 480)
"""Pixels; twice what a card shows, for fine screens."""
KEPT = {"Cache-Control": "private, max-age=604800"}
"""The page's addresses change with the file."""
LARGEST_FILE = 64 * 2**20
"""Bytes of a picture that is answered as it is."""
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
A1111_FOLDERS = {
    "textual_inversion": "embeddings",
    "lora": "models/Lora",
    "hypernetworks": "models/hypernetworks",
    "checkpoints": "models/Stable-diffusion",
}
"""Where A1111 has models of each kind: its clients may name a picture relative to its own folder."""
COVER_IMAGES = "ssmd_cover_images"
"""Whole pictures inside a file's metadata, which nobody wants to read."""


@router.get("/thumb", response_class=Response)
async def thumb(
    request: Request,
    filename: Annotated[str | None, Query(max_length=4096)] = None,
    kind: Annotated[str, Query(max_length=40)] = "",
    file: Annotated[str, Query(max_length=1000)] = "",
) -> Response:
    """A picture in a folder of models; nothing else is ever answered.

    `filename`: A1111's way, the address on the server that `/sdapi/v1/loras` makes known; the file as it is.
    `kind` and `file`: our page's, relative to a folder of models of this kind; small, as JPEG.
    """
    services = services_of(request)
    folders = network_folders(services)
    if filename is not None:
        content, media_type = await services.off_loop(whole_picture, folders, filename)
        return Response(content, media_type=media_type)
    if kind not in folders:
        raise BadRequest(f"kind: expected one of {', '.join(folders)}", field="kind")
    return Response(await services.off_loop(small_picture, folders[kind], file), media_type="image/jpeg", headers=KEPT)


@router.get("/metadata")
async def metadata(
    request: Request,
    page: Annotated[str, Query(max_length=40)] = "",
    item: Annotated[str, Query(max_length=1000)] = "",
) -> dict[str, str]:
    """What its training tool wrote into a file: `{"metadata": TEXT}`, the text being JSON; `{}` if there is nothing.

    `page`: `lora` or `checkpoints`, whatever else answers `{}`; `item`: the file's name without extension.
    """
    services = services_of(request)
    found = await services.off_loop(_metadata, services, page, item)
    return {"metadata": json.dumps(found, indent=4, ensure_ascii=False)} if found else {}


def _metadata(services: Services, page: str, item: str) -> dict[str, Any]:
    """Opens the file if nobody has yet."""
    written: Mapping[str, Any] = {}
    if page == "lora":
        lora = services.catalog.loras.find(item)
        written = lora.metadata if lora else {}
    elif page == "checkpoints":
        files = (file for file in services.catalog.checkpoints.all() if file.stem == item)
        written = {key: unpacked(value) for file in files for key, value in file.metadata.items()}
    return {key: value for key, value in written.items() if key != COVER_IMAGES}


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


def whole_picture(folders: Mapping[str, Sequence[Path]], filename: str) -> tuple[bytes, str]:
    """The file `filename` and its media type. Raises NotFound unless it is a picture below one of `folders`."""
    from PIL import Image

    for path in _places(folders, filename):
        try:
            if path.suffix.lower() in PICTURE_SUFFIXES and path.stat().st_size <= LARGEST_FILE:
                content = path.read_bytes()
                # A link may lead elsewhere: only what is a picture leaves.
                with Image.open(BytesIO(content), formats=PICTURE_FORMATS) as image:
                    return content, Image.MIME[str(image.format)]
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue
    raise NotFound("there is no such picture", field="filename")


def _places(folders: Mapping[str, Sequence[Path]], filename: str) -> list[Path]:
    """Where `filename` may lie below `folders`: itself, or, relative to A1111's folder, in ours of the same kind."""
    name = os.path.normpath(filename)
    if os.path.isabs(name):
        inside = (folder for kind in folders for folder in folders[kind])
        return [Path(name)] if any(Path(name).is_relative_to(os.path.normpath(folder)) for folder in inside) else []
    relative = PurePosixPath(Path(name).as_posix())
    return [
        folder / relative.relative_to(A1111_FOLDERS[kind])
        for kind in folders
        if relative.is_relative_to(A1111_FOLDERS[kind])
        for folder in folders[kind]
    ]
