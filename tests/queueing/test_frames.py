"""Items on the wire."""

from __future__ import annotations

import base64

import pytest

from sdwebui_api.queueing.frames import attribute_list, frame, frame_list, json_row, record
from sdwebui_api.queueing.model import Item
from tests.queueing.frame_reader import read_attributes, read_frame, read_list

EXAMPLE = bytes.fromhex("0807 1206 0a0161 120162 1a02 6869")


def test_a_frame_is_the_bytes_that_protobuf_writes():
    assert frame(Item(7, b"hi", {"a": "b"})) == EXAMPLE
    assert frame_list([Item(7, b"hi", {"a": "b"})]) == b"\x0a\x0e" + EXAMPLE
    assert record(Item(7, b"hi", {"a": "b"})) == b"\x00\x00\x00\x0e" + EXAMPLE


def test_without_items_a_list_is_no_bytes():
    assert frame_list([]) == b""


@pytest.mark.parametrize("index", [1, 127, 128, 16_383, 16_384, 2**32, 2**63 - 1])
@pytest.mark.parametrize("size", [0, 1, 127, 128, 20_000])
def test_numbers_and_lengths_of_every_size_come_back(index, size):
    found = read_frame(frame(Item(index, b"\xff" * size, {})))
    assert (found.index, found.data, found.tags) == (index, b"\xff" * size, {})


def test_tags_are_utf_8_and_internal_ones_stay_inside():
    tags = {"name": "灯台", "empty": "", "": "nameless", "_user_": "someone", "bad": "\udc80"}
    shown = {"name": "灯台", "empty": "", "": "nameless", "bad": "?"}
    assert read_frame(frame(Item(1, b"", tags))).tags == shown
    assert "_user_" not in json_row(Item(1, b"", tags))["tags"]


def test_without_data_index_and_tags_remain():
    found = read_frame(frame(Item(3, b"data", {"a": "b"}), with_data=False))
    assert (found.index, found.tags, found.data) == (3, {"a": "b"}, b"")


def test_lists_keep_their_order():
    items = [Item(number, str(number).encode(), {"n": str(number)}) for number in (5, 1, 9)]
    assert [found.index for found in read_list(frame_list(items))] == [5, 1, 9]


def test_attributes():
    given = {"meta.name": "sd_async", "stream.length": "0", "empty": ""}
    assert read_attributes(attribute_list(given)) == given


def test_json_data_is_padded_base64():
    row = json_row(Item(7, b"\xfb\xff", {"requestId": "r"}))
    assert row == {"index": 7, "tags": {"requestId": "r"}, "data": "+/8="}
    assert base64.b64decode(row["data"]) == b"\xfb\xff"
