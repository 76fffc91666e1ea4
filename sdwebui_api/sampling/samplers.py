"""The table of samplers. To add one: write the function, give it a row in `SAMPLERS`; nothing else knows its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from sdwebui_api.sampling.dpm_solver import sample_dpm_adaptive, sample_dpm_fast
from sdwebui_api.sampling.dpmpp import (
    sample_dpmpp_2m,
    sample_dpmpp_2m_sde,
    sample_dpmpp_2s_ancestral,
    sample_dpmpp_3m_sde,
    sample_dpmpp_sde,
)
from sdwebui_api.sampling.ode import (
    sample_dpm_2,
    sample_dpm_2_ancestral,
    sample_euler,
    sample_euler_ancestral,
    sample_heun,
    sample_lcm,
    sample_lms,
    sample_restart,
)
from sdwebui_api.sampling.timestep_samplers import sample_ddim, sample_ddim_cfgpp, sample_plms
from sdwebui_api.sampling.unipc import sample_unipc

Domain = Literal["sigma", "lcm", "timestep"]
"""What the sampler asks the model: denoised at sigma, the same scaled for LCM, or eps at a timestep."""

CHURN = frozenset({"s_churn", "s_tmin", "s_tmax", "s_noise"})
S_NOISE = frozenset({"s_noise"})
UNIPC = frozenset({"is_img2img", "uni_pc_variant", "uni_pc_skip_type", "uni_pc_order", "uni_pc_lower_order_final"})


@dataclass(frozen=True)
class Sampler:
    """A row of `/sdapi/v1/samplers`, with the function and what the session must hand to it.

    function: opens with `(denoise, x, sigmas, *, …)`, or `(predict_eps, x, timesteps, *, alphas_cumprod, …)` in the
        timestep domain.
    needs: the keyword arguments that come from the session: "noise", "span", "unconditional_eps".
    settings: the keyword arguments that a request or an option sets: "eta", the s_churn family, UniPC's.
    fixed: keyword arguments that make this row what it is.
    cfg_multiplier: what the guidance scale is multiplied with (CFG++ wants [0, 1] where clients send up to 12.5).
    """

    name: str
    function: Callable[..., Tensor]
    aliases: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)
    domain: Domain = "sigma"
    needs: frozenset[str] = frozenset()
    settings: frozenset[str] = frozenset()
    fixed: Mapping[str, object] = field(default_factory=dict)
    cfg_multiplier: float = 1.0

    @property
    def schedule(self) -> str | None:
        """Name of the schedule that Automatic stands for; None: the model's own sigmas."""
        return self.options.get("scheduler")

    @property
    def second_order(self) -> bool:
        """Two model evaluations per step."""
        return "second_order" in self.options

    @property
    def brownian_noise(self) -> bool:
        return "brownian_noise" in self.options

    @property
    def discard_next_to_last_sigma(self) -> bool:
        return "discard_next_to_last_sigma" in self.options

    @property
    def uses_ensd(self) -> bool:
        """Whether the infotext names the eta noise seed delta."""
        return "uses_ensd" in self.options

    def total_steps(self, steps: int) -> int:
        """Expected model evaluations: what prompt editing counts in."""
        return steps * 2 if self.second_order else steps

    def row(self) -> dict[str, object]:
        """As the API lists it."""
        return {"name": self.name, "aliases": list(self.aliases), "options": dict(self.options)}


def _k(
    name: str,
    function: Callable[..., Tensor],
    alias: str | tuple[str, ...],
    options: Mapping[str, str] | None = None,
    *,
    needs: str = "",
    settings: frozenset[str] = frozenset(),
    **more: object,
) -> Sampler:
    """A row of the sigma domain."""
    aliases = (alias,) if isinstance(alias, str) else alias
    return Sampler(
        name,
        function,
        aliases,
        options or {},
        needs=frozenset(needs.split()),
        settings=settings,
        fixed=more,
    )


_KARRAS = {"scheduler": "karras"}
_EXPONENTIAL = {"scheduler": "exponential"}
_DISCARD = {"discard_next_to_last_sigma": "True"}
_SECOND = {"second_order": "True"}
_ENSD = {"uses_ensd": "True"}
_BROWNIAN = {"brownian_noise": "True"}
_ETA = frozenset({"eta"})
_ETA_NOISE = _ETA | S_NOISE

SAMPLERS: tuple[Sampler, ...] = (
    _k("DPM++ 2M", sample_dpmpp_2m, "k_dpmpp_2m", _KARRAS),
    _k(
        "DPM++ SDE",
        sample_dpmpp_sde,
        "k_dpmpp_sde",
        _KARRAS | _SECOND | _BROWNIAN,
        needs="noise",
        settings=_ETA_NOISE,
    ),
    _k(
        "DPM++ 2M SDE",
        sample_dpmpp_2m_sde,
        "k_dpmpp_2m_sde",
        _EXPONENTIAL | _BROWNIAN,
        needs="noise",
        settings=_ETA_NOISE,
    ),
    _k(
        "DPM++ 2M SDE Heun",
        sample_dpmpp_2m_sde,
        "k_dpmpp_2m_sde_heun",
        _EXPONENTIAL | _BROWNIAN | {"solver_type": "heun"},
        needs="noise",
        settings=_ETA_NOISE,
        solver_type="heun",
    ),
    _k(
        "DPM++ 2S a",
        sample_dpmpp_2s_ancestral,
        "k_dpmpp_2s_a",
        _KARRAS | _ENSD | _SECOND,
        needs="noise",
        settings=_ETA_NOISE,
    ),
    _k(
        "DPM++ 3M SDE",
        sample_dpmpp_3m_sde,
        "k_dpmpp_3m_sde",
        _EXPONENTIAL | _DISCARD | _BROWNIAN,
        needs="noise",
        settings=_ETA_NOISE,
    ),
    _k("Euler a", sample_euler_ancestral, ("k_euler_a", "k_euler_ancestral"), _ENSD, needs="noise", settings=_ETA),
    _k("Euler", sample_euler, "k_euler", needs="noise", settings=CHURN),
    _k("LMS", sample_lms, "k_lms"),
    _k("Heun", sample_heun, "k_heun", _SECOND, needs="noise", settings=CHURN),
    _k("DPM2", sample_dpm_2, "k_dpm_2", _KARRAS | _DISCARD | _SECOND, needs="noise", settings=CHURN),
    _k(
        "DPM2 a",
        sample_dpm_2_ancestral,
        "k_dpm_2_a",
        _KARRAS | _DISCARD | _ENSD | _SECOND,
        needs="noise",
        settings=_ETA_NOISE,
    ),
    _k("DPM fast", sample_dpm_fast, "k_dpm_fast", _ENSD, needs="noise span", settings=_ETA_NOISE),
    _k("DPM adaptive", sample_dpm_adaptive, "k_dpm_ad", _ENSD, needs="noise span", settings=_ETA),
    _k("Restart", sample_restart, "restart", _KARRAS | _SECOND, needs="noise"),
    Sampler("DDIM", sample_ddim, ("ddim",), domain="timestep", needs=frozenset({"noise"}), settings=_ETA),
    Sampler(
        "DDIM CFG++",
        sample_ddim_cfgpp,
        ("ddim_cfgpp",),
        domain="timestep",
        needs=frozenset({"noise", "unconditional_eps"}),
        settings=_ETA,
        cfg_multiplier=1 / 12.5,
    ),
    Sampler("PLMS", sample_plms, ("plms",), domain="timestep"),
    Sampler("UniPC", sample_unipc, ("unipc",), domain="timestep", settings=UNIPC),
    Sampler("LCM", sample_lcm, ("k_lcm",), domain="lcm", needs=frozenset({"noise"})),
)
