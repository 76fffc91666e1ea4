from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from sdwebui_api.engine.model import DiffusionModel
from sdwebui_api.engine.training.captions import FileNameWords, PromptWriter
from sdwebui_api.engine.training.dataset import Dataset, Example, ImageRules, image_files, read_examples
from sdwebui_api.errors import BadRequest

WRITER = PromptWriter(("[filewords]",), "x")


class Mirror:
    """A "VAE" of one pixel per cell that keeps the first three channels, with a deviation of a tenth."""

    latent_scale = 8
    device = torch.device("cpu")

    def encode(self, images: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        mean = torch.nn.functional.avg_pool2d(images, 8)
        mean = torch.cat([mean, mean[:, :1]], dim=1)
        return mean if noise is None else mean + 0.1 * noise


def read(folder: Path, **rules) -> tuple[Example, ...]:
    fixed = {"width": 64, "height": 64} | rules
    model: DiffusionModel = Mirror()  # type: ignore[assignment]
    return read_examples(model, image_files(folder, folder), ImageRules(**fixed), FileNameWords(), 3, lambda done: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (128, 64), "red").save(tmp_path / "1 red.png")
    Image.new("L", (64, 150), 128).save(tmp_path / "2 grey.jpg")
    half = Image.new("RGBA", (64, 64), (0, 0, 255, 255))
    half.paste((0, 0, 255, 0), (0, 0, 32, 64))
    half.save(tmp_path / "3 blue.png")
    (tmp_path / "1 red.txt").write_text("a red wall")
    return tmp_path


def test_images_of_one_size(folder: Path) -> None:
    red, grey, blue = read(folder)
    assert [example.mean.shape for example in (red, grey, blue)] == [(4, 8, 8)] * 3
    assert [example.caption for example in (red, grey, blue)] == ["a red wall", "grey", "blue"]
    assert red.weight is None and red.std is None


def test_images_at_their_own_size_are_cut_to_cells(folder: Path) -> None:
    assert [tuple(example.mean.shape[1:]) for example in read(folder, varsize=True)] == [(8, 16), (18, 8), (8, 8)]
    Image.new("RGB", (640, 32)).save(folder / "too flat.png")
    assert len(read(folder, varsize=True)) == 3


def test_ways_to_sample_latents(folder: Path) -> None:
    noise = torch.Generator().manual_seed(0)
    mode = read(folder, latent_sampling="deterministic")[0]
    once = read(folder, latent_sampling="once")[0]
    random = read(folder, latent_sampling="random")[0]
    assert torch.equal(mode.latent(noise), mode.mean)
    assert torch.equal(once.latent(noise), once.latent(noise)) and not torch.equal(once.mean, mode.mean)
    draws = torch.stack([random.latent(noise) for _ in range(300)])
    assert torch.allclose(draws.mean(0), mode.mean, atol=0.03) and abs(draws.std(0).mean() - 0.1) < 0.01


def test_transparency_is_weight(folder: Path) -> None:
    red, _, blue = read(folder, use_weight=True)
    assert red.weight is not None and torch.equal(red.weight, torch.ones(1, 8, 8))
    assert blue.weight is not None
    assert blue.weight[0, :, :4].eq(0).all() and blue.weight[0, :, 4:].eq(2).all()


def test_files_that_do_not_serve(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    Image.new("RGB", (64, 64)).save(elsewhere / "secret.png")
    (folder / "link.png").symlink_to(elsewhere / "secret.png")
    (folder / "broken.png").write_bytes(b"x")
    assert len(read(folder)) == 3
    with pytest.raises(BadRequest) as caught:
        image_files(elsewhere / "..", elsewhere)
    assert caught.value.field == "data_root"


def test_batches_show_every_example_once_per_epoch() -> None:
    shapes = [(8, 8)] * 5 + [(8, 16)] * 2
    examples = tuple(Example(str(i), str(i), torch.full((4, *shape), float(i))) for i, shape in enumerate(shapes))
    batches = Dataset(examples, WRITER).batches(2, seed=0)
    epochs = [[next(batches) for _ in range(4)] for _ in range(3)]
    for epoch in epochs:
        assert Counter(prompt for batch in epoch for prompt in batch.prompts) == Counter("0123456")
        for batch in epoch:
            assert [f"{latent.mean().item():.0f}" for latent in batch.latents] == list(batch.prompts)
    assert [batch.prompts for batch in epochs[0]] != [batch.prompts for batch in epochs[1]]
