"""Every kind of network against a plain reading of its paper, entry by entry."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sdwebui_api.engine.networks.families import layer_delta, low_rank
from sdwebui_api.errors import UnusableModel

RANDOM = torch.Generator().manual_seed(0)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=RANDOM)


LINEAR = random(6, 4)
CONV = random(6, 4, 3, 3)


def naive_product(a: Tensor, b: Tensor) -> Tensor:
    """a [m, r] times b [r, n, …], summed entry by entry."""
    result = torch.zeros(a.shape[0], *b.shape[1:])
    for row in range(a.shape[0]):
        for rank in range(a.shape[1]):
            result[row] += a[row, rank] * b[rank]
    return result


def close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("alpha", [None, 1.0, 4.0])
def test_lora_of_a_linear_layer(alpha: float | None) -> None:
    up, down = random(6, 2), random(2, 4)
    leaves = {"lora_up.weight": up, "lora_down.weight": down}
    if alpha is not None:
        leaves["alpha"] = torch.tensor(alpha)
    close(layer_delta(leaves, LINEAR).weight, naive_product(up, down) * (alpha or 2.0) / 2)


def test_lora_with_fewer_ranks_keeps_its_scale() -> None:
    up, down = random(6, 3), random(3, 4)
    leaves = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(6.0)}
    close(layer_delta(leaves, LINEAR, 1).weight, naive_product(up[:, :1], down[:1]) * 2)
    assert not layer_delta(leaves, LINEAR, 0).weight.any()


def test_lora_of_a_convolution() -> None:
    up, down = random(6, 2, 1, 1), random(2, 4, 3, 3)
    close(
        layer_delta({"lora_up.weight": up, "lora_down.weight": down}, CONV).weight, naive_product(up[:, :, 0, 0], down)
    )


def test_lora_of_a_1x1_convolution_fits_a_linear_layer_and_back() -> None:
    up, down = random(6, 2), random(2, 4)
    flat = {"lora_up.weight": up, "lora_down.weight": down}
    square = {name: tensor[:, :, None, None] for name, tensor in flat.items()}
    close(layer_delta(square, LINEAR).weight, naive_product(up, down))
    close(layer_delta(flat, LINEAR[:, :, None, None]).weight, naive_product(up, down)[:, :, None, None])


def test_lora_in_tucker_form() -> None:
    up, mid, down = random(6, 2, 1, 1), random(2, 2, 3, 3), random(2, 4, 1, 1)
    expected = torch.zeros(6, 4, 3, 3)
    for out in range(6):
        for into in range(4):
            for n in range(2):
                for m in range(2):
                    expected[out, into] += up[out, n, 0, 0] * mid[n, m] * down[m, into, 0, 0]
    leaves = {"lora_up.weight": up, "lora_mid.weight": mid, "lora_down.weight": down}
    close(layer_delta(leaves, CONV).weight, expected)


def test_a_lora_without_mask_channels_fits_an_inpainting_model() -> None:
    up, down = random(6, 2, 1, 1), random(2, 4, 3, 3)
    leaves = {"lora_up.weight": up, "lora_down.weight": down}
    assert layer_delta(leaves, random(6, 9, 3, 3)).weight.shape == (6, 4, 3, 3)


def test_loha() -> None:
    factors = {
        "hada_w1_a": random(6, 2),
        "hada_w1_b": random(2, 36),
        "hada_w2_a": random(6, 2),
        "hada_w2_b": random(2, 36),
    }
    products = [naive_product(factors[f"hada_w{i}_a"], factors[f"hada_w{i}_b"]) for i in (1, 2)]
    delta = layer_delta({**factors, "alpha": torch.tensor(1.0)}, CONV)
    close(delta.weight, (products[0] * products[1] / 2).reshape(6, 4, 3, 3))


def test_loha_in_tucker_form() -> None:
    leaves = {f"hada_w{i}_a": random(2, 6) for i in (1, 2)} | {f"hada_w{i}_b": random(2, 4) for i in (1, 2)}
    leaves |= {f"hada_t{i}": random(2, 2, 3, 3) for i in (1, 2)}
    parts = []
    for i in (1, 2):
        part = torch.zeros(6, 4, 3, 3)
        for p in range(2):
            for q in range(2):
                outer = leaves[f"hada_w{i}_a"][p][:, None] * leaves[f"hada_w{i}_b"][q][None]
                part += outer[:, :, None, None] * leaves[f"hada_t{i}"][p, q]
        parts.append(part)
    close(layer_delta(leaves, CONV).weight, parts[0] * parts[1])


def naive_kronecker(first: Tensor, second: Tensor) -> Tensor:
    rows, columns = first.shape
    return torch.cat([torch.cat([first[r, c] * second for c in range(columns)], dim=1) for r in range(rows)])


def test_lokr_whole() -> None:
    first, second = random(2, 2), random(3, 2, 3, 3)
    # alpha has no meaning without a rank
    leaves = {"lokr_w1": first, "lokr_w2": second, "alpha": torch.tensor(9.0)}
    close(layer_delta(leaves, CONV).weight, naive_kronecker(first, second))


def test_lokr_of_low_rank() -> None:
    a, b, second_a, second_b = random(2, 1), random(1, 2), random(3, 2), random(2, 2)
    leaves = {"lokr_w1_a": a, "lokr_w1_b": b, "lokr_w2_a": second_a, "lokr_w2_b": second_b, "alpha": torch.tensor(1.0)}
    expected = naive_kronecker(naive_product(a, b), naive_product(second_a, second_b)) / 2
    close(layer_delta(leaves, LINEAR).weight, expected)


def test_lokr_in_tucker_form() -> None:
    first, core, a, b = random(2, 2), random(2, 2, 3, 3), random(2, 3), random(2, 2)
    second = torch.zeros(3, 2, 3, 3)
    for p in range(2):
        for q in range(2):
            second += (a[p][:, None] * b[q][None])[:, :, None, None] * core[p, q]
    leaves = {"lokr_w1": first, "lokr_t2": core, "lokr_w2_a": a, "lokr_w2_b": b}
    close(layer_delta(leaves, CONV).weight, naive_kronecker(first, second))


@pytest.mark.parametrize("weight", [LINEAR, CONV])
def test_ia3(weight: Tensor) -> None:
    rows, columns = random(6), random(4)
    by_rows = layer_delta({"weight": rows, "on_input": torch.tensor(False)}, weight).weight
    by_columns = layer_delta({"weight": columns, "on_input": torch.tensor(True)}, weight).weight
    close(by_rows, torch.stack([weight[r] * rows[r] for r in range(6)]))
    close(by_columns, torch.stack([weight[:, c] * columns[c] for c in range(4)], dim=1))


def test_full_difference_with_bias() -> None:
    difference, bias = random(6, 4), random(6)
    delta = layer_delta({"diff": difference, "diff_b": bias}, LINEAR)
    close(delta.weight, difference)
    assert delta.bias is not None
    close(delta.bias, bias)


def test_norm_layers() -> None:
    weight, bias = random(6), random(6)
    delta = layer_delta({"w_norm": weight, "b_norm": bias}, random(6))
    close(delta.weight, weight)
    assert delta.bias is not None
    close(delta.bias, bias)


def test_glora() -> None:
    leaves = {
        "a1.weight": random(2, 4),
        "a2.weight": random(4, 2),
        "b1.weight": random(2, 4),
        "b2.weight": random(6, 2),
    }
    own = naive_product(leaves["b2.weight"], leaves["b1.weight"])
    through = naive_product(naive_product(LINEAR, leaves["a2.weight"]), leaves["a1.weight"])
    close(layer_delta(leaves, LINEAR).weight, own + through)


def test_oft_rotates_blocks_of_rows() -> None:
    blocks = random(2, 3, 3) * 0.1
    delta = layer_delta({"oft_blocks": blocks, "alpha": torch.tensor(0.0)}, LINEAR)
    merged = LINEAR + delta.weight
    for block in range(2):
        skew = blocks[block] - blocks[block].T
        rotation = (torch.eye(3) + skew) @ torch.inverse(torch.eye(3) - skew)
        rows = slice(block * 3, block * 3 + 3)
        close(merged[rows], rotation.T @ LINEAR[rows])
        close(rotation @ rotation.T, torch.eye(3))
    assert torch.allclose(merged.norm(), LINEAR.norm())


def test_oft_is_limited_by_alpha() -> None:
    large = {"oft_blocks": random(2, 3, 3) * 10}
    limited = layer_delta({**large, "alpha": torch.tensor(1e-3)}, LINEAR).weight
    assert limited.norm() < 0.05 * LINEAR.norm() < layer_delta(large, LINEAR).weight.norm()


def test_old_oft_states_the_rotation() -> None:
    rotation = torch.stack([torch.eye(3)[[1, 2, 0]], torch.eye(3)])
    merged = LINEAR + layer_delta({"oft_diag": rotation}, LINEAR).weight
    close(merged, torch.cat([LINEAR[[2, 0, 1]], LINEAR[3:]]))


@pytest.mark.parametrize("axis", [0, 1])
def test_dora_sets_lengths(axis: int) -> None:
    up, down = random(6, 2), random(2, 4)
    magnitude = random(6, 1).abs() if axis == 1 else random(1, 4).abs()
    leaves = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(1.0), "dora_scale": magnitude}
    merged = LINEAR + layer_delta(leaves, LINEAR).weight
    close(merged.norm(dim=axis, keepdim=True), magnitude)
    directions = LINEAR + naive_product(up, down) / 2
    close(merged / merged.norm(dim=axis, keepdim=True), directions / directions.norm(dim=axis, keepdim=True))


def test_dora_leaves_zero_rows_at_zero() -> None:
    weight = torch.cat([LINEAR[:5], torch.zeros(1, 4)])
    leaves = {"diff": torch.zeros(6, 4), "dora_scale": random(6, 1).abs()}
    merged = weight + layer_delta(leaves, weight).weight
    assert torch.isfinite(merged).all() and not merged[5].any()


def test_dora_of_a_convolution_as_lycoris_writes_it() -> None:
    up, down, magnitude = random(6, 2, 1, 1), random(2, 4, 3, 3), random(1, 4, 1, 1).abs()
    leaves = {"lora_up.weight": up, "lora_down.weight": down, "dora_scale": magnitude}
    merged = CONV + layer_delta(leaves, CONV).weight
    close(merged.transpose(0, 1).flatten(1).norm(dim=1), magnitude.flatten())


def test_what_low_rank_left_over() -> None:
    up, down = random(6, 2), random(2, 4)
    leaves = {
        "lora_up.weight": up,
        "lora_down.weight": down,
        "bias_indices": torch.tensor([[0, 5], [1, 3]]),
        "bias_values": torch.tensor([10.0, 20.0]),
        "bias_size": torch.tensor([6, 4]),
    }
    expected = naive_product(up, down)
    expected[0, 1] += 10
    expected[5, 3] += 20
    close(layer_delta(leaves, LINEAR).weight, expected)


@pytest.mark.parametrize(
    "leaves",
    [
        {"lora_up.weight": random(6, 2)},
        {"lora_up.weight": random(6, 2), "lora_down.weight": random(3, 4)},
        {"lora_up.weight": random(8, 2), "lora_down.weight": random(2, 4)},
        {"diff": random(5, 5)},
        {"weight": random(7), "on_input": torch.tensor(True)},
        {"oft_blocks": random(4, 3, 3)},
        {"oft_diag": random(2, 2, 3, 3)},
        {"nonsense": random(2)},
        {
            "lora_up.weight": random(6, 2),
            "lora_down.weight": random(2, 4),
            "bias_indices": torch.tensor([[600], [1]]),
            "bias_values": torch.tensor([1.0]),
            "bias_size": torch.tensor([6, 4]),
        },
        {"lora_up.weight": random(6), "lora_down.weight": random(2, 4)},
        {"lora_up.weight": random(6, 2), "lora_down.weight": random(2, 4), "alpha": random(2)},
        {"lora_up.weight": random(6, 2), "lora_down.weight": random(2, 4), "diff_b": random(7)},
        {"diff": LINEAR, "bias_indices": random(2, 1), "bias_values": random(1), "bias_size": torch.tensor(6)},
        {"diff": random(6), "dora_scale": torch.tensor(1.0)},
        {},
    ],
)
def test_what_does_not_fit_is_refused(leaves: dict[str, Tensor]) -> None:
    assert low_rank(leaves, LINEAR) is None
    with pytest.raises(UnusableModel):
        layer_delta(leaves, LINEAR)


def test_half_precision_files_are_computed_in_float32() -> None:
    up, down = random(6, 2).half(), random(2, 4).half()
    delta = layer_delta({"lora_up.weight": up, "lora_down.weight": down}, LINEAR.half())
    close(delta.weight, naive_product(up.float(), down.float()))
