"""Which kind of control model a file holds, told by its tensors' names, and how it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdwebui_api.engine.attention import attend_alike
from sdwebui_api.engine.devices import Device
from sdwebui_api.engine.families.base import Assembly
from sdwebui_api.engine.filling import Weights, materialise
from sdwebui_api.engine.loading import tensors_size
from sdwebui_api.engine.networks.clip_vision import assemble_clip_vision, find_encoder
from sdwebui_api.engine.networks.control import ControlNetwork
from sdwebui_api.engine.networks.control_changes import completed, is_change
from sdwebui_api.engine.networks.controlnet import ControlNet, assemble_controlnet, check_fits
from sdwebui_api.engine.networks.controlnet_union import MARK as UNION_MARK
from sdwebui_api.engine.networks.controlnet_union import ControlNetUnion, assemble_union
from sdwebui_api.engine.networks.face_adapter import (
    FaceAdapter,
    FacePlusProjection,
    face_projection,
    is_face_adapter,
)
from sdwebui_api.engine.networks.ip_adapter import (
    IPAdapter,
    IPAdapterModule,
    Projection,
    attention_layers,
    projection_of,
)
from sdwebui_api.engine.networks.style_adapter import MARK as STYLE_MARK
from sdwebui_api.engine.networks.style_adapter import StyleAdapter, StyleModule, named_tensors, style_projection
from sdwebui_api.engine.networks.t2i_adapter import T2IAdapter, assemble_adapter
from sdwebui_api.engine.reading import Tensors, read_pickle, read_tensors, shapes_of, tensors_of
from sdwebui_api.errors import UnusableModel

_UNSUPPORTED: tuple[tuple[str, Callable[[Collection[str]], bool]], ...] = (
    ("this is a ControlLLLite, which is not supported", lambda names: _any(names, "lllite_")),
    ("this is a SparseCtrl, which is not supported", lambda names: any("motion_modules." in name for name in names)),
)


def _any(names: Collection[str], *prefixes: str) -> bool:
    return any(name.startswith(prefixes) for name in names)


def needs_base(path: Path) -> bool:
    """Whether the network in `path` is made of the UNet's own weights. Raises UnusableModel for a broken file."""
    return is_change(_read(path))


def made_for(unet: Any) -> str:
    """The dimensions of a diffusers UNet that a control network is made for: one of others has to be made anew."""
    config = unet.config
    return (
        f"{config.attention_head_dim}/{config.cross_attention_dim}/{config.block_out_channels}/"
        f"{config.layers_per_block}/{config.projection_class_embeddings_input_dim}"
    )


def load_control_network(
    path: Path,
    unet: Any,
    weights: Weights,
    device: Device,
    key: str,
    reserve: Callable[[int], None],
    encoder_folders: Sequence[Path] = (),
) -> tuple[ControlNetwork, int]:
    """The network in `path`, made for the diffusers UNet `unet`, and the bytes it takes.

    encoder_folders: where the image encoders of IP-Adapters lie. Raises UnusableModel when the file is broken, of an
    unknown kind, or does not fit the UNet.
    """
    tensors = _read(path)
    try:
        for message, matches in _UNSUPPORTED:
            if matches(tensors):
                raise UnusableModel(message)
        if is_face_adapter(shapes_of(tensors)):
            shortcut = "v2" in path.stem.lower()
            return _face_adapter(tensors, unet, weights, device, key, reserve, encoder_folders, shortcut=shortcut)
        if _any(tensors, "ip_adapter.", "image_proj."):
            return _ip_adapter(tensors, unet, weights, device, key, reserve, encoder_folders)
        if STYLE_MARK in tensors:
            return _style_adapter(tensors, unet, weights, device, key, reserve, encoder_folders)
        tensors = completed(tensors, unet) if is_change(tensors) else _control_tensors(tensors)
        size = tensors_size(tensors, weights.dtype)
        reserve(size)
        pooled = "shuffle" in path.stem.lower()
        return _hint_reader(tensors, unet, weights, device, key, pooled=pooled), size
    except UnusableModel as error:
        raise UnusableModel(f"{path.name}: {error.message}") from error


def _hint_reader(
    tensors: Mapping[str, Tensor], unet: Any, weights: Weights, device: Device, key: str, *, pooled: bool
) -> ControlNetwork:
    """A network that reads maps. pooled: its residuals are averaged over the picture."""
    like_unet = replace(weights, packed=device.plan.packs_unet)
    if UNION_MARK in tensors:
        return ControlNetUnion(key, _controlnet(assemble_union, tensors, unet, like_unet), weights.dtype, device)
    if _any(tensors, "control_model.", "input_hint_block.", "controlnet_cond_embedding."):
        module = _controlnet(assemble_controlnet, tensors, unet, like_unet)
        return ControlNet(key, module, weights.dtype, device, pooled=pooled)
    if _any(tensors, "body.", "adapter.body."):
        adapter = materialise(assemble_adapter(tensors, unet), weights, "T2I-Adapter")
        return T2IAdapter(key, adapter, weights.dtype, device)
    raise UnusableModel("this is no control model: it has none of the tensors of the known kinds")


def _read(path: Path) -> Tensors:
    """IP-Adapters' pickles hold two dictionaries of tensors, which are joined under the names of the other form."""
    if path.suffix.lower() == ".safetensors":
        return read_tensors(path)
    content = read_pickle(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("ip_adapter"), Mapping):
        return tensors_of(content)
    parts = {part: tensors_of(content.get(part, {})) for part in ("image_proj", "ip_adapter")}
    return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def _ip_adapter(
    tensors: Tensors,
    unet: Any,
    weights: Weights,
    device: Device,
    key: str,
    reserve: Callable[[int], None],
    encoder_folders: Sequence[Path],
) -> tuple[ControlNetwork, int]:
    with torch.device("meta"):
        made, projecting = projection_of(tensors, shapes_of(tensors))
        projection: Any = made
        keys, values, attending = attention_layers(tensors, unet, projection.width)
    width: int = projection.input_width
    plain = isinstance(projection, Projection)
    encoder = find_encoder(encoder_folders, **({"projection": width} if plain else {"width": width}))
    seeing = assemble_clip_vision(read_tensors(encoder))
    named = {**attending}
    named |= {f"projection.{name}": tensor for name, tensor in projecting.items()}
    named |= {f"encoder.{name}": tensor for name, tensor in seeing.tensors.items()}
    size = tensors_size(named, weights.dtype)
    reserve(size)
    module = IPAdapterModule(seeing.module, projection, keys, values)
    filled = materialise(Assembly(module, named), weights, "IP-Adapter and its image encoder")
    return IPAdapter(key, filled, weights.dtype, device), size


def _face_adapter(
    tensors: Tensors,
    unet: Any,
    weights: Weights,
    device: Device,
    key: str,
    reserve: Callable[[int], None],
    encoder_folders: Sequence[Path],
    *,
    shortcut: bool,
) -> tuple[ControlNetwork, int]:
    """shortcut: the "plus" form's second version, which only the file's name tells."""
    with torch.device("meta"):
        made, projecting = face_projection(tensors, shapes_of(tensors), shortcut=shortcut)
        projection: Any = made
        keys, values, named = attention_layers(tensors, unet, projection.width)
    named |= {f"projection.{name}": tensor for name, tensor in projecting.items()}
    encoder = None
    if isinstance(projection, FacePlusProjection):
        seeing = assemble_clip_vision(read_tensors(find_encoder(encoder_folders, width=projection.input_width)))
        encoder = seeing.module
        named |= {f"encoder.{name}": tensor for name, tensor in seeing.tensors.items()}
    size = tensors_size(named, weights.dtype)
    reserve(size)
    module = IPAdapterModule(encoder, projection, keys, values)
    filled = materialise(Assembly(module, named), weights, "face adapter")
    return FaceAdapter(key, filled, weights.dtype, device), size


def _style_adapter(
    tensors: Tensors,
    unet: Any,
    weights: Weights,
    device: Device,
    key: str,
    reserve: Callable[[int], None],
    encoder_folders: Sequence[Path],
) -> tuple[ControlNetwork, int]:
    with torch.device("meta"):
        projection = style_projection(shapes_of(tensors), unet)
    seeing = assemble_clip_vision(read_tensors(find_encoder(encoder_folders, width=projection.input_width)))
    named = named_tensors(tensors, seeing.tensors)
    size = tensors_size(named, weights.dtype)
    reserve(size)
    assembly = Assembly(StyleModule(seeing.module, projection), named)
    filled = materialise(assembly, weights, "style adapter and its image encoder")
    return StyleAdapter(key, filled, weights.dtype, device), size


def _controlnet(
    assemble: Callable[[Mapping[str, Tensor], int | list[int]], Assembly],
    tensors: Mapping[str, Tensor],
    unet: Any,
    weights: Weights,
) -> Any:
    assembly = assemble(tensors, unet.config.attention_head_dim)
    check_fits(assembly.module, unet)
    module = materialise(assembly, weights, "ControlNet")
    attend_alike(module, unet)
    return module


def _control_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole checkpoints with a ControlNet inside (the first releases) hold a base model too; that is left out."""
    inside = {name: tensor for name, tensor in tensors.items() if name.startswith("control_model.")}
    return inside or dict(tensors)
