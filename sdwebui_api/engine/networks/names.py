"""What the tensors of a LoRA file are called, and which module of ours each of them changes.

Every training tool has its own names:

- kohya: `lora_unet_down_blocks_1_attentions_0_…` (diffusers' names, flattened), `lora_te_text_model_…`;
  for SDXL `lora_te1_…`, `lora_te2_…` and LDM's names, flattened: `lora_unet_input_blocks_4_1_…`
- diffusers, PEFT: `unet.down_blocks.1.attentions.0.….to_q.lora_A.weight`, older ones
  `….attn1.processor.to_q_lora.down.weight`, `text_encoder.text_model.….q_proj.lora_linear_layer.up.weight`
- LDM's names with dots: `diffusion_model.input_blocks.4.1.….lora_up.weight`
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from torch import nn

from sdwebui_api.engine.families.base import TextTower
from sdwebui_api.engine.ldm_names import unet_to_ldm

Part = Literal["unet", "text"]

BUNDLED = "bundle_emb"
"""Starts the names of textual inversions that come inside a LoRA."""

# PEFT's and diffusers' names of a layer's tensors -> kohya's, as the rest of this package has them.
_LEAVES = (
    (re.compile(r"(.+)\.lora_A(?:\.\w+)?\.weight"), "lora_down.weight"),
    (re.compile(r"(.+)\.lora_B(?:\.\w+)?\.weight"), "lora_up.weight"),
    (re.compile(r"(.+)\.lora_B(?:\.\w+)?\.bias"), "diff_b"),
    (re.compile(r"(.+)\.lora_magnitude_vector(?:\.\w+)*"), "dora_scale"),
    (re.compile(r"(.+?)(?:_lora|\.lora_linear_layer|\.lora)\.(down|up)\.weight"), r"lora_\2.weight"),
    (re.compile(r"(.+)\.(lora_(?:down|up|mid)\.weight|[ab][12]\.weight)"), r"\2"),
)
_OLD_TEXT_LAYERS = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out.0": "out_proj"}
_WRAPPERS = ("base_model.model.", "model.")

# Kohya writes diffusers' names of SD1's UNet, which has two residual blocks per level (A1111 networks.py).
_BLOCKS_PER_LEVEL = 3
_RESNET_LAYERS = {
    "conv1": "in_layers_2",
    "conv2": "out_layers_3",
    "norm1": "in_layers_0",
    "norm2": "out_layers_0",
    "time_emb_proj": "emb_layers_1",
    "conv_shortcut": "skip_connection",
}


def split_tensor_name(name: str) -> tuple[str, str]:
    """(layer, leaf) of a tensor: the layer as in the file, the leaf in kohya's words (`lora_up.weight`, `alpha`)."""
    layer, _, leaf = name.partition(".")
    if layer.startswith(("lora_", "oft_")) or layer == BUNDLED:
        return layer, leaf
    for pattern, meaning in _LEAVES:
        if found := pattern.fullmatch(name):
            return _plain_layer(found[1]), found.expand(meaning)
    layer, _, leaf = name.rpartition(".")
    return _plain_layer(layer), leaf


def _plain_layer(layer: str) -> str:
    for wrapper in _WRAPPERS:
        layer = layer.removeprefix(wrapper)
    layer = layer.replace(".processor", "")
    return f"{layer}.0" if layer.endswith(".to_out") else layer


def part_of(layer: str) -> Part | None:
    """Which of a checkpoint's networks a layer belongs to; None for names that are none of ours."""
    if layer.startswith(("lora_te_", "lora_te1_", "lora_te2_", "text_encoder.", "text_encoder_2.")):
        return "text"
    if layer.startswith(("lora_unet_", "oft_unet_", "unet.", "diffusion_model.", *_BARE_UNET)):
        return "unet"
    return None


_BARE_UNET = (
    "down_blocks.", "up_blocks.", "mid_block.", "conv_in", "conv_norm_out", "conv_out", "time_embedding.",
    "add_embedding.",
)  # fmt: skip


class UNetLayers:
    """The layers of one UNet by the names that files give them."""

    def __init__(self, unet: Any) -> None:
        names = _layers_with_weights(unet)
        self._diffusers = set(names)
        self._flattened = {name.replace(".", "_"): name for name in names}
        self._flat: dict[str, str] = {}
        levels = {level for level, block in enumerate(unet.up_blocks) if getattr(block, "attentions", None)}
        for name in names:
            ldm = unet_to_ldm(name, unet.config.layers_per_block, attention_levels=levels)
            if ldm is not None:
                self._flat[ldm.replace(".", "_")] = name

    def find(self, layer: str) -> str | None:
        """The name of our module; None when this UNet has no such layer."""
        for prefix in ("lora_unet_", "oft_unet_"):
            if layer.startswith(prefix):
                flat = layer.removeprefix(prefix)
                return self._flat.get(kohya_to_ldm(flat)) or self._flat.get(flat) or self._flattened.get(flat)
        if layer.startswith("diffusion_model."):
            return self._flat.get(layer.removeprefix("diffusion_model.").replace(".", "_"))
        name = re.sub(r"^add_embedding\.", "class_embedding.", layer.removeprefix("unet."))
        return name if name in self._diffusers else None


class TextLayers:
    """The layers of a checkpoint's text models by the names that files give them."""

    def __init__(self, text_models: nn.Module, towers: Sequence[TextTower] = (TextTower(),)) -> None:
        self._flat = {_number(tower): _text_names(text_models, tower) for tower in towers}
        self._numbered = bool(towers[0].name)

    def find(self, layer: str) -> str | None:
        """The name of our module; None when these text models have no such layer."""
        for prefix, number in (("lora_te1_", 1), ("lora_te2_", 2), ("lora_te_", 1)):
            if layer.startswith(prefix):
                if prefix == "lora_te_" and self._numbered:
                    return None  # SD1's and SD2's; CLIP-L's layers in SDXL have the same names and sizes
                return self._flat.get(number, {}).get(layer.removeprefix(prefix).removeprefix("text_model_"))
        number = 2 if layer.startswith("text_encoder_2.") else 1
        name = re.sub(r"^text_encoder(_2)?\.", "", layer).removeprefix("text_model.")
        for old, new in _OLD_TEXT_LAYERS.items():
            name = re.sub(rf"\.self_attn\.{re.escape(old)}$", f".self_attn.{new}", name)
        return self._flat.get(number, {}).get(name.replace(".", "_"))


def _number(tower: TextTower) -> int:
    """SDXL's second text model is the second even in the refiner, which has no other."""
    return 2 if tower.pooled else 1


def _text_names(text_models: nn.Module, tower: TextTower) -> dict[str, str]:
    """The tower's layers by flat names that begin below `text_model`."""
    prefix = f"{tower.name}." if tower.name else ""
    names = [name for name in _layers_with_weights(text_models) if name.startswith(prefix)]
    return {name.removeprefix(prefix).removeprefix("text_model.").replace(".", "_"): name for name in names}


def _layers_with_weights(module: nn.Module) -> list[str]:
    return [name for name, layer in module.named_modules() if "weight" in layer._parameters]


def kohya_to_ldm(flat: str) -> str:
    """`down_blocks_1_attentions_0_proj_in` -> `input_blocks_4_1_proj_in`; other names unchanged."""
    for pattern, rename in _KOHYA:
        if found := re.fullmatch(pattern, flat):
            return rename(found)
    return flat


def _inner(kind: str, rest: str) -> str:
    return _RESNET_LAYERS.get(rest, rest) if kind == "resnets" else rest


def _block(found: re.Match[str], side: str, first: int) -> str:
    number = first + int(found[1]) * _BLOCKS_PER_LEVEL + int(found[3])
    return f"{side}_blocks_{number}_{0 if found[2] == 'resnets' else 1}_{_inner(found[2], found[4])}"


def _middle(found: re.Match[str]) -> str:
    number = 1 if found[1] == "attentions" else int(found[2]) * 2
    return f"middle_block_{number}_{_inner(found[1], found[3])}"


_KOHYA = (
    (r"conv_in", lambda found: "input_blocks_0_0"),
    (r"conv_norm_out", lambda found: "out_0"),
    (r"conv_out", lambda found: "out_2"),
    (r"add_embedding_linear_(\d+)", lambda found: f"label_emb_0_{int(found[1]) * 2 - 2}"),
    (r"time_embedding_linear_(\d+)", lambda found: f"time_embed_{int(found[1]) * 2 - 2}"),
    (r"down_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)", lambda found: _block(found, "input", 1)),
    (r"up_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)", lambda found: _block(found, "output", 0)),
    (r"mid_block_(attentions|resnets)_(\d+)_(.+)", _middle),
    (r"down_blocks_(\d+)_downsamplers_0_conv", lambda found: f"input_blocks_{int(found[1]) * 3 + 3}_0_op"),
    (
        r"up_blocks_(\d+)_upsamplers_0_conv",
        lambda found: f"output_blocks_{int(found[1]) * 3 + 2}_{2 if int(found[1]) > 0 else 1}_conv",
    ),
)


def grouped(tensors: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> dict[str, dict[str, Any]]:
    """Tensors by layer and leaf."""
    layers: dict[str, dict[str, Any]] = {}
    for name, tensor in dict(tensors).items():
        layer, leaf = split_tensor_name(name)
        layers.setdefault(layer, {})[leaf] = tensor
    return layers
