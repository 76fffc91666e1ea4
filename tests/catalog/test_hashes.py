from __future__ import annotations

import hashlib
import json
import os
import threading

import pytest

from sdwebui_api.catalog import hashes
from sdwebui_api.catalog.hashes import HashCache


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes((2).to_bytes(8, "little") + b"{}" + b"tensors")
    return path


def test_digests(model):
    cache = HashCache(None)
    assert cache.known_sha256(model) is None
    assert cache.sha256(model) == hashlib.sha256(model.read_bytes()).hexdigest() == cache.known_sha256(model)
    assert cache.addnet(model) == hashlib.sha256(b"tensors").hexdigest()


def test_remembered_on_disk_until_the_file_changes(model, tmp_path, monkeypatch):
    store = tmp_path / "cache" / "hashes.json"
    first = HashCache(store).sha256(model)
    monkeypatch.setattr(hashes, "_hash_file", lambda path, skip_header: "computed again")
    assert HashCache(store).sha256(model) == first
    os.utime(model, (1, 1))
    assert HashCache(store).known_sha256(model) is None
    assert HashCache(store).sha256(model) == "computed again"


@pytest.mark.parametrize("contents", ["{", "[]", '{"sha256//x": 1}', '{"sha256//x": {"size": "y"}}'])
def test_a_broken_cache_is_started_again(model, tmp_path, contents):
    store = tmp_path / "hashes.json"
    store.write_text(contents)
    digest = HashCache(store).sha256(model)
    assert digest in json.dumps(json.loads(store.read_text()))


def test_a_cache_that_cannot_be_written_still_answers(model, tmp_path, caplog):
    assert len(HashCache(model / "below-a-file.json").sha256(model)) == 64
    assert "cannot be kept" in caplog.text


def test_threads_compute_one_file_once(model, monkeypatch):
    computed, gate = [], threading.Event()

    def slow(path, skip_header):
        gate.wait(60)
        computed.append(path)
        return "digest"

    monkeypatch.setattr(hashes, "_hash_file", slow)
    cache, answers = HashCache(None), []
    threads = [threading.Thread(target=lambda: answers.append(cache.sha256(model))) for _ in range(4)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()
    assert answers == ["digest"] * 4 and len(computed) == 1


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(OSError):
        HashCache(None).sha256(tmp_path / "missing")
