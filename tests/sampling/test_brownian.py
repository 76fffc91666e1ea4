from __future__ import annotations

import pytest
import torch

from sdwebui_api.sampling.brownian import BrownianNoise, BrownianTree

SIGMAS = torch.tensor([14.5, 8.0, 4.0, 1.0, 0.5, 0.1, 0.03, 0.0])


def latents(count: int) -> torch.Tensor:
    return torch.zeros(count, 4, 16, 16)


@pytest.mark.filterwarnings("ignore:Should have")
def test_equals_torchsde() -> None:
    torchsde = pytest.importorskip("torchsde")
    ours = BrownianNoise(latents(2), SIGMAS, [5, 7], source="CPU")
    trees = [torchsde.BrownianTree(SIGMAS[-2], latents(1)[0], SIGMAS[0], entropy=seed) for seed in (5, 7)]
    for a, b in [(0, 1), (1, 2), (2, 4), (4, 5), (5, 6)]:
        theirs = -torch.stack([tree(SIGMAS[b], SIGMAS[a]) for tree in trees]) / (SIGMAS[a] - SIGMAS[b]).sqrt()
        assert torch.allclose(ours(SIGMAS[a], SIGMAS[b]), theirs, atol=1e-5)


def test_is_unit_normal_and_repeats() -> None:
    first, second = (BrownianNoise(latents(1), SIGMAS, [3], source="CPU") for _ in range(2))
    second(SIGMAS[3], SIGMAS[4])
    noise = first(SIGMAS[0], SIGMAS[1])
    assert abs(float(noise.std()) - 1) < 0.1
    assert torch.equal(noise, second(SIGMAS[0], SIGMAS[1])), "the order of questions does not matter"


def test_an_image_does_not_depend_on_its_batch() -> None:
    together, alone = BrownianNoise(latents(2), SIGMAS, [3, 4]), BrownianNoise(latents(1), SIGMAS, [4])
    assert torch.equal(together(SIGMAS[0], SIGMAS[1])[1], alone(SIGMAS[0], SIGMAS[1])[0])


def test_increments_add_up() -> None:
    tree = BrownianTree(0.0, 10.0, (100,), 1, source="NV", device=torch.device("cpu"))
    whole = tree.increment(0.0, 10.0)
    assert torch.allclose(tree.increment(0.0, 3.3) + tree.increment(3.3, 10.0), whole, atol=1e-5)


def test_one_path_for_the_whole_batch_depends_on_the_last_seed() -> None:
    def noise(seeds: list[int]) -> torch.Tensor:
        return BrownianNoise(latents(2), SIGMAS, seeds, per_image=False)(SIGMAS[0], SIGMAS[1])

    assert torch.equal(noise([1, 9]), noise([2, 9]))
    assert not torch.equal(noise([1, 9]), noise([1, 8]))
