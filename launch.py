"""Sets up and starts the server: `python launch.py [flags]`. Needs nothing but Python 3.11, 3.12 or 3.13.

The first start makes `.venv` and installs requirements.txt and requirements-no-deps.txt into it; later ones see the
stamp in it and go on at once.

    python launch.py --help                      every flag
    python launch.py --skip-prepare-environment  start in the current Python, install nothing
    python launch.py frontend --queue-url URL    the queue's doors alone, for workers elsewhere
    python launch.py worker --queue-url URL      the engine on that queue, without doors
    python launch.py test [pytest arguments]     install requirements-dev.txt too and run the tests
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
NO_DEPS = "requirements-no-deps.txt"
SKIP = "--skip-prepare-environment"
OLDEST, NEWEST = (3, 11), (3, 13)


def main(argv: list[str]) -> int:
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        return _fail(
            f"this is Python {sys.version_info[0]}.{sys.version_info[1]}; 3.11, 3.12 or 3.13 is needed, "
            "for example: python3.12 launch.py"
        )
    if argv[:1] == ["test"]:
        return _test(argv[1:])
    if {SKIP, "--help", "-h"} & {*argv, *os.environ.get("COMMANDLINE_ARGS", "").split()}:
        return _start_here(argv)
    code = _prepare("requirements.txt")
    if code:
        return code
    print("Starting; this takes some seconds.", flush=True)
    return _become([str(_venv_python()), str(ROOT / "launch.py"), *argv, SKIP])  # a command stays the first word


def _start_here(argv: list[str]) -> int:
    from sdwebui_api.cli import main as start

    try:
        return start(argv)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("sdwebui_api"):
            raise
        return _fail(f"{error.name} is not installed in {sys.executable}; start without {SKIP}")


def _test(arguments: list[str]) -> int:
    python = sys.executable
    if SKIP in arguments:
        arguments = [argument for argument in arguments if argument != SKIP]
    else:
        code = _prepare("requirements-dev.txt")
        if code:
            return code
        python = str(_venv_python())
    os.chdir(ROOT)
    return _become([python, "-m", "pytest", *arguments])


def _prepare(requirements: str) -> int:
    """Brings `.venv` to what `requirements` says. Returns 0, or the exit code of what failed.

    The stamp is written last: an installation that was interrupted is done again.
    """
    stamp = _stamp(requirements)
    if stamp.exists() and stamp.read_text() == _fingerprint(requirements) and _venv_python().exists():
        return 0
    print(f"Installing {requirements} into {VENV}. This happens once and takes some minutes.", flush=True)
    stamp.unlink(missing_ok=True)
    code = _make_venv()
    if code == 0:
        code = _pip_install("-r", str(ROOT / requirements))
    if code == 0:
        code = _pip_install("--no-deps", "-r", str(ROOT / NO_DEPS))
    if code:
        return _fail(f"the installation failed (exit code {code}); see above, then start again", code)
    for covered in {requirements, "requirements.txt"}:  # the second is part of the first
        _stamp(covered).write_text(_fingerprint(covered))
    print("Installed.", flush=True)
    return 0


def _pip_install(*arguments: str) -> int:
    return subprocess.call([str(_venv_python()), "-m", "pip", "install", *arguments])


def _stamp(requirements: str) -> Path:
    return VENV / f"{requirements}.stamp"


def _fingerprint(requirements: str) -> str:
    """Changes with the Python version and with every file that `requirements` names or includes."""
    digest = hashlib.sha256(f"{sys.version_info[:2]} {ROOT}".encode())
    for name in sorted({requirements, "requirements.txt", NO_DEPS}):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def _make_venv() -> int:
    """A working `.venv` of this Python version: kept when it is one, else made anew."""
    if Path(sys.prefix).resolve() == VENV.resolve() or _venv_works():
        return 0
    return subprocess.call([sys.executable, "-m", "venv", "--clear", str(VENV)])


def _venv_works() -> bool:
    """Whether pip runs there (an interrupted creation leaves a folder without it), in this version of Python."""
    if not _venv_python().exists():
        return False
    question = f"import pip, sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    answer = subprocess.run([str(_venv_python()), "-c", question], capture_output=True)
    return answer.returncode == 0


def _venv_python() -> Path:
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _become(command: list[str]) -> int:
    """Runs `command` in place of this process, so that signals reach it; Windows has no such thing and waits."""
    if os.name == "nt":
        return subprocess.call(command)
    sys.stdout.flush()
    os.execv(command[0], command)


def _fail(message: str, code: int = 1) -> int:
    print(f"launch.py: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
