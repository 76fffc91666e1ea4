"""Noise that looks like a continuation of a picture, for outpainting.

The idea is parlance-zz's (g-diffuser-bot, MIT): noise is shaped in the frequency domain by the amplitudes and phases
of the picture, and its colours are matched to the picture's histogram. A1111 ships it as "Outpainting mk2".
"""

from __future__ import annotations

import numpy as np
from skimage.exposure import match_histograms

_WINDOW_SHARPNESS = 3.14
_MASKED = 1e-6
_UNMASKED = 1e-3


def matched_noise(
    image: np.ndarray, mask: np.ndarray, falloff: float = 1.0, color_variation: float = 0.05
) -> np.ndarray:
    """`image` with the white part of `mask` filled by noise of the image's kind; deterministic.

    image, mask: float64 [H, W, 3] in [0, 1]; falloff: exponent of the image's amplitudes, a lower one gives finer
    detail; color_variation: how colourful the noise starts, in [0, 1]. The result is in [0, 1].
    """
    coverage = mask.mean(axis=2)
    spectrum = _spectrum(_masked_source(image, mask, coverage))
    amplitude = np.abs(spectrum)
    phase = np.divide(spectrum, amplitude, out=np.zeros_like(spectrum), where=amplitude > 0)
    shaped = _spectrum(_smooth_noise(image.shape, color_variation))
    noise = _stretched(np.real(_picture(np.abs(shaped) ** 2 * amplitude**falloff * phase)))
    hidden, visible = coverage > _MASKED, coverage < _UNMASKED
    if hidden.any() and visible.any():
        noise[hidden] = match_histograms(noise[hidden], image[visible], channel_axis=1)
    return np.clip(image * (1.0 - mask) + noise * mask, 0.0, 1.0)


def _masked_source(image: np.ndarray, mask: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """The visible part at full brightness, the rest filled with the mean of the whole picture."""
    visible = image * (1.0 - coverage[..., None])
    return _divided(visible, visible.max()) + image.mean() * mask


def _smooth_noise(shape: tuple[int, ...], color_variation: float) -> np.ndarray:
    noise = np.random.default_rng(0).random(shape)  # always the same: only the request's seed shall vary pictures
    gray = noise.mean(axis=2, keepdims=True)
    mixed = noise * color_variation + gray * (1.0 - color_variation)
    return np.real(_picture(_spectrum(mixed) * _window(shape[0], shape[1])[..., None]))


def _window(height: int, width: int) -> np.ndarray:
    """[height, width], 1 in the middle, falling off with the distance from it."""
    shortest = min(height, width)
    y, x = ((np.arange(n) / n * 2.0 - 1.0) * (n / shortest) for n in (height, width))
    falling = np.outer(y**2 + 1.0, x**2 + 1.0)
    return (1.0 / falling) ** (_WINDOW_SHARPNESS / 3.14)


def _spectrum(picture: np.ndarray) -> np.ndarray:
    """Fourier transform of each channel, [H, W, C], the zero frequency in the middle."""
    shifted = np.fft.fftshift(picture, axes=(0, 1))
    return np.fft.ifftshift(np.fft.fft2(shifted, axes=(0, 1), norm="ortho"), axes=(0, 1))


def _picture(spectrum: np.ndarray) -> np.ndarray:
    shifted = np.fft.fftshift(spectrum, axes=(0, 1))
    return np.fft.ifftshift(np.fft.ifft2(shifted, axes=(0, 1), norm="ortho"), axes=(0, 1))


def _stretched(values: np.ndarray) -> np.ndarray:
    """To the range from 0 to 1."""
    values = values - values.min()
    return _divided(values, values.max())


def _divided(values: np.ndarray, by: float) -> np.ndarray:
    return values / by if by > 0 else values
