"""What scripts see as samplers: the tables, and stand-ins for the objects that sample."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

from sdwebui_api.generation.plan import Batch
from sdwebui_api.sampling.evaluation import Moment
from sdwebui_api.sampling.samplers import SAMPLERS, Sampler
from sdwebui_api.sampling.schedules import SCHEDULES
from sdwebui_api.scripting.compat.world import NotOffered

SamplerData = namedtuple("SamplerData", ["name", "constructor", "aliases", "options"])
SamplerDataTuple = SamplerData


def sampler_rows() -> list[Any]:
    """`all_samplers`. The constructors say that samplers are not made by hand here."""
    return [SamplerData(row.name, _constructor(row.name), list(row.aliases), dict(row.options)) for row in SAMPLERS]


def _constructor(name: str) -> Any:
    def construct(_model: Any = None) -> Any:
        raise NotOffered(f"the sampler {name!r} cannot be made by a script; generate with process_images(p) instead")

    return construct


def schedule_rows() -> list[Any]:
    return list(SCHEDULES)


class SamplerFacade:
    """`p.sampler`."""

    def __init__(self, sampler: Sampler, p: Any) -> None:
        self.p = p
        self.funcname = self.name = sampler.name
        self.config = SamplerData(sampler.name, None, list(sampler.aliases), dict(sampler.options))
        self.options = dict(sampler.options)
        self.model_wrap_cfg = DenoiserFacade(p, None)
        self.conditioning_key = "crossattn"

    def __getattr__(self, name: str) -> Any:
        raise NotOffered(f"p.sampler.{name} is not offered: sampling runs outside of the scripts' reach")


class DenoiserFacade:
    """`params.denoiser`: which step it is."""

    def __init__(self, p: Any, at: Moment | None) -> None:
        self.p = p
        self.step = at.number if at else 0
        self.total_steps = at.total if at else 0
        self.steps = at.steps if at else 0
        self.mask, self.nmask, self.init_latent = (getattr(p, name, None) for name in ("mask", "nmask", "init_latent"))
        self.mask_before_denoising = False
        self.image_cfg_scale = getattr(p, "image_cfg_scale", None)

    def __getattr__(self, name: str) -> Any:
        raise NotOffered(f"denoiser.{name} is not offered: change the callback's params instead")


class ImageRNGFacade:
    """`p.rng`: the first noise of the batch; the sampler goes on drawing by itself."""

    def __init__(self, noise: Any, batch: Batch) -> None:
        self._noise = noise
        self.shape = tuple(noise.shape[1:])
        self.seeds, self.subseeds = list(batch.seeds), list(batch.subseeds)
        self.is_first = False

    def first(self) -> Any:
        return self._noise.clone()

    next = first
