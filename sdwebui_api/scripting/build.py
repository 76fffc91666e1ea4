"""The script host of one server, from its flags and folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdwebui_api.config.flags import Flags, default_data_dir
from sdwebui_api.config.options import Options, OptionStore
from sdwebui_api.config.paths import Paths
from sdwebui_api.scripting.extensions import ExtensionFolder, Switches, find_extensions, script_files
from sdwebui_api.scripting.hooks import Files
from sdwebui_api.scripting.host import Legacy, ScriptHost

EXTENSION_FOLDERS = ("extensions", "extensions-builtin")


def installed_extensions(flags: Flags, paths: Paths, options: Options) -> list[ExtensionFolder]:
    """Those in the folders now; `enabled` says which a start with these settings loads."""
    switches = Switches(
        all_by_flag=flags.disable_all_extensions,
        extra_by_flag=flags.disable_extra_extensions,
        disable_all=options.disable_all_extensions,
        disabled=frozenset(options.disabled_extensions),
    )
    places = [home / name for home in _homes(paths) for name in EXTENSION_FOLDERS]
    return find_extensions(places, Path(default_data_dir()) / EXTENSION_FOLDERS[0], switches)


def _homes(paths: Paths) -> tuple[Path, ...]:
    return tuple(dict.fromkeys((Path(default_data_dir()), paths.data_dir)))


def build_host(
    flags: Flags, paths: Paths, store: OptionStore, files: Files, parse_infotext: Callable[[str], dict[str, Any]]
) -> ScriptHost:
    """Looks for `scripts` and `extensions` in the program's folder and in the data folder, and loads what it finds."""
    extensions = installed_extensions(flags, paths, store.snapshot())

    def make_legacy() -> Legacy:
        from sdwebui_api.scripting.compat.legacy import LegacyWorld
        from sdwebui_api.scripting.compat.world import World

        return LegacyWorld(World(flags, paths, store, files, extensions, parse_infotext=parse_infotext))

    host = ScriptHost(script_files(_homes(paths), extensions), extensions, make_legacy)
    host.load()
    return host
