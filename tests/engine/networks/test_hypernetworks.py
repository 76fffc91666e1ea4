"""Hypernetworks against a plain reading of what their flags mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from sdwebui_api.engine.networks.hypernetworks import (
    Architecture,
    HypernetworkLayer,
    apply_hypernetworks,
    load_hypernetwork,
)
from sdwebui_api.errors import UnusableModel

CPU = torch.device("cpu")


def save(path: Path, architecture: Architecture, **stated: Any) -> Path:
    torch.manual_seed(0)
    layers: dict[Any, Any] = {
        width: tuple(HypernetworkLayer(width, architecture).state_dict() for _ in range(2)) for width in (8, 12)
    }
    torch.save({**layers, "name": "made", "step": 3, **stated}, path)
    return path


def attention(width: int, context: int | None = None) -> Attention:
    torch.manual_seed(1)
    return Attention(query_dim=width, cross_attention_dim=context, heads=2, dim_head=4)


def test_a_layer_adds_to_its_input(tmp_path: Path) -> None:
    path = save(tmp_path / "h.pt", Architecture((1, 2, 1), "relu", activate_output=False),
                layer_structure=[1, 2, 1], activation_func="relu", activate_output=False)  # fmt: skip
    layer = load_hypernetwork(path, 0.5, CPU).layers[8][0]
    weights = torch.load(path, weights_only=True)[8][0]
    x = torch.randn(1, 3, 8)
    hidden = torch.relu(x @ weights["linear.0.weight"].T + weights["linear.0.bias"])
    expected = x + 0.5 * (hidden @ weights["linear.2.weight"].T + weights["linear.2.bias"])
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(
    ("stated", "kinds"),
    [
        ({}, [nn.Linear, nn.Linear]),
        ({"activation_func": "linear"}, [nn.Linear, nn.Linear]),
        ({"activation_func": "swish"}, [nn.Linear, nn.Hardswish, nn.Linear, nn.Hardswish]),
        ({"activation_func": "mish", "activate_output": False}, [nn.Linear, nn.Mish, nn.Linear]),
        ({"is_layer_norm": True}, [nn.Linear, nn.LayerNorm, nn.Linear, nn.LayerNorm]),
        ({"use_dropout": True, "last_layer_dropout": True}, [nn.Linear, nn.Dropout, nn.Linear]),
        ({"dropout_structure": [0, 0.1, 0]}, [nn.Linear, nn.Dropout, nn.Linear]),
        ({"layer_structure": [1, 1]}, [nn.Linear]),
    ],
)
def test_layers_in_their_order(stated: dict[str, Any], kinds: list[type]) -> None:
    layer = HypernetworkLayer(8, Architecture.from_file(stated))
    assert [type(part) for part in layer.linear] == kinds


def test_dropout_drops_nothing(tmp_path: Path) -> None:
    stated = {"layer_structure": [1, 2, 2, 1], "use_dropout": True}
    architecture = Architecture.from_file(stated)
    assert architecture.dropout == (0, 0.3, 0, 0)
    layer = load_hypernetwork(save(tmp_path / "h.pt", architecture, **stated), 1.0, CPU).layers[12][1]
    x = torch.randn(1, 3, 12)
    assert torch.equal(layer(x), layer(x))


def test_keys_and_values_of_fitting_contexts_change(tmp_path: Path) -> None:
    found = load_hypernetwork(save(tmp_path / "h.pt", Architecture()), 1.0, CPU)
    cross, own, other = attention(16, 12), attention(8), attention(10)
    unet = nn.ModuleList([cross, own, other])
    keys, values = cross.to_k, cross.to_v
    untouched = other.to_k
    apply_hypernetworks(unet, [found])
    apply_hypernetworks(unet, [found])  # a second time, as training does on top of a job's own: outermost first
    context = torch.randn(1, 5, 12)

    def twice(layer: HypernetworkLayer) -> Tensor:
        return layer(layer(context))

    torch.testing.assert_close(cross.to_k(context), keys(twice(found.layers[12][0])))
    torch.testing.assert_close(cross.to_v(context), values(twice(found.layers[12][1])))
    assert other.to_k is untouched
    assert own(torch.randn(1, 6, 8)).shape == (1, 6, 8)
    assert cross(torch.randn(1, 6, 16), encoder_hidden_states=context).shape == (1, 6, 16)


def test_half_precision_contexts_stay_half(tmp_path: Path) -> None:
    found = load_hypernetwork(save(tmp_path / "h.pt", Architecture()), 1.0, CPU)
    own = attention(8).bfloat16()
    apply_hypernetworks(nn.ModuleList([own]), [found])
    assert own.to_k(torch.randn(1, 3, 8).bfloat16()).dtype == torch.bfloat16


def test_old_names_of_weights(tmp_path: Path) -> None:
    weights = {"linear1.weight": torch.ones(16, 8), "linear1.bias": torch.ones(16),
               "linear2.weight": torch.ones(8, 16), "linear2.bias": torch.ones(8)}  # fmt: skip
    torch.save({8: (weights, weights)}, tmp_path / "old.pt")
    assert load_hypernetwork(tmp_path / "old.pt", 1.0, CPU).layers[8][0].linear.get_parameter("1.bias").sum() == 8


@pytest.mark.parametrize(
    "content",
    [
        {"name": "empty"},
        [1, 2],
        {8: ({}, {})},
        {8: 3},
        {8: ({"linear.0.weight": torch.ones(3, 3)}, {})},
        {8: ({}, {}), "layer_structure": "12"},
        {8: ({}, {}), "activation_func": "no such"},
        {8: ({}, {}), "dropout_structure": [0]},
        {-8: ({}, {})},
        {8: ({}, {}), "layer_structure": ["a", 1]},
    ],
)
def test_broken(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "broken.pt")
    with pytest.raises(UnusableModel, match="broken"):
        load_hypernetwork(tmp_path / "broken.pt", 1.0, CPU)
