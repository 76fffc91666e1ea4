"""Merging checkpoints, tensor by tensor: memory for one tensor at a time, however large the files are.

The mathematics of A1111 `modules/extras.py` (`run_modelmerger`), computed in float32 and rounded once.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import regex
import torch
from torch import Tensor

from sdwebui_api.catalog.merging import MergeRecipe
from sdwebui_api.engine.original_names import original_names
from sdwebui_api.engine.reading import Tensors, read_tensors
from sdwebui_api.engine.scaled import is_scaled
from sdwebui_api.errors import BadRequest, UnusableModel, not_stored

log = logging.getLogger(__name__)

OnTensor = Callable[[int, int], None]
"""Told after every tensor (done, of how many); may raise to end the work, which leaves nothing behind."""

REGEX_SECONDS = 2.0
VAE_PREFIX = "first_stage_model."
_INPUT = "model.diffusion_model.input_blocks.0.0.weight"
_TEXT = "cond_stage_model.transformer."
_OLD_TEXT = tuple(f"{_TEXT}{part}." for part in ("embeddings", "encoder", "final_layer_norm"))
_POSITIONS = f"{_TEXT}text_model.embeddings.position_ids"
_SPECIAL_INPUTS = {9: "inpainting", 8: "instruct-pix2pix"}

_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip


@dataclass(frozen=True)
class _Output:
    """A tensor of the new file: known in shape before it is computed, since the header comes first."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    compute: Callable[[], Tensor]

    @property
    def size(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()


def merge_checkpoints(recipe: MergeRecipe, folder: Path, on_tensor: OnTensor = lambda done, total: None) -> Path:
    """Writes the merged checkpoint into `folder` and answers its path. Never overwrites a file.

    Raises BadRequest when the checkpoints do not fit together, the expression is none, the name is taken, or the
    disk is too full; UnusableModel when a file cannot be read; NotStored when nothing can be written there.
    """
    _check_sources(recipe)
    tensors = [_read(source.path) for source in recipe.sources]
    outputs = _with_vae(recipe, list(_merged(recipe, tensors)))
    outputs = [_half(output) for output in outputs] if recipe.save_as_half else outputs
    outputs = _without_discarded(outputs, recipe.discard_weights)
    kind = _kind(recipe, tensors[0])
    target = folder / recipe.file_name(kind)
    if target.exists():
        raise BadRequest(f"{target.name} exists already", field="custom_name")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_space(folder, sum(output.size for output in outputs))
        _write_beside(target, outputs, recipe.file_metadata(kind), on_tensor)
        if (config := recipe.config_path()) is not None:
            shutil.copyfile(config, target.with_suffix(".yaml"))
    except OSError as error:
        raise not_stored(target.name, folder, error) from error
    log.info("merged %s into %s", ", ".join(source.name for source in recipe.sources), target)
    return target


def _check_sources(recipe: MergeRecipe) -> None:
    if recipe.method != "No interpolation" and recipe.secondary is None:
        raise BadRequest("this method needs a second checkpoint", field="secondary_model_name")
    if recipe.method == "Add difference" and recipe.tertiary is None:
        raise BadRequest("this method needs a third checkpoint", field="tertiary_model_name")


def _read(path: Path) -> Tensors:
    """With the text encoder's names as today's files have them."""
    found = original_names(read_tensors(path))
    if kinds := {tensor.dtype for tensor in found.values()} - _DTYPES.keys():
        raise UnusableModel(f"{path.name} has tensors of {kinds.pop()}, which cannot be merged")
    if is_scaled(found):
        raise UnusableModel(f"{path.name} keeps float8 weights beside their scales, which cannot be merged")
    return {
        f"{_TEXT}text_model.{name.removeprefix(_TEXT)}" if name.startswith(_OLD_TEXT) else name: tensor
        for name, tensor in found.items()
    }


# -- what the tensors become -------------------------------------------------------------------------------------------


def _merged(recipe: MergeRecipe, tensors: list[Tensors]) -> Iterator[_Output]:
    first = tensors[0]
    fitting = 0
    for name, a in first.items():
        others = _others(recipe, name, tensors[1:])
        if recipe.method == "No interpolation" or not others or not a.is_floating_point():
            yield _Output(name, tuple(a.shape), a.dtype, partial(_same, a))
            continue
        _check_shapes(recipe, name, a, others)
        fitting += 1
        yield _Output(name, tuple(a.shape), a.dtype, partial(_combine, a, others, recipe.multiplier))
    if recipe.method != "No interpolation" and not fitting:
        raise BadRequest("has no tensor in common with the first checkpoint", field="secondary_model_name")


def _others(recipe: MergeRecipe, name: str, tensors: list[Tensors]) -> tuple[Tensor, ...]:
    """(B,) of a weighted sum or (B, C) of a difference; () where A's tensor stays as it is."""
    if "model" not in name or name == _POSITIONS or not tensors or name not in tensors[0]:
        return ()
    if recipe.method == "Add difference":
        return (tensors[0][name], tensors[1][name]) if name in tensors[1] else ()
    return (tensors[0][name],)


def _check_shapes(recipe: MergeRecipe, name: str, a: Tensor, others: tuple[Tensor, ...]) -> None:
    for other, field in zip(others, ("secondary_model_name", "tertiary_model_name"), strict=False):
        narrower = name == _INPUT and a.shape[1] in _SPECIAL_INPUTS and other.shape[1] == 4
        if other.shape != a.shape and not narrower:
            if name == _INPUT and other.shape[1] in _SPECIAL_INPUTS:
                raise BadRequest(
                    f"is an {_SPECIAL_INPUTS[other.shape[1]]} checkpoint; such a one must be the first", field=field
                )
            raise BadRequest(
                f"does not fit {recipe.primary.name}: {name} is {list(other.shape)} instead of {list(a.shape)}",
                field=field,
            )


def _same(a: Tensor) -> Tensor:
    return a


def _combine(a: Tensor, others: tuple[Tensor, ...], multiplier: float) -> Tensor:
    """An inpainting or edit model's further input channels stay A's where the other one has only the latent's four."""
    channels = min(tensor.shape[1] for tensor in (a, *others)) if a.ndim > 1 else None
    parts = [tensor[:, :channels].float() if channels else tensor.float() for tensor in (a, *others)]
    if len(parts) == 3:
        mixed = parts[0] + (parts[1] - parts[2]) * multiplier
    else:
        mixed = parts[0] * (1 - multiplier) + parts[1] * multiplier
    if mixed.shape == a.shape:
        return mixed.to(a.dtype)
    result = a.clone()
    result[:, :channels] = mixed.to(a.dtype)
    return result


def _with_vae(recipe: MergeRecipe, outputs: list[_Output]) -> list[_Output]:
    if recipe.vae is None:
        return outputs
    vae = {name.removeprefix(VAE_PREFIX): tensor for name, tensor in read_tensors(recipe.vae.path).items()}
    baked = 0
    for index, output in enumerate(outputs):
        tensor = vae.get(output.name.removeprefix(VAE_PREFIX)) if output.name.startswith(VAE_PREFIX) else None
        if tensor is None:
            continue
        if tuple(tensor.shape) != output.shape:
            raise BadRequest(f"does not fit {recipe.primary.name}: {output.name}", field="bake_in_vae")
        outputs[index] = _Output(output.name, output.shape, tensor.dtype, partial(_same, tensor))
        baked += 1
    if not baked:
        raise BadRequest(f"has no tensor that {recipe.primary.name} has", field="bake_in_vae")
    return outputs


def _half(output: _Output) -> _Output:
    if output.dtype != torch.float32:
        return output
    compute = output.compute
    return _Output(output.name, output.shape, torch.float16, lambda: compute().half())


def _without_discarded(outputs: list[_Output], expression: str) -> list[_Output]:
    """`regex`, unlike `re`, can be given a time limit: the expression is a client's."""
    if not expression:
        return outputs
    try:
        pattern = regex.compile(expression)
        end = time.monotonic() + REGEX_SECONDS
        kept = [output for output in outputs if not pattern.search(output.name, timeout=max(end - time.monotonic(), 0))]
    except (regex.error, RecursionError, OverflowError) as error:
        raise BadRequest(f"no regular expression: {error}", field="discard_weights") from None
    except TimeoutError:
        raise BadRequest("this regular expression takes too long", field="discard_weights") from None
    if not kept:
        raise BadRequest("leaves no tensor", field="discard_weights")
    return kept


def _kind(recipe: MergeRecipe, first: Tensors) -> str:
    """A1111 marks a merged inpainting or edit model in its name."""
    weight = first.get(_INPUT)
    if weight is None or weight.ndim < 2 or recipe.method == "No interpolation":
        return ""
    return _SPECIAL_INPUTS.get(weight.shape[1], "")


# -- the file ----------------------------------------------------------------------------------------------------------


def _check_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size + 2**20 > free:
        raise BadRequest(f"the merged checkpoint needs {size} bytes, and {folder} has {free} left")


def _write_beside(target: Path, outputs: list[_Output], metadata: Mapping[str, str], on_tensor: OnTensor) -> None:
    """Under another name until it is complete, and only then as `target`, which must not exist by then either."""
    part = target.with_name(f".merging-{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            _write(file, outputs, metadata, on_tensor)
            file.flush()
            os.fsync(file.fileno())
        _publish(part, target)
    finally:
        part.unlink(missing_ok=True)


def _write(file: BinaryIO, outputs: list[_Output], metadata: Mapping[str, str], on_tensor: OnTensor) -> None:
    """The safetensors layout: length of the header, header (JSON), tensors; the widest types first, so all aligned."""
    outputs = sorted(outputs, key=lambda output: (-output.dtype.itemsize, output.name))
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for output in outputs:
        header[output.name] = {
            "dtype": _DTYPES[output.dtype],
            "shape": list(output.shape),
            "data_offsets": [offset, offset + output.size],
        }
        offset += output.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for done, output in enumerate(outputs, start=1):
        with torch.no_grad():
            tensor = output.compute().contiguous().reshape(-1)
        file.write(tensor.view(torch.uint8).numpy().data)
        on_tensor(done, len(outputs))


def _publish(part: Path, target: Path) -> None:
    try:
        os.link(part, target)  # unlike a rename, never takes the place of a file
    except FileExistsError:
        raise BadRequest(f"{target.name} exists already", field="custom_name") from None
    except OSError:  # a file system without hard links
        if target.exists():
            raise BadRequest(f"{target.name} exists already", field="custom_name") from None
        part.rename(target)
