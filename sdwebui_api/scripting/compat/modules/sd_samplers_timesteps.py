"""`modules.sd_samplers_timesteps`: the samplers that count in timesteps."""

from __future__ import annotations

from sdwebui_api.sampling.samplers import SAMPLERS
from sdwebui_api.scripting.compat.samplers import CFGDenoiserTimesteps, CompVisSampler, sampler_rows

__all__ = ["CFGDenoiserTimesteps", "CompVisSampler"]

samplers_data_timesteps = [
    row for row, sampler in zip(sampler_rows(), SAMPLERS, strict=True) if sampler.domain == "timestep"
]
