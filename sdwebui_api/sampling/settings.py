"""What one sampling run is asked to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from sdwebui_api.sampling.samplers import Sampler
from sdwebui_api.sampling.schedules import AUTOMATIC, Schedule

INFINITY = float("inf")


class OptionSource(Protocol):
    """Anything with `get(name, default)`: a dict, or `config.options.Options`."""

    def get(self, name: str, default: Any = None, /) -> Any: ...


def _real(value: Any) -> float:
    """Whole numbers stay so: infotexts show them as they were written."""
    return value if isinstance(value, int) and not isinstance(value, bool) else float(value)


_COERCIONS: dict[str, Callable[[Any], Any]] = {"bool": bool, "int": int, "float": _real, "str": str}


@dataclass(frozen=True)
class SamplingOptions:
    """The settings of /sdapi/v1/options that sampling reads; names and defaults as there.

    `sdxl` is no option: it tells Align Your Steps which table fits the model.
    """

    enable_quantization: bool = False
    sd_noise_schedule: str = "Default"
    use_downcasted_alpha_bar: bool = False
    use_old_karras_scheduler_sigmas: bool = False
    always_discard_next_to_last_sigma: bool = False
    sigma_min: float = 0.0
    sigma_max: float = 0.0
    rho: float = 0.0
    beta_dist_alpha: float = 0.6
    beta_dist_beta: float = 0.6
    sgm_noise_multiplier: bool = False
    eta_ddim: float = 0.0
    eta_ancestral: float = 1.0
    s_churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = 0.0
    s_noise: float = 1.0
    s_min_uncond: float = 0.0
    s_min_uncond_all: bool = False
    skip_early_cond: float = 0.0
    batch_cond_uncond: bool = True
    pad_cond_uncond: bool = False
    pad_cond_uncond_v0: bool = False
    no_dpmpp_sde_batch_determinism: bool = False
    img2img_fix_steps: bool = False
    img2img_extra_noise: float = 0.0
    uni_pc_variant: str = "bh1"
    uni_pc_skip_type: str = "time_uniform"
    uni_pc_order: int = 3
    uni_pc_lower_order_final: bool = True
    refiner_switch_by_sample_steps: bool = False
    live_preview_content: str = "Prompt"
    sdxl: bool = False

    @classmethod
    def from_options(cls, options: OptionSource, *, sdxl: bool = False) -> SamplingOptions:
        """Copied from the server's options; missing ones and nulls keep their default."""
        values: dict[str, Any] = {}
        for row in fields(cls):
            value = options.get(row.name, None)
            if value is not None:
                values[row.name] = _COERCIONS[str(row.type)](value)
        return cls(**(values | {"sdxl": sdxl}))


@dataclass(frozen=True)
class SamplingSettings:
    """One pass of one sampler over one batch.

    eta: None takes the option that fits the sampler.
    denoising_strength: of img2img and the hires pass, in [0, 1]; txt2img ignores it.
    hires_pass: run exactly `steps` steps whatever the denoising strength, and call the schedule
        "Hires schedule type" when it differs from `first_pass_schedule` (that pass's "Schedule type", if it had one).
    """

    sampler: Sampler
    steps: int
    schedule: Schedule = AUTOMATIC
    cfg_scale: float = 7.0
    image_cfg_scale: float | None = None
    denoising_strength: float = 1.0
    eta: float | None = None
    s_min_uncond: float = 0.0
    s_churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = INFINITY
    s_noise: float = 1.0
    hires_pass: bool = False
    first_pass_schedule: str | None = None
    options: SamplingOptions = field(default_factory=SamplingOptions)

    @property
    def total_steps(self) -> int:
        """Model evaluations to expect in txt2img: what prompt editing counts in."""
        return self.sampler.total_steps(self.steps)

    def img2img_steps(self) -> tuple[int, int]:
        """(steps of the whole schedule, index of the last one counted from the end); (0, …) when nothing is to do.

        As A1111's `setup_img2img_steps`: by default a share of the steps, with `img2img_fix_steps` (and in the hires
        pass) a schedule so long that the share makes exactly `steps`.
        """
        strength = min(self.denoising_strength, 0.999)
        if self.hires_pass or self.options.img2img_fix_steps:
            return (int(self.steps / strength) if strength > 0 else 0), self.steps - 1
        return self.steps, int(strength * self.steps)
