"""Texts beside the rows and above the columns of a grid, laid out as A1111 `modules/images.py` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageColor, ImageDraw, ImageFont

from sdwebui_api.errors import BadRequest

FONT_FILE = Path(__file__).parent / "data" / "Roboto-Regular.ttf"
STRIKE_WIDTH = 4
LINES_PER_CELL = 25
"""The text is this many times smaller than the mean side of a cell, doubled."""


@dataclass(frozen=True)
class Annotation:
    """One line of text; an inactive one (`Prompt matrix`: this part is left out) is grey and struck through."""

    text: str
    active: bool = True


Label = Sequence[Annotation]
"""The lines that belong to one row or column."""


@dataclass(frozen=True)
class Colours:
    """CSS colours; the options `grid_text_active_color`, `grid_text_inactive_color`, `grid_background_color`."""

    active: str = "#000000"
    inactive: str = "#999999"
    background: str = "#ffffff"


@dataclass(frozen=True)
class _Line:
    """A line that fits, with the size it takes in the full font."""

    text: str
    active: bool
    width: int
    height: int
    room: int


def annotate_grid(
    grid: Image.Image,
    cell: tuple[int, int],
    columns: Sequence[Label],
    rows: Sequence[Label],
    *,
    margin: int = 0,
    colours: Colours | None = None,
    font: str = "",
) -> Image.Image:
    """RGB copy of `grid`, whose cells are `cell` (width, height) pixels, with a label per column and per row.

    `margin`: pixels between the cells. `font`: the option of that name, a font file; empty takes the shipped one.
    Raises BadRequest for a font or colour that is none.
    """
    return _Sheet(cell, margin, colours or Colours(), font).draw(grid, columns, rows)


class _Sheet:
    def __init__(self, cell: tuple[int, int], margin: int, colours: Colours, font: str) -> None:
        self._width, self._height = cell
        self._margin = margin
        self._colours = colours
        self._font = font
        self._size = max(1, (self._width + self._height) // LINES_PER_CELL)
        self._spacing = self._size // 2
        self._fonts: dict[int, ImageFont.FreeTypeFont] = {}
        self._ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))

    def draw(self, grid: Image.Image, columns: Sequence[Label], rows: Sequence[Label]) -> Image.Image:
        left = self._width * 3 // 4 if any(line.text for label in rows for line in label) else 0
        above = [self._fit(label, self._width) for label in columns]
        beside = [self._fit(label, left) for label in rows]
        heights = [self._block(lines) for lines in above]
        top = max(heights) + self._spacing * 2 if sum(heights) else 0
        sheet = self._spread(grid, left, top, len(columns), len(rows))
        drawing = ImageDraw.Draw(sheet)
        for index, lines in enumerate(above):
            x = left + (self._width + self._margin) * index + self._width / 2
            self._write(drawing, x, top / 2 - heights[index] / 2, lines)
        for index, lines in enumerate(beside):
            # A1111 counts no gap at all between the lines here, so that blocks of several lines sit a little low.
            height = sum(line.height for line in lines)
            y = top + (self._height + self._margin) * index + self._height / 2 - height / 2
            self._write(drawing, left / 2, y, lines)
        return sheet

    def _fit(self, label: Label, room: int) -> list[_Line]:
        """`label` wrapped between words to `room` pixels."""
        font = self._at(self._size)
        lines = []
        for line in label:
            for text in wrap(line.text, room, lambda text: self._ruler.textlength(text, font=font)):
                x1, y1, x2, y2 = self._ruler.multiline_textbbox((0, 0), text, font=font)
                lines.append(_Line(text, line.active, int(x2 - x1), int(y2 - y1), room))
        return lines

    def _block(self, lines: Sequence[_Line]) -> int:
        return sum(line.height + self._spacing for line in lines) - self._spacing

    def _spread(self, grid: Image.Image, left: int, top: int, columns: int, rows: int) -> Image.Image:
        """The cells of `grid` on a larger sheet, `left` and `top` pixels free and the margin between them."""
        width, height, margin = self._width, self._height, self._margin
        size = (grid.width + left + margin * (columns - 1), grid.height + top + margin * (rows - 1))
        sheet = Image.new("RGB", size, _colour(self._colours.background, "grid_background_color"))
        for row in range(rows):
            for column in range(columns):
                box = (width * column, height * row, width * (column + 1), height * (row + 1))
                sheet.paste(grid.crop(box), (left + (width + margin) * column, top + (height + margin) * row))
        return sheet

    def _write(self, drawing: ImageDraw.ImageDraw, x: float, y: float, lines: Sequence[_Line]) -> None:
        """`lines` centred at `x`, the first one starting at `y`."""
        active = _colour(self._colours.active, "grid_text_active_color")
        inactive = _colour(self._colours.inactive, "grid_text_inactive_color")
        for line in lines:
            position = (x, y + line.height / 2)
            colour = active if line.active else inactive
            drawing.multiline_text(
                position, line.text, font=self._shrunk(line), fill=colour, anchor="mm", align="center"
            )
            if not line.active:
                half, middle = line.width // 2, y + line.height // 2
                drawing.line((x - half, middle, x + half, middle), fill=inactive, width=STRIKE_WIDTH)
            y += line.height + self._spacing

    def _shrunk(self, line: _Line) -> ImageFont.FreeTypeFont:
        """The font at the largest size in which a single long word still fits."""
        for size in range(self._size, 1, -1):
            font = self._at(size)
            x1, _, x2, _ = self._ruler.multiline_textbbox((0, 0), line.text, font=font)
            if x2 - x1 <= line.room:
                return font
        return self._at(1)

    def _at(self, size: int) -> ImageFont.FreeTypeFont:
        """The font at `size`; this sheet's own, for fonts must not be shared between threads."""
        if size not in self._fonts:
            self._fonts[size] = load_font(self._font, size)
        return self._fonts[size]


def wrap(text: str, room: float, length: Callable[[str], float]) -> list[str]:
    """`text` broken between words into lines of at most `room`, by `length`; a longer word gets its own line.

    The first line stays empty when not even the first word fits (as in A1111).
    """
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if length(longer) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def load_font(file: str, size: int) -> ImageFont.FreeTypeFont:
    """The font in `file` (empty: the shipped one) at `size` pixels. Raises BadRequest when it is none."""
    try:
        return ImageFont.truetype(file or FONT_FILE, size)
    except (OSError, TypeError, ValueError):  # not even a file's name: a zero byte in it
        raise BadRequest(f"{file!r} is not a font file", field="font") from None


def _colour(text: str, field: str) -> int | tuple[int, ...]:
    try:
        return ImageColor.getcolor(text, "RGB")
    except ValueError:
        raise BadRequest(f"{text!r} is not a colour", field=field) from None
