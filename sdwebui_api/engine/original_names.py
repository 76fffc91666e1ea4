"""Tensor names as the original layout has them, whatever tools have put around them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from sdwebui_api.engine.ldm_names import ema_to_ldm

UNET_PREFIX = "model.diffusion_model."
EMA_PREFIX = "model_ema.diffusion_model"


def original_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's tensors without wrappers such as `state_dict.`, `module.` or a second `model.`.

    Where there are EMA weights of the UNet and no others, they come under the others' names; with both kinds the plain
    ones count, as in A1111 (`use_ema: False`).
    """
    wrapper = _wrapper(tensors)
    found = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    if any(name.startswith(UNET_PREFIX) for name in found):
        return found
    return {_plain(name): tensor for name, tensor in found.items()}


def _wrapper(names: Iterable[str]) -> str:
    """What stands before the UNet's prefix in every name of the UNet; "" for files without a UNet."""
    inner = [name for name in names if UNET_PREFIX in name or EMA_PREFIX in name]
    starts = {name.partition(UNET_PREFIX if UNET_PREFIX in name else EMA_PREFIX)[0] for name in inner}
    return min(starts, key=len, default="")


def _plain(name: str) -> str:
    if not name.startswith(EMA_PREFIX):
        return name
    dotted = ema_to_ldm(name.removeprefix(EMA_PREFIX))
    return name if dotted is None else f"{UNET_PREFIX}{dotted}"
