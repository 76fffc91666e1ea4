"""diffusers and transformers are imported when the first model is loaded: seconds that the page does not wait for."""

from __future__ import annotations

import sys
import threading
from importlib import import_module

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


def import_without_scipy() -> None:
    """To be called before the first model is made; does nothing afterwards.

    Both libraries import scipy as soon as they find it, for schedulers and losses of training that nothing here calls:
    57 MB that stay for good, and half a second of the first picture.
    """
    with IMPORTING:
        if "diffusers.schedulers" not in sys.modules:
            from diffusers.utils import import_utils

            import_utils._scipy_available = False
        if "transformers.modeling_utils" not in sys.modules:
            from transformers import utils

            is_scipy_available, utils.is_scipy_available = utils.is_scipy_available, lambda: False
            try:
                import_module("transformers.modeling_utils")
            finally:
                utils.is_scipy_available = is_scipy_available
