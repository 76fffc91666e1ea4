"""`modules.sd_models`: the checkpoints on disk."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sdwebui_api.errors import SdWebUIError
from sdwebui_api.scripting.compat.models import SD_MODEL, CheckpointInfo, checkpoint_file
from sdwebui_api.scripting.compat.world import NotOffered, world

__all__ = ["CheckpointInfo"]

model_dir = "Stable-diffusion"
model_data = SimpleNamespace(
    sd_model=SD_MODEL, get_sd_model=lambda: SD_MODEL, loaded_sd_models=[], was_loaded_at_least_once=True
)


def list_models() -> None:
    world().files.checkpoints.refresh()


def checkpoint_tiles(use_short: bool = False) -> list[str]:
    files = world().files.checkpoints.all()
    return [CheckpointInfo(file).short_title if use_short else file.title for file in files]


def get_closet_checkpoint_match(search_string: str) -> CheckpointInfo | None:
    try:
        return CheckpointInfo(world().files.checkpoints.find(search_string)) if search_string else None
    except SdWebUIError:
        return None


get_closest_checkpoint_match = get_closet_checkpoint_match


def select_checkpoint() -> CheckpointInfo | None:
    file = checkpoint_file()
    return CheckpointInfo(file) if file else None


def model_hash(filename: str) -> str:
    """A1111's old hash: of 64 KiB from the first MiB on."""
    try:
        with open(filename, "rb") as file:
            file.seek(0x100000)
            return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]
    except FileNotFoundError:
        return "NOFILE"


def read_metadata_from_safetensors(filename: str) -> dict[str, Any]:
    from sdwebui_api.catalog.files import safetensors_metadata

    return dict(safetensors_metadata(Path(filename)))


def read_state_dict(checkpoint_file: str, print_global_state: bool = False, map_location: Any = None) -> dict[str, Any]:
    """The tensors of a file, on the CPU."""
    import safetensors.torch
    import torch

    if str(checkpoint_file).endswith(".safetensors"):
        return dict(safetensors.torch.load_file(checkpoint_file))
    found = torch.load(checkpoint_file, map_location="cpu", weights_only=True)
    return dict(found.get("state_dict", found))


def reload_model_weights(sd_model: Any = None, info: Any = None, forced_reload: bool = False) -> None:
    raise NotOffered(
        "the model is chosen per request: set p.override_settings['sd_model_checkpoint'] in before_process"
    )


load_model = reload_model_weights


def unload_model_weights(sd_model: Any = None, info: Any = None) -> Any:
    """Nothing: other jobs may be using it, and the engine gives memory back by itself."""
    return sd_model


send_model_to_cpu = send_model_to_device = send_model_to_trash = unload_model_weights


def __getattr__(name: str) -> Any:
    if name == "checkpoints_list":
        return {file.title: CheckpointInfo(file) for file in world().files.checkpoints.all()}
    if name in ("checkpoint_aliases", "checkpoint_alisases"):
        return {alias: info for info in __getattr__("checkpoints_list").values() for alias in info.ids}
    if name == "model_path":
        return str(world().paths.checkpoint_dirs[0])
    raise AttributeError(f"modules.sd_models.{name} is not offered by this server")
