from __future__ import annotations

import pytest
import torch

from sdwebui_api.sampling.noise import ImageNoise, create_generator, paste_centred, seeded_noise, slerp

SHAPE = (4, 6, 8)


def drawn(seed: int, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_first_and_next_come_from_one_stream_per_image() -> None:
    noise = ImageNoise(SHAPE, [3, 4], source="CPU")
    generator = torch.Generator().manual_seed(4)
    for _ in range(3):
        assert torch.equal(noise.next()[1], torch.randn(SHAPE, generator=generator))


@pytest.mark.parametrize("source", ["CPU", "GPU", "NV"])
def test_an_image_does_not_depend_on_its_batch(source: str) -> None:
    together, alone = ImageNoise(SHAPE, [1, 2, 3], source=source), ImageNoise(SHAPE, [2], source=source)
    for _ in range(3):
        assert torch.equal(together.next()[1], alone.next()[0])


def test_gpu_on_a_cpu_is_cpu() -> None:
    assert torch.equal(seeded_noise(SHAPE, [5], source="GPU"), seeded_noise(SHAPE, [5], source="CPU"))


def test_nv_draws_what_cuda_draws() -> None:
    # torch.manual_seed(0); torch.randn(4, device="cuda"), the same on every NVIDIA GPU
    expected = torch.tensor([-0.9247, -0.4253, -2.6438, 0.1452])
    assert torch.allclose(create_generator(0, "NV", torch.device("cpu")).randn((4,)), expected, atol=1e-4)


def test_nv_numbers_are_normal_and_advance() -> None:
    generator = create_generator(2**40 + 17, "NV", torch.device("cpu"))
    first, second = generator.randn((50_000,)), generator.randn((50_000,))
    assert abs(float(first.mean())) < 0.02 and abs(float(first.std()) - 1) < 0.02
    assert not torch.equal(first, second)


def test_variation_seed_mixes_by_slerp() -> None:
    noise = ImageNoise(SHAPE, [1, 1], subseeds=[7], subseed_strength=0.3, source="CPU").next()
    assert torch.equal(noise[0], slerp(0.3, drawn(1), drawn(7)))
    assert torch.equal(noise[1], slerp(0.3, drawn(1), drawn(0))), "a missing variation seed is 0"


def test_slerp_ends_and_its_linear_fallback() -> None:
    low, high = drawn(1), drawn(2)
    assert torch.allclose(slerp(0.0, low, high), low, atol=1e-5)
    assert torch.allclose(slerp(1.0, low, high), high, atol=1e-5)
    assert torch.equal(slerp(0.25, low, low), low * 0.25 + low * 0.75)


def test_seed_resize_pastes_the_smaller_picture_in_the_middle() -> None:
    noise = ImageNoise((4, 8, 8), [9], seed_resize_from_w=32, seed_resize_from_h=48, source="CPU").next()[0]
    assert torch.equal(noise[:, 1:7, 2:6], drawn(9, (4, 6, 4)))
    assert torch.equal(noise[:, 0], drawn(9, (4, 8, 8))[:, 0])


def test_seed_resize_crops_the_larger_picture() -> None:
    larger = drawn(1, (4, 12, 12))
    assert torch.equal(paste_centred(torch.zeros(4, 8, 8), larger), larger[:, 2:10, 2:10])


def test_ensd_changes_everything_but_the_start() -> None:
    plain, shifted = ImageNoise(SHAPE, [5], source="CPU"), ImageNoise(SHAPE, [5], source="CPU", eta_noise_seed_delta=10)
    assert torch.equal(plain.next(), shifted.next())
    assert torch.equal(shifted.next()[0], drawn(15))
