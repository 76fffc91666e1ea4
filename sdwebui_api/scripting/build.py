"""The script host of one server, from its flags and folders."""

from __future__ import annotations

from pathlib import Path

from sdwebui_api.config.flags import Flags, default_data_dir
from sdwebui_api.config.options import Options
from sdwebui_api.config.paths import Paths
from sdwebui_api.scripting.extensions import Switches, find_extensions, script_files
from sdwebui_api.scripting.host import ScriptHost

EXTENSION_FOLDERS = ("extensions", "extensions-builtin")


def build_host(flags: Flags, paths: Paths, options: Options) -> ScriptHost:
    """Looks for `scripts` and `extensions` in the program's folder and in the data folder, and loads what it finds."""
    shipped = Path(default_data_dir())
    switches = Switches(
        all_by_flag=flags.disable_all_extensions,
        extra_by_flag=flags.disable_extra_extensions,
        disable_all=options.disable_all_extensions,
        disabled=frozenset(options.disabled_extensions),
    )
    homes = tuple(dict.fromkeys((shipped, paths.data_dir)))
    places = [home / name for home in homes for name in EXTENSION_FOLDERS]
    extensions = find_extensions(places, shipped / EXTENSION_FOLDERS[0], switches)
    host = ScriptHost(script_files(homes, extensions), extensions)
    host.load()
    return host
