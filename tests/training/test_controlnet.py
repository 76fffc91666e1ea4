"""The ControlNet learns beside a frozen UNet, saves, resumes, and is exported in the original layout."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors import safe_open

from training import controlnet, style_lora
from training.adaptation import write_half
from training.control_data import ControlSettings, HintBatches, HintedComposer
from training.control_evaluation import cases, draw_controlled, mean_agreement, predict
from training.control_layout import build_control, control_to_ldm, read_control
from training.control_trainer import ControlTrainer, Keeper
from training.glyphs import Glyph, MissingPackage
from training.models import EMBEDDED, Architecture, Networks, build_text_encoder, build_unet, build_vae, prepare

CPU = torch.device("cpu")
RECORDED = Path(__file__).parents[1] / "golden" / "models" / "ControlNet" / "control_sd15_tiny_canny.safetensors"
SHIPPED = Path(__file__).parents[2] / "model_store" / "ControlNet" / "emoji-mini-canny.safetensors"
SETTINGS = ControlSettings(size=64, batch=4, scenes=8, muon_rate=5e-3, adam_rate=3e-3)


@pytest.fixture
def networks(architecture: Architecture) -> Networks:
    torch.manual_seed(0)
    parts = build_vae(architecture), build_text_encoder(architecture), build_unet(architecture)
    return Networks(*(prepare(part, CPU).requires_grad_(False).eval() for part in parts))


@pytest.fixture
def batches(networks: Networks, glyphs: list[Glyph], tokenizer: Any) -> Any:
    made = HintBatches(HintedComposer(glyphs, 64), networks.vae, tokenizer, SETTINGS)
    yield made
    made.close()


def _shapes(path: Path) -> dict[str, list[int]]:
    with safe_open(path, "pt") as file:
        return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118


def test_the_embedded_models_control_has_the_keys_and_shapes_that_a1111_read() -> None:
    with torch.device("meta"):
        state = control_to_ldm(build_control(build_unet(EMBEDDED)), EMBEDDED)
    assert {key: list(weight.shape) for key, weight in state.items()} == _shapes(RECORDED)


def test_the_shipped_file_is_small_and_has_the_same_keys() -> None:
    assert SHIPPED.stat().st_size < 20e6
    assert _shapes(SHIPPED) == _shapes(RECORDED)


def test_a_written_control_reads_back_to_the_same_residuals(
    networks: Networks, architecture: Architecture, tmp_path: Path
) -> None:
    control = build_control(networks.unet).eval()
    with torch.no_grad():
        for weight in control.parameters():
            weight.copy_((weight + 0.05 * torch.randn_like(weight)).half())
    write_half(tmp_path / "c.safetensors", control_to_ldm(control, architecture), {"format": "pt"})
    again = read_control(tmp_path / "c.safetensors", architecture)
    inputs = torch.randn(1, 4, 8, 8), torch.tensor([500]), torch.randn(1, 77, 32), torch.rand(1, 3, 64, 64).round()
    for one, other in zip(_residuals(control, *inputs), _residuals(again, *inputs), strict=True):
        torch.testing.assert_close(one, other)


@torch.no_grad()
def _residuals(control: Any, *inputs: Any) -> list[torch.Tensor]:
    down, middle = control(*inputs, return_dict=False)
    return [*down, middle]


def test_an_untrained_control_changes_nothing(networks: Networks) -> None:
    x, t, words = torch.randn(2, 4, 8, 8), torch.tensor([10, 900]), torch.randn(2, 77, 32)
    control, hints = ControlTrainer(SETTINGS, networks, CPU).control, torch.ones(2, 3, 64, 64)
    with torch.no_grad():
        without = predict(networks.unet, None, x, t, words, hints)
        torch.testing.assert_close(predict(networks.unet, control, x, t, words, hints), without)


def test_batches_hold_binary_hints_and_depend_on_the_step_alone(batches: HintBatches) -> None:
    first, again, other = batches.batch(3), batches.batch(3), batches.batch(4)
    assert first.latents.shape == (4, 4, 8, 8) and first.hints.shape == (4, 3, 64, 64)
    assert first.token_ids.shape == (4, 77)
    assert set(first.hints.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(first.hints, again.hints) and not torch.equal(first.hints, other.hints)
    kept = batches.batch(0).latents.clone()
    for step in range(8):
        batches.refresh(step)
    assert not torch.equal(batches.batch(0).latents, kept)


def test_scattered_scenes_reach_every_quarter(glyphs: list[Glyph]) -> None:
    composer, random = HintedComposer(glyphs, 64), Random(0)
    placed = [one for _ in range(60) for one in composer.scattered(random).objects]
    assert {(one.x < 0.5, one.y < 0.5) for one in placed} == {(a, b) for a in (False, True) for b in (False, True)}


def test_both_phases_learn_a_fixed_batch_and_leave_the_unet_alone(networks: Networks, batches: HintBatches) -> None:
    trainer, batch = ControlTrainer(SETTINGS, networks, CPU), batches.batch(0)
    frozen = [parameter.clone() for parameter in networks.unet.parameters()]
    for phase in ("hint", "control"):
        trainer.start(phase)  # type: ignore[arg-type]
        losses = []
        for _ in range(14):
            metrics = trainer.step(batch, 0.2)  # the position stands still, and with it noise and timesteps
            losses.append(metrics["edges" if phase == "hint" else "loss"])
        assert losses[-1] < 0.9 * losses[0], (phase, losses)
    for before, after in zip(frozen, networks.unet.parameters(), strict=True):
        assert torch.equal(before, after)


def test_a_resumed_run_goes_on_where_it_stopped(networks: Networks, batches: HintBatches, tmp_path: Path) -> None:
    trainer, again = (ControlTrainer(SETTINGS, networks, CPU) for _ in range(2))
    trainer.start("control")
    for step in range(2):
        trainer.step(batches.batch(step), 0.2)
        trainer.position.steps += 1
    trainer.save(tmp_path / "state.pt")
    again.load(tmp_path / "state.pt")
    assert again.phase == "control" and again.position.steps == 2
    assert trainer.step(batches.batch(2), 0.2) == again.step(batches.batch(2), 0.2)


def test_the_best_weights_are_kept(
    networks: Networks, architecture: Architecture, tokenizer: Any, glyphs: list[Glyph], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    trainer = ControlTrainer(SETTINGS, networks, CPU)
    trainer.start("control")
    state, file = tmp_path / "state.pt", tmp_path / "best.safetensors"
    keeper = Keeper(trainer, architecture, tokenizer, glyphs, state, file)
    for score, best in ((0.0, 0.0), (0.3, 0.3), (0.2, 0.3)):
        monkeypatch.setattr("training.control_trainer.mean_agreement", lambda *_, score=score, **__: score)
        keeper.save(trainer.position)
        assert trainer.best == best and state.is_file()
        with safe_open(file, "pt") as written:
            assert f"{best:.2f}" in written.metadata()["modelspec.description"]


def test_cases_are_reproducible_and_off_the_middle(glyphs: list[Glyph]) -> None:
    some, again = cases(glyphs, 4, 64), cases(glyphs, 4, 64)
    assert [case.prompt for case in some] == [case.prompt for case in again]
    for case, same in zip(some, again, strict=True):
        assert (case.hint == same.hint).all() and case.hint.any()
        rows, columns = case.hint.nonzero()
        assert max(abs(rows.mean() - 32), abs(columns.mean() - 32)) > 3


def test_drawing_with_a_control_depends_on_its_hint(networks: Networks, glyphs: list[Glyph], tokenizer: Any) -> None:
    some, control = cases(glyphs, 2, 64), build_control(networks.unet).eval()
    with torch.no_grad():
        for weight in control.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    hints = [case.hint for case in some]
    drawn = draw_controlled(networks, control, tokenizer, ["a car"] * 2, hints, [1, 1], steps=2)
    plain = draw_controlled(networks, None, tokenizer, ["a car"] * 2, hints, [1, 1], steps=2)
    assert drawn[0].size == (64, 64) and drawn[0].tobytes() != drawn[1].tobytes()
    assert plain[0].tobytes() == plain[1].tobytes()
    assert 0 <= mean_agreement(networks, control, tokenizer, some, prompted=False) <= 1


def test_errors_that_a_user_can_mend_have_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        controlnet.main(["--output", str(tmp_path), "--resume"])
    assert stopped.value.code == 2 and "nothing to resume" in capsys.readouterr().err


@pytest.mark.parametrize("module", [controlnet, style_lora])
def test_a_command_that_lacked_something_may_be_given_again(
    module: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_font(**_: Any) -> list[Glyph]:
        raise MissingPackage("no font")

    monkeypatch.setattr("training.glyphs.load_glyphs", no_font)
    monkeypatch.setattr(module, "frozen_networks", lambda *_: (None, None))
    for _ in range(2):
        with pytest.raises(SystemExit):
            module.main(["--output", str(tmp_path), "--device", "cpu"])
        assert "no font" in capsys.readouterr().err
