"""`modules.sd_samplers_common`."""

from __future__ import annotations

from typing import Any

from sdwebui_api.sampling.guidance import SamplingStopped
from sdwebui_api.scripting.compat.models import SD_MODEL
from sdwebui_api.scripting.compat.samplers import SamplerData, SamplerDataTuple
from sdwebui_api.scripting.compat.world import view

__all__ = ["SamplerData", "SamplerDataTuple"]

approximation_indexes = {"Full": 0, "Approx NN": 1, "Approx cheap": 2, "TAESD": 3}


class InterruptedException(SamplingStopped):
    """Raised in a callback it ends the pass with the picture so far."""


def setup_img2img_steps(p: Any, steps: int | None = None) -> tuple[int, int]:
    from sdwebui_api.scripting.compat.world import current_options

    strength = min(p.denoising_strength or 0.0, 0.999)
    if steps is not None or current_options().img2img_fix_steps:
        requested = steps or p.steps
        return (int(requested / strength) if strength > 0 else 0), requested - 1
    return p.steps, int(strength * p.steps)


def images_tensor_to_samples(image: Any, approximation: Any = None, model: Any = None) -> Any:
    """Pictures [B, 3, H, W] in [0, 1] to latents."""
    return SD_MODEL.encode_first_stage(image * 2 - 1)


def decode_first_stage(model: Any, x: Any) -> Any:
    return SD_MODEL.decode_first_stage(x)


def samples_to_images_tensor(sample: Any, approximation: Any = None, model: Any = None) -> Any:
    return SD_MODEL.decode_first_stage(sample)


def sample_to_image(samples: Any, index: int = 0, approximation: Any = None) -> Any:
    return single_sample_to_image(samples[index], approximation)


def single_sample_to_image(sample: Any, approximation: Any = None) -> Any:
    import torch
    from PIL import Image

    picture = SD_MODEL.decode_first_stage(sample[None])[0]
    levels = (torch.clamp((picture.float() + 1.0) / 2.0, 0.0, 1.0) * 255.0).permute(1, 2, 0)
    return Image.fromarray(levels.cpu().numpy().astype("uint8"))


def store_latent(decoded: Any) -> None:
    """The latent that previews show until the next step."""
    found = view()
    if found is not None and found.model is not None:
        job, model = found.context.job, found.model
        job.step(job.snapshot().sampling_step, lambda: model.preview(decoded[0]))
