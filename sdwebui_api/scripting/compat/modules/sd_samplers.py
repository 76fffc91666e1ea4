"""`modules.sd_samplers`: the table of samplers, to which extensions may add; see `compat.samplers`."""

from __future__ import annotations

from typing import Any

from sdwebui_api.sampling.names import find_sampler
from sdwebui_api.scripting.compat.samplers import SamplerData, sampler_rows

__all__ = ["SamplerData"]

all_samplers = sampler_rows()
all_samplers_map = {row.name: row for row in all_samplers}
samplers = list(all_samplers)
samplers_for_img2img = list(all_samplers)
samplers_map = {alias.lower(): row.name for row in all_samplers for alias in (row.name, *row.aliases)}
samplers_hidden: set[str] = set()


def find_sampler_config(name: str | None) -> Any:
    return all_samplers_map.get(name or "", all_samplers[0])


def create_sampler(name: str, model: Any) -> Any:
    """What `p.sampler` is; every pass is set up by calling this, which extensions replace."""
    config = find_sampler_config(name)
    sampler = config.constructor(model)
    sampler.config = config
    return sampler


def set_samplers() -> None:
    """Which samplers there are is fixed."""


def visible_samplers() -> list[Any]:
    return list(samplers)


def visible_sampler_names() -> list[str]:
    return [row.name for row in samplers]


def get_sampler_and_scheduler(sampler_name: str, scheduler_name: str, *, convert_automatic: bool = True) -> Any:
    from sdwebui_api.sampling.names import find_schedule

    return find_sampler(sampler_name).name, find_schedule(scheduler_name).label


def fix_p_invalid_sampler_and_scheduler(p: Any) -> None:
    """Names are checked where they are read."""
