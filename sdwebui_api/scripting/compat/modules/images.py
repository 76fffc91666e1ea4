"""`modules.images`: resizing, grids, saving, reading infotexts."""

from __future__ import annotations

import re
from collections import namedtuple
from pathlib import Path
from typing import Any

from PIL import Image

from sdwebui_api.imaging.codec import encode_image
from sdwebui_api.imaging.metadata import read_info_from_image
from sdwebui_api.imaging.resize import flatten
from sdwebui_api.imaging.resize import resize_image as _resize_image
from sdwebui_api.imaging.tiles import cut
from sdwebui_api.imaging.upscale import find_upscaler
from sdwebui_api.scripting.compat.world import current_options, view, world

__all__ = ["flatten", "image_grid", "read_info_from_image", "resize_image", "save_image"]

Grid = namedtuple("Grid", ["tiles", "tile_w", "tile_h", "image_w", "image_h", "overlap"])
LANCZOS = Image.Resampling.LANCZOS
NEAREST = Image.Resampling.NEAREST
_UNSAFE = re.compile(r'[\n\r\t#<>:"/\\|?*]')


def resize_image(
    resize_mode: int,
    im: Any,
    width: int,
    height: int,
    upscaler_name: str | None = None,
    force_RGBA: bool = False,
) -> Any:
    """0 just resize, 1 crop and resize, 2 resize and fill."""
    name = upscaler_name or current_options().upscaler_for_img2img
    found = view()
    known = getattr(found.context, "upscalers", None) if found else None
    upscaler = None
    if name and name != "None":
        upscaler = find_upscaler(name, "upscaler", known) if known else find_upscaler(name, "upscaler")
    return _resize_image(resize_mode, im, width, height, upscaler)


def image_grid(imgs: Any, batch_size: int = 1, rows: int | None = None) -> Any:
    from sdwebui_api.imaging.grid import image_grid as grid

    options = current_options()
    return grid(
        list(imgs), batch_size, n_rows=options.n_rows if rows is None else rows,
        prevent_empty_spots=options.grid_prevent_empty_spots, background=options.grid_background_color,
    )  # fmt: skip


def split_grid(image: Any, tile_w: int = 512, tile_h: int = 512, overlap: int = 64) -> Grid:
    """`tiles` is [[y, tile_h, [[x, tile_w, tile], …]], …]; scripts put other tiles in their place."""
    tiling = cut(image.width, image.height, tile_w, tile_h, overlap)
    rows = [[y, tile_h, [[x, tile_w, tiling.tile(image, (x, y))] for x in tiling.xs]] for y in tiling.ys]
    return Grid(rows, tile_w, tile_h, image.width, image.height, overlap)


def combine_grid(grid: Grid) -> Any:
    """The picture of the tiles, each faded into the one before it."""
    tiling = cut(grid.image_w, grid.image_h, grid.tile_w, grid.tile_h, grid.overlap)
    return tiling.combine({(x, y): tile for y, _, row in grid.tiles for x, _, tile in row})


def sanitize_filename_part(text: str | None, replace_spaces: bool = True) -> str | None:
    if text is None:
        return None
    return _UNSAFE.sub("_", text.replace(" ", "_") if replace_spaces else text).lstrip(" ").rstrip(" .")[:128]


def get_next_sequence_number(path: str, basename: str) -> int:
    """One more than the highest number of the files `basename-0001…` (or `00001…`) in `path`."""
    prefix = f"{basename}-" if basename else ""
    numbers = [re.match(rf"{re.escape(prefix)}(\d+)", file.name) for file in Path(path).glob(f"{prefix}*")]
    return max((int(match.group(1)) for match in numbers if match), default=-1) + 1


def save_image(
    image: Any,
    path: str,
    basename: str,
    seed: Any = None,
    prompt: str | None = None,
    extension: str = "png",
    info: str | None = None,
    short_filename: bool = False,
    no_prompt: bool = False,
    grid: bool = False,
    pnginfo_section_name: str = "parameters",
    p: Any = None,
    existing_info: Any = None,
    forced_filename: str | None = None,
    suffix: str = "",
    save_to_dirs: bool | None = None,
) -> tuple[str, None]:
    """Saves into `path`, below the data folder when relative; returns the file. Names are a number and the seed."""
    folder = world().paths.resolve(str(path or "outputs"))
    folder.mkdir(parents=True, exist_ok=True)
    options = current_options()
    if forced_filename is None:
        number = get_next_sequence_number(str(folder), basename or "")
        name = f"{basename}-{number:04}" if basename else f"{number:05}"
        name += f"-{seed}" if seed is not None and not grid else ""
    else:
        name = forced_filename
    data = encode_image(
        image, extension, quality=options.jpeg_quality, webp_lossless=options.webp_lossless,
        infotext=info if options.enable_pnginfo else None,
    )  # fmt: skip
    target = folder / f"{name}{suffix}.{extension}"
    target.write_bytes(data)
    image.already_saved_as = str(target)
    return str(target), None


def read(fp: Any, **kwargs: Any) -> Any:
    return fix_image(Image.open(fp, **kwargs))


def fix_image(image: Any) -> Any:
    """Turned as its EXIF says."""
    from PIL import ImageOps

    return ImageOps.exif_transpose(image) if image is not None else None


def image_data(data: bytes) -> tuple[Any, Any]:
    """(infotext, None) of the bytes of a picture."""
    import io

    return read_info_from_image(Image.open(io.BytesIO(data)))[0], None
