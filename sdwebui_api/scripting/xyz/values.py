"""The texts in which a plot's axis values are written: comma separated, with ranges for numbers.

`1-5` counts, `1-5 (+2)` counts by two, `1-5 [3]` spreads three values evenly. As A1111 `scripts/xyz_grid.py`.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import permutations
from typing import Literal

import numpy as np

from sdwebui_api.errors import BadRequest

ValueKind = Literal["int", "float", "text", "permutations"]

MAX_VALUES = 10_000
"""More than any plot has; keeps `1-999999999` from filling the memory."""
_MAX_PERMUTED = 7

_INT, _FLOAT = r"[+-]?\s*\d+", r"[+-]?\s*\d+(?:\.\d*)?"


def _range(number: str, step: str) -> re.Pattern[str]:
    return re.compile(
        rf"\s*(?P<start>{number})\s*-\s*(?P<stop>{number})(?:\s*\((?P<step>{step})\s*\)|\s*\[(?P<count>\d+)\s*\])?\s*"
    )


_INT_RANGE = _range(_INT, r"[+-]\d+")
_FLOAT_RANGE = _range(_FLOAT, r"[+-]\d+(?:\.\d*)?")


def split_values(text: str) -> list[str]:
    """The values of `text`: commas and line ends part them, double quotes hold them together."""
    try:
        rows = list(csv.reader(io.StringIO(text), skipinitialspace=True))
    except csv.Error as error:
        raise BadRequest(f"the values are no comma separated list: {error}") from None
    return [value.strip() for row in rows for value in row]


def join_values(values: Iterable[str]) -> str:
    """The opposite of `split_values`."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(list(values))
    return line.getvalue()


def read_values(texts: Sequence[object], kind: ValueKind, field: str) -> list[object]:
    """The values of an axis: ranges counted out, numbers read. Raises BadRequest naming `field`."""
    if kind == "text":
        return [str(text) for text in texts]
    if kind == "permutations":
        return _permutations([str(text) for text in texts], field)
    read = _ints if kind == "int" else _floats
    values: list[object] = []
    for text in (str(text) for text in texts):
        if text.strip():
            values += _numbers(text, read, kind, field)
        if len(values) > MAX_VALUES:
            raise BadRequest(f"more than {MAX_VALUES} values", field=field)
    return values


def _numbers(text: str, read: Callable[[str], list[int] | list[float]], kind: str, field: str) -> list[object]:
    try:
        values: list[object] = list(read(text))
    except (ValueError, OverflowError, ZeroDivisionError):
        raise BadRequest(f"{text[:100]!r} is no {kind}, nor a range of them", field=field) from None
    if any(isinstance(value, float) and not math.isfinite(value) for value in values):
        raise BadRequest(f"{text[:100]!r} is not finite", field=field)
    return values


def _ints(text: str) -> list[int]:
    found = _INT_RANGE.fullmatch(text)
    if found is None:
        return [int(text)]
    start, stop = _int(found["start"]), _int(found["stop"])
    if found["count"] is not None:
        return [int(value) for value in _spread(start, stop, int(found["count"]))]
    counted = range(start, stop + 1, int(found["step"] or 1))
    return list(counted[: MAX_VALUES + 1])


def _floats(text: str) -> list[float]:
    found = _FLOAT_RANGE.fullmatch(text)
    if found is None:
        return [float(text)]
    start, stop = _float(found["start"]), _float(found["stop"])
    if found["count"] is not None:
        return _spread(start, stop, int(found["count"]))
    step = float(found["step"] or 1)
    if (stop - start) / step > MAX_VALUES:
        raise OverflowError
    return [float(value) for value in np.arange(start, stop + step, step)]


def _spread(start: float, stop: float, count: int) -> list[float]:
    if count > MAX_VALUES:
        raise OverflowError
    return [float(value) for value in np.linspace(start, stop, count)]


def _int(text: str) -> int:
    return int("".join(text.split()))


def _float(text: str) -> float:
    return float("".join(text.split()))


def _permutations(values: list[str], field: str) -> list[object]:
    if len(values) > _MAX_PERMUTED:
        raise BadRequest(f"more than {_MAX_PERMUTED} parts have too many orders", field=field)
    return list(permutations(values))
