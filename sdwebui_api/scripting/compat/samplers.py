"""What scripts see as samplers: the tables, and stand-ins for the objects that sample.

Of A1111's sampler two methods may be replaced, on the class, in a subclass or on the object, and are then called:
`CFGDenoiser.combine_denoised` (guidance) and `KDiffusionSampler.callback_state` (after every step, may change the
latent in place). Replacing anything else has no effect and is said so in the request's warnings.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from typing import Any

from sdwebui_api.generation.plan import Batch
from sdwebui_api.sampling.evaluation import Moment
from sdwebui_api.sampling.names import find_sampler
from sdwebui_api.sampling.samplers import SAMPLERS, Sampler
from sdwebui_api.sampling.schedules import SCHEDULES
from sdwebui_api.scripting.compat.world import NotOffered, view

SamplerData = namedtuple("SamplerData", ["name", "constructor", "aliases", "options"])
SamplerDataTuple = SamplerData


def sampler_rows() -> list[Any]:
    """`all_samplers`. What the constructors make says how a pass samples; it is run by the pipeline alone."""
    return [SamplerData(row.name, _constructor(row), list(row.aliases), dict(row.options)) for row in SAMPLERS]


def _constructor(row: Sampler) -> Any:
    kind = CompVisSampler if row.domain == "timestep" else KDiffusionSampler
    return lambda model=None: kind(row.name, model)


def schedule_rows() -> list[Any]:
    return list(SCHEDULES)


class _PerJob(type):
    """A class that extensions patch. What is set on it while a job runs is seen by that job alone, and forgotten."""

    def __setattr__(cls, name: str, value: Any) -> None:
        found = view()
        if found is None:
            super().__setattr__(name, value)
        else:
            found.script_state.setdefault(id(cls), {})[name] = value

    def __getattribute__(cls, name: str) -> Any:
        if not name.startswith("__"):
            for place in _patches(cls):
                if name in place:
                    return place[name]
        return super().__getattribute__(name)


def _patches(cls: type) -> list[dict[str, Any]]:
    """What the running job set on the class and on those that it inherits from, the nearest first."""
    found = view()
    if found is None:
        return []
    return [found.script_state[id(one)] for one in cls.__mro__ if id(one) in found.script_state]


class _Patched(metaclass=_PerJob):
    """Attributes as the running job's patches of the class have them."""

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("__") and name not in object.__getattribute__(self, "__dict__"):
            for place in _patches(type(self)):
                if name in place:
                    value = place[name]
                    return value.__get__(self, type(self)) if hasattr(value, "__get__") else value
        return super().__getattribute__(name)


class CFGDenoiser(_Patched):
    """`params.denoiser`, `p.sampler.model_wrap_cfg`: which step it is, and how predictions are combined."""

    def __init__(self, sampler: Any = None) -> None:
        self.sampler = sampler
        self.p = getattr(sampler, "p", None)
        self.step = self.total_steps = self.steps = 0
        self.mask = self.nmask = self.init_latent = None
        self.image_cfg_scale: float | None = None
        self.mask_before_denoising = False
        self.need_last_noise_uncond = self.padded_cond_uncond = False

    def combine_denoised(
        self, x_out: Any, conds_list: Sequence[Sequence[tuple[int, float]]], uncond: Any, cond_scale: float
    ) -> Any:
        """Guided predictions [B, 4, h, w] of `x_out` [parts + B, 4, h, w]; `uncond` says by its first size how many
        there are; conds_list: per image the (row, weight) of its parts."""
        negative = x_out[-uncond.shape[0] :]
        guided = negative.clone()
        for i, parts in enumerate(conds_list):
            for row, weight in parts:
                guided[i] += (x_out[row] - negative[i]) * (weight * cond_scale)
        return guided

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotOffered("CFGDenoiser.forward is not offered: the model is evaluated outside of the scripts' reach")

    get_pred_x0 = update_inner_model = combine_denoised_for_edit_model = forward

    def at(self, moment: Moment) -> CFGDenoiser:
        """Itself, at an evaluation."""
        self.step, self.total_steps, self.steps = moment.number, moment.total, moment.steps
        for name in ("mask", "nmask", "init_latent", "image_cfg_scale"):
            setattr(self, name, getattr(self.p, name, None))
        return self

    def __getattr__(self, name: str) -> Any:
        raise NotOffered(f"denoiser.{name} is not offered: change the callback's params instead")


class CFGDenoiserKDiffusion(CFGDenoiser):
    """That of the samplers that count in sigmas."""


class CFGDenoiserTimesteps(CFGDenoiser):
    """That of the samplers that count in timesteps (DDIM, PLMS, UniPC)."""


class KDiffusionSampler(_Patched):
    """`p.sampler`. `name`: one of our samplers, or one of its aliases."""

    denoiser_class: Any = CFGDenoiserKDiffusion

    def __init__(self, funcname: Any, sd_model: Any = None, options: Any = None) -> None:
        row = find_sampler(str(getattr(funcname, "__name__", funcname)))
        self.sdwebui_sampler = row
        self.p: Any = None
        self.funcname, self.name = row.name, row.name
        self.options = dict(row.options)
        self.config = SamplerData(row.name, None, list(row.aliases), self.options)
        self.conditioning_key = "crossattn"
        self.model_wrap_cfg = self.denoiser_class(self)

    def callback_state(self, d: dict[str, Any]) -> None:
        """After every step's first evaluation: d has `x`, `denoised`, `sigma`, `sigma_hat` and the step `i`."""

    def launch_sampling(self, *args: Any, **kwargs: Any) -> Any:
        raise NotOffered("sampling runs outside of the scripts' reach; generate with process_images(p) instead")

    sample = sample_img2img = launch_sampling

    def __getattr__(self, name: str) -> Any:
        raise NotOffered(f"p.sampler.{name} is not offered: sampling runs outside of the scripts' reach")


class CompVisSampler(KDiffusionSampler):
    denoiser_class = CFGDenoiserTimesteps


_OWN = {
    (owner, name): vars(owner)[name]
    for owner, names in (
        (CFGDenoiser, ("combine_denoised", "forward", "get_pred_x0", "combine_denoised_for_edit_model")),
        (KDiffusionSampler, ("callback_state", "launch_sampling", "sample", "sample_img2img")),
    )
    for name in names
}
"""The methods as they are before anybody replaces them."""
_CALLED = ("combine_denoised", "callback_state")


def replaced(thing: Any, name: str) -> bool:
    """Whether an extension put a method of its own there."""
    method = getattr(thing, name, None)
    own = next((value for (owner, known), value in _OWN.items() if known == name and isinstance(thing, owner)), None)
    return own is not None and getattr(method, "__func__", method) is not own


def without_effect(sampler: Any) -> list[str]:
    """Names of the methods that an extension replaced and nobody calls."""
    things = (sampler, sampler.model_wrap_cfg)
    names = [name for _, name in _OWN if name not in _CALLED]
    return [f"{type(thing).__name__}.{name}" for thing in things for name in names if replaced(thing, name)]


# k-diffusion works out these samplers' direction before it calls back: what the callback does to the prediction
# comes too late there, and what it does to the latent does not turn the direction.
_DIRECTION_FIRST = frozenset({"Euler", "Heun", "DPM2", "LMS", "Restart"})
_NO_CALLBACK = frozenset({"DPM fast", "DPM adaptive"})


def call_back(sampler: Any, x: Any, denoised: Any, level: float, at: Moment) -> Any:
    """Calls `callback_state` where a step begins. Returns the prediction with which the sampler goes on; `x`, the
    latent it started from, is changed in place."""
    row: Sampler = sampler.sdwebui_sampler
    per_step = 2 if row.second_order else 1
    if at.number % per_step or row.domain == "timestep" or row.name in _NO_CALLBACK:
        return denoised
    first = row.name in _DIRECTION_FIRST
    before, shown = (x.clone(), denoised.clone()) if first else (None, denoised)
    sigma = x.new_tensor(level)
    sampler.callback_state({"x": x, "i": at.number // per_step, "sigma": sigma, "sigma_hat": sigma, "denoised": shown})
    return denoised + (x - before) if first else denoised


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
