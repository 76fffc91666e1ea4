"""Loading a model of transformers leaves torch as it was."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.utils import _device
from transformers import ViTConfig, ViTForImageClassification

from sdwebui_api.engine.pictures import pretrained


def test_a_first_model_leaves_linspace_to_the_devices_context(tmp_path: Path) -> None:
    small = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    ViTForImageClassification(ViTConfig(image_size=16, **small)).save_pretrained(tmp_path)
    _device._device_constructors.cache_clear()  # as in a fresh process, where nothing has had a context yet
    assert not pretrained(ViTForImageClassification, tmp_path).training
    with torch.device("meta"):
        assert torch.linspace(0, 1, 3).is_meta
