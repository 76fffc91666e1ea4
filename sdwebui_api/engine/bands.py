"""Large pictures through the autoencoder in bands of rows, as a CPU computes them.

The autoencoder's blocks hold a full-size feature map for every step between two convolutions. All of these steps but
one need no more than a pixel and its neighbours, so a band of rows goes through them together, from the cache, and
only what the convolutions give exists whole. The exception, the statistics of a group norm, is gathered from all bands
first, one mean and variance of each (Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance").

The second half of a residual block is written over what it reads, and a map is let go as soon as the next one exists,
while diffusers' blocks keep what they were given until they return. So no more than two maps are there at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdwebui_api.engine.allocator import apart

BAND_BYTES = 4 * 2**20
"""Of a band of a convolution's input; those of 4 to 16 MiB are equally fast on Zen 4 with 32 MiB of last cache."""


Rows = Callable[[int, int], Tensor]
"""Rows [start, stop) of a map [1, C, H, W] that does not exist whole: [1, C, stop - start, W]."""


def widest_map(widths: Sequence[int], pixels: int, dtype: torch.dtype) -> int:
    """Bytes of the largest map; `widths`: the network's `block_out_channels`.

    The decoder's last block is given one as wide as the block before is.
    """
    return pixels * widths[min(1, len(widths) - 1)] * dtype.itemsize


def peak_bytes(widths: Sequence[int], pixels: int, dtype: torch.dtype) -> int:
    """What `decode` takes at its peak, about: the largest map, what becomes of it, and bands. `encode` takes less."""
    return widest_map(widths, pixels, dtype) + pixels * widths[0] * dtype.itemsize + 16 * BAND_BYTES


def decode(vae: Any, latents: Tensor) -> Tensor:
    """What `vae.decode`, a diffusers AutoencoderKL's, gives: [B, 4, h, w] -> [B, 3, 8h, 8w]. Knows no derivative."""
    return torch.cat([_decode_one(vae, latent[None]) for latent in latents])


def _decode_one(vae: Any, latent: Tensor) -> Tensor:
    decoder = vae.decoder
    latent = latent if vae.post_quant_conv is None else vae.post_quant_conv(latent)
    x = decoder.mid_block(decoder.conv_in(latent))
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            x = _resnet(resnet, x)
        for upsampler in block.upsamplers or ():
            x = _upsampled(upsampler.conv, x)
    return _convolved(decoder.conv_out, _activated(decoder.conv_norm_out, x), x.shape)


def encode(vae: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of `vae.encode`'s distribution: [B, 3, H, W] -> [B, 4, H/8, W/8] each.

    Knows no derivative.
    """
    mean, log_variance = torch.cat([_encode_one(vae, image[None]) for image in images]).chunk(2, dim=1)
    return mean, (0.5 * log_variance.clamp(-30, 20)).exp()  # diffusers' limits


def _encode_one(vae: Any, image: Tensor) -> Tensor:
    encoder = vae.encoder
    x = encoder.conv_in(image)
    for block in encoder.down_blocks:
        for resnet in block.resnets:
            x = _resnet(resnet, x)
        for downsampler in block.downsamplers or ():
            x = _downsampled(downsampler.conv, x)
    x = encoder.conv_out(encoder.conv_act(encoder.conv_norm_out(encoder.mid_block(x))))
    return x if vae.quant_conv is None else vae.quant_conv(x)


def _resnet(block: Any, x: Tensor) -> Tensor:
    """A diffusers ResnetBlock2D as autoencoders have them: SiLU, no time embedding, no resampling."""
    hidden = _convolved(block.conv1, _activated(block.norm1, x), x.shape)
    return _convolved(block.conv2, _activated(block.norm2, hidden), hidden.shape, hidden, (x, block.conv_shortcut))


def _upsampled(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """`layer` over [1, C, H, W] at twice the size, each pixel four times."""

    def rows(start: int, stop: int) -> Tensor:
        first = start // 2
        doubled = F.interpolate(x[:, :, first : (stop + 1) // 2], scale_factor=2.0, mode="nearest")
        return doubled[:, :, start - 2 * first : stop - 2 * first]

    return _convolved(layer, rows, torch.Size((*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])))


def _downsampled(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """`layer`, of stride 2, over [1, C, H, W] with a row of zeros below and a column at the right."""
    height = x.shape[2] // 2
    found = _map_like(x, layer.out_channels, height, x.shape[3] // 2)
    for start, stop in _bands(height, 2 * x.nbytes // x.shape[2]):
        seen = x[:, :, 2 * start : 2 * stop + 1]
        found[:, :, start:stop] = layer(F.pad(seen, (0, 1, 0, 2 * (stop - start) + 1 - seen.shape[2])))
    return found


def _convolved(
    layer: nn.Conv2d,
    rows: Rows,
    shape: torch.Size,
    found: Tensor | None = None,
    residual: tuple[Tensor, nn.Module | None] | None = None,
) -> Tensor:
    """A 3x3 `layer` over a map of `shape` that `rows` gives, plus `residual` (a map, and the layer for it if any).

    Written into `found` if given, which may be what `rows` reads.
    """
    for start, stop, window in _windows(rows, shape, wraps=layer.padding_mode == "circular"):
        band = _over_window(layer, window)
        if residual is not None:
            x, shortcut = residual
            beside = x[:, :, start:stop]
            band += beside if shortcut is None else shortcut(beside)
        if found is None:
            found = _map_like(band, layer.out_channels, shape[2], shape[3])
        found[:, :, start:stop] = band
    assert found is not None
    return found


def _windows(rows: Rows, shape: torch.Size, wraps: bool) -> Iterator[tuple[int, int, Tensor]]:
    """Bands of rows [start, stop), each with the row above and the one below: [1, C, stop - start + 2, W].

    Beyond the edges are zeros, or the opposite edge where the map `wraps`. No row is asked for after the band before
    it was given, so that the band may be written over what `rows` reads: two rows of each are kept for the next.
    """
    height = shape[2]
    first = rows(0, 1)
    above = rows(height - 1, height) if wraps else torch.zeros_like(first)
    kept = torch.cat([above, first], dim=2)
    below = kept[:, :, 1:] if wraps else above
    for start, stop in _bands(height, first.nbytes):
        parts = [kept]
        if start + 1 < height:
            parts.append(rows(start + 1, min(stop + 1, height)))
        if stop == height:
            parts.append(below)
        window = torch.cat(parts, dim=2)
        kept = window[:, :, -2:].clone()
        del parts
        yield start, stop, window


def _over_window(layer: nn.Conv2d, window: Tensor) -> Tensor:
    """`layer` over a window of `_windows`: [1, C', rows - 2, W]. Above and below nothing is added."""
    if layer.padding_mode == "circular":
        return F.conv2d(F.pad(window, (1, 1, 0, 0), mode="circular"), layer.weight, layer.bias)
    return F.conv2d(window, layer.weight, layer.bias, padding=(0, 1))


def _activated(norm: nn.GroupNorm, x: Tensor) -> Rows:
    """SiLU of the group norm of `x`."""
    mean, variance = _moments(x, norm.num_groups)
    weight, bias = norm.weight.float(), norm.bias.float()

    def rows(start: int, stop: int) -> Tensor:
        band = _channels_last(x[:, :, start:stop])
        # With mean and variance given, this is the scaling alone, in float32 whatever the map's precision.
        return F.silu(F.batch_norm(band, mean, variance, weight, bias, eps=norm.eps), inplace=True)

    return rows


def _moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of each group of channels of [1, C, H, W], repeated for its channels: [C] float32 each."""
    channels, height = x.shape[1:3]
    bands = list(_bands(height, x.nbytes // height))
    # Given float32 to update, batch norm counts in float32.
    room = torch.zeros(channels), torch.ones(channels)
    found = [torch.batch_norm_update_stats(_channels_last(x[:, :, a:b]), *room, 0.0) for a, b in bands]
    means = torch.stack([mean for mean, _ in found]).view(len(bands), groups, -1)
    variances = torch.stack([variance for _, variance in found]).view_as(means)
    # Chan's formula for any number of parts: the mean of the variances within them and the variance between them.
    weights = torch.tensor([b - a for a, b in bands]).view(-1, 1, 1) / (height * (channels // groups))
    mean = (weights * means).sum((0, 2), keepdim=True)
    variance = (weights * (variances + (means - mean) ** 2)).sum((0, 2))
    return mean.flatten().repeat_interleave(channels // groups), variance.repeat_interleave(channels // groups)


def _bands(height: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """[start, stop) of all bands of a map whose rows have `row_bytes`; as even as can be."""
    count = min(max(-(-height * row_bytes // BAND_BYTES), 1), height)
    edges = [height * index // count for index in range(count + 1)]
    yield from pairwise(edges)


def _channels_last(band: Tensor) -> Tensor:
    """As all maps here are; what came otherwise is put so."""
    return band.contiguous(memory_format=torch.channels_last)


def _map_like(x: Tensor, channels: int, height: int, width: int) -> Tensor:
    """An empty map [1, channels, height, width], channels last, in the precision of `x`."""
    block = apart(channels * height * width * x.element_size())
    return torch.frombuffer(block, dtype=x.dtype).view(1, height, width, channels).permute(0, 3, 1, 2)
