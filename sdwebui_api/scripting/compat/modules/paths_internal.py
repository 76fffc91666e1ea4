"""`modules.paths_internal`: folders."""

from __future__ import annotations

from typing import Any

from sdwebui_api.scripting.compat.world import world

_NAMES = {
    "script_path": lambda: world().script_path,
    "modules_path": lambda: world().script_path / "modules",
    "data_path": lambda: world().paths.data_dir,
    "models_path": lambda: world().paths.models_dir,
    "extensions_dir": lambda: world().paths.data_dir / "extensions",
    "extensions_builtin_dir": lambda: world().script_path / "extensions-builtin",
    "config_states_dir": lambda: world().paths.data_dir / "config_states",
    "default_output_dir": lambda: world().paths.outputs_dir,
    "roboto_ttf_file": lambda: world().script_path / "Roboto-Regular.ttf",
    "cwd": lambda: world().script_path,
    "sd_model_file": lambda: world().paths.checkpoint_dirs[0] / "model.ckpt",
    "sd_default_config": lambda: world().script_path / "v1-inference.yaml",
}
sd_configs_path = ""
default_sd_model_file = ""


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return str(_NAMES[name]())
    raise AttributeError(f"modules.{__name__.rpartition('.')[2]}.{name} is not offered by this server")
