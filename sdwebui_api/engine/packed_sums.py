"""Adding a product to a packed linear weight as it lies in memory.

Unpacking and packing again takes twice as long as the product itself. oneDNN's order of bfloat16 weights [out, in] is
known: 64 rows by 32 columns at a time, in such a block two columns side by side for each row in turn, as the processor
multiplies pairs. Whether this one does is looked up by packing a weight whose numbers tell where they went.
"""

from __future__ import annotations

import ctypes
from functools import cache

import torch
from torch import Tensor

ROWS, COLUMNS, PAIR = 64, 32, 2
"""Of a block; and the neighbours that lie side by side."""


def packed_sum(weight: Tensor, up: Tensor, down: Tensor) -> Tensor | None:
    """A packed copy of the packed linear `weight` [out, in] + `up` [out, R] @ `down` [R, in], all bfloat16.

    Added in float32 and rounded once. None where the weight is packed in an order that is not known.
    """
    out, width = up.shape[0], down.shape[1]
    if weight.shape != (out, width) or not _in_known_order(out, width):
        return None
    total = weight.clone()
    # One matrix per 64 rows: a row of it is a pair of columns, a column one number of the pair for one row.
    values = _memory(total).view(out // ROWS, width // PAIR, ROWS * PAIR)
    pairs, spread = _pairs_of_columns(down), _spread(up)
    values.baddbmm_(pairs.expand(len(values), -1, -1), spread)
    return total


def _pairs_of_columns(down: Tensor) -> Tensor:
    """[R, in] -> [in / 2, R * 2]."""
    rank, width = down.shape
    return down.view(rank, width // PAIR, PAIR).transpose(0, 1).reshape(width // PAIR, rank * PAIR)


def _spread(up: Tensor) -> Tensor:
    """[out, R] -> [out / 64, R * 2, 64 * 2]: the first of a pair counts for the first, the second for the second."""
    out, rank = up.shape
    spread = up.new_zeros(out // ROWS, rank, PAIR, ROWS, PAIR)
    blocks = up.view(out // ROWS, ROWS, rank).transpose(1, 2)
    for place in range(PAIR):
        spread[:, :, place, :, place] = blocks
    return spread.view(out // ROWS, rank * PAIR, ROWS * PAIR)


@cache
def _in_known_order(out: int, width: int) -> bool:
    """Whether linear weights of this shape are packed in the order that is known here. A fact of the processor."""
    if out % ROWS or width % COLUMNS:
        return False
    weight = torch.zeros(out, width, dtype=torch.int16)
    rows, columns = _powers(out)[:, None], _powers(width)
    # Bits of small normal numbers, each another one: in a blocked order they give every digit of a place away.
    marks = torch.arange(len(rows) * len(columns), dtype=torch.int16).view(len(rows), len(columns)) + 0x100
    weight[rows, columns] = marks
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.view(torch.bfloat16))
    if torch.ops.mkldnn._nbytes(packed) != weight.nbytes:
        return False
    block = rows // ROWS * (width // COLUMNS) + columns // COLUMNS
    place = columns % COLUMNS // PAIR * (ROWS * PAIR) + rows % ROWS * PAIR + columns % PAIR
    return torch.equal(_memory(packed).view(torch.int16)[block * (ROWS * COLUMNS) + place], marks)


def _powers(size: int) -> Tensor:
    """0, 1, 2, 4, … and the last place below `size`."""
    return torch.tensor([0, *(1 << power for power in range(size.bit_length()) if 1 << power < size - 1), size - 1])


def _memory(packed: Tensor) -> Tensor:
    """The numbers of a packed bfloat16 weight in their order, to be read and written while `packed` lives."""
    size: int = torch.ops.mkldnn._nbytes(packed)
    block = (ctypes.c_uint8 * size).from_address(torch.ops.mkldnn.data_ptr(packed))
    return torch.frombuffer(block, dtype=torch.bfloat16)
