"""Small networks in ONNX's format, written byte by byte: the package that does it is no requirement here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number: int, value: bytes | int) -> bytes:
    """One field of a protobuf message: a number, or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


class OnnxFile:
    """Nodes, constants and outputs, in the order in which they are added."""

    def __init__(self, *sides: int | str, name: str = "input") -> None:
        """sides: of the input; a text where any length will do."""
        self._input = field(11, _value(name, sides))
        self._nodes, self._constants, self._outputs = b"", b"", b""

    def constant(self, name: str, values: np.ndarray) -> str:
        kind = 7 if values.dtype == np.int64 else 1
        values = values if kind == 7 else values.astype(np.float32)
        dims = b"".join(field(1, side) for side in values.shape)
        self._constants += field(5, dims + field(2, kind) + field(8, name.encode()) + field(9, values.tobytes()))
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str, **numbers: int | Sequence[int]) -> str:
        """numbers: attributes, whole numbers or lists of them."""
        told = b"".join(field(1, name.encode()) for name in inputs) + field(2, output.encode())
        told += field(4, kind.encode())
        for name, value in numbers.items():
            one = isinstance(value, int)
            content = field(3, value) if one else b"".join(field(8, number) for number in value)
            told += field(5, field(1, name.encode()) + content + field(20, 2 if one else 7))
        self._nodes += field(1, told)
        return output

    def output(self, name: str, *sides: int | str) -> None:
        self._outputs += field(12, _value(name, sides))

    def write(self, path: Path) -> None:
        graph = self._nodes + field(2, b"test") + self._constants + self._input + self._outputs
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(field(1, 8) + field(7, graph) + field(8, field(2, 13)))


def _value(name: str, sides: Sequence[int | str]) -> bytes:
    dims = b"".join(field(1, field(1, s) if isinstance(s, int) else field(2, s.encode())) for s in sides)
    return field(1, name.encode()) + field(2, field(1, field(1, 1) + field(2, dims)))
