"""Contact sheets of a batch, laid out as A1111 `modules/images.py` (image_grid) does."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageColor

from sdwebui_api.errors import BadRequest


def grid_rows(count: int, batch_size: int = 1, n_rows: float = -1, prevent_empty_spots: bool = False) -> int:
    """How many rows a grid of `count` pictures has.

    `n_rows` (option of that name) above 0 fixes it, 0 takes the batch size, -1 makes it about square;
    `prevent_empty_spots` then picks the largest divisor that is not above the square root.
    """
    if n_rows > 0:
        rows = int(n_rows)
    elif n_rows == 0:
        rows = batch_size
    elif prevent_empty_spots:
        rows = math.isqrt(count)
        while count % rows:
            rows -= 1
    else:
        rows = round(math.sqrt(count))
    return max(1, min(rows, count))


def image_grid(
    images: Sequence[Image.Image],
    batch_size: int = 1,
    rows: int | None = None,
    *,
    n_rows: float = -1,
    prevent_empty_spots: bool = False,
    background: str = "#ffffff",
) -> Image.Image:
    """RGB grid of `images` (at least one), row by row; smaller ones are centred in their cell.

    `rows` overrides the options `n_rows` and `grid_prevent_empty_spots`. Raises BadRequest for no colour.
    """
    if rows is None:
        rows = grid_rows(len(images), batch_size, n_rows, prevent_empty_spots)
    rows = max(1, min(rows, len(images)))
    columns = math.ceil(len(images) / rows)
    width = max(image.width for image in images)
    height = max(image.height for image in images)
    grid = Image.new("RGB", (columns * width, rows * height), _colour(background))
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        x = column * width + (width - image.width) // 2
        y = row * height + (height - image.height) // 2
        grid.paste(image, box=(x, y))
    return grid


def _colour(text: str) -> int | tuple[int, ...]:
    try:
        return ImageColor.getcolor(text, "RGB")
    except ValueError:
        raise BadRequest(f"{text!r} is not a colour", field="grid_background_color") from None
