"""The front end needs nothing but what its image installs."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from importlib import metadata
from urllib.error import HTTPError

import pytest
from packaging.requirements import Requirement
from websockets.sync.client import connect

from tests.deploy.test_files import DEPLOY, pins
from tests.support.redis_server import RedisServer
from tests.support.server import ROOT

RUN = """
import sys
from importlib import metadata

allowed = set(sys.argv[1].split(","))
owners = metadata.packages_distributions()

class Guard:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        found = {owner.lower() for owner in owners.get(top, ())}
        if found and not found & allowed:
            raise ModuleNotFoundError(f"{name} is not in the image", name=top)

sys.meta_path.insert(0, Guard())
from sdwebui_api.cli import main
sys.exit(main(["frontend", *sys.argv[2:]]))
"""


def installed_with(names: set[str]) -> set[str]:
    """The distributions that pip installs for `names`, by lower-case name."""
    found: set[str] = set()
    left = set(names)
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        for line in metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                left.add(metadata.metadata(requirement.name)["Name"].lower())
    return found


def test_it_starts_and_takes_requests_with_these_packages_alone(tmp_path):
    allowed = installed_with(
        {metadata.metadata(name)["Name"].lower() for name in pins(DEPLOY / "requirements-frontend.txt")}
    )
    assert "torch" not in allowed
    with RedisServer(tmp_path / "redis") as redis:
        command = [sys.executable, "-u", "-c", RUN, ",".join(allowed), "--port", "0", "--queue-url", redis.url]
        command += ["--data-dir", str(tmp_path / "data")]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            url = url_of(process)
            put = urllib.request.Request(f"{url}/api/predict/sd_async/sdapi/v1/txt2img?task_id=a", b"{}", method="POST")
            for request, expected in [(f"{url}/health/ready", b'{"status":"ok"}'), (put, b"1")]:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    assert answer.read() == expected
            with pytest.raises(HTTPError) as refused:
                urllib.request.urlopen(
                    f"{url}/api/predict/sd_async?_callback_url_=http://127.0.0.1/", b"{}", timeout=60
                )
            assert 400 <= refused.value.code < 500
            address = f"{url.replace('http', 'ws', 1)}/api/predict/sd_async?_watch_=true&_index_=0&_window_=1"
            with connect(address, open_timeout=60) as watcher:
                assert b"requestId" in watcher.recv(20, decode=False)
            with urllib.request.urlopen(f"{url}/metrics", timeout=60) as answer:
                assert b"sdwebui_queue_items" in answer.read()
        finally:
            process.terminate()
            process.wait(30)


def url_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if "http://" in line:
            return "http://" + line.split("http://")[1].split()[0].rstrip(".,/")
    raise AssertionError("".join(said))
