"""`modules.safe`: loading files with PyTorch. Pickled code is never run."""

from __future__ import annotations

from typing import Any


def load(filename: str, *args: Any, **kwargs: Any) -> Any:
    import torch

    return torch.load(filename, *args, **{**kwargs, "weights_only": True})


def unsafe_torch_load(filename: str, *args: Any, **kwargs: Any) -> Any:
    """Not unsafe here: files that need code to be unpickled are refused."""
    return load(filename, *args, **kwargs)
