"""Reads the frames back: a decoder of its own, so that no encoder is tested against itself."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Frame:
    index: int = 0
    tags: dict[str, str] = field(default_factory=dict)
    data: bytes = b""
    message: str = ""


def read_frame(message: bytes) -> Frame:
    """DataFrameProto."""
    frame = Frame()
    for number, value in _fields(message):
        if number == 1:
            assert isinstance(value, int)
            frame.index = value
            continue
        assert isinstance(value, bytes)
        if number == 2:
            entry = dict(_fields(value))
            frame.tags[entry.get(1, b"").decode()] = entry.get(2, b"").decode()
        elif number == 3:
            frame.data = value
        else:
            assert number == 4, f"unknown field {number}"
            frame.message = value.decode()
    return frame


def read_list(message: bytes) -> list[Frame]:
    """DataFrameListProto."""
    return [read_frame(value) for _, value in _fields(message)]


def read_attributes(message: bytes) -> dict[str, str]:
    """AttributesProto."""
    entries = [dict(_fields(value)) for _, value in _fields(message)]
    return {entry.get(1, b"").decode(): entry.get(2, b"").decode() for entry in entries}


def _fields(message: bytes):
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, kind = key >> 3, key & 7
        value, place = _varint(message, place)
        if kind == 2:
            value, place = message[place : place + value], place + value
            assert place <= len(message)
        else:
            assert kind == 0, f"unknown wire type {kind}"
        yield number, value


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
