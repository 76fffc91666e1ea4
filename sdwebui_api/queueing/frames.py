"""Items in the forms that clients read: protobuf written by hand (three small messages), and JSON.

proto3, package `streaming`: DataFrameProto {1: index uint64, 2: tags map<string, string>, 3: data bytes, 4: message},
DataFrameListProto {1: repeated DataFrameProto}, AttributesProto {1: attributes map<string, string>}. Defaults are not
written.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

from sdwebui_api.queueing.call import public_tags
from sdwebui_api.queueing.model import Item

PROTOBUF = "application/vnd.google.protobuf"
_INDEX, _TAGS, _DATA, _FIRST = 0x08, 0x12, 0x1A, 0x0A
"""Field number times 8, plus 0 for a varint or 2 for bytes with their length."""


def frame(item: Item, *, with_data: bool = True) -> bytes:
    """DataFrameProto. Internal tags stay here; `message` is never sent, clients take it for an error."""
    parts = [bytes([_INDEX]), _varint(item.index)] if item.index else []
    parts += [_sized(_TAGS, _entry(name, value)) for name, value in public_tags(item.tags).items()]
    if with_data and item.data:
        parts.append(_sized(_DATA, item.data))
    return b"".join(parts)


def frame_list(items: Iterable[Item]) -> bytes:
    """DataFrameListProto."""
    return b"".join(_sized(_FIRST, frame(item)) for item in items)


def attribute_list(attributes: Mapping[str, str]) -> bytes:
    """AttributesProto."""
    return b"".join(_sized(_FIRST, _entry(name, value)) for name, value in attributes.items())


def record(item: Item, *, with_data: bool = True) -> bytes:
    """A frame of the plain stream: its length in 4 bytes, big-endian, then DataFrameProto."""
    message = frame(item, with_data=with_data)
    return len(message).to_bytes(4, "big") + message


def json_row(item: Item) -> dict[str, Any]:
    return {"index": item.index, "tags": public_tags(item.tags), "data": base64.b64encode(item.data).decode()}


def _entry(key: str, value: str) -> bytes:
    return _sized(0x0A, _utf8(key)) + _sized(0x12, _utf8(value))


def _utf8(text: str) -> bytes:
    """Lone surrogates become `?`: protobuf strings are UTF-8."""
    return text.encode("utf-8", "replace")


def _sized(tag: int, data: bytes) -> bytes:
    return bytes([tag]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)
