"""FIR filters that resample feature maps: pad, insert zeros, filter, decimate.

A filter is a depthwise convolution; upsampling by one is a transposed convolution, which
never meets the inserted zeros. The adjoint of such an operation is another one of its
kind, so derivatives of any order cost what the forward pass costs.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

EPOCH = 1

Padding = int | Sequence[int]
"""p on every side, (x, y), or (x0, x1, y0, y1); negative: crop."""
Sides = tuple[int, int, int, int]
Pair = tuple[int, int]


def setup_filter(
    taps: Sequence[float] | Tensor,
    *,
    normalize: bool = True,
    flip: bool = False,
    gain: float = 1.0,
    separable: bool | None = None,
) -> Tensor:
    """A FIR filter from its taps: 1-D taps become their outer product [k, k], or stay [k] where
    two 1-D passes are cheaper (`separable`; None: from 8 taps on). Normalised to sum 1, then scaled."""
    f = torch.as_tensor(taps, dtype=torch.float32)
    if separable is None:
        separable = f.ndim == 1 and f.numel() >= 8
    if f.ndim == 1 and not separable:
        f = f.outer(f)
    if normalize:
        f = f / f.sum()
    if flip:
        f = f.flip(list(range(f.ndim)))
    return f * gain ** (f.ndim / 2)


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    *,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: Padding = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Insert zeros (`up`), pad or crop, filter, keep each `down`-th pixel. x [N, C, H, W].

    `up` and `down` are one number or (x, y). The filter is convolved; `flip_filter` makes it
    a correlation. f: [k], applied along both axes, [kh, kw], or None for a single 1.
    """
    (ux, uy), (dx, dy), (x0, x1, y0, y1) = _pair(up), _pair(down), _sides(padding)
    if f is not None and f.ndim == 1:
        root = math.sqrt(gain)
        x = upfirdn2d(x, f[None], up=(ux, 1), down=(dx, 1), padding=(x0, x1, 0, 0), flip_filter=flip_filter, gain=root)
        return upfirdn2d(
            x, f[:, None], up=(1, uy), down=(1, dy), padding=(0, 0, y0, y1), flip_filter=flip_filter, gain=root
        )
    f = x.new_ones(1, 1) if f is None else f
    return _Fir.apply(x, f * gain, (ux, uy), (dx, dy), (x0, x1, y0, y1), flip_filter)


class _Fir(torch.autograd.Function):
    """`upfirdn2d` with a 2-D filter. No gradient reaches the filter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, f: Tensor, up: Pair, down: Pair, sides: Sides, flip: bool) -> Tensor:
        y = _resample(x, f.to(x.dtype), up, down, sides, flip)
        ctx.save_for_backward(f)
        ctx.arguments = up, down, sides, flip
        ctx.sizes = x.shape[2:], y.shape[2:]
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (f,) = ctx.saved_tensors
        (ux, uy), (dx, dy), (x0, _, y0, _), flip = ctx.arguments
        (h, w), (oh, ow) = ctx.sizes
        kh, kw = f.shape
        # Padded so that the adjoint gives just the h x w pixels that were there.
        sides = (kw - x0 - 1, w * ux - ow * dx + x0 - ux + 1, kh - y0 - 1, h * uy - oh * dy + y0 - uy + 1)
        return _Fir.apply(grads[0], f, (dx, dy), (ux, uy), sides, not flip), None, None, None, None, None


def _resample(x: Tensor, f: Tensor, up: Pair, down: Pair, sides: Sides, flip: bool) -> Tensor:
    """The operation itself, without derivatives."""
    (ux, uy), (dx, dy), (x0, x1, y0, y1) = up, down, sides
    kh, kw = f.shape
    channels = x.shape[1]
    # conv2d correlates and conv_transpose2d convolves, so just one of them has to flip.
    f = f.flip((0, 1)) if flip == (ux > 1 or uy > 1) else f
    kernel = f.expand(channels, 1, kh, kw).contiguous()
    if ux == uy == 1:
        if x0 == x1 >= 0 and y0 == y1 >= 0:
            return F.conv2d(x, kernel, stride=(dy, dx), padding=(y0, x0), groups=channels)
        return F.conv2d(F.pad(x, sides), kernel, stride=(dy, dx), groups=channels)
    # The transposed convolution gives every pixel that the filter touches: as if padded by k - 1,
    # less the zeros inserted after the last pixel.
    crops = (kw - 1 - x0, kw - ux - x1, kh - 1 - y0, kh - uy - y1)
    px, py = max(0, min(crops[:2])), max(0, min(crops[2:]))
    x = F.conv_transpose2d(x, kernel, stride=(uy, ux), padding=(py, px), groups=channels)
    rest = (px - crops[0], px - crops[1], py - crops[2], py - crops[3])
    if any(rest):
        x = F.pad(x, rest)
    return x[:, :, ::dy, ::dx] if dx > 1 or dy > 1 else x


def filter2d(
    x: Tensor, f: Tensor | None, *, padding: Padding = 0, flip_filter: bool = False, gain: float = 1.0
) -> Tensor:
    """Filter without changing the size (`padding` is beyond that)."""
    fw, fh = filter_size(f)
    around = add_sides(_sides(padding), (fw // 2, (fw - 1) // 2, fh // 2, (fh - 1) // 2))
    return upfirdn2d(x, f, padding=around, flip_filter=flip_filter, gain=gain)


def upsample2d(
    x: Tensor,
    f: Tensor | None,
    *,
    up: int | Sequence[int] = 2,
    padding: Padding = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Enlarge `up` times and filter, keeping the mean: [N, C, H, W] -> [N, C, H uy, W ux]."""
    (ux, uy), (fw, fh) = _pair(up), filter_size(f)
    around = add_sides(_sides(padding), (*up_padding(fw, ux), *up_padding(fh, uy)))
    return upfirdn2d(x, f, up=up, padding=around, flip_filter=flip_filter, gain=gain * ux * uy)


def downsample2d(
    x: Tensor,
    f: Tensor | None,
    *,
    down: int | Sequence[int] = 2,
    padding: Padding = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Filter and keep each `down`-th pixel: [N, C, H, W] -> [N, C, H / dy, W / dx]."""
    (dx, dy), (fw, fh) = _pair(down), filter_size(f)
    around = add_sides(_sides(padding), (*down_padding(fw, dx), *down_padding(fh, dy)))
    return upfirdn2d(x, f, down=down, padding=around, flip_filter=flip_filter, gain=gain)


def _pair(value: int | Sequence[int]) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _sides(padding: Padding) -> Sides:
    if isinstance(padding, int):
        return (padding,) * 4
    x0, x1, y0, y1 = padding if len(padding) == 4 else (padding[0], padding[0], padding[1], padding[1])
    return x0, x1, y0, y1


def add_sides(a: Sides, b: Sides) -> Sides:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]


def filter_size(f: Tensor | None) -> Pair:
    """(width, height)"""
    return (1, 1) if f is None else (f.shape[-1], f.shape[0])


def up_padding(taps: int, up: int) -> Pair:
    """Before and after, so that n pixels become n * up."""
    return (taps + up - 1) // 2, (taps - up) // 2


def down_padding(taps: int, down: int) -> Pair:
    """Before and after, so that n * down pixels become n."""
    return (taps - down + 1) // 2, (taps - down) // 2
