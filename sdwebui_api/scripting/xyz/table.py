"""All axes of the X/Y/Z plot, in A1111's order: the wire names an axis by its place in the list of its endpoint."""

from __future__ import annotations

from sdwebui_api.errors import BadRequest, nearest
from sdwebui_api.sampling.names import SAMPLER_NAMES, SCHEDULE_LABELS
from sdwebui_api.scripting.hooks import Kind
from sdwebui_api.scripting.xyz import lookups as look
from sdwebui_api.scripting.xyz.axis import (
    Axis,
    field,
    file_name,
    hires_field,
    init_field,
    joined_values,
    no_text,
    option,
    plain_value,
    switch,
    unchanged,
)

FRACTION = (0.0, 1.0)
GUIDANCE = (-1e4, 1e4)
SEEDS = (-(2**63), 2**63 - 1)
SIGMAS = (0.0, 1e6)

NOTHING = Axis("Nothing", "text", unchanged, no_text)

AXES: tuple[Axis, ...] = (
    NOTHING,
    Axis("Seed", "int", field("seed"), limits=SEEDS),
    Axis("Var. seed", "int", field("subseed"), limits=SEEDS),
    Axis("Var. strength", "float", field("subseed_strength"), limits=FRACTION),
    Axis("Steps", "int", field("steps"), limits=(1, 1000)),
    Axis("Hires steps", "int", hires_field("steps"), limits=(0, 1000), only="txt2img"),
    Axis("CFG Scale", "float", field("cfg_scale"), limits=GUIDANCE),
    Axis("Image CFG Scale", "float", init_field("image_cfg_scale"), limits=GUIDANCE, only="img2img"),
    Axis("Prompt S/R", "text", look.replace_in_prompt, plain_value),
    Axis("Prompt order", "permutations", look.reorder_prompt, joined_values),
    Axis("Sampler", "text", look.set_sampler, plain_value, choices=lambda _: SAMPLER_NAMES),
    Axis("Hires sampler", "text", look.set_hires_sampler, only="txt2img", choices=lambda _: SAMPLER_NAMES),
    Axis("Checkpoint name", "text", look.set_checkpoint, file_name, cost=1.0, choices=look.checkpoint_names),
    Axis("Negative Guidance minimum sigma", "float", field("s_min_uncond"), limits=SIGMAS),
    Axis("Sigma Churn", "float", field("s_churn"), limits=(0, 1000)),
    Axis("Sigma min", "float", field("s_tmin"), limits=SIGMAS),
    Axis("Sigma max", "float", field("s_tmax"), limits=SIGMAS),
    Axis("Sigma noise", "float", field("s_noise"), limits=(0, 100)),
    Axis("Schedule type", "text", look.set_schedule, choices=lambda _: SCHEDULE_LABELS),
    Axis("Schedule min sigma", "float", option("sigma_min"), limits=SIGMAS),
    Axis("Schedule max sigma", "float", option("sigma_max"), limits=SIGMAS),
    Axis("Schedule rho", "float", option("rho"), limits=(0, 1000)),
    Axis("Beta schedule alpha", "float", option("beta_dist_alpha"), limits=(0.01, 100)),
    Axis("Beta schedule beta", "float", option("beta_dist_beta"), limits=(0.01, 100)),
    Axis("Eta", "float", field("eta"), limits=(0, 100)),
    Axis("Clip skip", "int", option("CLIP_stop_at_last_layers"), limits=(1, 12)),
    Axis("Denoising", "float", field("denoising_strength"), limits=FRACTION),
    Axis("Initial noise multiplier", "float", init_field("initial_noise_multiplier"), limits=(0, 100)),
    Axis("Extra noise", "float", option("img2img_extra_noise"), limits=FRACTION),
    Axis("Hires upscaler", "text", look.set_hires_upscaler, only="txt2img", choices=look.upscaler_names),
    Axis("Cond. Image Mask Weight", "float", option("inpainting_mask_weight"), limits=FRACTION, only="img2img"),
    Axis("VAE", "text", look.set_vae, cost=0.7, choices=look.vae_names),
    Axis("Styles", "text", look.add_styles, choices=look.style_names),
    Axis("UniPC Order", "int", look.set_unipc_order, limits=(1, 50), cost=0.5),
    Axis("Face restore", "text", look.set_face_restoration, plain_value),
    Axis("Token merging ratio", "float", option("token_merging_ratio"), limits=(0.0, 0.9)),
    Axis("Token merging ratio high-res", "float", option("token_merging_ratio_hr"), limits=(0.0, 0.9)),
    Axis(
        "Always discard next-to-last sigma",
        "text",
        switch("always_discard_next_to_last_sigma"),
        choices=lambda _: ("False", "True"),
    ),
    Axis("SGM noise multiplier", "text", switch("sgm_noise_multiplier"), choices=lambda _: ("False", "True")),
    Axis(
        "Refiner checkpoint",
        "text",
        look.set_refiner,
        file_name,
        cost=1.0,
        choices=look.checkpoint_names_or_none,
    ),
    Axis("Refiner switch at", "float", field("refiner_switch_at"), limits=FRACTION),
    Axis("RNG source", "text", option("randn_source"), choices=lambda _: ("GPU", "CPU", "NV")),
    Axis(
        "FP8 mode",
        "text",
        option("fp8_storage"),
        cost=0.9,
        choices=lambda _: ("Disable", "Enable for SDXL", "Enable"),
    ),
    Axis("Size", "text", look.set_size),
)


def axes_for(kind: Kind) -> tuple[Axis, ...]:
    """Those that an endpoint has."""
    return tuple(axis for axis in AXES if axis.only in (None, kind))


def find_axis(wanted: object, kind: Kind, argument: str) -> Axis:
    """The axis that the wire means: an index, as A1111 takes it, or a label in any letter case; None is no axis.

    Raises BadRequest naming `argument`.
    """
    axes = axes_for(kind)
    if wanted is None:
        return NOTHING
    if isinstance(wanted, int) and not isinstance(wanted, bool):
        if 0 <= wanted < len(axes):
            return axes[wanted]
        raise BadRequest(f"There is no axis {wanted}: they go from 0 to {len(axes) - 1}", field=argument)
    text = str(wanted).strip()
    for axis in axes:
        if axis.label.lower() == text.lower():
            return axis
    choices = nearest(text, [axis.label for axis in axes])
    raise BadRequest(f"There is no axis {text[:100]!r}", field=argument, choices=choices)
