"""diffusers and transformers are imported when the first model is loaded: seconds that the page does not wait for."""

from __future__ import annotations

import threading

import torch

IMPORTING = threading.RLock()
"""To be held around an import of them inside a function: their modules fetch each other on demand and in circles, which
two threads that begin at once could find half done."""


def prepare_torch() -> None:
    """To be called before any `from_pretrained` of a model.

    At a process's first `torch.device` context torch notes which functions make tensors. transformers' own context is
    around a replaced `linspace`: were it the first, every later context would miss the true one.
    """
    with torch.device("cpu"):
        torch.empty(0)
