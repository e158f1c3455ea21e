"""Heatmaps: their laws, their hierarchy, and that nothing but the given generator decides them."""

import dataclasses
import math

import pytest
import torch

from harness.errors import UserError
from harness.experiment.schema import parse
from harness.method import heatmaps
from harness.method.heatmaps import RELEASE, HeatmapOptions, Regions

PAPER = HeatmapOptions()
PROFILES = {"paper": PAPER, "release": parse(HeatmapOptions, RELEASE, "test")}
DRAWS = 100_000


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(options: HeatmapOptions, n: int = DRAWS) -> Regions:
    return heatmaps.sample_regions(options, n, rng())


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("sampler", ["hierarchical", "non_hierarchical", "gaussian_noise", "constant"])
def test_shapes_and_determinism(profile: str, sampler: str) -> None:
    options = dataclasses.replace(PROFILES[profile], sampler=sampler)
    a, b = (heatmaps.sample(options, 3, 32, rng(1)) for _ in range(2))
    c = heatmaps.sample(options, 3, 32, rng(2))
    assert list(a) == [4, 8, 16]
    for level, channels in heatmaps.channels(options).items():
        side = 32 if profile == "release" else level
        assert a[level].shape == (3, channels, side, side)
        assert a[level].dtype == torch.float32
        assert torch.equal(a[level], b[level])
        assert torch.equal(a[level], c[level]) == (sampler == "constant")
    assert heatmaps.channels(options)[16] == (4 if "hierarchical" in sampler else 1)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("levels", [None, (8,), (16,)])
def test_shift_moves_the_chosen_levels(profile: str, levels: tuple[int, ...] | None) -> None:
    options = PROFILES[profile]
    before = drawn(options, 5)
    by = torch.tensor([0.25, -0.5])
    after = heatmaps.shift(before, by, levels)
    for level in options.drawn:
        moved = by if levels is None or level in levels else torch.zeros(2)
        torch.testing.assert_close(after.centers[level] - before.centers[level], moved.expand_as(before.centers[level]))
    one_each = heatmaps.shift(before, by * torch.arange(5)[:, None])
    torch.testing.assert_close(one_each.centers[16][3] - before.centers[16][3], (3 * by).expand(4, 2))


def test_a_whole_pixel_shift_moves_the_picture() -> None:
    """Down is component 0, right is component 1; one pixel of 8 is a quarter of a unit."""
    options = dataclasses.replace(PAPER, levels=(8,), counts=(1,))
    inner = Regions({8: torch.tensor([[[-0.25, 0.125]]])}, {8: torch.tensor([[0.02]])})
    before = heatmaps.render(options, inner, 32)[8]
    after = heatmaps.render(options, heatmaps.shift(inner, torch.tensor([0.5, -0.25])), 32)[8]
    torch.testing.assert_close(torch.roll(before, (2, -1), (2, 3))[..., 2:, :-1], after[..., 2:, :-1])


def test_hierarchy_ties_levels_and_its_absence_does_not() -> None:
    tied, free = (drawn(dataclasses.replace(PAPER, sampler=s)) for s in ("hierarchical", "non_hierarchical"))

    def correlation(r: Regions, level: int) -> float:
        pair = torch.stack([r.centers[4][:, 0, 0], r.centers[level][:, -1, 0]])
        return torch.corrcoef(pair)[0, 1].item()

    for level in (8, 16):
        var0 = tied.centers[4].var().item()
        assert correlation(tied, level) == pytest.approx(math.sqrt(var0 / (var0 + 1 / 9)), abs=0.01)
        assert correlation(free, level) == pytest.approx(0, abs=0.015)
        # Each level alone has the same law in both.
        q = torch.tensor([0.1, 0.5, 0.9])
        assert torch.allclose(
            tied.centers[level][:, 0, 1].quantile(q), free.centers[level][:, 0, 1].quantile(q), atol=0.02
        )
    assert torch.equal(tied.centers[4], free.centers[4])


def test_papers_centres_follow_the_truncated_normal() -> None:
    """Std of N(0, s^2) cut to [-1, 1]: s sqrt(1 - 2 a pdf(a) / (2 cdf(a) - 1)), a = 1 / s."""
    r = drawn(PAPER)
    a = 1 / PAPER.center_std
    pdf = math.exp(-(a**2) / 2) / math.sqrt(2 * math.pi)
    expected = PAPER.center_std * math.sqrt(1 - 2 * a * pdf / math.erf(a / math.sqrt(2)))
    first = r.centers[4].squeeze(1)
    assert first.abs().max() <= 1
    assert torch.allclose(first.mean(0), torch.zeros(2), atol=5 * expected / math.sqrt(DRAWS))
    assert torch.allclose(first.std(0), torch.tensor(expected), rtol=0.01)
    # Not only the moments: redrawing from the plain normal gives the same quantiles.
    plain = torch.randn(2 * DRAWS, generator=rng(7)) * PAPER.center_std
    q = torch.linspace(0.05, 0.95, 10)
    assert torch.allclose(first[:, 0].quantile(q), plain[plain.abs() <= 1].quantile(q), atol=0.015)
    for level in (8, 16):
        offsets = r.centers[level] - r.centers[4]
        assert torch.allclose(offsets.mean((0, 1)), torch.zeros(2), atol=0.005)
        assert torch.allclose(offsets.std((0, 1)), torch.tensor(1 / 3), rtol=0.01)
    assert all(r.spreads[k].unique().tolist() == [s] for k, s in ((4, 0.5), (8, 0.25), (16, 0.125)))


def test_the_releases_centres_and_spreads() -> None:
    r = drawn(PROFILES["release"])
    first = r.centers[4].squeeze(1)
    assert first.abs().max() == 0.75
    clamped = math.erfc(0.75 / 0.33 / math.sqrt(2))
    assert (first.abs() == 0.75).float().mean().item() == pytest.approx(clamped, abs=0.002)
    for level, half, low, high in ((8, 0.4, 0.1 / 1.4, 1.1 / 1.4), (16, 0.8, 0.05, 0.55)):
        offsets = r.centers[level] - r.centers[4]
        assert offsets.abs().max() <= half + 1e-6
        assert offsets.std().item() == pytest.approx(half / math.sqrt(3), rel=0.01)
        s = r.spreads[level]
        assert low <= s.min() < low + 0.01 < high - 0.01 < s.max() <= high
        assert s.mean().item() == pytest.approx((low + high) / 2, rel=0.01)
    shared = torch.cat([heatmaps.sample_regions(PROFILES["release"], 9, rng(i)).spreads[4] for i in range(300)])
    assert shared.shape == (300, 1) and shared.min() >= 0.5 and shared.max() <= 1
    assert shared.mean().item() == pytest.approx(0.75, abs=0.03)


def test_keep_leaves_centres_outside() -> None:
    outside = drawn(dataclasses.replace(PAPER, off_image="keep")).centers[4].abs().amax((1, 2)) > 1
    assert outside.float().mean().item() == pytest.approx(1 - math.erf(1.5 / math.sqrt(2)) ** 2, abs=0.01)


def test_bumps_have_the_closed_form() -> None:
    options = dataclasses.replace(PAPER, grid="corners", floor=0.25, render="image", levels=(8,), counts=(2,))
    center, s = torch.tensor([[[0.0, 0.5], [-1.0, 1.0]]]), torch.tensor([[0.3, 2.0]])
    h = heatmaps.render(options, Regions({8: center}, {8: s}), 5)[8]
    assert h.shape == (1, 2, 5, 5)
    for k, (c, spread) in enumerate(zip(center[0].tolist(), s[0].tolist(), strict=True)):
        for i in range(5):
            for j in range(5):
                y, x = i / 2 - 1, j / 2 - 1
                expected = math.exp(-((y - c[0]) ** 2 + (x - c[1]) ** 2) / spread) + 0.25
                assert h[0, k, i, j].item() == pytest.approx(expected, abs=1e-6)


def test_a_density_integrates_to_one() -> None:
    options = dataclasses.replace(PAPER, height="density", levels=(64,))
    at = Regions({64: torch.zeros(1, 1, 2)}, {64: torch.full((1, 1), 0.05)})
    assert heatmaps.render(options, at, 64)[64].sum().item() * (2 / 64) ** 2 == pytest.approx(1, abs=1e-4)


def test_noise_is_standard_normal_and_constant_is_flat() -> None:
    noise = heatmaps.sample(dataclasses.replace(PAPER, sampler="gaussian_noise"), 2000, 32, rng())
    for level in (4, 8, 16):
        assert noise[level].mean().item() == pytest.approx(0, abs=0.03)
        assert noise[level].std().item() == pytest.approx(1, abs=0.03)
    flat = heatmaps.sample(dataclasses.replace(PAPER, sampler="constant"), 2, 32, rng())
    assert all((h == 1).all() for h in flat.values())
    with pytest.raises(ValueError, match="no regions"):
        heatmaps.sample_regions(dataclasses.replace(PAPER, sampler="constant"), 2, rng())


def test_levels_can_be_chosen() -> None:
    options = parse(HeatmapOptions, {"levels": [4, 8]}, "test")
    assert {k: h.shape[1] for k, h in heatmaps.sample(options, 2, 16, rng()).items()} == {4: 1, 8: 2}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"levels": [8, 4]}, "levels.*must ascend"),
        ({"levels": []}, "levels.*must ascend"),
        ({"counts": [1]}, "counts.*entry for each level"),
        ({"spreads": [[1.0, 0.5], [1.0, 1.0], [1.0, 1.0]]}, "spreads.*low, high"),
        ({"center_std": 0}, "center_std.*> 0"),
        ({"sampler": "hierarchic"}, "did you mean 'hierarchical'"),
    ],
)
def test_bad_options(raw: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(HeatmapOptions, raw, "test")


@pytest.mark.gpu
def test_on_a_gpu_drawn_where_the_generator_is() -> None:
    cuda = torch.Generator("cuda").manual_seed(0)
    assert all(h.is_cuda for h in heatmaps.sample(PAPER, 2, 32, cuda).values())
