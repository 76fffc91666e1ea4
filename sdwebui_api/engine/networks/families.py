"""What each kind of network adds to one layer's weights: LoRA and its relatives, one function each.

A layer's tensors go in by their leaf names (`lora_up.weight`, `hada_w1_a`, …) with the weight they change; out comes
the difference, in float32. Papers: LoRA 2106.09685, LoHa 2108.06098, LoKr 2212.10650, IA3 2205.05638,
GLoRA 2306.07967, OFT 2306.07280, DoRA 2402.09353; the file forms are those of kohya's sd-scripts and of LyCORIS, the
reading of them A1111's (`extensions-builtin/Lora/network*.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdwebui_api.errors import UnusableModel

Leaves = Mapping[str, Tensor]


@dataclass(frozen=True)
class Delta:
    """What to add at strength 1."""

    weight: Tensor
    """float32, shaped like the weight it changes (but for 4 input channels where an inpainting model has 9)."""
    bias: Tensor | None = None


@dataclass(frozen=True)
class _Difference:
    """Before the scale of `alpha`. `rank`: what alpha is divided by; None: alpha has no meaning here."""

    weight: Tensor
    rank: int | None = None
    bias: Tensor | None = None


def layer_delta(leaves: Leaves, weight: Tensor, dyn: int | None = None) -> Delta:
    """The difference that a layer's tensors make to `weight` [out, in, …], float32.

    `dyn`: only the first so many ranks of a plain LoRA. Raises UnusableModel when the tensors are of no known kind or
    do not fit the weight.
    """
    leaves = {name: tensor.to(weight.device, torch.float32) for name, tensor in leaves.items()}
    difference = _kind_of(leaves)
    try:
        found = difference(leaves, weight, dyn)
        delta = Delta(_finished(leaves, found, weight), found.bias)
    except (RuntimeError, LookupError, TypeError, ValueError) as error:  # a file may hold tensors of any shape
        raise UnusableModel(f"tensors do not fit a weight of {list(weight.shape)}: {error}") from error
    if delta.bias is not None and delta.bias.numel() != len(weight):
        raise UnusableModel(f"a bias of {list(delta.bias.shape)} for a weight of {list(weight.shape)}")
    return delta


@dataclass(frozen=True)
class LowRank:
    """The difference that a plain LoRA makes: up @ down."""

    up: Tensor
    """[out, rank] float32, alpha's scale included"""
    down: Tensor
    """[rank, in * …] float32"""


def low_rank(leaves: Leaves, weight: Tensor, dyn: int | None = None) -> LowRank | None:
    """The two factors, where a layer's tensors are nothing else and fit `weight` [out, in, …]; on its device."""
    if not leaves.keys() <= _PLAIN or not _PLAIN - {"alpha"} <= leaves.keys():
        return None
    up, down = leaves["lora_up.weight"], leaves["lora_down.weight"]
    if min(up.ndim, down.ndim) < 2 or ("alpha" in leaves and leaves["alpha"].numel() != 1):
        return None
    up, down = up.flatten(1), down.flatten(1)
    # a packed weight has a shape, but no rows
    if up.shape[1] != len(down) or (len(up), down.shape[1]) != (weight.shape[0], math.prod(weight.shape[1:])):
        return None
    scale = _scale(leaves, len(down))
    up, down = up[:, :dyn].to(weight.device, torch.float32) * scale, down[:dyn].to(weight.device, torch.float32)
    return LowRank(up, down)


_PLAIN = {"lora_up.weight", "lora_down.weight", "alpha"}


def _kind_of(leaves: Leaves) -> _Kind:
    for needed, difference in _KINDS:
        if any(all(name in leaves for name in names) for names in needed):
            return difference
    raise UnusableModel(f"tensors {sorted(leaves)} are of no known kind of network")


def _finished(leaves: Leaves, found: _Difference, weight: Tensor) -> Tensor:
    change = found.weight
    if (sparse := _sparse_bias(leaves)) is not None:
        change = change.reshape(sparse.shape) + sparse
    if change.numel() == weight.numel():
        change = change.reshape(weight.shape)
    elif not _fits_inpainting(change, weight):
        raise UnusableModel(f"a difference of {list(change.shape)} for a weight of {list(weight.shape)}")
    if (scale := _scale(leaves, found.rank)) != 1.0:
        change = change * scale
    if "dora_scale" in leaves:
        change = _decomposed(change, weight, leaves["dora_scale"]).reshape(weight.shape)
    return change


def _fits_inpainting(change: Tensor, weight: Tensor) -> bool:
    """The first convolution of an inpainting model has five more input channels, which a LoRA knows nothing of."""
    return weight.ndim == 4 and weight.shape[1] == 9 and change.shape == (weight.shape[0], 4, *weight.shape[2:])


def _scale(leaves: Leaves, rank: int | None) -> float:
    if "scale" in leaves:
        return float(leaves["scale"])
    if "alpha" in leaves and rank:
        return float(leaves["alpha"]) / rank
    return 1.0


def _sparse_bias(leaves: Leaves) -> Tensor | None:
    """LyCORIS: what low rank could not hold of an extracted difference, dense or as coordinates."""
    if "bias_indices" in leaves:
        shape = tuple(int(side) for side in leaves["bias_size"])
        indices, values = leaves["bias_indices"].long(), leaves["bias_values"]
        # Checked: a file may state places outside of the tensor.
        return torch.sparse_coo_tensor(indices, values, shape, check_invariants=True).to_dense()
    return leaves.get("bias")


def _decomposed(change: Tensor, weight: Tensor, magnitude: Tensor) -> Tensor:
    """DoRA: the merged weight's directions with learned lengths.

    Lengths are taken over the axes along which `magnitude` has one value: [1, in, 1, 1] as LyCORIS writes, or
    [out, 1] and [out] as PEFT does.
    """
    weight = weight.float()
    merged = weight + change
    if magnitude.ndim == 1:
        magnitude = magnitude[:, None]
    magnitude = magnitude.reshape(*magnitude.shape[:2], *[1] * (weight.ndim - 2))
    axes = (0 if magnitude.shape[0] == 1 else 1, *range(2, weight.ndim))
    length = torch.linalg.vector_norm(merged, dim=axes, keepdim=True)
    # What is zero throughout (pruned models have such rows) has no direction, and stays zero.
    return merged * (magnitude / length.masked_fill(length == 0, 1.0)) - weight


# --- the kinds ------------------------------------------------------------------------------------------------


def _lora(leaves: Leaves, weight: Tensor, dyn: int | None) -> _Difference:
    up, down = leaves["lora_up.weight"], leaves["lora_down.weight"]
    bias = leaves.get("diff_b")
    if "lora_mid.weight" in leaves:
        change = torch.einsum("nmkl,in,mj->ijkl", leaves["lora_mid.weight"], up.flatten(1), down.flatten(1))
        return _Difference(change, down.shape[0], bias)
    shape = (up.shape[0], *down.shape[1:]) if down.ndim == 4 else (up.shape[0], down.shape[1])
    return _Difference(_product(up, down, shape, dyn), down.shape[0], bias)


def _loha(leaves: Leaves, weight: Tensor, dyn: int | None) -> _Difference:
    """The elementwise product of two low-rank matrices."""
    factors = [_factor(leaves, f"hada_w{i}_a", f"hada_w{i}_b", f"hada_t{i}") for i in (1, 2)]
    return _Difference(factors[0] * factors[1], leaves["hada_w1_b"].shape[0])


def _lokr(leaves: Leaves, weight: Tensor, dyn: int | None) -> _Difference:
    """The Kronecker product of two matrices, each whole or of low rank."""
    first = leaves["lokr_w1"] if "lokr_w1" in leaves else leaves["lokr_w1_a"] @ leaves["lokr_w1_b"]
    second = leaves["lokr_w2"] if "lokr_w2" in leaves else _factor(leaves, "lokr_w2_a", "lokr_w2_b", "lokr_t2")
    ranks = [leaves[name].shape[0] for name in ("lokr_w1_b", "lokr_w2_b") if name in leaves]
    first = first.reshape(*first.shape, *[1] * (second.ndim - 2))
    return _Difference(torch.kron(first, second.contiguous()), ranks[-1] if ranks else None)


def _ia3(leaves: Leaves, weight: Tensor, dyn: int | None) -> _Difference:
    """Rows, or with `on_input` columns, grow by a factor each."""
    on_input = bool(leaves["on_input"])
    sides = (1, -1) if on_input else (-1, 1)
    return _Difference(weight.float() * leaves["weight"].reshape(*sides, *[1] * (weight.ndim - 2)))


def _full(leaves: Leaves, weight: Tensor, dyn: int | None) -> _Difference:
    return _Difference(leaves["diff"], bias=leaves.get("diff_b"))


def _norm(leaves: Leaves, weight: Tensor, dyn: int | None) -> _Difference:
    return _Difference(leaves["w_norm"], bias=leaves.get("b_norm"))


def _glora(leaves: Leaves, weight: Tensor, dyn: int | None) -> _Difference:
    """A low-rank difference plus one that depends on the weight itself."""
    a1, a2, b1, b2 = (leaves[f"{name}.weight"].flatten(1) for name in ("a1", "a2", "b1", "b2"))
    return _Difference(b2 @ b1 + weight.float().flatten(1) @ a2 @ a1, b1.shape[0])


def _oft(leaves: Leaves, weight: Tensor, dyn: int | None) -> _Difference:
    """Blocks of output rows are rotated. kohya stores the skew-symmetric part, old LyCORIS the rotation itself."""
    out = weight.shape[0]
    rotation = leaves["oft_diag"] if "oft_diag" in leaves else _cayley(leaves["oft_blocks"], leaves.get("alpha"), out)
    if rotation.ndim != 3:
        raise UnusableModel("butterfly OFT is not supported")
    if rotation.shape[0] * rotation.shape[1] != out:
        raise UnusableModel(f"blocks of {list(rotation.shape)} for {out} rows")
    original = weight.float()
    blocks = original.reshape(rotation.shape[0], rotation.shape[1], -1)
    merged = torch.einsum("knm,kno->kmo", rotation, blocks).reshape(weight.shape)
    if "rescale" in leaves:
        merged = merged * leaves["rescale"].reshape(-1, *[1] * (weight.ndim - 1))
    return _Difference(merged - original)


def _cayley(blocks: Tensor, alpha: Tensor | None, out: int) -> Tensor:
    """Rotations (I + Q)(I - Q)^-1 [k, n, n]; `alpha` limits the size of Q, per output channel."""
    skew = blocks - blocks.transpose(-1, -2)
    if alpha is not None and float(alpha) != 0:
        length = skew.norm()
        skew = skew * ((length.clamp(max=float(alpha) * out) + 1e-8) / (length + 1e-8))
    one = torch.eye(blocks.shape[-1], device=blocks.device)
    return (one + skew) @ torch.linalg.inv(one - skew)


def _factor(leaves: Leaves, a: str, b: str, core: str) -> Tensor:
    """a @ b, or with a core [r, r, kh, kw] the tensor [out, in, kh, kw] it spans."""
    first, second = leaves[a], leaves[b]
    if core in leaves:
        return torch.einsum("ijkl,jr,ip->prkl", leaves[core], second, first)
    return _product(first, second, (first.shape[0], *second.shape[1:]), None)


def _product(up: Tensor, down: Tensor, shape: Sequence[int], dyn: int | None) -> Tensor:
    up, down = up.flatten(1), down.flatten(1)
    return (up[:, :dyn] @ down[:dyn]).reshape(*shape)


_Kind = Callable[[Leaves, Tensor, int | None], _Difference]

_KINDS: Sequence[tuple[Sequence[Sequence[str]], _Kind]] = (
    ([("lora_up.weight", "lora_down.weight")], _lora),
    ([("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")], _loha),
    ([("weight", "on_input")], _ia3),
    (
        [
            (*first, *second)
            for first in (("lokr_w1",), ("lokr_w1_a", "lokr_w1_b"))
            for second in (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"))
        ],
        _lokr,
    ),
    ([("diff",)], _full),
    ([("w_norm",)], _norm),
    ([("a1.weight", "a2.weight", "b1.weight", "b2.weight")], _glora),
    ([("oft_blocks",), ("oft_diag",)], _oft),
)
"""Which tensors make which kind, the first that fits."""
