from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdwebui_api.catalog.checkpoints import CheckpointFile
from sdwebui_api.catalog.networks import LoraFile
from sdwebui_api.config.options import Options
from sdwebui_api.config.paths import Paths
from sdwebui_api.engine import source
from sdwebui_api.engine.devices import DevicePlan
from sdwebui_api.engine.engine import Engine
from sdwebui_api.engine.filling import Weights
from sdwebui_api.engine.load_settings import LoadSettings
from sdwebui_api.engine.loading import load_vae_file
from sdwebui_api.engine.networks.selection import NO_NETWORKS, AppliedLora, NetworkSet
from sdwebui_api.errors import OutOfMemory, UnusableModel
from tests.engine.conftest import MODELS, checkpoints, flags_of, vaes

GOLDEN = Path(__file__).parents[1] / "golden"


def kinds(engine: Engine) -> list[str]:
    return sorted(str(resident.key).split(":")[0] for resident in engine.loaded())


@pytest.fixture
def engine(golden_paths: Paths) -> Engine:
    return Engine(flags_of(MODELS), golden_paths)


def test_a_checkpoint_with_two_vaes_is_one_unet(engine: Engine, golden_paths: Paths) -> None:
    checkpoint, vae = checkpoints(golden_paths)[0], vaes(golden_paths)[0]
    said: list[str] = []
    latent = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    with engine.lease(checkpoint, on_progress=said.append) as inside, engine.lease(checkpoint, vae) as outside:
        assert inside.unet is outside.unet
        assert inside.key != outside.key
        assert inside.text_encoder.key == outside.text_encoder.key
        assert (inside.decode(latent) - outside.decode(latent)).abs().max() > 0.01
    assert [text.split(" of ")[0] for text in said] == [
        "loading the UNet",
        "loading the text encoder",
        "loading the VAE",
    ]
    assert kinds(engine) == ["text", "unet", "vae", "vae"]


def test_ready_and_unload(engine: Engine, golden_paths: Paths) -> None:
    checkpoint = checkpoints(golden_paths)[0]
    assert not engine.ready
    engine.warm(checkpoint)
    assert engine.ready
    engine.unload()
    assert engine.loaded() == []


def test_many_leases_at_once_load_once(engine: Engine, golden_paths: Paths) -> None:
    checkpoint = checkpoints(golden_paths)[0]

    def use() -> object:
        with engine.lease(checkpoint) as model:
            return model.unet

    with ThreadPoolExecutor(6) as pool:
        networks = [future.result(timeout=60) for future in [pool.submit(use) for _ in range(6)]]
    assert len(set(map(id, networks))) == 1


def test_facts_of_the_golden_model(golden_engine: Engine, golden_paths: Paths) -> None:
    with golden_engine.lease(checkpoints(golden_paths)[0]) as model:
        assert (model.in_channels, model.latent_channels, model.latent_scale) == (4, 4, 8)
        assert (model.prediction_type, model.family.name, model.dtype) == ("epsilon", "sd1", torch.float32)
        assert model.alphas_cumprod.shape == (1000,) and model.alphas_cumprod.dtype == torch.float32


def test_embeddings_as_the_api_lists_them(engine: Engine, golden_paths: Paths) -> None:
    assert engine.embeddings().loaded == {}
    listed = engine.embeddings(checkpoints(golden_paths)[0])
    assert (list(listed.loaded), list(listed.skipped)) == (["tiny-emb", "tiny-ti"], ["tiny-wrongsize"])


def test_memory_has_a1111s_shape(golden_engine: Engine) -> None:
    expected = json.loads((GOLDEN / "api" / "get-memory.json").read_text())["response"]
    answer = golden_engine.memory()
    assert set(answer["ram"]) == set(expected["ram"])
    assert answer["ram"]["free"] + answer["ram"]["used"] == answer["ram"]["total"]
    if not torch.cuda.is_available():
        assert answer["cuda"] == expected["cuda"]


def test_a_replaced_file_is_loaded_anew(tmp_path: Path) -> None:
    folder = tmp_path / "Stable-diffusion"
    folder.mkdir()
    source = MODELS / "Stable-diffusion" / "tiny-sd.safetensors"
    shutil.copy(source, folder / "m.safetensors")
    paths = Paths.from_flags(flags_of(tmp_path))
    engine = Engine(flags_of(tmp_path), paths)
    with engine.lease(checkpoints(paths)[0]) as model:
        first = model.key
    tensors = {name: tensor for name, tensor in load_file(source).items()}
    save_file(tensors, str(folder / "new"), {"format": "pt", "note": "another file"})
    (folder / "new").replace(folder / "m.safetensors")
    with engine.lease(checkpoints(paths)[0]) as model:
        assert model.key != first


def test_what_cannot_be_loaded_is_explained_and_harms_nothing(tmp_path: Path, golden_paths: Paths) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"nonsense")
    engine = Engine(flags_of(MODELS), golden_paths)
    for name, message in (("broken.safetensors", "not a readable"), ("gone.safetensors", "cannot be read")):
        with pytest.raises(UnusableModel, match=message), engine.lease(CheckpointFile(tmp_path / name, name)):
            pass
    assert not engine.ready and engine.loaded() == []
    with engine.lease(checkpoints(golden_paths)[0]):
        assert engine.ready


def test_memory_that_runs_out_while_loading_drops_what_is_idle(
    engine: Engine, golden_paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, vae = checkpoints(golden_paths)[0], vaes(golden_paths)[0]
    engine.warm(checkpoint)
    attempts: list[int] = []

    def scarce(*arguments: object, **named: object) -> None:
        attempts.append(len(engine.loaded()))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("sdwebui_api.engine.source.load_vae_file", scarce)
    with pytest.raises(OutOfMemory), engine.lease(checkpoint, vae):
        pass
    assert attempts == [3, 2]  # the VAE nobody held is gone, UNet and text encoder are held
    with engine.lease(checkpoint):
        pass


def test_loading_in_several_threads_disturbs_nobody(golden_paths: Paths) -> None:
    checkpoint = checkpoints(golden_paths)[0]
    loading = [True]

    def load() -> None:
        for _ in range(3):
            Engine(flags_of(MODELS), golden_paths).warm(checkpoint)

    def work() -> None:
        while loading[0]:
            layer = torch.nn.Linear(4, 4)
            assert layer.weight.device.type == "cpu" and layer.weight.dtype == torch.float32
            assert layer(torch.ones(2, 4)).requires_grad

    with ThreadPoolExecutor(4) as pool:
        worker, loaders = pool.submit(work), [pool.submit(load) for _ in range(3)]
        try:
            for future in loaders:
                future.result(timeout=120)
        finally:
            loading[0] = False
        worker.result(timeout=30)


def test_half_precision_gives_nearly_the_same(golden_paths: Paths) -> None:
    words = ["--use-cpu", "all", "--models-dir", str(MODELS)]
    from sdwebui_api.config.flags import parse_flags

    engine = Engine(parse_flags(words, {}), golden_paths)
    x, t = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(0)), torch.tensor([500.0])
    context = torch.randn((1, 77, 128), generator=torch.Generator().manual_seed(1))
    exact = Engine(flags_of(MODELS), golden_paths)
    checkpoint = checkpoints(golden_paths)[0]
    with engine.lease(checkpoint) as half, exact.lease(checkpoint) as full:
        difference = half.evaluate(x, t, context) - full.evaluate(x, t, context)
        assert half.evaluate(x, t, context).dtype == torch.float32
        assert difference.abs().mean() < 0.05


@pytest.mark.parametrize("blockwise", [False, True])
def test_parts_that_visit_the_device_compute_the_same(
    engine: Engine, golden_paths: Paths, blockwise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies between two places in RAM stand for those to a GPU: the moves are the same."""
    lora = LoraFile(MODELS / "Lora" / "tiny-style.safetensors", "tiny-style")
    networks = NetworkSet((AppliedLora(lora),))
    checkpoint, expected = checkpoints(golden_paths)[0], []
    plan = replace(engine.plan, offload=True, blockwise=blockwise)
    with monkeypatch.context() as patched:
        patched.setattr(DevicePlan, "from_flags", lambda flags: plan)
        visiting = Engine(flags_of(MODELS), golden_paths)
    for one in (engine, visiting):
        for chosen in (NO_NETWORKS, networks, NO_NETWORKS):
            with one.lease(checkpoint, networks=chosen) as model, torch.inference_mode():
                context = model.text_encoder.forward(torch.arange(77)[None], [[]]).context
                latent = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0))
                expected.append(model.decode(model.evaluate(latent, torch.tensor([500.0]), context)))
    assert all(torch.equal(found, right) for found, right in zip(expected[3:], expected[:3], strict=True))


def test_a_limit_on_checkpoints_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "Stable-diffusion"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.safetensors").symlink_to(MODELS / "Stable-diffusion" / "tiny-sd.safetensors")
    paths = Paths.from_flags(flags_of(tmp_path))
    engine = Engine(flags_of(tmp_path), paths)
    two = LoadSettings.of(Options({"sd_checkpoints_limit": 2}))
    for checkpoint in checkpoints(paths):
        with engine.lease(checkpoint, settings=two):
            pass
    assert kinds(engine) == ["text", "text", "unet", "unet", "vae", "vae", "vae"]
    with engine.lease(checkpoints(paths)[0], settings=LoadSettings.of(Options())):
        assert kinds(engine).count("unet") == 3


def test_what_a_waiting_job_needs_is_fetched_where_nothing_has_to_leave_for_it(
    golden_paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, read = checkpoints(golden_paths)[0], list[Path]()
    monkeypatch.setattr("sdwebui_api.engine.engine.read_ahead", lambda files, gone: read.extend(files))
    engine = Engine(flags_of(MODELS), golden_paths)
    engine.prefetch(checkpoint, None, LoadSettings(), lambda: True)
    assert engine.loaded() == []  # nobody waits any more
    engine.prefetch(checkpoint, None, LoadSettings(), lambda: False)
    assert kinds(engine) == ["text", "unet", "vae"] and not engine.ready and not read
    engine.unload()
    engine._weights.budget = 1000
    engine.prefetch(checkpoint, None, LoadSettings(), lambda: False)
    assert engine.loaded() == [] and read == [checkpoint.path]


def test_on_a_cpu_large_text_encoders_come_and_go(
    engine: Engine, golden_paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = checkpoints(golden_paths)[0]
    tokens = torch.tensor([[49406, *[49407] * 76]])
    with engine.lease(checkpoint) as model:
        assert kinds(engine) == ["text", "unet", "vae"]
        with model.participate():
            assert kinds(engine) == ["text", "unet", "vae"]
        wanted = model.text_encoder.forward(tokens, [[]])
        key, width = model.text_encoder.key, model.text_encoder.width
    monkeypatch.setattr(source, "LARGE_TEXT_ENCODER", 1)
    sparing = Engine(flags_of(MODELS), golden_paths)
    with sparing.lease(checkpoint) as model:
        assert kinds(sparing) == ["unet", "vae"]
        assert model.text_encoder.width == width
        found = model.text_encoder.forward(tokens, [[]])
        assert kinds(sparing) == ["text", "unet", "vae"]
        with model.participate():
            assert kinds(sparing) == ["unet", "vae"]
        model.text_encoder.forward(tokens, [[]])
    assert kinds(sparing) == ["unet", "vae"]
    assert torch.equal(found.context, wanted.context)
    assert key.split(":")[0] == "text"
    sparing.prefetch(checkpoint, None, LoadSettings(), lambda: False)
    assert kinds(sparing) == ["unet", "vae"]
    filling = Engine(flags_of(MODELS, "--sd-dynamic-cache"), golden_paths)
    filling.warm(checkpoint)
    assert kinds(filling) == ["text", "unet", "vae"]


def test_a_text_encoder_that_a_lora_changes_stays_for_the_lease(
    engine: Engine, golden_paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "LARGE_TEXT_ENCODER", 1)
    lora = next(path for path in sorted((MODELS / "Lora").glob("*.safetensors")) if _changes_text(path))
    networks = NetworkSet(loras=(AppliedLora(LoraFile(lora, lora.stem)),))
    with engine.lease(checkpoints(golden_paths)[0], networks=networks):
        assert kinds(engine).count("text") == 2


def _changes_text(path: Path) -> bool:
    return any("lora_te" in name for name in load_file(path))


@pytest.mark.parametrize("outside", [False, True], ids=["the checkpoint's own", "a file of its own"])
def test_on_a_cpu_the_encoder_of_a_vae_comes_when_it_is_wanted(
    outside: bool, engine: Engine, golden_paths: Paths
) -> None:
    checkpoint, vae = checkpoints(golden_paths)[0], vaes(golden_paths)[0] if outside else None
    whole = load_vae_file(vae.path if vae else checkpoint.path, Weights(torch.float32, torch.device("cpu")))
    image = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(0)) * 2 - 1
    with engine.lease(checkpoint, vae) as model:
        decoder = sum(resident.size for resident in engine.loaded() if str(resident.key).startswith("vae"))
        assert decoder < 0.7 * sum(parameter.nbytes for parameter in whole.parameters())
        found = model.encode(image, None) / model.latent_factor
        again = model.encode(image, None) / model.latent_factor
    with torch.inference_mode():
        wanted = whole.encode(image).latent_dist.mean
    assert torch.allclose(found, wanted, atol=1e-5) and torch.equal(found, again)


def test_an_encoder_is_not_read_from_a_file_that_became_another(tmp_path: Path, golden_paths: Paths) -> None:
    models = tmp_path / "models"
    (models / "Stable-diffusion").mkdir(parents=True)
    path = models / "Stable-diffusion" / "model.safetensors"
    shutil.copyfile(checkpoints(golden_paths)[0].path, path)
    flags = flags_of(models)
    with Engine(flags, Paths.from_flags(flags)).lease(checkpoints(Paths.from_flags(flags))[0]) as model:
        path.touch()
        with pytest.raises(UnusableModel, match=r"model\.safetensors was changed while it was in use"):
            model.encode(torch.zeros(1, 3, 64, 64), None)
        assert model.decode(torch.zeros(1, 4, 8, 8)).shape == (1, 3, 64, 64)
