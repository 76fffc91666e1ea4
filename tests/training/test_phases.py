"""Each phase learns, saves and resumes, on tiny networks and synthetic glyphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from training import emoji_model
from training.diffusion import DiffusionTrainer
from training.evaluate import contact_sheet, evaluate
from training.export import read_checkpoint, with_full_vocabulary
from training.glyphs import Glyph
from training.latents import LatentBatches
from training.loop import Budget
from training.models import Networks, build_text_encoder, build_unet, build_vae, context, prepare
from training.scenes import WIDE_MIX
from training.settings import GPU, Settings, load_settings, save_settings
from training.vae import VaeTrainer, normalise_latents, reconstruction_psnr
from training.vocabulary import Vocabulary, token_ids

CPU = torch.device("cpu")


@pytest.fixture
def vocabulary(glyphs: list[Glyph], tokenizer: Any) -> Vocabulary:
    return Vocabulary.of(glyphs, tokenizer, sampled_captions=100)


@pytest.fixture
def batches(settings: Settings, glyphs: list[Glyph], tokenizer: Any, vocabulary: Vocabulary) -> Any:
    torch.manual_seed(0)
    vae = prepare(build_vae(settings.architecture), CPU).eval()
    made = LatentBatches(settings, glyphs, vae, vocabulary, tokenizer, CPU)
    yield made
    made.close()


def test_the_vae_learns_a_fixed_batch(settings: Settings, glyphs: list[Glyph]) -> None:
    trainer = VaeTrainer(settings, glyphs, CPU)
    pictures = trainer.batch(0, whole=True)
    assert pictures.shape == (2, 3, 64, 64) and float(pictures.abs().max()) <= 1
    losses = []
    for _ in range(20):
        losses.append(trainer.step(pictures, 0.0)["loss"])
        trainer.position.steps += 1
    assert all(torch.isfinite(torch.tensor(losses)))
    assert losses[-1] < 0.7 * losses[0]


def test_the_text_encoder_and_then_the_unet_learn_a_fixed_batch(
    settings: Settings, vocabulary: Vocabulary, batches: LatentBatches, tmp_path: Path
) -> None:
    trainer = DiffusionTrainer(settings, vocabulary, CPU)
    latents, ids = batches.batch(0)
    latents = latents / latents.std()
    assert latents.shape == (4, 4, 8, 8) and ids.shape == (4, 77)
    text = []
    for _ in range(20):
        text.append(trainer.step(latents, ids, 0.0)["text"])
        trainer.position.steps += 1
    assert text[-1] < 0.95 * text[0]

    trainer.run("diffusion", Budget(steps=1), batches, tmp_path / "state.pt")
    assert trainer.phase == "diffusion"
    start = _diffusion_loss(trainer, latents, ids)
    for _ in range(20):
        trainer.step(latents, ids, 0.0)
        trainer.position.steps += 1
    assert _diffusion_loss(trainer, latents, ids) < 0.9 * start


def _diffusion_loss(trainer: DiffusionTrainer, latents: torch.Tensor, ids: torch.Tensor) -> float:
    """Over the same 64 noises and timesteps each time: single steps see too few to compare."""
    with torch.no_grad():
        conditioning = context(trainer.text_encoder, ids).repeat(16, 1, 1)
        weighted, _ = trainer._diffusion_loss(
            latents.repeat(16, 1, 1, 1), conditioning, torch.Generator().manual_seed(0)
        )
    return float(weighted)


def test_training_can_start_from_a_finished_model(settings: Settings, vocabulary: Vocabulary, tokenizer: Any) -> None:
    given = DiffusionTrainer(settings, vocabulary, CPU)
    full = with_full_vocabulary(given.text_encoder, vocabulary, settings.architecture)
    with torch.no_grad():
        full.final_layer_norm.bias.add_(1.0)
    started = DiffusionTrainer(settings, vocabulary, CPU)
    started.start_from(full, given.unet)
    assert started.phase == "diffusion"  # the text phase would undo what the text encoder knows
    prompts = ["a red apple", "zyzzyva"]
    with torch.no_grad():
        compact = context(started.text_encoder.eval(), vocabulary.encode(prompts, tokenizer))
        torch.testing.assert_close(compact, context(full, token_ids(prompts, tokenizer)))


def test_batches_depend_on_the_step_alone(batches: LatentBatches) -> None:
    latents, ids = batches.batch(5)
    again, same_ids = batches.batch(5)
    assert torch.equal(latents, again) and torch.equal(ids, same_ids)
    assert not torch.equal(latents, batches.batch(6)[0])
    before = batches._pool[64].latents.clone()
    batches.refresh(0)
    assert 0 < int((batches._pool[64].latents != before).flatten(1).any(1).sum()) <= 1


def test_larger_sizes_come_in_smaller_batches() -> None:
    assert [GPU.batch_at(512, size) for size in GPU.sizes] == [512, 228, 128, 57, 32]
    with pytest.raises(ValueError, match="multiples of 64"):
        Settings(sizes=(100,))


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(settings: Settings, glyphs: list[Glyph]) -> None:
    trainer = VaeTrainer(settings, glyphs, CPU)
    before = [p.detach().clone() for p in trainer.vae.parameters()]
    with pytest.raises(FloatingPointError):
        trainer.step(torch.full((1, 3, 64, 64), float("nan")), 0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.vae.parameters(), strict=True))


def test_normalised_latents_have_unit_variance_and_decode_the_same(settings: Settings, glyphs: list[Glyph]) -> None:
    trainer = VaeTrainer(settings, glyphs, CPU)
    vae = trainer.vae.eval()
    pictures = torch.cat([trainer.batch(step, whole=True) for step in range(4)])
    with torch.no_grad():
        before = vae.decode(vae.encode(pictures).latent_dist.mean).sample
        normalise_latents(vae, [pictures])
        posterior = vae.encode(pictures).latent_dist
        after = vae.decode(posterior.mean).sample
    scaled = 0.18215 * posterior.mean
    torch.testing.assert_close(scaled.mean((0, 2, 3)), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(scaled.std((0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(after, before, atol=1e-3, rtol=0)
    assert reconstruction_psnr(vae, pictures) > 0


def test_settings_survive_the_disk(tmp_path: Path, settings: Settings) -> None:
    for one in (settings, GPU):
        save_settings(one, tmp_path / "settings.json")
        assert load_settings(tmp_path / "settings.json") == one
    assert GPU.mix == WIDE_MIX


def test_the_command_trains_stops_resumes_and_writes_a_checkpoint(
    settings: Settings, glyphs: list[Glyph], tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.glyphs.load_glyphs", lambda limit=None: glyphs[:limit])
    monkeypatch.setattr("training.vocabulary.load_tokenizer", lambda folder=None: tokenizer)
    monkeypatch.setattr("training.evaluate.SHEET_PROMPTS", ("a red apple", "a car"))
    monkeypatch.setattr("training.settings.CPU", settings)
    folder = tmp_path / "run"
    command = [
        "--output",
        str(folder),
        "--device",
        "cpu",
        "--vae-steps",
        "2",
        "--text-steps",
        "2",
        "--evaluate",
        "1",
        "1",
    ]
    with monkeypatch.context() as patch:
        patch.setattr("training.latents.LatentBatches.refresh", _interrupt_diffusion_at(1))
        assert emoji_model.main([*command, "--diffusion-steps", "2"]) == 130
    with pytest.raises(SystemExit):  # never over an earlier run
        emoji_model.main(command)
    assert emoji_model.main([*command, "--diffusion-steps", "3", "--resume"]) == 0
    networks, architecture = read_checkpoint(folder / "emoji-mini.safetensors")
    assert architecture == settings.architecture
    assert {"samples.png", "evaluation.md", "emoji-mini.yaml", "settings.json"} <= {f.name for f in folder.iterdir()}
    assert networks.text_encoder.embeddings.token_embedding.weight.shape == (49408, 32)


def _interrupt_diffusion_at(calls: int) -> Any:
    """A `refresh` that behaves like Ctrl-C in the phase after the text phase's two steps."""
    import os
    import signal

    seen: list[int] = []

    def refresh(self: LatentBatches, step: int) -> None:
        seen.append(step)
        if len(seen) == 2 + calls:
            os.kill(os.getpid(), signal.SIGINT)

    return refresh


def test_evaluation_ranks_against_every_glyph(settings: Settings, glyphs: list[Glyph], tokenizer: Any) -> None:
    torch.manual_seed(0)
    small = settings.architecture
    networks = Networks(build_vae(small), build_text_encoder(small), build_unet(small))
    scores = evaluate(networks, tokenizer, glyphs, popular=1, others=1)
    assert [score.count for score in scores] == [1, 1]
    assert all(score.top5 == score.top20 == 1 for score in scores)  # only four glyphs to choose from
    only_popular = [glyph for glyph in glyphs if glyph.emoji.popular]
    assert [score.count for score in evaluate(networks, tokenizer, only_popular, popular=1, others=1)] == [1]
    assert str(scores[0]).startswith("| popular glyphs | 1 |")


def test_a_contact_sheet_has_a_cell_per_picture(glyphs: list[Glyph]) -> None:
    pictures = [glyph.picture.convert("RGB").resize((64, 64)) for glyph in glyphs]
    sheet = contact_sheet(pictures, ["a prompt that is longer than its picture"] * len(pictures), columns=3)
    assert sheet.mode == "P" and sheet.width >= 3 * 64 and sheet.height >= 2 * 64
