"""What flags and an EAS service description say about the queue."""

from __future__ import annotations

import json

import pytest

from sdwebui_api.config.flags import parse_flags
from sdwebui_api.errors import BadRequest
from sdwebui_api.queueing.settings import queue_is_on, queue_settings

DESCRIPTION = {
    "metadata": {"name": "my_svc", "instance": 1, "type": "Async", "rpc.worker_threads": 3, "cpu": 8},
    "queue": {"cpu": 1, "memory": 4000, "max_delivery": 2, "resource": ""},
    "cloud": {"computing": {"instance_type": "x"}},
}


def settings(tmp_path, *words):
    return queue_settings(parse_flags(list(words), environ={}), tmp_path)


@pytest.fixture
def description(tmp_path):
    file = tmp_path / "service.json"
    file.write_text(json.dumps(DESCRIPTION))
    return str(file)


def test_the_defaults(tmp_path):
    found = settings(tmp_path)
    assert (found.service, found.max_delivery, found.worker_threads, found.max_payload) == ("sd_async", 1, None, 2**20)
    assert found.sqlite_file == tmp_path / "queue.sqlite3"


def test_the_description_and_the_flags_over_it(tmp_path, description):
    found = settings(tmp_path, "--queue-config", description)
    assert (found.service, found.max_delivery, found.worker_threads) == ("my_svc", 2, 3)
    flags = ("--service-name", "other", "--max-delivery", "5", "--worker-threads", "0")
    found = settings(tmp_path, "--queue-config", description, *flags)
    assert (found.service, found.max_delivery, found.worker_threads) == ("other", 5, 0)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"metadata": []}',
        '{"queue": {"max_delivery": 0}}',
        '{"metadata": {"rpc.worker_threads": "1"}}',
        '{"metadata": {"name": 5}}',
    ],
)
def test_a_description_that_cannot_be_used(tmp_path, text):
    file = tmp_path / "service.json"
    file.write_text(text)
    with pytest.raises(BadRequest, match="--queue-config"):
        settings(tmp_path, "--queue-config", str(file))
    with pytest.raises(BadRequest, match="--queue-config"):
        settings(tmp_path, "--queue-config", str(tmp_path / "missing.json"))


@pytest.mark.parametrize("name", ["a/b", "a b", "", "ü", "a?b", "a%b"])
def test_a_name_that_no_address_can_hold(tmp_path, name):
    with pytest.raises(BadRequest, match="--service-name"):
        settings(tmp_path, "--service-name", name)


def test_stores_by_address(tmp_path):
    assert settings(tmp_path, "--queue-url", "sqlite:////srv/q%20.db").sqlite_file.as_posix() == "/srv/q .db"
    assert settings(tmp_path, "--queue-url", "sqlite:///q.db").sqlite_file.as_posix() == "q.db"
    for url in (
        "mysql://host/db",
        "redis",
        "redis://",
        "sqlite://",
        "/srv/q.db",
        "redis://[::1/0",
        "redis://h:x/0",
        "redis://h/x",
    ):
        with pytest.raises(BadRequest, match="--queue-url"):
            settings(tmp_path, "--queue-url", url)


def test_passwords_are_not_shown(tmp_path):
    flags = parse_flags(["--queue-url", "redis://:s3cret@host:6379/0"], environ={})
    assert "s3cret" not in queue_settings(flags, tmp_path).shown_url
    assert flags.as_dict()["queue_url"] == "redis://:***@host:6379/0"
    with pytest.raises(BadRequest) as refused:
        settings(tmp_path, "--queue-url", "mysql://me:s3cret@host/db")
    assert "s3cret" not in refused.value.message


def test_when_the_queue_is_on(description):
    for words, on in (
        ([], False),
        (["--nowebui"], True),
        (["--queue-url", "redis://host/0"], True),
        (["--queue-config", description], True),
    ):
        assert queue_is_on(parse_flags(words, environ={})) is on
