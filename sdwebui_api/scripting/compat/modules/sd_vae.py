"""`modules.sd_vae`: the VAE files on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdwebui_api.scripting.compat.world import NotOffered, world

unspecified = object()
base_vae = None


def refresh_vae_list() -> None:
    world().files.vaes.refresh()


def get_filename(filepath: str) -> str:
    return Path(filepath).name


def reload_vae_weights(sd_model: Any = None, vae_file: Any = unspecified) -> None:
    raise NotOffered("the VAE is chosen per request: set p.override_settings['sd_vae'] in before_process")


def __getattr__(name: str) -> Any:
    if name == "vae_dict":
        return {file.name: str(file.path) for file in world().files.vaes.all()}
    if name == "vae_path":
        return str(world().paths.vae_dirs[0])
    raise AttributeError(f"modules.sd_vae.{name} is not offered by this server")
