"""A plot from its arguments to its cells: which values each axis has, and the request of every cell."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from sdwebui_api.errors import BadRequest
from sdwebui_api.generation.request import LARGEST_RANDOM_SEED, GenerationRequest
from sdwebui_api.scripting.hooks import Kind
from sdwebui_api.scripting.xyz.axis import Axis, Names
from sdwebui_api.scripting.xyz.table import NOTHING, find_axis
from sdwebui_api.scripting.xyz.values import join_values, read_values, split_values

SEED_AXES = ("Seed", "Var. seed")


@dataclass(frozen=True)
class AxisArguments:
    """One axis as the wire has it. `name` is X, Y or Z; `field` names the argument in errors."""

    name: str
    type: object
    text: str
    listed: Sequence[object]
    field: str


@dataclass(frozen=True)
class PlotAxis:
    """One axis of a plot with its values; the axis `Nothing` has exactly one."""

    name: str
    axis: Axis
    values: tuple[Any, ...]
    text: str = ""
    """The values as they were asked for."""

    @property
    def labels(self) -> list[str]:
        return [self.axis.text(value) for value in self.values]

    @property
    def used(self) -> bool:
        return self.axis is not NOTHING

    def apply(self, request: GenerationRequest, index: int, names: Names) -> GenerationRequest:
        return self.axis.apply(request, self.values[index], self.values, names)

    def infotext(self, *, fixed_seeds: bool) -> dict[str, Any]:
        """What the infotext of a grid says of this axis."""
        if not self.used:
            return {}
        entries = {f"{self.name} Type": self.axis.label, f"{self.name} Values": self.text}
        if self.axis.label in SEED_AXES and fixed_seeds:
            entries[f"Fixed {self.name} Values"] = ", ".join(str(value) for value in self.values)
        return entries


@dataclass(frozen=True)
class Cell:
    """A place in the plot: column, row and sheet."""

    x: int
    y: int
    z: int


@dataclass(frozen=True)
class Plot:
    """All cells of a plot. `vary_seeds`: whether the seed also grows along x, y and z."""

    x: PlotAxis
    y: PlotAxis
    z: PlotAxis
    vary_seeds: tuple[bool, bool, bool] = (False, False, False)

    @property
    def columns(self) -> int:
        return len(self.x.values)

    @property
    def rows(self) -> int:
        return len(self.y.values)

    @property
    def sheets(self) -> int:
        return len(self.z.values)

    @property
    def cells_per_sheet(self) -> int:
        return self.columns * self.rows

    @property
    def count(self) -> int:
        return self.cells_per_sheet * self.sheets

    def index(self, cell: Cell) -> int:
        """Place in the answer: column by column, row by row, sheet by sheet."""
        return cell.x + cell.y * self.columns + cell.z * self.cells_per_sheet

    def cells(self) -> Iterator[Cell]:
        """In the order of work: what is dear to change changes least often."""
        axes = sorted((("z", self.z), ("y", self.y), ("x", self.x)), key=lambda pair: -pair[1].axis.cost)
        names = [name for name, _ in axes]
        for indices in product(*(range(len(axis.values)) for _, axis in axes)):
            yield Cell(**dict(zip(names, indices, strict=True)))

    def request(self, base: GenerationRequest, cell: Cell, names: Names) -> GenerationRequest:
        """`base` changed as the cell's place wants it. Raises BadRequest and NotFound for values that are none."""
        changed = self.x.apply(base, cell.x, names)
        changed = self.y.apply(changed, cell.y, names)
        changed = self.z.apply(changed, cell.z, names)
        along_x, along_y, along_z = self.vary_seeds
        width = self.columns if along_x else 1
        height = self.rows if along_y else 1
        offset = cell.x * along_x + cell.y * width * along_y + cell.z * width * height * along_z
        return replace(changed, seed=_drawn(changed.seed) + offset, subseed=_drawn(changed.subseed))

    def check(self, base: GenerationRequest, names: Names) -> None:
        """Raises BadRequest or NotFound before any work when a value of any axis is none."""
        for axis in (self.x, self.y, self.z):
            for index in range(len(axis.values)):
                axis.apply(base, index, names)


def read_axis(arguments: AxisArguments, kind: Kind, *, csv_mode: bool, keep_random_seeds: bool) -> PlotAxis:
    """The axis that `arguments` describe. Raises BadRequest when they make no sense."""
    axis = find_axis(arguments.type, kind, f"{arguments.field}.{arguments.name.lower()}_type")
    field = f"{arguments.field}.{arguments.name.lower()}_values"
    if axis is NOTHING:
        return PlotAxis(arguments.name, axis, (0,))
    listed = axis.choices is not None and not csv_mode and bool(arguments.listed)
    texts = [str(value) for value in arguments.listed] if listed else split_values(arguments.text)
    values = read_values(texts, axis.kind, field)
    _check(axis, values, field)
    if axis.label in SEED_AXES and not keep_random_seeds:
        values = [_drawn(value) for value in values]
    return PlotAxis(arguments.name, axis, tuple(values), join_values(texts) if listed else arguments.text)


def _check(axis: Axis, values: Sequence[Any], field: str) -> None:
    if not values:
        raise BadRequest(f"the axis {axis.label} has no values", field=field)
    low, high = axis.limits or (0, 0)
    for value in values:
        if axis.limits and not low <= value <= high:
            raise BadRequest(f"{axis.label} goes from {low} to {high}, not to {value}", field=field)


def _drawn(seed: Any) -> Any:
    """A random seed for -1."""
    return random.randrange(LARGEST_RANDOM_SEED) if seed == -1 else seed
