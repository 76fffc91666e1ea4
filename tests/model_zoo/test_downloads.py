"""Downloads through the routes: whole, broken off, gone on with, refused."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.model_zoo.conftest import CONTENT, EXTENSION, Files, Zoo
from tests.support.hosts import Names
from tests.support.server import ROOT

MIB = 2**20


def test_a_download_arrives_whole_and_can_be_chosen(zoo: Zoo, files: Files) -> None:
    assert (zoo.row()["state"], zoo.row()["folder"]) == ("absent", str(zoo.folder))
    assert zoo.start().json()["state"] in ("waiting", "downloading", "verifying", "installed")
    assert zoo.settled()["state"] == "installed"
    assert (zoo.folder / "tiny.safetensors").read_bytes() == CONTENT
    assert sorted(path.name for path in zoo.folder.iterdir()) == ["tiny.safetensors"]
    models = httpx.get(zoo.client.base_url.join("/sdapi/v1/sd-models"), timeout=60).json()
    assert "tiny" in [row["model_name"] for row in models]
    again = zoo.start()
    assert again.status_code == 409 and "already" in again.text


def test_what_was_cancelled_is_gone_on_with(zoo: Zoo, files: Files) -> None:
    zoo.offer(zoo.entry(sha256=None))
    files.gate.clear()
    zoo.start()
    row = zoo.wait(lambda row: row["received"] >= MIB)
    assert (row["state"], row["total"]) == ("downloading", len(CONTENT))
    assert zoo.stop().json()["state"] == "partial"
    files.gate.set()
    part = zoo.folder / "tiny.safetensors.part"
    have = part.stat().st_size
    assert MIB <= have < len(CONTENT) and part.read_bytes() == CONTENT[:have]
    zoo.start()
    assert zoo.settled()["state"] == "installed"
    assert files.ranges == [None, f"bytes={have}-"]
    assert (zoo.folder / "tiny.safetensors").read_bytes() == CONTENT


KILLED = """
import asyncio, json, sys
from pathlib import Path
sys.path.append(sys.argv[1])
from model_zoo.catalogue import Entry, Place
from model_zoo.downloads import Downloads
from sdwebui_api.storage.net_guard import AllowList, NetGuard

async def fetch():
    entry = Entry.model_validate(json.loads(sys.argv[2]))
    downloads = Downloads(NetGuard(AllowList(["127.0.0.1"])))
    await downloads.start(entry, Place(Path(sys.argv[3])), lambda: None).task

asyncio.run(fetch())
"""


def test_a_killed_process_leaves_what_the_next_one_goes_on_with(zoo: Zoo, files: Files) -> None:
    target = zoo.folder / "tiny.safetensors"
    part = target.with_name("tiny.safetensors.part")
    files.gate.clear()
    command = [sys.executable, "-c", KILLED, str(EXTENSION), json.dumps(zoo.entry()), str(target)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        end = time.monotonic() + 60
        while not part.exists() or part.stat().st_size < MIB:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        process.kill()
    files.gate.set()
    have = part.stat().st_size
    assert (zoo.row()["state"], zoo.row()["received"]) == ("partial", have)
    zoo.start()
    assert zoo.settled()["state"] == "installed"
    assert files.ranges == [None, f"bytes={have}-"]
    assert target.read_bytes() == CONTENT


def test_broken_connections_are_taken_up_again(zoo: Zoo, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    from model_zoo import transfer

    monkeypatch.setattr(transfer, "PAUSE_SECONDS", 0.01)
    files.breaks = [MIB + 100, 2 * MIB + 7]
    zoo.start()
    assert zoo.settled()["state"] == "installed"
    assert (zoo.folder / "tiny.safetensors").read_bytes() == CONTENT
    assert len(files.ranges) == 3 and files.ranges[0] is None and None not in files.ranges[1:]


@pytest.mark.parametrize("mark", ['"one"', ""])
def test_a_file_that_changed_meanwhile_is_fetched_anew(zoo: Zoo, files: Files, mark: str) -> None:
    """By the mark that the host gave; where it gave none, and no checksum is known, nothing tells."""
    zoo.offer(zoo.entry(sha256=None))
    zoo.folder.mkdir(parents=True, exist_ok=True)
    (zoo.folder / "tiny.safetensors.part").write_bytes(b"of the old file")
    note = {"url": zoo.entry()["url"], "mark": mark}
    (zoo.folder / "tiny.safetensors.part.json").write_text(json.dumps(note))
    files.etag = '"two"'
    zoo.start()
    assert zoo.settled()["state"] == "installed"
    assert files.ranges == ["bytes=15-" if mark else None]
    assert (zoo.folder / "tiny.safetensors").read_bytes() == CONTENT


@pytest.mark.parametrize("more", [b"", b"x"])
def test_nothing_is_missing_from_the_part(zoo: Zoo, files: Files, more: bytes) -> None:
    """Killed between the last byte and the new name; or the part is longer than the file has become."""
    zoo.offer(zoo.entry(sha256=None, size=None))
    zoo.folder.mkdir(parents=True, exist_ok=True)
    (zoo.folder / "tiny.safetensors.part").write_bytes(CONTENT + more)
    note = {"url": zoo.entry()["url"], "mark": files.etag}
    (zoo.folder / "tiny.safetensors.part.json").write_text(json.dumps(note))
    zoo.start()
    assert zoo.settled()["state"] == "installed"
    assert files.ranges == [f"bytes={len(CONTENT) + len(more)}-", *([None] if more else [])]
    assert (zoo.folder / "tiny.safetensors").read_bytes() == CONTENT


def test_another_size_or_checksum_is_never_installed(zoo: Zoo, files: Files) -> None:
    zoo.offer(
        zoo.entry(size=len(CONTENT) + 1),
        zoo.entry(id="forged", file="forged.safetensors", sha256=hashlib.sha256(b"other").hexdigest()),
    )
    zoo.start()
    zoo.start("forged")
    assert "another file" in zoo.settled()["error"]
    forged = zoo.settled("forged")
    assert forged["state"] == "absent" and "another SHA-256" in forged["error"]
    assert [path for path in zoo.folder.iterdir() if path.suffix in (".safetensors", ".part")] == []


def test_a_discarded_part_is_gone(zoo: Zoo, files: Files) -> None:
    files.gate.clear()
    zoo.start()
    zoo.wait(lambda row: row["received"] >= MIB)
    assert zoo.stop(discard=True).json()["state"] == "absent"
    files.gate.set()
    assert list(zoo.folder.iterdir()) == []


def test_no_third_download_at_once(zoo: Zoo, files: Files) -> None:
    zoo.offer(*(zoo.entry(id=f"m{number}", file=f"m{number}.safetensors") for number in range(3)))
    files.gate.clear()
    for number in range(3):
        zoo.start(f"m{number}")
    zoo.wait(lambda row: row["state"] == "downloading", "m1")
    zoo.wait(lambda row: row["received"] >= MIB, "m0")
    assert zoo.row("m2")["state"] == "waiting"
    assert zoo.stop("m0").json()["state"] == "partial"
    zoo.wait(lambda row: row["state"] == "downloading", "m2")
    files.gate.set()
    assert [zoo.settled(f"m{number}")["state"] for number in (1, 2)] == ["installed", "installed"]


REFUSED = {
    "private address": ("http://10.0.0.1/x.safetensors", "private"),
    "metadata service": ("http://169.254.169.254/x.safetensors", "metadata"),
    "redirect inside": ("http://127.0.0.1:{port}/redirect?to=http://192.168.1.1/x", "private"),
    "redirect to a file": ("http://127.0.0.1:{port}/redirect?to=file:///etc/passwd", "no address|http://"),
    "no such file": ("http://127.0.0.1:{port}/404", "answered 404"),
    "an error": ("http://127.0.0.1:{port}/500", "answered 500"),
    "endless redirects": ("http://127.0.0.1:{port}/loop", "redirects more than"),
    "compressed": ("http://127.0.0.1:{port}/gzip", "compressed"),
    "too large": ("http://127.0.0.1:{port}/large-announced", "100 GiB at most|another file"),
    "offline": ("http://127.0.0.1:{closed}/x.safetensors", "offline"),
    "unknown name": ("http://nowhere.invalid/x.safetensors", "offline"),
}


def test_addresses_and_answers_that_are_refused(zoo: Zoo) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = unused.getsockname()[1]
    entries = [
        zoo.entry(id=f"m{number}", file=f"m{number}.pt", size=None, url=url.format(port=zoo.host.port, closed=closed))
        for number, (url, _) in enumerate(REFUSED.values())
    ]
    zoo.offer(*entries)
    for entry in entries:
        assert zoo.start(entry["id"]).status_code == 200
    for entry, (name, (_, words)) in zip(entries, REFUSED.items(), strict=True):
        row = zoo.settled(entry["id"])
        assert row["state"] == "absent" and re.search(words, row["error"]), (name, row)
    assert not list(zoo.folder.glob("*.pt"))


def test_a_name_that_turns_internal_is_not_connected_to(zoo: Zoo, files: Files) -> None:
    """DNS rebinding: the address that was checked is the one that is called."""
    from model_zoo.catalogue import Entry, place_of
    from model_zoo.downloads import Downloads

    from sdwebui_api.config.flags import parse_flags
    from sdwebui_api.storage.net_guard import NetGuard

    async def fetch() -> Any:
        names = Names(models_example=[["192.168.0.7"]])
        downloads = Downloads(NetGuard(resolver=names))
        entry = Entry.model_validate(zoo.entry(url="http://models.example/tiny.safetensors"))
        download = downloads.start(entry, place_of(entry, parse_flags(["--data-dir", str(zoo.data)])), lambda: None)
        assert download.task is not None
        await download.task
        return download.progress

    progress = asyncio.run(fetch())
    assert progress.state == "failed" and "private" in progress.error


def test_a_link_that_leads_out_of_the_folder_is_refused(zoo: Zoo, files: Files, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    zoo.folder.mkdir(parents=True, exist_ok=True)
    os.symlink(outside, zoo.folder / "sub")
    zoo.offer(zoo.entry(file="sub/tiny.safetensors"))
    answer = zoo.start()
    assert answer.status_code == 403 and "outside" in answer.text
    assert any("outside" in problem for problem in zoo.all()["problems"])
    assert list(outside.iterdir()) == []


def test_a_web_page_is_no_model(zoo: Zoo, files: Files) -> None:
    """As hosts send it, with 200, to who has not logged in."""
    zoo.offer(zoo.entry(sha256=None, size=None))
    files.content = b"\n<!DOCTYPE html><title>Log in</title>"
    zoo.start()
    found = zoo.settled()
    assert found["state"] == "absent" and "a web page in place of the file" in found["error"]
    assert list(zoo.folder.iterdir()) == []
