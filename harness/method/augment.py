"""Differentiable image transforms with given random numbers: what DiffAugment and ADA are made of.

Images [N, C, R, R] in [-1, 1], one parameter [N] a sample; 0 is always the identity, bit for bit. Everything here is
linear or affine in the images, of any order differentiable, and never waits for the device.

DiffAugment: Zhao et al. 2020, https://arxiv.org/abs/2006.10738. ADA: Karras et al. 2020, appendix B,
https://arxiv.org/abs/2006.06676.
"""

import functools
import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799010114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
"""The scaling filter of the symlet with 6 vanishing moments (Daubechies 1992, table 6.3): orthonormal, sum sqrt(2)."""
SYM2 = tuple((a + b * math.sqrt(3)) / (4 * math.sqrt(2)) for a, b in ((1, -1), (3, -1), (3, 1), (1, 1)))
"""That with 2 vanishing moments, which is Daubechies' own."""
POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)
"""What part of an image's power lies in each band of `bands`, about: 1/f (ADA, appendix B)."""


# ── of pixels ────────────────────────────────────────────────────────────────


def brighten(x: Tensor, by: Tensor) -> Tensor:
    """`by` added to every pixel."""
    return x + _each(by)


def saturate(x: Tensor, by: Tensor) -> Tensor:
    """Distances to the pixel's mean over channels times 1 + `by`."""
    return x + (x - x.mean(1, keepdim=True)) * _each(by)


def contrast(x: Tensor, by: Tensor) -> Tensor:
    """Distances to the image's mean times 1 + `by`."""
    return x + (x - x.mean((1, 2, 3), keepdim=True)) * _each(by)


def shift(x: Tensor, rows: Tensor, columns: Tensor, reach: int) -> Tensor:
    """y[i, j] = x[i + rows, j + columns], 0 outside of the image; int64 [N], each of them in -reach..reach."""
    n, channels, height, width = x.shape
    padded = F.pad(x, (reach, reach, reach, reach))
    i = torch.arange(height, device=x.device) + rows.view(-1, 1) + reach
    j = torch.arange(width, device=x.device) + columns.view(-1, 1) + reach
    some_rows = padded.gather(2, i.view(n, 1, height, 1).expand(-1, channels, -1, padded.shape[3]))
    return some_rows.gather(3, j.view(n, 1, 1, width).expand(-1, channels, height, -1))


def erase(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """0 where both `rows` [N, R] and `columns` [N, R] are true."""
    return x.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


def span(start: Tensor, size: int, side: int) -> Tensor:
    """bool [N, side]: which pixels lie in start..start + size - 1; start int64 [N]."""
    i = torch.arange(side, device=start.device)
    return (i >= start.view(-1, 1)) & (i < start.view(-1, 1) + size)


def near(centre: Tensor, size: Tensor, side: int) -> Tensor:
    """bool [N, side]: which pixel centres are nearer than half of `size` to `centre`, both [N] in sides."""
    at = (torch.arange(side, device=centre.device) + 0.5) / side
    return (at - centre.view(-1, 1)).abs() < size.view(-1, 1) / 2


# ── of places ────────────────────────────────────────────────────────────────
# [N, 3, 3] on (x, y, 1): in pixels, origin at the image's centre, x to the right, y down.


def scaling(x: Tensor, y: Tensor) -> Tensor:
    zero = torch.zeros_like(x)
    return _affine(x, zero, zero, zero, y, zero)


def rotation(cos: Tensor, sin: Tensor) -> Tensor:
    zero = torch.zeros_like(cos)
    return _affine(cos, -sin, zero, sin, cos, zero)


def translation(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _affine(one, zero, x, zero, one, y)


def quarters(i: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of i quarter turns, i in 0..3, exactly."""
    odd = i % 2
    return (1 - i) * (1 - odd), (2 - i) * odd


def warp(x: Tensor, inverse: Tensor) -> Tensor:
    """y(q) = x(inverse q) [N, C, R, R] for `inverse` [N, 3, 3], without aliasing: the image is mirrored beyond its
    borders, upsampled twofold by the symlet, sampled bilinearly and downsampled by its flipped filter.

    How far it is mirrored is decided by all samples together, at least 6 pixels more than the farthest corner asks
    and at most side - 1; beyond that is 0. A sample whose matrix is the identity stays as it is.
    """
    n, _, side, _ = x.shape
    reach = side - 1  # the canvas has its full margin always, so that its size waits for nobody
    canvas, grid = side + 2 * reach, 2 * (side + 6)
    there = (inverse @ _corners(side, x.device))[:, :2]
    beyond = torch.stack([-there.amin((0, 2)), there.amax((0, 2))]) - (side - 1) / 2
    margin = (beyond + 6).clamp(0, reach).ceil()  # [first or last side, axis]
    up, down = _upsampling(side, x.device), _downsampling(side, x.device)
    pixel = torch.arange(canvas, device=x.device)
    across, along = (
        _within(up, (pixel >= reach - margin[0, axis]) & (pixel < reach + side + margin[1, axis])) for axis in (0, 1)
    )
    fine = along @ x @ across.mT
    # The upsampled signal lies half a fine pixel, a quarter of a pixel, beside its place: the filter's length is even.
    at = (torch.arange(grid, device=x.device).double() + 0.5 - grid / 2) / 2 + 0.25
    places = torch.stack([at.expand(grid, grid).flatten(), at.view(-1, 1).expand(grid, grid).flatten()])
    moved = inverse[:, :2, :2].double() @ places + inverse[:, :2, 2:] - 0.25
    moved = (moved / (canvas / 2)).float().mT.reshape(n, grid, grid, 2)
    y = down @ cast(Tensor, _Sampled.apply(fine, moved)) @ down.mT
    still = (inverse == torch.eye(3, device=x.device)).all((1, 2))
    return torch.where(still.view(-1, 1, 1, 1), x, y)


class _Sampled(torch.autograd.Function):
    """Bilinear samples of x [N, C, H, W] at grid [N, h, w, 2] in [-1, 1], 0 outside; linear in x, of which it can be
    differentiated as often as one likes (of older torch's grid_sample once)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = x.shape
        return F.grid_sample(x, grid, align_corners=False)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return cast(Tensor, _Spread.apply(dy, grid, ctx.shape)), None


class _Spread(torch.autograd.Function):
    """The adjoint of `_Sampled`, whose adjoint is that again."""

    @staticmethod
    def forward(ctx: Any, dy: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        back = torch.ops.aten.grid_sampler_2d_backward
        return back(dy, dy.new_zeros(shape), grid, 0, 0, False, [True, False])[0]

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return cast(Tensor, _Sampled.apply(dx, grid)), None, None


def _within(up: "Upsampling", kept: Tensor) -> Tensor:
    """[2 canvas, side]: mirroring and upsampling, with 0 where a pixel of the canvas is not `kept` (bool [canvas])."""
    fine = kept.repeat_interleave(2).view(-1, 1)
    return (up[0] * kept) @ up[1] * fine


Upsampling = tuple[Tensor, Tensor]


@functools.lru_cache(maxsize=8)
def _corners(side: int, device: torch.device) -> Tensor:
    """[3, 4]: the centres of an image's outermost pixels. Kept, as constants are: to copy one to a GPU is to wait."""
    corner = (side - 1) / 2
    x, y = [-corner, corner, -corner, corner], [-corner, -corner, corner, corner]
    return torch.tensor([x, y, [1.0] * 4], device=device)


@functools.lru_cache(maxsize=8)
def _upsampling(side: int, device: torch.device) -> Upsampling:
    """[2 canvas, canvas], the canvas upsampled; [canvas, side], the image mirrored on to it, its borders once."""
    canvas = 3 * side - 2
    taps = _taps(SYM6, 2.0, device)
    up = _toeplitz(taps, torch.arange(2 * canvas)[:, None] + 5 - 2 * torch.arange(canvas)[None])
    return up, mirrored(torch.arange(canvas) - side + 1, side).to(device)


@functools.lru_cache(maxsize=8)
def _downsampling(side: int, device: torch.device) -> Tensor:
    """[side, 2 (side + 6)]."""
    return _toeplitz(_taps(SYM6, 1.0, device), torch.arange(2 * side + 12)[None] - 2 * torch.arange(side)[:, None] - 1)


def _taps(symlet: tuple[float, ...], gain: float, device: torch.device) -> Tensor:
    """The filter with sum `gain`."""
    return torch.tensor([gain * tap / math.sqrt(2) for tap in symlet], device=device)


def _toeplitz(taps: Tensor, lag: Tensor) -> Tensor:
    """taps[lag], 0 where there is none."""
    lag = lag.to(taps.device)
    return torch.where((lag >= 0) & (lag < len(taps)), taps[lag.clamp(0, len(taps) - 1)], 0.0)


def mirrored(at: Tensor, side: int) -> Tensor:
    """[len(at), side]: which pixel is seen at places `at` (int64) of a line between two mirrors in its outer pixels."""
    period = max(1, 2 * (side - 1))
    at = at % period
    return F.one_hot(torch.minimum(at, period - at).clamp_max(side - 1), side).float()


def _affine(a: Tensor, b: Tensor, x: Tensor, c: Tensor, d: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    return torch.stack([a, b, x, c, d, y, zero, zero, one], dim=-1).view(-1, 3, 3)


# ── of colours ───────────────────────────────────────────────────────────────
# [N, 4, 4] on (r, g, b, 1).


def lighter(by: Tensor) -> Tensor:
    """`by` added to each channel."""
    return _colors(_eye(by), by)


def stronger(times: Tensor) -> Tensor:
    """Each channel times `times`."""
    return _colors(_eye(times) * times.view(-1, 1, 1), torch.zeros_like(times))


def negative(i: Tensor) -> Tensor:
    """Where i is 1, what lies along the grey axis is mirrored, and colours are kept; i is 0 or 1."""
    return _colors(_eye(i) - 2 * i.view(-1, 1, 1) * _grey(i), torch.zeros_like(i))


def turned(angle: Tensor) -> Tensor:
    """Colours turned about the grey axis."""
    cos, sin = (f(angle).view(-1, 1, 1) for f in (torch.cos, torch.sin))
    linear = cos * _eye(angle) + (1 - cos) * _grey(angle) + sin * _turn(angle.device)
    return _colors(linear, torch.zeros_like(angle))


def richer(times: Tensor) -> Tensor:
    """Distances to the grey axis times `times`; the fourth coordinate is at a right angle to it as well, which no pixel
    ever sees."""
    by = times.view(-1, 1, 1)
    return _colors(by * _eye(times) + (1 - by) * _grey(times), torch.zeros_like(times), times)


def recolor(x: Tensor, colors: Tensor) -> Tensor:
    """`colors` [N, 4, 4] on every pixel of x [N, 3, R, R]; on one channel their mean over r, g, b of a grey pixel."""
    if x.shape[1] == 1:
        row = colors[:, :3].mean(1)
        return x * _each(row[:, :3].sum(1)) + _each(row[:, 3])
    return (colors[:, :3, :3] @ x.flatten(2) + colors[:, :3, 3:]).view_as(x)


def _colors(linear: Tensor, offset: Tensor, fourth: Tensor | None = None) -> Tensor:
    rows = torch.cat([linear, offset.view(-1, 1, 1).expand(-1, 3, 1)], dim=2)
    zero, one = torch.zeros_like(offset), torch.ones_like(offset)
    last = torch.stack([zero, zero, zero, one if fourth is None else fourth], dim=1)
    return torch.cat([rows, last[:, None]], dim=1)


def _eye(like: Tensor) -> Tensor:
    return torch.eye(3, device=like.device).expand(len(like), 3, 3)


@functools.lru_cache(maxsize=8)
def _turn(device: torch.device) -> Tensor:
    """The cross product with the grey axis."""
    return torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=device) / math.sqrt(3)


def _grey(like: Tensor) -> Tensor:
    return torch.full((3, 3), 1 / 3, device=like.device)


# ── of frequencies ───────────────────────────────────────────────────────────


def amplify(x: Tensor, gains: Tensor) -> Tensor:
    """Each of the four bands times its gain [N, 4], along both axes; the image is mirrored beyond its borders. A sample
    whose gains are 1 stays as it is."""
    side = x.shape[-1]
    filters = (gains.view(-1, 4, 1, 1) * bands(side, x.device)).sum(1)[:, None]
    y = filters @ x @ filters.mT
    return torch.where(_each((gains == 1).all(1)), x, y)


@functools.lru_cache(maxsize=8)
def bands(side: int, device: torch.device) -> Tensor:
    """[4, side, side]: filters of a line whose sum is the identity. They keep, about, frequencies up to pi / 8 a pixel,
    up to pi / 4, up to pi / 2, and above.

    L(z) = H(z) H(1/z) / 2 of the orthonormal H halves the band and L(z) + L(-z) = 1, so that the bands are
    L(-z), L(z) L(-z^2), L(z) L(z^2) L(-z^4) and L(z) L(z^2) L(z^4).
    """
    h = torch.tensor(SYM2, dtype=torch.float64)
    low = F.conv1d(h.view(1, 1, -1), h.view(1, 1, -1), padding=3).flatten() / 2  # of lags -3..3
    high = -low
    high[3] += 1
    found, before = [], torch.ones(1, dtype=torch.float64)
    for spread in (1, 2, 4):
        found.append(_product(before, high, spread))
        before = _product(before, low, spread)
    found.append(before)
    half = len(before) // 2
    lines = mirrored(torch.arange(side + 2 * half) - half, side).double()
    out = []
    for taps in reversed(found):
        reach = len(taps) // 2
        lag = torch.arange(side + 2 * half)[None] - half + reach - torch.arange(side)[:, None]
        out.append(_toeplitz(taps, lag) @ lines)
    return torch.stack(out).float().to(device)


def _product(a: Tensor, b: Tensor, spread: int) -> Tensor:
    """a(z) b(z^spread) of symmetric filters."""
    wide = b.new_zeros((len(b) - 1) * spread + 1)
    wide[::spread] = b
    return F.conv1d(a.view(1, 1, -1), wide.view(1, 1, -1), padding=len(wide) - 1).flatten()


def _each(values: Tensor) -> Tensor:
    """[N] beside images."""
    return values.view(-1, 1, 1, 1)
