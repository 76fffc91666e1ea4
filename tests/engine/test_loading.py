from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.make_checkpoint import write_checkpoint
from sdwebui_api.engine.filling import Weights
from sdwebui_api.engine.loading import OpenCheckpoint, load_vae_file
from sdwebui_api.errors import UnusableModel
from tests.engine.ldm_factory import Size, checkpoint, fill, unet_shapes, vae_shapes

FP32 = Weights(torch.float32, torch.device("cpu"))
TINY = Size(vocabulary=512)
HEADS_YAML = """
model:
  params:
    parameterization: v
    scale_factor: 0.2
    unet_config: {params: {num_heads: 4}}
"""


def open_saved(tmp_path: Path, tensors: dict[str, Tensor], name: str = "model.safetensors") -> OpenCheckpoint:
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(tensors, str(path))
    else:
        torch.save({"state_dict": tensors, "global_step": 5}, path)
    config = path.with_suffix(".yaml")
    return OpenCheckpoint(path, config if config.exists() else None)


@torch.no_grad()
def unet_output(opened: OpenCheckpoint, in_channels: int = 4, context: int = 32) -> Tensor:
    unet = opened.load_unet(FP32)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn((2, in_channels, 8, 8), generator=generator)
    text = torch.randn((2, 77, context), generator=generator)
    return unet(x, torch.tensor([500.5, 20.0]), encoder_hidden_states=text).sample


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return checkpoint(TINY)


@pytest.fixture(scope="module")
def expected(tensors: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    return unet_output(open_saved(tmp_path_factory.mktemp("plain"), tensors))


@pytest.mark.parametrize(
    "size",
    [
        TINY,
        Size(vocabulary=512, channels=64, mult=(1, 2, 3), attention_levels=(1, 2), context=48, text_layers=1),
        Size(vocabulary=512, mult=(1, 1, 2), res_blocks=2, attention_levels=(0, 1), depth=2),
        Size(vocabulary=512, vae_mult=(1, 2), vae_res_blocks=2),
        Size(vocabulary=512, mult=(1, 1, 1, 1, 1, 1), res_blocks=2, attention_levels=(0, 1, 2)),
    ],
    ids=["tiny", "like-golden", "deep", "small-vae", "twelve-blocks"],
)
def test_every_tensor_of_any_size_finds_its_place(tmp_path: Path, size: Size) -> None:
    tensors = checkpoint(size)
    opened = open_saved(tmp_path, tensors)
    unet, text, vae = opened.load_unet(FP32), opened.load_text_encoder(FP32), opened.load_vae(FP32)
    assert sum(len(module.state_dict()) for module in (unet, text, vae)) == len(tensors)
    assert not any(parameter.is_meta for module in (unet, text, vae) for parameter in module.parameters())
    assert unet.config.block_out_channels == tuple(size.channels * mult for mult in size.mult)
    assert text.config.num_hidden_layers == size.text_layers
    assert vae.config.layers_per_block == size.vae_res_blocks
    assert opened.text_width() == size.context
    output = unet_output(opened, context=size.context) if len(size.mult) < 5 else torch.zeros(1)
    assert torch.isfinite(output).all()


def test_values_arrive_where_they_belong(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    opened = open_saved(tmp_path, tensors)
    unet, vae = opened.load_unet(FP32), opened.load_vae(FP32)
    pairs = [
        (unet.down_blocks[0].downsamplers[0].conv.weight, "model.diffusion_model.input_blocks.2.0.op.weight"),
        (unet.up_blocks[0].upsamplers[0].conv.weight, "model.diffusion_model.output_blocks.1.2.conv.weight"),
        (unet.mid_block.resnets[1].conv2.weight, "model.diffusion_model.middle_block.2.out_layers.3.weight"),
        (vae.decoder.up_blocks[0].resnets[0].conv1.weight, "first_stage_model.decoder.up.3.block.0.conv1.weight"),
        (vae.encoder.mid_block.resnets[1].conv1.weight, "first_stage_model.encoder.mid.block_2.conv1.weight"),
    ]
    for weight, name in pairs:
        assert torch.equal(weight, tensors[name]), name


def test_a_file_may_be_shortened_while_its_weights_are_in_use(
    tmp_path: Path, tensors: dict[str, Tensor], expected: Tensor
) -> None:
    """As plain `cp` over it does; a mapped page that is gone would end the process."""
    opened = open_saved(tmp_path, tensors)
    unet = opened.load_unet(FP32)
    os.truncate(opened.path, 0)
    assert torch.equal(unet.conv_out.weight, tensors["model.diffusion_model.out.2.weight"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files(tmp_path: Path, tensors: dict[str, Tensor], expected: Tensor, dtype: torch.dtype) -> None:
    opened = open_saved(tmp_path, {name: tensor.to(dtype) for name, tensor in tensors.items()})
    assert (unet_output(opened) - expected).abs().max() < 0.1
    half = opened.load_unet(Weights(dtype, torch.device("cpu")))
    assert {parameter.dtype for parameter in half.parameters()} == {dtype}


def test_ckpt_files(tmp_path: Path, tensors: dict[str, Tensor], expected: Tensor) -> None:
    assert torch.equal(unet_output(open_saved(tmp_path, tensors, "model.ckpt")), expected)


def test_ckpt_files_in_the_form_before_zip(tmp_path: Path, tensors: dict[str, Tensor], expected: Tensor) -> None:
    torch.save({"state_dict": tensors}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    assert torch.equal(unet_output(OpenCheckpoint(tmp_path / "old.ckpt", None)), expected)


def ema_only(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = "model.diffusion_model."
    renamed = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    for name, tensor in tensors.items():
        flat = "model_ema." + name.removeprefix("model.").replace(".", "")
        renamed[flat if name.startswith(prefix) else name] = tensor
    return renamed


def test_ema_only_files(tmp_path: Path, tensors: dict[str, Tensor], expected: Tensor) -> None:
    assert torch.equal(unet_output(open_saved(tmp_path, ema_only(tensors))), expected)


def test_ema_names_of_sd15_are_recovered_completely() -> None:
    from sdwebui_api.engine.ldm_names import ema_to_ldm
    from tests.engine.ldm_factory import SD15

    for name in unet_shapes(SD15):
        assert ema_to_ldm(name.replace(".", "")) == name


def test_plain_weights_win_over_ema(tmp_path: Path, tensors: dict[str, Tensor], expected: Tensor) -> None:
    noise = {name: torch.zeros_like(tensor) for name, tensor in ema_only(tensors).items() if "model_ema" in name}
    assert torch.equal(unet_output(open_saved(tmp_path, {**tensors, **noise})), expected)


@pytest.mark.parametrize("channels", [8, 9])
def test_inpainting_and_editing_models(tmp_path: Path, channels: int) -> None:
    opened = open_saved(tmp_path, checkpoint(Size(vocabulary=512, in_channels=channels)))
    assert unet_output(opened, in_channels=channels).shape == (2, 4, 8, 8)


def test_older_text_encoder_names(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    renamed = {name.replace("transformer.text_model.", "transformer."): tensor for name, tensor in tensors.items()}
    renamed["cond_stage_model.transformer.embeddings.position_ids"] = torch.arange(77)[None]
    text = open_saved(tmp_path, renamed).load_text_encoder(FP32)
    name = "cond_stage_model.transformer.text_model.final_layer_norm.weight"
    assert torch.equal(text.final_layer_norm.weight, tensors[name])


def test_the_yaml_beside_a_checkpoint(tmp_path: Path, tensors: dict[str, Tensor], expected: Tensor) -> None:
    (tmp_path / "model.yaml").write_text(HEADS_YAML)
    opened = open_saved(tmp_path, tensors)
    assert opened.facts().prediction_type == "v_prediction"
    assert opened.facts().latent_factor == 0.2
    assert opened.load_unet(FP32).mid_block.attentions[0].transformer_blocks[0].attn1.heads == 4
    assert not torch.allclose(unet_output(opened), expected)


def test_without_yaml_the_family_decides(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    facts = open_saved(tmp_path, tensors).facts()
    assert (facts.family.name, facts.prediction_type, facts.latent_factor) == ("sd1", "epsilon", 0.18215)
    assert facts.alphas_cumprod.shape == (1000,)
    assert facts.alphas_cumprod[0] == pytest.approx(0.99915, abs=1e-5)
    assert facts.alphas_cumprod[-1] == pytest.approx(0.00466, abs=1e-5)


def test_metadata_states_the_prediction_type(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "v.safetensors"
    save_file(tensors, str(path))
    assert OpenCheckpoint(path, None, {"modelspec.prediction_type": "v"}).facts().prediction_type == "v_prediction"


def without(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}


def test_a_missing_vae_is_explained(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    opened = open_saved(tmp_path, without(tensors, "first_stage_model."))
    opened.load_unet(FP32)
    with pytest.raises(UnusableModel, match="has no VAE inside"):
        opened.load_vae(FP32)


def test_a_missing_text_encoder_is_explained(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    with pytest.raises(UnusableModel, match="has no text encoder"):
        open_saved(tmp_path, without(tensors, "cond_stage_model.")).load_text_encoder(FP32)


def test_a_missing_tensor_is_named(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    name = "model.diffusion_model.middle_block.0.out_layers.3.bias"
    with pytest.raises(UnusableModel, match=r"model\.safetensors: .*mid_block\.resnets\.0\.conv2\.bias"):
        open_saved(tmp_path, without(tensors, name)).load_unet(FP32)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableModel, match="supported family"):
        open_saved(tmp_path, {"weight": torch.zeros(3)})


class Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch attacked",)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": Attack()}}, tmp_path / "evil.ckpt")
    with pytest.raises(UnusableModel, match="other than tensors"):
        OpenCheckpoint(tmp_path / "evil.ckpt", None)
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("name", ["broken.ckpt", "broken.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a model", b"PK\x03\x04zip?", bytes(100)])
def test_broken_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnusableModel, match="broken"):
        OpenCheckpoint(tmp_path / name, None)


def test_a_truncated_file_is_refused(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    for name in ("cut.safetensors", "cut.ckpt"):
        open_saved(tmp_path, tensors, name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(UnusableModel, match="cut"):
            OpenCheckpoint(tmp_path / name, None)


def test_old_training_checkpoints_with_callbacks_load(tmp_path: Path) -> None:
    """sd-v1-4.ckpt names a class of pytorch_lightning and numpy numbers."""
    import numpy as np

    from sdwebui_api.engine.reading import read_pickle

    torch.save({"state_dict": {"a": torch.ones(2)}, "callbacks": {"best": np.float64(1.5)}}, tmp_path / "pl.ckpt")
    assert read_pickle(tmp_path / "pl.ckpt")["callbacks"]["best"] == 1.5


@torch.no_grad()
def decoded(vae: object) -> Tensor:
    latents = torch.randn((1, 4, 4, 4), generator=torch.Generator().manual_seed(2))
    return vae.decode(latents).sample  # type: ignore[attr-defined]


def test_external_vae_files_of_every_layout(tmp_path: Path) -> None:
    plain = fill(vae_shapes(TINY), seed=3)
    plain["loss.logvar"] = torch.zeros(())
    save_file(plain, str(tmp_path / "plain.safetensors"))
    torch.save({"state_dict": plain}, tmp_path / "pickled.pt")
    torch.save({f"first_stage_model.{name}": tensor for name, tensor in plain.items()}, tmp_path / "prefixed.ckpt")
    first = load_vae_file(tmp_path / "plain.safetensors", FP32)
    save_file(first.state_dict(), str(tmp_path / "diffusers.safetensors"))
    old = {
        n.replace("to_q", "query").replace("to_k", "key").replace("to_v", "value").replace("to_out.0", "proj_attn"): t
        for n, t in first.state_dict().items()
    }
    save_file(old, str(tmp_path / "old-diffusers.safetensors"))
    for name in ("pickled.pt", "prefixed.ckpt", "diffusers.safetensors", "old-diffusers.safetensors"):
        assert torch.equal(decoded(load_vae_file(tmp_path / name, FP32)), decoded(first)), name


@pytest.mark.parametrize("shape", [(2, 3, 4), (0,), (), (7, 32, 3, 3)])
def test_a_vae_of_strange_shapes_is_refused(tmp_path: Path, tensors: dict[str, Tensor], shape: tuple[int, ...]) -> None:
    name = "first_stage_model.encoder.down.1.block.0.conv1.weight"
    save_file({**tensors, name: torch.zeros(shape)}, str(tmp_path / "vae.safetensors"))
    with pytest.raises(UnusableModel):
        load_vae_file(tmp_path / "vae.safetensors", FP32)


def test_what_is_not_a_vae_is_refused(tmp_path: Path) -> None:
    save_file({"lora_down.weight": torch.zeros(2)}, str(tmp_path / "lora.safetensors"))
    with pytest.raises(UnusableModel, match=r"lora\.safetensors is not a VAE"):
        load_vae_file(tmp_path / "lora.safetensors", FP32)


def test_a_table_that_bfloat16_spoiled_is_not_used(tmp_path):
    plain, spoiled = tmp_path / "plain.safetensors", tmp_path / "spoiled.safetensors"
    write_checkpoint(plain, "sd1", torch.float32, "small")
    tensors = load_file(plain)
    save_file(tensors | {"alphas_cumprod": torch.linspace(0.9999, 0.1, 1000).bfloat16()}, spoiled)
    alphas = OpenCheckpoint(spoiled, None).facts().alphas_cumprod
    torch.testing.assert_close(alphas, OpenCheckpoint(plain, None).facts().alphas_cumprod)
