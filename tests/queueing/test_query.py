"""The query strings of the clients."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from sdwebui_api.errors import BadRequest
from sdwebui_api.queueing.identity import identity_of, priority_of, request_id_of
from sdwebui_api.queueing.query import Query


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5s", 5), ("0s", 0), ("500ms", 0.5), ("1m0s", 60), ("1m30.5s", 90.5), ("5", 5), ("0", 0), ("0.5", 0.5),
        (".5s", 0.5), ("1h", 3600), ("2h45m", 3600), ("-5s", 0), ("-1", 0), ("+2s", 2), ("250us", 0.00025),
        ("250µs", 0.00025), ("99999999999999h", 3600),
    ],
)  # fmt: skip
def test_durations(text, seconds):
    assert Query({"_timeout_": text}, {}).seconds("_timeout_") == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "5 s", "five", "5d", "1e3", "5s5", "nan", "inf", "--5s", "0x5"])
def test_what_is_no_duration(text):
    with pytest.raises(BadRequest, match="_timeout_") as caught:
        Query({"_timeout_": text}, {}).seconds("_timeout_")
    assert caught.value.status == 400


@pytest.mark.parametrize("text", ["true", "True", "TRUE", "1"])
def test_true(text):
    assert Query({"_watch_": text}, {}).flag("_watch_") is True


@pytest.mark.parametrize("text", ["false", "False", "0"])
def test_false(text):
    assert Query({"_watch_": text}, {}).flag("_watch_", True) is False


@pytest.mark.parametrize("text", ["", "yes", "2"])
def test_neither(text):
    with pytest.raises(BadRequest, match="_watch_"):
        Query({"_watch_": text}, {}).flag("_watch_")


@pytest.mark.parametrize("text", ["", "abc", "1.5", "1_0", "９", "-2", "18446744073709551616", " 1", "1e3", "9" * 30])
def test_what_is_no_index(text):
    with pytest.raises(BadRequest, match="_index_"):
        Query({"_index_": text}, {}).whole("_index_", 0, least=-1)


@pytest.mark.parametrize("text", ["9223372036854775807", "9223372036854775808", "18446744073709551615"])
def test_indexes_of_64_bits_without_a_sign(text):
    assert Query({"_index_": text}, {}).whole("_index_", 0, least=-1) == 2**63 - 1


def test_indexes():
    assert Query({"_indexes_": "4, 5,,6,"}, {}).indexes() == [4, 5, 6]
    for text in ("", ",", "4,x", "-1", ",".join(["1"] * 10_001)):
        with pytest.raises(BadRequest, match="_indexes_"):
            Query({"_indexes_": text}, {}).indexes()


def test_tags_are_what_does_not_begin_with_an_underscore():
    query = Query.parse(b"task_id=a%2Fb&name=%E7%81%AF&_index_=4&_unknown_=x&plus=a+b&flag&twice=1&twice=2&=none")
    assert query.tags == {"task_id": "a/b", "name": "灯", "plus": "a b", "flag": "", "twice": "2"}
    assert query.reserved == {"_index_": "4", "_unknown_": "x"}


def test_bytes_that_are_no_utf_8_and_endless_queries():
    assert Query.parse(b"a=%ff%fe").tags == {"a": "\ufffd\ufffd"}
    with pytest.raises(BadRequest, match="1000"):
        Query.parse(b"&".join(b"k%d=1" % number for number in range(1001)))
    with pytest.raises(BadRequest, match="150 tags"):
        Query.parse(b"&".join(b"k%d=1" % number for number in range(151)))


def test_who_asks():
    named = Headers({"X-EAS-QueueService-Redis-Uid": "me", "x-eas-queueservice-redis-gid": "us"})
    assert (identity_of(named).user, identity_of(named).group) == ("me", "us")
    nameless = [identity_of(Headers({})) for _ in range(2)]
    assert nameless[0].group == "eas" and nameless[0].user != nameless[1].user


@pytest.mark.parametrize(
    ("query", "header", "priority"),
    [("", "", 0), ("1", "", 1), ("", "1", 1), ("0", "1", 0), ("-3", "", 0), ("7", "", 1), ("", "-1", 0)],
)
def test_priority(query, header, priority):
    reserved = {"_priority_": query} if query else {}
    assert priority_of(Query(reserved, {}), Headers({"X-EAS-QueueService-Priority": header})) == priority


def test_request_ids():
    assert request_id_of(Query({}, {"requestId": "my id/1"})) == "my id/1"
    made = {request_id_of(Query({}, {})), request_id_of(Query({}, {"requestId": ""}))}
    assert len(made) == 2 and all(len(one) == 36 for one in made)
    for bad in ("ü", "a\nb", " a", "a ", "x" * 201):
        with pytest.raises(BadRequest, match="requestId"):
            request_id_of(Query({}, {"requestId": bad}))
