from __future__ import annotations

import errno
import logging
import os
import socket
import subprocess
import sys
import types
from pathlib import Path

import pytest

from sdwebui_api import cli

ROOT = Path(__file__).resolve().parents[1]


HTTP_CLIENTS = ("httpx", "httpcore", "httpx2", "httpcore2")


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """`main` sets the whole process's logging."""
    root, clients = logging.getLogger(), [logging.getLogger(name) for name in HTTP_CLIENTS]
    handlers, levels = list(root.handlers), {logger: logger.level for logger in (root, *clients)}
    yield
    root.handlers[:] = handlers
    for logger, level in levels.items():
        logger.setLevel(level)


@pytest.fixture
def served(monkeypatch):
    """The flags that `app.serve` was called with; the app itself is replaced."""
    calls = []
    app = types.ModuleType("sdwebui_api.app")
    app.serve = calls.append
    monkeypatch.setitem(sys.modules, "sdwebui_api.app", app)
    monkeypatch.delenv("COMMANDLINE_ARGS", raising=False)
    return calls


def test_flags_reach_the_app(served, capsys):
    assert cli.main(["--port", "0", "--nowebui", "--token", "t"]) == 0
    assert served[0].token == "t"
    assert capsys.readouterr().out == ""


def test_addresses_with_secrets_are_not_logged(served):
    assert cli.main(["--port", "0", "--nowebui"]) == 0
    assert not [name for name in HTTP_CLIENTS if logging.getLogger(name).isEnabledFor(logging.INFO)]


def test_a_taken_port_is_one_clear_line(served, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["--port", str(port), "--nowebui"]) == 1
    error = capsys.readouterr().err
    assert f"127.0.0.1:{port}" in error and "--port" in error and error.count("\n") == 1
    assert not served


def test_an_impossible_address_is_one_clear_line(served, capsys):
    assert cli.main(["--server-name", "no.such.host.invalid", "--nowebui"]) == 1
    assert "no.such.host.invalid" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--nowebui"]])
def test_a_data_folder_that_is_a_file_is_one_clear_line(flags, served, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        assert cli.main(["--port", "0", "--data-dir", str(folder), *flags]) == 1
        error = capsys.readouterr().err
        assert str(folder) in error and "--data-dir" in error and error.count("\n") == 1
    assert not served


def test_only_the_page_needs_a_data_folder_it_can_write(served, capsys, tmp_path, monkeypatch):
    def read_only(dir):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(dir))

    monkeypatch.setattr(cli.tempfile, "TemporaryFile", read_only)  # root may write anywhere, so no mode stands for it
    words = ["--port", "0", "--data-dir", str(tmp_path / "new")]
    assert cli.main(words) == 1 and "Read-only" in capsys.readouterr().err and not served
    assert cli.main([*words, "--nowebui"]) == 0 and served


def test_help_is_answered_at_once():
    """Nothing is imported for it that takes seconds."""
    command = [sys.executable, "-X", "importtime", "-m", "sdwebui_api", "--help"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0 and "--max-step-batch" in answer.stdout
    imported = {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}
    assert "sdwebui_api.cli" in imported
    assert not imported & {"torch", "numpy", "scipy", "cv2", "PIL", "fastapi", "gradio", "diffusers", "transformers"}
