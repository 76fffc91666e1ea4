"""`modules.scripts`: the base class of A1111's scripts, and who holds them."""

from __future__ import annotations

import os
from collections import namedtuple
from typing import Any

from sdwebui_api.scripting.compat.modules.scripts_postprocessing import ScriptPostprocessingRunner
from sdwebui_api.scripting.compat.params import (
    MaskBlendArgs,
    OnComponent,
    PostprocessBatchListArgs,
    PostprocessImageArgs,
    PostProcessMaskOverlayArgs,
    PostSampleArgs,
)
from sdwebui_api.scripting.compat.runner import ScriptRunner
from sdwebui_api.scripting.compat.script_base import AlwaysVisible, Script, ScriptBuiltinUI
from sdwebui_api.scripting.compat.world import World, world

__all__ = [
    "AlwaysVisible",
    "MaskBlendArgs",
    "OnComponent",
    "PostProcessMaskOverlayArgs",
    "PostSampleArgs",
    "PostprocessBatchListArgs",
    "PostprocessImageArgs",
    "Script",
    "ScriptBuiltinUI",
    "ScriptFile",
    "ScriptRunner",
    "basedir",
    "list_files_with_name",
    "list_scripts",
]


ScriptFile = namedtuple("ScriptFile", ["basedir", "filename", "path"])
ScriptClassData = namedtuple("ScriptClassData", ["script_class", "path", "basedir", "module"])


def basedir() -> str:
    """The folder of the extension whose file is being loaded; later the program's."""
    return world().current_basedir or str(world().script_path)


def list_scripts(scriptdirname: str, extension: str, *, include_extensions: bool = True) -> list[Any]:
    """Files of that ending in a folder of the program and of every enabled extension."""
    places = [world().script_path]
    if include_extensions:
        places += [folder.path for folder in world().extensions if folder.enabled]
    return [
        ScriptFile(str(place), path.name, str(path))
        for place in places
        for path in sorted((place / scriptdirname).glob(f"*{extension}"))
    ]


def list_files_with_name(filename: str) -> list[str]:
    places = [world().script_path, *(folder.path for folder in world().extensions if folder.enabled)]
    return [str(place / filename) for place in places if os.path.isfile(place / filename)]


scripts_txt2img: Any = ScriptRunner(False)
scripts_img2img: Any = ScriptRunner(True)
scripts_postproc = ScriptPostprocessingRunner()
scripts_current: Any = None


def show_runners(made: World) -> None:
    """The scripts are made: fills the two runners, which extensions may have imported by name already."""
    for runner, kind in ((scripts_txt2img, "txt2img"), (scripts_img2img, "img2img")):
        runner.__dict__.update(made.runners[kind].__dict__)


def __getattr__(name: str) -> Any:
    if name == "scripts_data":
        made = world()
        rows = [ScriptClassData(row.script_class, row.path, row.basedir, row.module) for row in made.script_classes]
        home = made.script_path
        plot = ScriptClassData(made.xyz_grid.Script, str(home / "scripts" / "xyz_grid.py"), str(home), made.xyz_grid)
        return [plot, *rows]
    if name == "postprocessing_scripts_data":
        return [
            ScriptClassData(row.script_class, row.path, row.basedir, row.module)
            for row in world().postprocessing_classes
        ]
    raise AttributeError(f"modules.scripts.{name} is not offered by this server")
