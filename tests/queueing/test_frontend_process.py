"""`launch.py frontend` as a process: what it loads, how it starts, dies and stops."""

from __future__ import annotations

import subprocess
import sys
import time

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from sdwebui_api.config.flags import parse_flags
from sdwebui_api.serving import GRACE_SECONDS
from tests.queueing.frame_reader import read_frame
from tests.support.fronts import PATIENCE, ROOT, Front, front_process, http, start_front

LEASE = parse_flags([], environ={}).queue_lease


def test_it_loads_neither_torch_nor_an_http_client():
    question = "import sys, sdwebui_api.frontend as f; from sdwebui_api.queueing.stores import sqlite, redis; "
    answer = subprocess.run(
        [sys.executable, "-c", question + "print(*sys.modules)"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"torch", "diffusers", "transformers", "scipy", "cv2", "httpx"} & set(answer.stdout.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--queue-url", "mysql://host/db"], "--queue-url"), (["--service-name", "a/b"], "--service-name")],
)
def test_what_it_cannot_use_is_one_clear_line(words, said, tmp_path):
    command = [sys.executable, "-m", "sdwebui_api", "frontend", "--data-dir", str(tmp_path), "--port", "0", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and len(errors) == 1 and said in errors[0]


def test_sigterm_ends_it_at_once_with_watchers_there(queue_url, tmp_path):
    with front_process(queue_url, tmp_path) as front:
        watchers = [front.watch(uid=f"u{number}") for number in range(20)]
        process = front.process
        assert process is not None
        begun = time.monotonic()
        process.terminate()
        for watcher in watchers:
            with pytest.raises(ConnectionClosed) as closed:
                watcher.recv(timeout=PATIENCE)
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012
        assert process.wait(PATIENCE) == 0
        assert time.monotonic() - begun < GRACE_SECONDS


def test_after_kill_9_watchers_of_a_new_process_go_on_where_they_were(queue_url, tmp_path):
    front = start_front(queue_url, tmp_path)
    port = httpx.URL(front.url).port
    assert front.process is not None and port is not None
    for number in range(6):
        front.put(str(number))
    watcher = front.watch(uid="a", _window_=3)
    assert [read_frame(watcher.recv(timeout=PATIENCE)).index for _ in range(3)] == [1, 2, 3]
    assert http.put(front.input, params={"_indexes_": "2"}).text == "OK"
    died = time.monotonic()
    front.process.kill()
    front.process.wait()
    with front_process(queue_url, tmp_path, port=port) as again:
        back = _reconnect(again)
        found = [read_frame(back.recv(timeout=PATIENCE)).index for _ in range(3)]
        outage = time.monotonic() - died
        print(f"a watcher was without its items for {outage:.2f} s")
        assert found == [1, 3, 4], "what it had not committed first, in order"
        assert outage < LEASE / 2  # some 1 s on an idle machine; this one may be busy
        back.close()


def _reconnect(front: Front) -> ClientConnection:
    """As the Python SDK does: at once, and a second after every refusal."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            return front.watch(uid="a", _window_=3)
        except OSError:
            time.sleep(1)
    raise AssertionError("the new front end does not accept connections")
