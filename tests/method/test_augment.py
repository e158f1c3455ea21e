"""The transforms alone: what each is in closed form, and that 0 is nothing at all."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.method import augment

N, R = 3, 16


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def images(channels: int = 3, side: int = R) -> Tensor:
    return torch.randn(N, channels, side, side, generator=torch.Generator().manual_seed(0))


def smooth(side: int = R) -> Tensor:
    """Two blobs off the centre, of no symmetry."""
    at = torch.arange(side) - (side - 1) / 2
    y, x = at.view(-1, 1), at.view(1, -1)
    wide = side / 8
    blob = (-((x - 0.12 * side) ** 2 + (y + 0.1 * side) ** 2) / (2 * wide**2)).exp()
    return (blob + 0.5 * (-((x + 0.14 * side) ** 2 + y**2) / (2 * wide**2)).exp()).expand(N, 1, side, side)


def of(*values: float) -> Tensor:
    return torch.tensor(values)


ZERO, ONE = torch.zeros(N), torch.ones(N)
EYE = torch.eye(3).expand(N, 3, 3)


@pytest.mark.parametrize(("taps", "moments"), [(augment.SYM6, 6), (augment.SYM2, 2)])
def test_a_symlet_is_orthonormal_and_its_wavelet_has_its_moments(taps: tuple[float, ...], moments: int) -> None:
    h = torch.tensor(taps, dtype=torch.float64)
    assert len(h) == 2 * moments
    lags = F.conv1d(h.view(1, 1, -1), h.view(1, 1, -1), padding=len(h) - 1).flatten()[len(h) - 1 :: 2]
    torch.testing.assert_close(lags, torch.eye(len(lags), dtype=torch.float64)[0], atol=1e-8, rtol=0)
    k = torch.arange(len(h), dtype=torch.float64)
    for m in range(moments):
        terms = (-1) ** k * k**m * h
        assert abs(terms.sum()) < 1e-8 * terms.abs().sum()


@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_asked_is_nothing_done(channels: int) -> None:
    x = images(channels)
    nowhere = torch.zeros(N, R, dtype=torch.bool)
    still = torch.zeros(N, dtype=torch.int64)
    turns = augment.rotation(ZERO.cos(), ZERO.sin()) @ augment.rotation(*augment.quarters(ZERO))
    inverse = augment.scaling(1 - 2 * ZERO, ONE) @ augment.translation(-ZERO, -ZERO) @ turns
    colors = augment.richer(ONE) @ augment.turned(ZERO) @ augment.negative(ZERO) @ augment.stronger(ONE)
    done = {
        "brighten": augment.brighten(x, ZERO),
        "saturate": augment.saturate(x, ZERO),
        "contrast": augment.contrast(x, ZERO),
        "shift": augment.shift(x, still, still, 2),
        "erase": augment.erase(x, nowhere, ~nowhere),
        "warp": augment.warp(x, inverse),
        "recolor": augment.recolor(x, colors @ augment.lighter(ZERO)),
        "amplify": augment.amplify(x, torch.ones(N, 4)),
    }
    assert not [name for name, y in done.items() if not torch.equal(x, y)]


def test_the_filters_alone_give_the_image_back() -> None:
    """A sample that moves sends none of the others through other filters, and orthonormal ones lose nothing."""
    x = images()
    inverse = EYE.clone()
    inverse[:, 0, 2] = 1e-7
    torch.testing.assert_close(augment.warp(x, inverse), x, atol=3e-5, rtol=0)
    inverse[1:] = torch.eye(3)
    assert torch.equal(augment.warp(x, inverse)[1:], x[1:])


def test_whole_pixels_move_exactly_and_come_back() -> None:
    x = images()
    by, down = of(3.0, 0.0, -2.0), of(0.0, 5.0, 1.0)
    y = augment.warp(x, augment.translation(-by, -down))
    for n in range(N):
        i, j = (torch.arange(R) - int(v[n]) for v in (down, by))
        mirror = [torch.where(k < 0, -k, torch.where(k >= R, 2 * (R - 1) - k, k)) for k in (i, j)]
        torch.testing.assert_close(y[n], x[n][:, mirror[0]][:, :, mirror[1]], atol=3e-5, rtol=0)
    back = augment.warp(y, augment.translation(by, down))
    torch.testing.assert_close(back[..., 6:-6, 6:-6], x[..., 6:-6, 6:-6], atol=6e-5, rtol=0)


def test_flips_and_quarter_turns_close() -> None:
    flip = augment.scaling(-ONE, ONE)
    turn = augment.rotation(*augment.quarters(ONE))
    assert torch.equal(flip @ flip, EYE)
    assert torch.equal(turn @ turn @ turn @ turn, EYE)
    assert torch.equal(turn @ turn, augment.rotation(*augment.quarters(2 * ONE)))
    assert torch.equal(turn @ turn @ turn, augment.rotation(*augment.quarters(3 * ONE)))
    x = smooth(32)
    flipped, turned = augment.warp(x, flip), augment.warp(x, turn)
    torch.testing.assert_close(flipped, x.flip(3), atol=0.02, rtol=0)
    torch.testing.assert_close(turned, x.rot90(1, (2, 3)), atol=0.02, rtol=0)  # y down: a positive angle is clockwise
    torch.testing.assert_close(augment.warp(flipped, flip), x, atol=0.02, rtol=0)


def test_a_constant_stays_and_areas_scale() -> None:
    turn = torch.tensor([0.3, 1.0, 2.0])
    any_ = augment.rotation(turn.cos(), turn.sin()) @ augment.scaling(of(0.8, 1.0, 1.2), of(1.1, 0.9, 1.0))
    torch.testing.assert_close(augment.warp(torch.full((N, 1, 32, 32), 0.7), any_), torch.full((N, 1, 32, 32), 0.7))
    x, s = smooth(32), of(0.9, 1.1, 1.2)
    area = augment.warp(x, augment.scaling(1 / s, 1 / s)).sum((1, 2, 3)) / x.sum((1, 2, 3))
    torch.testing.assert_close(area, s.square(), atol=0, rtol=0.02)


def test_a_line_between_mirrors_is_reflect_padding() -> None:
    x = torch.randn(1, 9)
    lines = augment.mirrored(torch.arange(-8, 17), 9)
    assert torch.equal(x @ lines.T, F.pad(x, (8, 8), mode="reflect"))
    assert torch.equal(augment.mirrored(torch.tensor([-5, 7]), 1), torch.ones(2, 1))


def test_warp_is_linear_and_its_derivatives_are_its_adjoint_and_itself() -> None:
    turn = torch.tensor([0.3, 1.0, 2.0])
    inverse = augment.rotation(turn.cos(), turn.sin()) @ augment.translation(of(1.2, 0.0, -3.3), of(0.5, 0.0, 0.1))
    x, v = images().requires_grad_(), torch.randn(N, 3, R, R).requires_grad_()
    y = augment.warp(x, inverse)
    (back,) = torch.autograd.grad(y, x, v, create_graph=True)
    torch.testing.assert_close((y * v).sum(), (x * back).sum())
    d = images().flip(0)
    (twice,) = torch.autograd.grad(back, v, d)
    torch.testing.assert_close(twice, augment.warp(d, inverse), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(augment.warp(2 * x + d, inverse), 2 * y + twice, atol=1e-4, rtol=1e-5)


def test_a_shift_moves_and_its_gradient_moves_back() -> None:
    x = images().requires_grad_()
    rows, columns = torch.tensor([2, 0, -1]), torch.tensor([-2, 1, 0])
    y = augment.shift(x, rows, columns, 2)
    assert torch.equal(y[0, :, :-2, 2:], x[0, :, 2:, :-2]) and not y[0, :, -2:].any() and not y[0, :, :, :2].any()
    (back,) = torch.autograd.grad(y, x, y.detach())
    assert torch.equal(back[0, :, 2:, :-2], x[0, :, 2:, :-2]) and not back[0, :, :2].any()


def test_a_square_is_erased_to_its_area_and_to_the_border() -> None:
    x = torch.ones(N, 3, R, R)
    start = torch.tensor([2, -3, R - 1])
    y = augment.erase(x, augment.span(start, 4, R), augment.span(torch.full((N,), 5), 4, R))
    assert (y == 0).sum((1, 2, 3)).tolist() == [3 * 16, 3 * 4, 3 * 4]
    centre = of(0.5, 0.0, 1.0)
    y = augment.erase(x, augment.near(centre, 0.5 * ONE, R), augment.near(centre, 0.5 * ONE, R))
    assert (y == 0).sum((1, 2, 3)).tolist() == [3 * 64, 3 * 16, 3 * 16]


def test_colours_keep_what_they_should() -> None:
    """Grey stays grey under hue and saturation, lightness under both; two negatives are none, and so three thirds."""
    x, third = images(), 2 * torch.pi / 3 * ONE
    grey = images(1).expand(N, 3, R, R)
    for colors in (augment.turned(ONE), augment.richer(2 * ONE)):
        torch.testing.assert_close(augment.recolor(grey, colors), grey)
        torch.testing.assert_close(augment.recolor(x, colors).mean(1), x.mean(1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        augment.turned(third) @ augment.turned(third) @ augment.turned(third), torch.eye(4).expand(N, 4, 4)
    )
    torch.testing.assert_close(augment.recolor(x, augment.turned(third)), x.roll(1, 1))  # red becomes green
    torch.testing.assert_close(augment.negative(ONE) @ augment.negative(ONE), torch.eye(4).expand(N, 4, 4))
    torch.testing.assert_close(augment.recolor(grey, augment.negative(ONE)), -grey)
    torch.testing.assert_close(augment.recolor(x, augment.richer(ZERO)), x.mean(1, keepdim=True).expand_as(x))


def test_one_channel_is_a_grey_image_of_three() -> None:
    x = images(1)
    colors = (
        augment.negative(of(1.0, 0.0, 1.0)) @ augment.stronger(of(2.0, 0.5, 1.0)) @ augment.lighter(of(0.1, 0.0, -0.2))
    )
    of_three = augment.recolor(x.expand(N, 3, R, R), colors)
    torch.testing.assert_close(augment.recolor(x, colors), of_three[:, :1])


@pytest.mark.parametrize("side", [8, 32])
def test_bands_add_up_to_the_line_and_only_the_lowest_has_its_mean(side: int) -> None:
    bands = augment.bands(side, torch.device("cpu"))
    torch.testing.assert_close(bands.sum(0), torch.eye(side), atol=1e-6, rtol=0)
    wanted = torch.zeros(4, side)
    wanted[0] = 1
    torch.testing.assert_close(bands.sum(2), wanted, atol=1e-6, rtol=0)
    wave = (torch.arange(side) * torch.pi).cos()  # the fastest there is
    torch.testing.assert_close(bands @ wave, torch.cat([torch.zeros(3, side), wave[None]]), atol=1e-5, rtol=0)
    flat = torch.full((N, 3, side, side), 0.4)
    torch.testing.assert_close(augment.amplify(flat, of(1.0, 5.0, 0.0, 3.0).expand(N, 4)), flat)
