"""Below /file_browser/v1: list, download, preview, upload, folder, entry.

What changes something has a method (PUT, PATCH, DELETE) that other sites cannot send from a visitor's browser unless
`--cors-allow-origins` names them.
"""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, JSONResponse

from file_browser.changes import delete, disk_errors, make_folder, move
from file_browser.tree import FileTree
from file_browser.uploads import MOST_PART_BYTES, PART_BYTES, Upload, Uploads
from sdwebui_api.api.services import services_of, user_of
from sdwebui_api.errors import Cancelled, PayloadTooLarge, Unauthorized

router = APIRouter(prefix="/file_browser/v1", tags=["FileBrowser"])
MOST_ENTRIES = 5000
PREVIEW_PIXELS = 768
MOST_PICTURE_BYTES = 64 * 2**20
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".avif", ".tif", ".tiff")
HOLD_BYTES = 2**20
"""Collected before it is written."""
Size = Annotated[int, Query(ge=0, le=2**62)]


def tree_of(request: Request) -> FileTree:
    """What the caller may see. Raises Unauthorized where the page asks for a log-in and nobody is known."""
    flags = services_of(request).flags
    if (flags.gradio_auth or flags.gradio_auth_path) and user_of(request) is None:
        raise Unauthorized("Not authenticated")
    return FileTree.from_flags(flags)


def uploads_of(request: Request) -> Uploads:
    uploads: Uploads = request.app.state.file_browser_uploads
    return uploads


@router.get("/list")
async def list_folder(request: Request, path: str = "") -> dict[str, Any]:
    """`{"path", "entries": [{"name", "kind", "size", "modified", "picture"}], "truncated"}`, folders first."""
    return await services_of(request).off_loop(_listing, tree_of(request), path)


def _listing(tree: FileTree, path: str) -> dict[str, Any]:
    rows = []
    with disk_errors(path):
        for entry in tree.entries(path):
            try:
                status, folder, file = entry.stat(), entry.is_dir(), entry.is_file()
            except OSError:  # it went away meanwhile
                continue
            if folder or (file and path):
                rows.append(_row(entry.name, folder, status.st_size, status.st_mtime))
    rows.sort(key=lambda row: (row["kind"] != "folder", row["name"].casefold(), row["name"]))
    return {"path": path, "entries": rows[:MOST_ENTRIES], "truncated": len(rows) > MOST_ENTRIES}


def _row(name: str, folder: bool, size: int, modified: float) -> dict[str, Any]:
    picture = not folder and name.lower().endswith(PICTURES)
    kind = "folder" if folder else "file"
    return {"name": name, "kind": kind, "size": 0 if folder else size, "modified": modified, "picture": picture}


@router.api_route("/download", methods=["GET", "HEAD"])
async def download(request: Request, path: str) -> FileResponse:
    """The file as an attachment; ranges are answered, so a download can go on where it broke off."""
    file = await services_of(request).off_loop(tree_of(request).file, path)
    # Never shown by the browser: a page among the files would speak with this server's voice.
    headers = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox", "Cache-Control": "no-cache"}
    return FileResponse(file, media_type="application/octet-stream", filename=file.name, headers=headers)


@router.get("/preview")
async def preview(request: Request, path: str) -> dict[str, Any]:
    """`{"width", "height", "infotext", "picture"}`; picture: a smaller one, as a data URI."""
    return await services_of(request).off_loop(_preview, tree_of(request), path)


def _preview(tree: FileTree, path: str) -> dict[str, Any]:
    from sdwebui_api.imaging.codec import read_image
    from sdwebui_api.imaging.metadata import read_info_from_image

    file = tree.file(path)
    with disk_errors(path):
        if file.stat().st_size > MOST_PICTURE_BYTES:
            raise PayloadTooLarge(
                f"pictures of more than {MOST_PICTURE_BYTES // 2**20} MiB are not shown", field="path"
            )
        image = read_image(file.read_bytes(), "path")
    width, height = image.size
    infotext, _ = read_info_from_image(image)
    image.thumbnail((PREVIEW_PIXELS, PREVIEW_PIXELS))
    encoded = io.BytesIO()
    image.convert("RGBA" if "A" in image.getbands() else "RGB").save(encoded, "WEBP", quality=85, exif=b"")
    picture = f"data:image/webp;base64,{base64.b64encode(encoded.getvalue()).decode()}"
    return {"width": width, "height": height, "infotext": infotext or "", "picture": picture}


@router.put("/folder")
async def new_folder(request: Request, path: str) -> dict[str, Any]:
    await services_of(request).off_loop(make_folder, tree_of(request), path)
    return {"path": path}


class Move(BaseModel):
    path: str
    to: str


@router.patch("/entry")
async def rename_entry(request: Request, body: Move) -> dict[str, Any]:
    """Renames or moves; 409 when there is something already."""
    await services_of(request).off_loop(move, tree_of(request), body.path, body.to)
    return {"path": body.to}


@router.delete("/entry")
async def delete_entry(request: Request, path: str, recursive: bool = False) -> dict[str, Any]:
    """409 for a folder with something in it, unless `recursive`."""
    await services_of(request).off_loop(delete, tree_of(request), path, recursive)
    return {"path": path}


@router.get("/upload")
async def upload_state(request: Request, path: str, size: Size, id: str, replace: bool = False) -> dict[str, Any]:
    """`{"offset", "part_bytes"}`: from where to send, and how much at once."""
    upload = await _admitted(request, path, size, id, replace)
    return {"offset": upload.received, "part_bytes": PART_BYTES, "complete": False}


@router.put("/upload")
async def upload_part(
    request: Request, path: str, size: Size, id: str, offset: Size = 0, replace: bool = False
) -> JSONResponse:
    """The next bytes of a file, as the body. Answers `{"offset", "complete"}`; 409 for another offset than the next.

    A part that breaks off is kept as far as it came.
    """
    upload = await _admitted(request, path, size, id, replace)
    services, uploads = services_of(request), uploads_of(request)
    with ExitStack() as stack:
        file = await services.off_loop(stack.enter_context, uploads.writing(upload, offset))
        written = offset
        async for block in _blocks(request):
            written += len(block)
            if written > size or written - offset > MOST_PART_BYTES:
                raise PayloadTooLarge(f"more bytes than the {size} announced, or than a part may have", field="size")
            await services.off_loop(file.write, block)
        complete = await services.off_loop(uploads.finish, upload, file)
    return JSONResponse({"offset": written, "complete": complete})


@router.delete("/upload")
async def discard_upload(request: Request, path: str, size: Size, id: str) -> dict[str, Any]:
    """Forgets what has arrived."""
    upload = await _admitted(request, path, size, id, replace=True)
    await services_of(request).off_loop(uploads_of(request).discard, upload)
    return {"offset": 0}


async def _admitted(request: Request, path: str, size: int, id: str, replace: bool) -> Upload:
    admit = uploads_of(request).admit
    return await services_of(request).off_loop(admit, tree_of(request), path, size, id, replace)


async def _blocks(request: Request) -> AsyncIterator[bytes]:
    """The body in pieces worth a write. Where the client goes away, what came before is yielded, then Cancelled."""
    held = bytearray()
    try:
        async for piece in request.stream():
            held += piece
            if len(held) >= HOLD_BYTES:
                yield bytes(held)
                held.clear()
    except ClientDisconnect:
        yield bytes(held)
        raise Cancelled("The client went away before the end of the part") from None
    if held:
        yield bytes(held)
