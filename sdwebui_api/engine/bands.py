"""Large pictures through the autoencoder in bands of rows, as a CPU computes them.

The autoencoder's blocks hold a full-size feature map for every step between two convolutions. All of these steps but
one need no more than a pixel and its neighbours, so a band of rows goes through them together, from the cache, and
only what the convolutions give exists whole. The exception, the statistics of a group norm, is gathered from all bands
first, one mean and variance of each (Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance").

The second half of a residual block is written over what is there already, and a map is let go as soon as the next one
exists, while diffusers' blocks keep what they were given until they return. So no more than two are there at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdwebui_api.engine.allocator import apart, give_back

BAND_BYTES = 8 * 2**20
"""Of a band of a convolution's input. Smaller ones are as fast on idle cores; on busy ones every operation waits."""

STATISTICS_BYTES = 32 * 2**20
"""Of a band whose mean and variance are taken, which needs no memory."""


Fill = Callable[[int, int, Tensor], object]
"""Called with `start`, `stop` and room for these rows [1, C, stop - start, W] of a map that does not exist whole."""


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
        give_back()  # what the block before worked with would lie beside the larger maps of this one
        for resnet in block.resnets:
            x = _resnet(resnet, x)
        for upsampler in block.upsamplers or ():
            x = _upsampled(upsampler.conv, x)
    return _convolved(decoder.conv_out, _activation(decoder.conv_norm_out, x), x)


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
    """A diffusers ResnetBlock2D as autoencoders have them: SiLU, no time embedding, no resampling.

    May overwrite `x`.
    """
    hidden = _convolved(block.conv1, _activation(block.norm1, x), x)
    for start, stop, band in _convolution(block.conv2, _activation(block.norm2, hidden), hidden):
        beside = x[:, :, start:stop]
        if block.conv_shortcut is None:
            beside += band
        else:
            torch.add(band, block.conv_shortcut(beside), out=hidden[:, :, start:stop])
    return x if block.conv_shortcut is None else hidden


def _upsampled(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """`layer` over [1, C, H, W] at twice the size, each pixel four times."""

    def fill(start: int, stop: int, room: Tensor) -> None:
        first = start // 2
        doubled = F.interpolate(x[:, :, first : (stop + 1) // 2], scale_factor=2.0, mode="nearest")
        room.copy_(doubled[:, :, start - 2 * first : stop - 2 * first])

    return _convolved(layer, fill, x, scale=2)


def _downsampled(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """`layer`, of stride 2, over [1, C, H, W] with a row of zeros below and a column at the right."""
    height = x.shape[2] // 2
    found = _map_like(x, layer.out_channels, height, x.shape[3] // 2)
    for start, stop in _bands(height, 2 * x.nbytes // x.shape[2], BAND_BYTES):
        seen = x[:, :, 2 * start : 2 * stop + 1]
        found[:, :, start:stop] = layer(F.pad(seen, (0, 1, 0, 2 * (stop - start) + 1 - seen.shape[2])))
    return found


def _convolved(layer: nn.Conv2d, fill: Fill, x: Tensor, scale: int = 1) -> Tensor:
    """All of `_convolution`."""
    found = _map_like(x, layer.out_channels, x.shape[2] * scale, x.shape[3] * scale)
    for start, stop, band in _convolution(layer, fill, x, scale):
        found[:, :, start:stop] = band
    return found


def _convolution(layer: nn.Conv2d, fill: Fill, x: Tensor, scale: int = 1) -> Iterator[tuple[int, int, Tensor]]:
    """A 3x3 `layer` over a map that `fill` gives, of the form of `x` but `scale` times its size: bands of rows.

    What `fill` reads may be overwritten with each band.
    """
    wraps = layer.padding_mode == "circular"
    room = (x.shape[1], x.shape[2] * scale, x.shape[3] * scale)
    for start, stop, window in _windows(fill, x, room, wraps):
        if wraps:
            yield start, stop, F.conv2d(F.pad(window, (1, 1, 0, 0), mode="circular"), layer.weight, layer.bias)
        else:
            yield start, stop, F.conv2d(window, layer.weight, layer.bias, padding=(0, 1))


def _windows(fill: Fill, x: Tensor, shape: tuple[int, int, int], wraps: bool) -> Iterator[tuple[int, int, Tensor]]:
    """Bands [start, stop) of a map of `shape` [C, H, W], with the rows around them: [1, C, stop - start + 2, W].

    Beyond the edges are zeros, or the opposite edge where the map `wraps`. No row is asked for after the band that it
    is in was given, so that this may be written over what `fill` reads: the next band finds the two rows it needs in
    the window, which holds one band after the other.
    """
    channels, height, width = shape
    bands = list(_bands(height, channels * width * x.element_size(), BAND_BYTES))
    tallest = max(stop - start for start, stop in bands)
    room = x.new_empty((1, tallest + 2, width, channels)).permute(0, 3, 1, 2)
    if wraps:
        fill(height - 1, height, room[:, :, :1])
    else:
        room[:, :, :1] = 0
    fill(0, 1, room[:, :, 1:2])
    below = room[:, :, 1:2].clone() if wraps else torch.zeros_like(room[:, :, :1])
    for start, stop in bands:
        count, end = stop - start, min(stop + 1, height)
        if start + 1 < end:
            fill(start + 1, end, room[:, :, 2 : end - start + 1])
        if stop == height:
            room[:, :, count + 1 : count + 2] = below
        yield start, stop, room[:, :, : count + 2]
        room[:, :, :2] = room[:, :, count : count + 2].clone()


def _activation(norm: nn.GroupNorm, x: Tensor) -> Fill:
    """SiLU of the group norm of `x`."""
    mean, variance = _moments(x, norm.num_groups)
    weight, bias, nothing = norm.weight.float(), norm.bias.float(), mean.new_empty(0)

    def fill(start: int, stop: int, room: Tensor) -> None:
        # With mean and variance given, this is the scaling alone, in float32 whatever the map's precision.
        torch.ops.aten.native_batch_norm.out(
            *(_channels_last(x[:, :, start:stop]), weight, bias, mean, variance, False, 0.0, norm.eps),
            out=room,
            save_mean=nothing,
            save_invstd=nothing,
        )
        F.silu(room, inplace=True)

    return fill


def _moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of each group of channels of [1, C, H, W], repeated for its channels: [C] float32 each."""
    channels, height = x.shape[1:3]
    bands = list(_bands(height, x.nbytes // height, STATISTICS_BYTES))
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


def _bands(height: int, row_bytes: int, most: int) -> Iterator[tuple[int, int]]:
    """[start, stop) of bands of `most` bytes in a map whose rows have `row_bytes`; as even as can be."""
    count = min(max(-(-height * row_bytes // most), 1), height)
    edges = [height * index // count for index in range(count + 1)]
    yield from pairwise(edges)


def _channels_last(band: Tensor) -> Tensor:
    """As all maps here are; what came otherwise is put so."""
    return band.contiguous(memory_format=torch.channels_last)


def _map_like(x: Tensor, channels: int, height: int, width: int) -> Tensor:
    """An empty map [1, channels, height, width], channels last, in the precision of `x`."""
    block = apart(channels * height * width * x.element_size())
    return torch.frombuffer(block, dtype=x.dtype).view(1, height, width, channels).permute(0, 3, 1, 2)
