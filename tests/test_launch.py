"""launch.py in a scratch checkout, with an interpreter and a pip that only take notes."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


class Machine:
    """What launch.py would have run, in order; `codes` are the exit codes to answer with."""

    def __init__(self, launch, root: Path) -> None:
        self.launch = launch
        self.root = root
        self.commands: list[list[str]] = []
        self.codes: dict[str, int] = {}

    def call(self, command, **_) -> int:
        self.commands.append(list(command))
        code = next((code for word, code in self.codes.items() if word in command), 0)
        if "venv" in command and code == 0:
            python = self.launch._venv_python()
            python.parent.mkdir(parents=True)
            python.touch()
        return code

    def run(self, command, **_):
        return subprocess.CompletedProcess(command, 0 if self.launch._venv_python().exists() else 1)

    def ran(self) -> list[str]:
        """The commands since the last question, as text relative to the checkout."""
        text = [
            " ".join(command).replace(f"{self.root}/", "").replace(sys.executable, "python")
            for command in self.commands
        ]
        self.commands.clear()
        return text


@pytest.fixture
def machine(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("launch_under_test", ROOT / "launch.py")
    launch = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(launch)
    for name in ("requirements.txt", "requirements-dev.txt", "requirements-no-deps.txt"):
        (tmp_path / name).write_text(name)
    machine = Machine(launch, tmp_path)
    monkeypatch.setattr(launch, "ROOT", tmp_path)
    monkeypatch.setattr(launch, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(launch.subprocess, "call", machine.call)
    monkeypatch.setattr(launch.subprocess, "run", machine.run)
    monkeypatch.setattr(launch, "_become", machine.call)
    monkeypatch.delenv("COMMANDLINE_ARGS", raising=False)
    monkeypatch.chdir(tmp_path)
    return machine


MAKE = "python -m venv --clear .venv"
INSTALL = ".venv/bin/python -m pip install -r requirements.txt"
INSTALL_DEV = ".venv/bin/python -m pip install -r requirements-dev.txt"
NO_DEPS = ".venv/bin/python -m pip install --no-deps -r requirements-no-deps.txt"
START = ".venv/bin/python launch.py --port 8000 --skip-prepare-environment"

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the expected commands are spelled for POSIX")


def test_the_first_start_installs_and_the_second_does_not(machine, capsys):
    assert machine.launch.main(["--port", "8000"]) == 0
    ran = [word.replace(str(machine.root / ".venv"), ".venv") for word in machine.ran()]
    assert ran == [MAKE, INSTALL, NO_DEPS, START]
    assert "Installing" in capsys.readouterr().out
    assert machine.launch.main(["--port", "8000"]) == 0
    assert machine.ran() == [START]


def test_changed_requirements_are_installed_into_the_same_venv(machine):
    machine.launch.main([])
    machine.ran()
    (machine.root / "requirements.txt").write_text("more")
    machine.launch.main(["--port", "8000"])
    assert machine.ran() == [INSTALL, NO_DEPS, START]


@pytest.mark.parametrize("interruption", ["venv", "pip"])
def test_a_failed_installation_is_reported_and_done_again(machine, interruption, capsys):
    machine.codes = {interruption: 7}
    assert machine.launch.main([]) == 7
    assert "failed" in capsys.readouterr().err
    machine.codes = {}
    machine.ran()
    assert machine.launch.main(["--port", "8000"]) == 0
    assert INSTALL in machine.ran()


def test_test_installs_the_tools_and_passes_arguments_on(machine):
    assert machine.launch.main(["test", "tests/parity", "-x"]) == 0
    assert machine.ran()[1:] == [INSTALL_DEV, NO_DEPS, ".venv/bin/python -m pytest tests/parity -x"]
    assert machine.launch.main(["--port", "8000"]) == 0
    assert machine.ran() == [START], "requirements-dev.txt includes requirements.txt"


def test_skip_prepare_environment_tests_in_this_interpreter(machine):
    machine.launch.main(["test", "--skip-prepare-environment", "-x"])
    assert machine.ran() == ["python -m pytest -x"]


def test_other_pythons_are_told_which_are_needed(machine, monkeypatch, capsys):
    monkeypatch.setattr(machine.launch.sys, "version_info", (3, 9, 1))
    assert machine.launch.main([]) == 1
    assert "3.11, 3.12 or 3.13" in capsys.readouterr().err
    assert machine.ran() == []


def test_help_needs_no_environment(tmp_path):
    answer = subprocess.run(
        [sys.executable, "-S", "-E", str(ROOT / "launch.py"), "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    assert "--skip-prepare-environment" in answer.stdout and "launch.py test" in answer.stdout


def test_a_missing_library_is_named(tmp_path):
    """-S hides site-packages, as on a bare Python."""
    answer = subprocess.run(
        [sys.executable, "-S", "-E", str(ROOT / "launch.py"), "--skip-prepare-environment", "--nowebui", "--port", "0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 1
    assert "is not installed" in answer.stderr or "sdwebui_api.app" in answer.stderr
