"""`modules.launch_utils`: facts about the program. Installing packages is not offered."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

from sdwebui_api.scripting.compat.world import NotOffered

python = sys.executable
git = "git"
index_url = ""


def git_tag() -> str:
    """The version of A1111 whose extensions are understood."""
    return "v1.10.1"


def commit_hash() -> str:
    return "<none>"


def is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def run_pip(command: str, desc: str | None = None, live: bool = False) -> None:
    raise NotOffered(f"pip {command}: this server installs nothing for extensions; install it yourself")


def run(command: str, *args: Any, **kwargs: Any) -> str:
    raise NotOffered(f"{command}: this server runs no commands for extensions")


def __getattr__(name: str) -> Any:
    if name == "args":
        from sdwebui_api.scripting.compat.modules.shared import cmd_opts

        return cmd_opts
    raise AttributeError(f"modules.launch_utils.{name} is not offered by this server")
