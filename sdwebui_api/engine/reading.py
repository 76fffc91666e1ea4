"""Reading weight files: names, shapes and tensors, without a second copy in RAM and without running code."""

from __future__ import annotations

import pickle
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sdwebui_api.engine.diffusers_folder import read_folder
from sdwebui_api.errors import UnusableModel

Tensors = dict[str, Tensor]
"""Name to tensor. Tensors of a mapped file are views of it: pages are read when touched and can be dropped."""

Shapes = Mapping[str, tuple[int, ...]]

# torch's allow-list for unpickling is process-wide: two loads that change it must not overlap.
_ALLOW_LIST = threading.Lock()


class _Placeholder:
    """Stands in for training-time classes that old checkpoints mention; holds nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass


def read_tensors(path: Path) -> Tensors:
    """The tensors of a `.safetensors`, `.ckpt`, `.pt`, `.pth` or `.bin` file, on the CPU, mapped where possible.

    Those of a diffusers folder come under the original layout's names. Raises UnusableModel when the file is broken,
    empty, or holds anything but tensors and plain data.
    """
    if path.is_dir():
        return read_folder(path, _read_safetensors)
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    return tensors_of(read_pickle(path))


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@contextmanager
def reading_structure(what: str) -> Iterator[None]:
    """For making a module, on the meta device, of the dimensions that a file's tensors have.

    Raises UnusableModel when tensors are missing, or have dimensions that no module of its kind could have.
    """
    try:
        yield
    except KeyError as error:
        raise UnusableModel(f"{what}'s weights lack {error.args[0]!r}") from error
    # A file may hold tensors of any shape: too few or too many sides, widths that are no multiples, chains that break.
    except (IndexError, TypeError, ValueError, ArithmeticError, AssertionError, RuntimeError) as error:
        raise UnusableModel(f"{what}'s weights have unexpected shapes ({error})") from error


def tensors_of(content: Any) -> Tensors:
    """The tensors in what a pickle held: unwraps `state_dict`, drops counters and callbacks."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        return {}
    return {str(name): value.detach() for name, value in content.items() if isinstance(value, Tensor)}


def _read_safetensors(path: Path) -> Tensors:
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}
    except FileNotFoundError as error:
        raise UnusableModel(f"{path.name}: the file is gone") from error
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise UnusableModel(f"{path.name} is not a readable safetensors file: {error}") from error


def read_pickle(path: Path) -> Any:
    """The content of a torch pickle, admitting tensors, containers and numbers only (`weights_only`).

    Raises UnusableModel for anything else, among it files that would run code when loaded.
    """
    try:
        with _ALLOW_LIST, torch.serialization.safe_globals(_harmless_globals()):
            return _load_mapped(path)
    except FileNotFoundError as error:
        raise UnusableModel(f"{path.name}: the file is gone") from error
    except pickle.UnpicklingError as error:
        raise UnusableModel(
            f"{path.name} holds Python objects other than tensors and was not loaded, for such a file can run any "
            f"code. Get it as .safetensors. ({_refusal(error)})"
        ) from error
    # The unpickler of a damaged file fails in any of these ways.
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UnusableModel(f"{path.name} is not a readable torch file: {_first_line(error)}") from error


def _load_mapped(path: Path) -> Any:
    if _is_zip(path):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return torch.load(path, map_location="cpu", weights_only=True)


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _harmless_globals() -> list[Any]:
    """Names that honest old files contain besides tensors: training callbacks, numpy scalars, parameter dicts."""
    scalar = np.float64(0).__reduce__()[0]
    return [
        (_Placeholder, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
        (_Placeholder, "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint"),
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        np.dtypes.Float64DType,
        np.dtypes.Float32DType,
        np.dtypes.Int64DType,
        OrderedDict,
        torch.nn.ParameterDict,
        torch.nn.Parameter,
    ]


def _refusal(error: BaseException) -> str:
    """What the unpickler stumbled over, without torch's advice to load the file unsafely."""
    found = re.search(r"(Unsupported|GLOBAL|Can only|Trying to)[^\n]{0,160}", str(error))
    return found.group(0) if found else "unpickling failed"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
