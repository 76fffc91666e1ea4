"""Files that people put beside checkpoints, and what to tell them: known kinds that are not supported."""

from __future__ import annotations

from collections.abc import Callable

from sdwebui_api.engine.reading import Shapes

_UNET_INPUT = "model.diffusion_model.input_blocks.0.0.weight"


def _has(part: str) -> Callable[[Shapes], bool]:
    return lambda shapes: any(part in name for name in shapes)


def _begins(*prefixes: str) -> Callable[[Shapes], bool]:
    return lambda shapes: any(name.startswith(prefixes) for name in shapes)


def _input_channels(count: int) -> Callable[[Shapes], bool]:
    def test(shapes: Shapes) -> bool:
        shape = shapes.get(_UNET_INPUT, ())
        return len(shape) == 4 and shape[1] == count

    return test


_Kinds = tuple[tuple[Callable[[Shapes], bool], str], ...]

_CHECKPOINTS: _Kinds = (
    (_has("depth_model."), "this is a depth-to-image checkpoint, which is not supported; use a ControlNet depth model"),
    (_input_channels(5), "this is a depth-to-image checkpoint, which is not supported; use a ControlNet depth model"),
    (_input_channels(7), "this is an upscaler of latent diffusion, which is not supported"),
    (_has("embedder.model.visual."), "this is an unCLIP checkpoint (image variations), which is not supported"),
    (_has("noise_augmentor."), "this is an unCLIP checkpoint (image variations), which is not supported"),
    (_has("edm_mean"), "this is a checkpoint with EDM's preconditioning (Playground 2.5), which is not supported"),
    (_has("edm_vpred."), "this is a checkpoint with EDM's preconditioning (CosXL), which is not supported"),
    (_has("joint_blocks."), "this is a Stable Diffusion 3 checkpoint, which is not supported yet"),
    (_has("double_blocks."), "this is a FLUX checkpoint, which is not supported yet"),
    (_has("time_stack."), "this is a video checkpoint, which is not supported"),
)
_UNET_ALONE = (
    "this is a UNet alone, without text encoder and VAE; use the complete checkpoint, whose UNet's tensors begin with "
    "model.diffusion_model."
)
_OTHERS: _Kinds = (
    (_has("lora_unet_"), "this is a LoRA: it belongs into the folder Lora"),
    (_has("lora_te_"), "this is a LoRA: it belongs into the folder Lora"),
    (_has("control_model."), "this is a ControlNet: it belongs into the folder ControlNet"),
    (_begins("controlnet_"), "this is a ControlNet: it belongs into the folder ControlNet"),
    (_begins("input_blocks.", "diffusion_model.input_blocks."), _UNET_ALONE),
    (
        _begins("down_blocks."),
        "this is the UNet of a diffusers folder; the whole folder is a checkpoint, its UNet alone is none",
    ),
    (_begins("first_stage_model.", "decoder.", "encoder.down"), "this is a VAE: it belongs into the folder VAE"),
    (
        _begins("cond_stage_model.", "conditioner.", "text_model.", "transformer.resblocks."),
        "this is a text encoder alone; use the complete checkpoint",
    ),
)


def unsupported_checkpoint(shapes: Shapes) -> str | None:
    """What kind of checkpoint the file is, in words, when it is one that no family covers."""
    return next((words for test, words in _CHECKPOINTS if test(shapes)), None)


def another_file(shapes: Shapes) -> str | None:
    """What the file is, in words, when it is no checkpoint at all but something known."""
    return next((words for test, words in _OTHERS if test(shapes)), None)
