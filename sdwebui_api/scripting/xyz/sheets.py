"""Putting the pictures of a plot together: a sheet per value of z, and all sheets side by side."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from sdwebui_api.config.options import Options
from sdwebui_api.imaging.annotations import Annotation, Colours, annotate_grid
from sdwebui_api.imaging.grid import image_grid
from sdwebui_api.scripting.xyz.plot import Plot


def grid_colours(options: Options) -> Colours:
    return Colours(options.grid_text_active_color, options.grid_text_inactive_color, options.grid_background_color)


def draw_sheets(
    pictures: Sequence[Image.Image], plot: Plot, options: Options, *, legend: bool, margin: int
) -> list[Image.Image]:
    """One grid per value of z, rows along y and columns along x; `pictures` in the order of the answer."""
    sheets = []
    for start in range(0, plot.count, plot.cells_per_sheet):
        part = pictures[start : start + plot.cells_per_sheet]
        sheet = image_grid(part, rows=plot.rows, background=options.grid_background_color)
        if legend:
            sheet = annotate_grid(
                sheet,
                _largest(part),
                [[Annotation(text)] for text in plot.x.labels],
                [[Annotation(text)] for text in plot.y.labels],
                margin=margin,
                colours=grid_colours(options),
                font=options.font,
            )
        sheets.append(sheet)
    return sheets


def draw_overview(sheets: Sequence[Image.Image], plot: Plot, options: Options, *, legend: bool) -> Image.Image:
    """All sheets in one row, under the values of z."""
    overview = image_grid(sheets, rows=1, background=options.grid_background_color)
    if not legend:
        return overview
    return annotate_grid(
        overview,
        _largest(sheets),
        [[Annotation(text)] for text in plot.z.labels],
        [[Annotation("")]],
        colours=grid_colours(options),
        font=options.font,
    )


def _largest(images: Sequence[Image.Image]) -> tuple[int, int]:
    return max(image.width for image in images), max(image.height for image in images)
