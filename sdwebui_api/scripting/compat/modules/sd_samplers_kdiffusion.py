"""`modules.sd_samplers_kdiffusion`: see `compat.samplers` for what may be replaced."""

from __future__ import annotations

from sdwebui_api.scripting.compat.samplers import CFGDenoiser, CFGDenoiserKDiffusion, KDiffusionSampler, sampler_rows

__all__ = ["CFGDenoiser", "CFGDenoiserKDiffusion", "KDiffusionSampler"]

samplers_data_k_diffusion = [row for row in sampler_rows() if row.name not in ("DDIM", "DDIM CFG++", "PLMS", "UniPC")]
k_diffusion_samplers_map = {row.name: row for row in samplers_data_k_diffusion}
