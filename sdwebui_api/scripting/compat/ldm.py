"""What extensions still import from A1111's copy of the model's first code, and that A1111 itself no longer uses.

`ldm.models.diffusion.ddim` was its DDIM until 1.6; extensions keep and replace its methods beside what counts. All
else of `ldm` is the model, and that is another's here.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from sdwebui_api.scripting.compat.world import NotOffered


def _unused(*args: Any, **kwargs: Any) -> Any:
    raise NotOffered("ldm's DDIM is not offered: A1111 samples with its own since 1.6, and so does this server")


class DDIMSampler:
    """Can be patched, to no effect, as with A1111."""

    __init__ = make_schedule = p_sample_ddim = sample = _unused


_NAMES: dict[str, dict[str, Any]] = {
    "ldm.models.diffusion.ddim": {"DDIMSampler": DDIMSampler},
    "ldm.modules.diffusionmodules.util": {"make_ddim_sampling_parameters": _unused, "noise_like": _unused},
}


def make_module(name: str) -> ModuleType | None:
    """The module of that name, or the package above it; None for what is not offered."""
    if not any(known == name or known.startswith(f"{name}.") for known in _NAMES):
        return None
    module = ModuleType(name, __doc__)
    module.__dict__.update(_NAMES.get(name, {}))
    return module
