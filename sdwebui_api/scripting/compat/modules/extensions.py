"""`modules.extensions`: what is installed."""

from __future__ import annotations

from typing import Any

from sdwebui_api.scripting.compat.modules import paths_internal
from sdwebui_api.scripting.compat.world import world
from sdwebui_api.scripting.extensions import ExtensionFolder


class Extension:
    def __init__(self, folder: ExtensionFolder) -> None:
        self.name, self.path, self.enabled = folder.name, str(folder.path), folder.enabled
        self.is_builtin, self.canonical_name = folder.builtin, folder.canonical_name
        self.status, self.can_update = "", False
        row = folder.row()
        self.remote, self.branch, self.commit_hash = row["remote"], row["branch"], row["commit_hash"]
        self.commit_date, self.version = row["commit_date"], row["version"]

    def read_info_from_repo(self) -> None:
        return


def active() -> list[Extension]:
    return [Extension(folder) for folder in world().extensions if folder.enabled]


def list_extensions() -> None:
    """They are looked for when the server starts."""


def __getattr__(name: str) -> Any:
    if name == "extensions":
        return [Extension(folder) for folder in world().extensions]
    if name in ("extensions_dir", "extensions_builtin_dir"):
        return getattr(paths_internal, name)
    raise AttributeError(f"modules.extensions.{name} is not offered by this server")
