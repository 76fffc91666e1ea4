"""`modules.shared`: settings, flags, progress and model, of the running job where there is one."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sdwebui_api.scripting.compat.models import SD_MODEL
from sdwebui_api.scripting.compat.modules.interrogate import InterrogateModels
from sdwebui_api.scripting.compat.modules.options import OptionDiv, OptionHTML, OptionInfo, Opts, options_section
from sdwebui_api.scripting.compat.modules.shared_state import State
from sdwebui_api.scripting.compat.upscalers import UpscalerData
from sdwebui_api.scripting.compat.world import world

__all__ = ["OptionDiv", "OptionHTML", "OptionInfo", "options_section", "opts", "state"]

opts = Opts()
state = State()
sd_model = SD_MODEL
interrogator = InterrogateModels()
batch_cond_uncond = True
parallel_processing_allowed = True
xformers_available = False
hypernetworks: dict[str, Any] = {}
loaded_hypernetworks: list[Any] = []
clip_model = None
gradio_theme = None
demo = None
tab_names: list[str] = []
latent_upscale_default_mode = "Latent"
progress_print_out = None
options_templates: dict[str, Any] = {}
restricted_opts: set[str] = set()
mem_mon = SimpleNamespace(monitor=lambda: None, stop=dict, read=dict)
log_directory = "log"


class _Flags:
    """`cmd_opts`: this server's flags, and those that `preload.py` files declared."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = world()
        computed = _computed_flag(name)
        if computed is not None:
            return computed
        for place in (made.flags, made.extra_flags):
            if hasattr(place, name):
                return getattr(place, name)
        raise AttributeError(f"there is no flag --{name.replace('_', '-')}")

    def __contains__(self, name: str) -> bool:
        return hasattr(self, name)


def _computed_flag(name: str) -> Any:
    """Folders that the flags leave open, as they were worked out."""
    paths = world().paths
    found = {
        "data_dir": paths.data_dir, "models_dir": paths.models_dir, "ckpt_dir": paths.checkpoint_dirs[0],
        "vae_dir": paths.vae_dirs[0], "lora_dir": paths.lora_dirs[0], "embeddings_dir": paths.embeddings_dir,
        "hypernetwork_dir": paths.hypernetwork_dir,
    }.get(name)  # fmt: skip
    return str(found) if found is not None else None


cmd_opts = _Flags()


class TotalTQDM:
    """A1111's progress bar of the console."""

    def update(self) -> None: ...
    def updateTotal(self, new_total: int) -> None: ...  # A1111's name
    def reset(self) -> None: ...
    def clear(self) -> None: ...


total_tqdm = TotalTQDM()


class _Styles:
    @property
    def styles(self) -> dict[str, Any]:
        return {style.name: style for style in world().files.styles.all()}

    def apply_styles_to_prompt(self, prompt: str, names: list[str]) -> str:
        from sdwebui_api.prompting.styles import apply_styles

        return apply_styles(prompt, "", names, world().files.styles.all())[0]

    def apply_negative_styles_to_prompt(self, prompt: str, names: list[str]) -> str:
        from sdwebui_api.prompting.styles import apply_styles

        return apply_styles("", prompt, names, world().files.styles.all())[1]

    def get_style_prompts(self, names: list[str]) -> list[str]:
        return [self.styles[name].prompt for name in names if name in self.styles]

    def get_negative_style_prompts(self, names: list[str]) -> list[str]:
        return [self.styles[name].negative_prompt for name in names if name in self.styles]

    def reload(self) -> None:
        world().files.styles.refresh()


prompt_styles = _Styles()


def listfiles(dirname: str) -> list[str]:
    return sorted(str(path) for path in Path(dirname).iterdir() if path.is_file() and not path.name.startswith("."))


def walk_files(path: str, allowed_extensions: Any = None) -> Any:
    """Every file below `path`, in natural order of the names, hidden folders left out."""
    if not os.path.isdir(path):
        return
    endings = None if allowed_extensions is None else {ending.lower() for ending in allowed_extensions}
    for found in sorted(Path(path).rglob("*")):
        hidden = any(part.startswith(".") for part in found.relative_to(path).parts)
        if found.is_file() and not hidden and (endings is None or found.suffix.lower() in endings):
            yield str(found)


def html_path(filename: str) -> str:
    return str(world().script_path / "html" / filename)


def html(filename: str) -> str:
    path = Path(html_path(filename))
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def list_checkpoint_tiles(use_short: bool = False) -> list[str]:
    from sdwebui_api.scripting.compat.modules import sd_models

    return sd_models.checkpoint_tiles(use_short)


def refresh_checkpoints() -> None:
    world().files.checkpoints.refresh()


def list_samplers() -> list[Any]:
    from sdwebui_api.scripting.compat.samplers import sampler_rows

    return sampler_rows()


def reload_hypernetworks() -> None:
    return


def _device() -> Any:
    from sdwebui_api.scripting.compat.modules import devices

    return devices.device


_LAZY = {
    "device": _device,
    "weight_load_location": lambda: None,
    "sd_upscalers": lambda: [UpscalerData(row.name) for row in world().files.upscalers.rows()],
    "face_restorers": list,
    "config_filename": lambda: str(world().paths.options_file),
    "styles_filename": lambda: [str(path) for path in world().paths.styles_files],
    "models_path": lambda: str(world().paths.models_dir),
    "script_path": lambda: str(world().script_path),
    "data_path": lambda: str(world().paths.data_dir),
    "OPTIONS": lambda: dict(world().option_infos),
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return _LAZY[name]()
    raise AttributeError(f"modules.shared.{name} is not offered by this server")
