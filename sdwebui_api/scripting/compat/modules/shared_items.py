"""`modules.shared_items`: lists of names for choices."""

from __future__ import annotations

from sdwebui_api.scripting.compat.world import world


def sd_vae_items() -> list[str]:
    return ["Automatic", "None", *(file.name for file in world().files.vaes.all())]


def refresh_vae_list() -> None:
    world().files.vaes.refresh()


def list_checkpoint_tiles(use_short: bool = False) -> list[str]:
    from sdwebui_api.scripting.compat.modules.sd_models import checkpoint_tiles

    return checkpoint_tiles(use_short)


def refresh_checkpoints() -> None:
    world().files.checkpoints.refresh()


def list_samplers() -> list[object]:
    from sdwebui_api.scripting.compat.samplers import sampler_rows

    return list(sampler_rows())


def cross_attention_optimizations() -> list[str]:
    return ["Automatic"]


def sd_unet_items() -> list[str]:
    return ["Automatic", "None"]
