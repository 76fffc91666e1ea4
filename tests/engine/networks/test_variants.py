"""Variants of a checkpoint: what they compute, what they share, and that nobody sees another's."""

from __future__ import annotations

import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sdwebui_api.catalog.checkpoints import CheckpointFile
from sdwebui_api.catalog.networks import HypernetworkFile, LoraFile
from sdwebui_api.config.flags import parse_flags
from sdwebui_api.config.paths import Paths
from sdwebui_api.engine.engine import Engine
from sdwebui_api.engine.model import DiffusionModel
from sdwebui_api.engine.networks import variants
from sdwebui_api.engine.networks.selection import AppliedHypernetwork, AppliedLora, NetworkSet
from sdwebui_api.engine.packed import dense, packs
from sdwebui_api.engine.reading import read_tensors
from sdwebui_api.errors import UnusableModel
from tests.engine.conftest import MODELS, flags_of
from tests.engine.networks.conftest import CONV, HYPER, STYLE, WriteLora, rank_one

KEYS = "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k"
QUERY = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"

SETS = [
    NetworkSet((AppliedLora(STYLE),)),
    NetworkSet((AppliedLora(STYLE, 0.5, 0.5),)),
    NetworkSet((AppliedLora(CONV),)),
    NetworkSet((AppliedLora(STYLE, 0.6, 0.6), AppliedLora(CONV, 0.8, 0.8))),
    NetworkSet((), (AppliedHypernetwork(HYPER),)),
    NetworkSet((AppliedLora(CONV),), (AppliedHypernetwork(HYPER, 0.5),)),
]


def evaluate(model: DiffusionModel) -> tuple[Tensor, Tensor]:
    """What the text encoder and the UNet make of fixed inputs."""
    tokens = torch.arange(77)[None] * 3 + 5
    text = model.text_encoder.forward(tokens, [[]], 1).context
    x = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(0))
    return text, model.evaluate(x, torch.tensor([500.0]), text)


def outputs(engine: Engine, checkpoint: CheckpointFile, networks: NetworkSet = NetworkSet()) -> tuple[Tensor, Tensor]:  # noqa: B008
    with engine.lease(checkpoint, networks=networks) as model:
        return evaluate(model)


def same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    return torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def unet_weight(engine: Engine, checkpoint: CheckpointFile, networks: NetworkSet, name: str) -> Any:
    with engine.lease(checkpoint, networks=networks) as model:
        return dense(model.unet.module.get_parameter(name))


def test_without_the_networks_all_is_as_before(engine: Engine, checkpoint: CheckpointFile) -> None:
    before = outputs(engine, checkpoint)
    for networks in SETS:
        assert not same(outputs(engine, checkpoint, networks), before)
        assert same(outputs(engine, checkpoint), before)


def test_threads_with_different_sets_get_what_they_get_alone(engine: Engine, checkpoint: CheckpointFile) -> None:
    alone = [outputs(engine, checkpoint, networks) for networks in [*SETS, NetworkSet()]]
    engine.unload()
    wanted = [*SETS, NetworkSet()] * 3
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda networks: outputs(engine, checkpoint, networks), wanted))
    assert all(same(found, alone[index % len(alone)]) for index, found in enumerate(together))


def test_sets_used_before_are_not_merged_again(
    golden_paths: Paths, checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    merges: list[int] = []
    real = variants.merge
    monkeypatch.setattr(variants, "merge", lambda *args: merges.append(1) or real(*args))  # type: ignore[func-returns-value]
    engine = Engine(flags_of(MODELS), golden_paths)
    for _ in range(3):
        for networks in SETS[:3]:
            outputs(engine, checkpoint, networks)
    assert len(merges) == 3 * 2  # once for the UNet, once for the text encoder
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda networks: outputs(engine, checkpoint, networks), [SETS[3]] * 6))
    assert len(merges) == 4 * 2


def test_what_no_network_changes_is_shared(engine: Engine, checkpoint: CheckpointFile, write_lora: WriteLora) -> None:
    networks = NetworkSet((AppliedLora(write_lora(rank_one(KEYS, 192, 128), "share")),))
    with engine.lease(checkpoint) as base, engine.lease(checkpoint, networks=networks) as variant:
        plain = dict(base.unet.module.named_parameters())
        changed = [
            name
            for name, parameter in variant.unet.module.named_parameters()
            if parameter.data_ptr() != plain[name].data_ptr()
        ]
        assert changed == ["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"]
        assert variant.text_encoder.key == base.text_encoder.key
    rows = {str(row.key): row.size for row in engine.loaded()}
    assert [size for key, size in rows.items() if "share" in key] == [192 * 128 * 4]


def test_the_checkpoint_stays_while_a_variant_shares_its_memory(
    golden_paths: Paths, checkpoint: CheckpointFile
) -> None:
    engine = Engine(flags_of(MODELS), golden_paths)
    outputs(engine, checkpoint, SETS[0])
    engine._weights.budget = 1
    outputs(engine, checkpoint, SETS[2])
    keys = [str(row.key) for row in engine.loaded()]
    assert not any("tiny-style" in key for key in keys)  # the idle variant made room
    assert sum("tiny-conv" in key for key in keys) == 2
    assert sum(key.startswith(("unet:", "text:")) for key in keys) == 4
    engine.unload()
    assert engine.loaded() == []


def test_a_set_evicted_for_room_comes_back_the_same(golden_paths: Paths, checkpoint: CheckpointFile) -> None:
    engine = Engine(flags_of(MODELS), golden_paths)
    first = outputs(engine, checkpoint, SETS[0])
    engine._weights.budget = 1
    outputs(engine, checkpoint, SETS[2])
    assert same(outputs(engine, checkpoint, SETS[0]), first)


def test_what_is_dropped_is_gone_even_when_garbage_in_a_circle_refers_to_it(
    golden_paths: Paths, checkpoint: CheckpointFile
) -> None:
    engine = Engine(flags_of(MODELS), golden_paths)
    with engine.lease(checkpoint, networks=SETS[0]) as model:
        circle: list[Any] = [model]
        circle.append(circle)
        weights = weakref.ref(model.unet.module.conv_in)
    del model, circle
    engine._weights.budget = 1
    outputs(engine, checkpoint, SETS[2])
    assert weights() is None


def test_multipliers_of_the_parts(engine: Engine, checkpoint: CheckpointFile, write_lora: WriteLora) -> None:
    tensors = rank_one(KEYS, 192, 128) | rank_one(QUERY, 128, 128, 1)
    lora = write_lora(tensors, "parts")
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    plain = unet_weight(engine, checkpoint, NetworkSet(), name)
    half = unet_weight(engine, checkpoint, NetworkSet((AppliedLora(lora, 0.0, 0.5),)), name)
    torch.testing.assert_close(
        half - plain, 0.5 * tensors[f"{KEYS}.lora_up.weight"] @ tensors[f"{KEYS}.lora_down.weight"], rtol=0, atol=1e-6
    )
    with engine.lease(checkpoint) as base:
        with engine.lease(checkpoint, networks=NetworkSet((AppliedLora(lora, 0.0, 0.5),))) as only_unet:
            assert only_unet.text_encoder.key == base.text_encoder.key and only_unet.key != base.key
        with engine.lease(checkpoint, networks=NetworkSet((AppliedLora(lora, 0.5, 0.0),))) as only_text:
            assert only_text.text_encoder.key != base.text_encoder.key and only_text.key == base.key


def test_two_at_once_add_up(engine: Engine, checkpoint: CheckpointFile, write_lora: WriteLora) -> None:
    one, two = (write_lora(rank_one(KEYS, 192, 128, seed), f"sum{seed}") for seed in (1, 2))
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"

    def change(*loras: AppliedLora) -> Tensor:
        return unet_weight(engine, checkpoint, NetworkSet(loras), name) - unet_weight(
            engine, checkpoint, NetworkSet(), name
        )

    both = change(AppliedLora(one, 1, 0.3), AppliedLora(two, 1, -2.0))
    torch.testing.assert_close(both, 0.3 * change(AppliedLora(one)) - 2 * change(AppliedLora(two)), rtol=0, atol=1e-5)


def test_norms_and_biases_of_full_differences(
    engine: Engine, checkpoint: CheckpointFile, write_lora: WriteLora
) -> None:
    norm = "lora_unet_middle_block_1_transformer_blocks_0_norm1"
    tensors = {f"{norm}.w_norm": torch.ones(192), f"{norm}.b_norm": torch.full((192,), 2.0)}
    tensors |= {f"{KEYS}.diff": torch.ones(192, 128), f"{KEYS}.diff_b": torch.ones(192)}
    networks = NetworkSet((AppliedLora(write_lora(tensors, "norms"), 1, 0.5),))
    block = "mid_block.attentions.0.transformer_blocks.0"
    with engine.lease(checkpoint) as base, engine.lease(checkpoint, networks=networks) as model:
        plain, made = base.unet.module.get_submodule(block), model.unet.module.get_submodule(block)
        torch.testing.assert_close(made.norm1.weight, plain.norm1.weight + 0.5)
        torch.testing.assert_close(made.norm1.bias, plain.norm1.bias + 1.0)
        assert plain.attn2.to_k.bias is None
        torch.testing.assert_close(made.attn2.to_k.bias, torch.full((192,), 0.5))


def test_peft_states_alpha_in_the_metadata(engine: Engine, checkpoint: CheckpointFile, write_lora: WriteLora) -> None:
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    a, b = torch.randn(4, 128), torch.randn(192, 4)
    tensors = {f"{layer}.lora_A.weight": a, f"{layer}.lora_B.weight": b}
    plain = unet_weight(engine, checkpoint, NetworkSet(), layer.removeprefix("unet.") + ".weight")
    for name, stated, scale in (("silent", None, 1.0), ("stated", '{"unet.lora_alpha": 8, "unet.r": 4}', 2.0)):
        metadata = None if stated is None else {"lora_adapter_metadata": stated}
        networks = NetworkSet((AppliedLora(write_lora(tensors, name, metadata)),))
        made = unet_weight(engine, checkpoint, networks, layer.removeprefix("unet.") + ".weight")
        torch.testing.assert_close(made, plain + scale * b @ a, rtol=1e-4, atol=1e-4)


def test_layers_that_do_not_fit_are_reported(engine: Engine, checkpoint: CheckpointFile, write_lora: WriteLora) -> None:
    wrong = write_lora(rank_one(KEYS, 7, 5) | rank_one("lora_unet_input_blocks_3_1_proj_in", 128, 128), "wrong")
    other = write_lora(rank_one("lora_unet_input_blocks_70_1_proj_in", 64, 64), "other")
    with engine.lease(checkpoint, networks=NetworkSet((AppliedLora(wrong), AppliedLora(other)))) as model:
        assert model.problems == (
            "LoRA wrong: 1 layers do not fit this checkpoint",
            "LoRA other: none of its 1 layers is known to this checkpoint",
        )


def test_broken_files(engine: Engine, checkpoint: CheckpointFile, tmp_path: Path, write_lora: WriteLora) -> None:
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(STYLE.path.read_bytes()[:5000])
    harmful = tmp_path / "harmful.pt"
    torch.save({"x": print}, harmful)
    files = [
        LoraFile(truncated, "truncated"),
        LoraFile(harmful, "harmful"),
        LoraFile(tmp_path / "gone.safetensors", "gone"),
        LoraFile(MODELS / "VAE" / "tiny-vae.safetensors", "tiny-vae"),
        write_lora({"bundle_emb.word.emb_params": torch.ones(1, 2, 3)}, "no-embedding"),
    ]
    for file in files:
        with (
            pytest.raises(UnusableModel, match=file.name),
            engine.lease(checkpoint, networks=NetworkSet((AppliedLora(file),))),
        ):
            pass
    cut = tmp_path / "cut.pt"
    cut.write_bytes(HYPER.path.read_bytes()[:5000])
    for path in (harmful, cut, tmp_path / "gone.pt", MODELS / "embeddings" / "tiny-ti.pt"):
        networks = NetworkSet((), (AppliedHypernetwork(HypernetworkFile(path, path.stem)),))
        with pytest.raises(UnusableModel), engine.lease(checkpoint, networks=networks):
            pass


def test_pickled_loras_are_the_same(engine: Engine, checkpoint: CheckpointFile, tmp_path: Path) -> None:
    path = tmp_path / "pickled.pt"
    torch.save(read_tensors(STYLE.path), path)
    pickled = NetworkSet((AppliedLora(LoraFile(path, "pickled")),))
    assert same(outputs(engine, checkpoint, pickled), outputs(engine, checkpoint, SETS[0]))


def test_a_file_that_changes_is_another(engine: Engine, checkpoint: CheckpointFile, write_lora: WriteLora) -> None:
    first = outputs(engine, checkpoint, NetworkSet((AppliedLora(write_lora(rank_one(KEYS, 192, 128, 3), "new")),)))
    second = outputs(engine, checkpoint, NetworkSet((AppliedLora(write_lora(rank_one(KEYS, 192, 128, 4), "new")),)))
    assert not same(first, second)


def test_embeddings_come_along(engine: Engine, checkpoint: CheckpointFile, write_lora: WriteLora) -> None:
    tensors = {
        "bundle_emb.fresh.string_to_param.*": torch.ones(2, 128),
        "bundle_emb.other.emb_params": torch.ones(1, 128) * 2,
        "bundle_emb.tiny-emb.emb_params": torch.zeros(1, 128),
        "bundle_emb.wide.emb_params": torch.zeros(1, 768),
    }
    networks = NetworkSet((AppliedLora(write_lora(tensors, "with-words")),))
    with engine.lease(checkpoint) as base, engine.lease(checkpoint, networks=networks) as model:
        assert model.key == base.key and model.text_encoder.key != base.text_encoder.key
        assert "fresh" not in base.embeddings.loaded
        assert model.embeddings.loaded["fresh"].vectors == 2
        assert model.embeddings.loaded["other"].shorthash == "with-words"
        assert model.embeddings.loaded["tiny-emb"] is base.embeddings.loaded["tiny-emb"]
        assert "wide" in model.embeddings.skipped
        tokens = model.text_encoder.tokenizer.tokenize("fresh")
        assert model.embeddings.find_at(tokens, 0)[0] is model.embeddings.loaded["fresh"]


def test_half_precision_rounds_once(golden_paths: Paths, checkpoint: CheckpointFile) -> None:
    engine = Engine(parse_flags(["--use-cpu", "all", "--models-dir", str(MODELS)], {}), golden_paths)
    exact = Engine(flags_of(MODELS), golden_paths)
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    half = unet_weight(engine, checkpoint, SETS[3], name)
    full = unet_weight(exact, checkpoint, SETS[3], name)
    plain = unet_weight(engine, checkpoint, NetworkSet(), name)
    assert half.dtype == plain.dtype == engine.plan.unet_dtype
    assert (half.float() - full).abs().max() <= 2 * full.abs().max() * torch.finfo(half.dtype).eps


@pytest.mark.parametrize("networks", [NetworkSet(), *SETS], ids=range(len(SETS) + 1))
def test_half_precision_with_networks_gives_nearly_the_same(
    networks: NetworkSet, golden_paths: Paths, checkpoint: CheckpointFile, engine: Engine
) -> None:
    """On a CPU that multiplies bfloat16 the weights are packed, those that a LoRA changed too."""
    half = Engine(parse_flags(["--use-cpu", "all", "--models-dir", str(MODELS)], {}), golden_paths)
    with half.lease(checkpoint, networks=networks) as model:
        found = evaluate(model)
        layers = [layer for layer in model.unet.module.modules() if packs(layer)]
        assert bool(layers) == half.plan.packs_unet
        assert all(layer.weight.is_mkldnn for layer in layers)
    for one, other in zip(found, outputs(engine, checkpoint, networks), strict=True):
        error = (one.float() - other).square().mean().sqrt() / other.square().mean().sqrt()
        assert error < 0.03


def test_a_lora_of_another_family_is_told(engine: Engine, checkpoint: CheckpointFile, write_lora: WriteLora) -> None:
    """Some of its layers have names that this family has too; those that fit count, as in A1111."""
    unknown = [f"lora_unet_input_blocks_8_1_transformer_blocks_{n}_attn2_to_k" for n in range(3)]
    tensors = rank_one(KEYS, 192, 128) | {k: v for name in unknown for k, v in rank_one(name, 640, 2048).items()}
    networks = NetworkSet((AppliedLora(write_lora(tensors, "sdxl")),))
    with engine.lease(checkpoint) as base, engine.lease(checkpoint, networks=networks) as model:
        assert model.problems == ("LoRA sdxl: 3 layers are unknown to this checkpoint",)
        assert not torch.equal(evaluate(model)[1], evaluate(base)[1])
