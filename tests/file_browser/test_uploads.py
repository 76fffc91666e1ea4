"""Uploads: in parts, resumed, side by side, too large, on a full disk."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import file_browser.uploads
import httpx
import pytest
from file_browser.uploads import KEPT_SECONDS, MOST_BYTES, Uploads

BYTES = os.urandom(3_000_000)


def send(client: httpx.Client, path: str, content: bytes, **more: Any) -> httpx.Response:
    fields = {"path": path, "size": len(BYTES), "id": "one", "offset": 0} | more
    return client.put("upload", params=fields, content=content)


def state(client: httpx.Client, path: str, **more: Any) -> httpx.Response:
    return client.get("upload", params={"path": path, "size": len(BYTES), "id": "one"} | more)


def parts(folder: Path) -> list[Path]:
    return list(folder.glob(".upload-*"))


def test_parts_become_the_file_at_the_end_alone(client: httpx.Client, data: Path) -> None:
    assert state(client, "mine/x.bin").json()["offset"] == 0
    assert send(client, "mine/x.bin", BYTES[:1000]).json() == {"offset": 1000, "complete": False}
    assert not (data / "mine" / "x.bin").exists()
    assert client.get("list", params={"path": "mine"}).json()["entries"] == []
    assert state(client, "mine/x.bin").json()["offset"] == 1000
    answer = send(client, "mine/x.bin", BYTES[1000:], offset=1000)
    assert answer.json() == {"offset": len(BYTES), "complete": True}
    assert (data / "mine" / "x.bin").read_bytes() == BYTES
    assert parts(data / "mine") == []


def test_an_empty_file(client: httpx.Client, data: Path) -> None:
    assert send(client, "mine/empty", b"", size=0).json()["complete"]
    assert (data / "mine" / "empty").read_bytes() == b""


def test_commas_are_no_json(client: httpx.Client, data: Path) -> None:
    assert send(client, "mine/table.csv", b"," * 2_000_000, size=2_000_000).json()["complete"]


def test_a_broken_connection_loses_nothing_that_arrived(client: httpx.Client, data: Path) -> None:
    url = client.base_url
    head = (
        f"PUT /file_browser/v1/upload?path=mine/x.bin&size={len(BYTES)}&id=one&offset=0 HTTP/1.1\r\n"
        f"Host: x\r\nAuthorization: Bearer secret\r\nContent-Length: {len(BYTES)}\r\n\r\n"
    )
    with socket.create_connection((url.host, url.port)) as connection:
        connection.sendall(head.encode() + BYTES[:2_000_000])
        end = time.monotonic() + 60
        while state(client, "mine/x.bin").json()["offset"] == 0 and time.monotonic() < end:
            time.sleep(0.05)
    offset = 0
    while offset < 2_000_000 and time.monotonic() < end:
        time.sleep(0.05)
        offset = state(client, "mine/x.bin").json()["offset"]
    assert offset == 2_000_000
    answer = send(client, "mine/x.bin", BYTES[offset:], offset=offset)
    assert answer.json()["complete"], answer.text
    assert (data / "mine" / "x.bin").read_bytes() == BYTES


@pytest.mark.parametrize("offset", [0, 999, 1001, 2**62])
def test_only_the_next_bytes_are_taken(client: httpx.Client, offset: int) -> None:
    send(client, "mine/x.bin", BYTES[:1000])
    answer = send(client, "mine/x.bin", BYTES[:10], offset=offset)
    assert answer.status_code == 409 and "1000" in answer.text
    assert state(client, "mine/x.bin").json()["offset"] == 1000


def test_more_than_announced(client: httpx.Client, data: Path) -> None:
    assert send(client, "mine/x.bin", b"x" * 11, size=10).status_code == 413
    assert not (data / "mine" / "x.bin").exists()
    assert state(client, "mine/x.bin", size=10).json()["offset"] == 0


def test_too_large(client: httpx.Client) -> None:
    assert state(client, "mine/x.bin", size=MOST_BYTES + 1).status_code == 413
    for size in (-1, 2**63, "x"):
        assert state(client, "mine/x.bin", size=size).status_code == 422


@pytest.mark.parametrize("id", ["", "../x", "a b", "x" * 65, "ü"])
def test_ids_are_plain(client: httpx.Client, id: str) -> None:
    assert state(client, "mine/x.bin", id=id).status_code == 422


def test_what_is_there_is_replaced_only_when_that_is_meant(client: httpx.Client, data: Path) -> None:
    assert state(client, "outputs/a.txt").status_code == 409
    assert send(client, "outputs/a.txt", b"new", size=3).status_code == 409
    assert (data / "outputs" / "a.txt").read_text() == "0123456789"
    assert send(client, "outputs/a.txt", b"new", size=3, replace=True).json()["complete"]
    assert (data / "outputs" / "a.txt").read_text() == "new"
    assert send(client, "outputs/deep", b"new", size=3, replace=True).status_code == 409
    assert send(client, "top.bin", b"new", size=3).status_code == 403


def test_many_at_once_each_become_their_own_file(client: httpx.Client, data: Path) -> None:
    def upload(number: int) -> bytes:
        content, path = BYTES[number:], f"mine/{number}.bin"
        for start in range(0, len(content), 700_000):
            piece = content[start : start + 700_000]
            answer = send(client, path, piece, size=len(content), offset=start)
            assert answer.status_code == 200, answer.text
        return content

    with ThreadPoolExecutor(8) as threads:
        contents = list(threads.map(upload, range(8)))
    assert [(data / "mine" / f"{number}.bin").read_bytes() for number in range(8)] == contents
    assert parts(data / "mine") == []


def test_of_two_for_one_name_one_wins_whole(client: httpx.Client, data: Path) -> None:
    contents = [bytes([number]) * 2_000_000 for number in range(6)]

    def upload(number: int) -> int:
        return send(client, "mine/x.bin", contents[number], size=2_000_000, id=f"n{number}").status_code

    with ThreadPoolExecutor(6) as threads:
        statuses = list(threads.map(upload, range(6)))
    assert sorted(statuses) == [200, *[409] * 5]
    assert (data / "mine" / "x.bin").read_bytes() == contents[statuses.index(200)]


def test_one_upload_sent_twice_at_once_is_not_mixed(client: httpx.Client, data: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: send(client, "mine/x.bin", BYTES).status_code, range(4)))
    assert answers.count(200) == 1 and set(answers) <= {200, 409}
    assert (data / "mine" / "x.bin").read_bytes() == BYTES


def test_discarding(client: httpx.Client, data: Path) -> None:
    send(client, "mine/x.bin", BYTES[:1000])
    fields = {"path": "mine/x.bin", "size": len(BYTES), "id": "one"}
    assert client.delete("upload", params=fields).json() == {"offset": 0}
    assert parts(data / "mine") == []


def test_abandoned_ones_go_after_a_week(client: httpx.Client, data: Path) -> None:
    send(client, "mine/x.bin", BYTES[:1000])
    (part,) = parts(data / "mine")
    old = time.time() - KEPT_SECONDS - 60
    os.utime(part, (old, old))
    assert state(client, "mine/y.bin").status_code == 200
    assert parts(data / "mine") == []


def test_no_room_is_said_before_anything_is_sent(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_browser.uploads.shutil, "disk_usage", lambda path: SimpleNamespace(free=10 * 2**20))
    assert state(client, "mine/x.bin").status_code == 507


def test_a_disk_that_fills_up_keeps_what_arrived(
    client: httpx.Client, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(uploads: Uploads, upload: Any, file: Any) -> bool:
        file.flush()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Uploads, "finish", full)
        answer = send(client, "mine/x.bin", BYTES)
        assert answer.status_code == 507 and "No space left" in answer.text
    assert not (data / "mine" / "x.bin").exists()
    assert state(client, "mine/x.bin").json()["offset"] == len(BYTES)
    assert send(client, "mine/x.bin", b"", offset=len(BYTES)).json()["complete"]


def test_a_folder_that_goes_away(client: httpx.Client, data: Path) -> None:
    send(client, "outputs/deep/x.bin", BYTES[:1000])
    shutil.rmtree(data / "outputs" / "deep")
    assert send(client, "outputs/deep/x.bin", BYTES[1000:], offset=1000).status_code == 404


def test_an_uploaded_checkpoint_is_offered_after_the_refresh(client: httpx.Client) -> None:
    assert send(client, "models/Stable-diffusion/mine.ckpt", b"not really", size=10).json()["complete"]
    base = str(client.base_url).removesuffix("/file_browser/v1/")
    assert client.post(f"{base}/sdapi/v1/refresh-checkpoints").status_code == 200
    assert "mine" in [row["model_name"] for row in client.get(f"{base}/sdapi/v1/sd-models").json()]
