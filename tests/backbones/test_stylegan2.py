"""StyleGAN2 without golden files: shapes, sites, modes, precision, derivatives of any order."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from backbones import Site, _fir, stylegan2
from backbones import _layers as L
from harness.method.losses import path_length, r1_penalty

TINY = stylegan2.Options(z_dim=16, w_dim=16, mapping_layers=2, channel_base=256, channel_max=16)
R = 32


def pair(num_classes: int = 0, resolution: int = R, **changes: Any) -> tuple[stylegan2.Generator, Any]:
    torch.manual_seed(0)
    g, d = stylegan2.build(replace(TINY, **changes), resolution, num_classes)
    with torch.no_grad():  # what starts at zero would hide mistakes
        for name, p in [*g.named_parameters(), *d.named_parameters()]:
            if name.endswith(("bias", "noise_strength")):
                p.add_(torch.randn_like(p) * 0.1)
    return g.eval(), d.eval()


def latents(n: int, seed: int = 1) -> Tensor:
    return torch.randn(n, TINY.z_dim, generator=torch.Generator().manual_seed(seed))


class Draws:
    """Named streams that remember which were asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, name: str) -> torch.Generator:
        self.asked.append(name)
        return torch.Generator().manual_seed(len(name))


@pytest.mark.parametrize("resolution", [8, 16, 64])
@pytest.mark.parametrize("num_classes", [0, 3])
def test_shapes(resolution: int, num_classes: int) -> None:
    g, d = pair(num_classes, resolution)
    labels = torch.tensor([0, 2]) if num_classes else None
    images, ws = g(latents(2), labels)
    assert images.shape == (2, 3, resolution, resolution)
    assert ws.shape == (2, g.num_ws, 16) and g.num_ws == 2 * (resolution.bit_length() - 1) - 2
    logits, feats = d(images, labels, taps=d.taps)
    assert logits.shape == (2,) and logits.dtype == torch.float32
    assert [f.shape[2] for f in feats.values()] == [resolution >> i for i in range(1, resolution.bit_length() - 2)]
    assert set(feats) == set(d.taps) and d(images, labels)[1] == {}


def test_sites_are_met_in_order_with_their_shapes() -> None:
    g, _ = pair()
    met = []

    def look(site: Site, x: Tensor) -> Tensor:
        shape = (site.channels, site.resolution, site.resolution) if site.resolution else (site.channels,)
        assert x.shape[1:] == shape
        met.append(site)
        return x

    g(latents(2), modulate=look)
    assert tuple(met) == g.sites
    assert [s.name for s in g.sites[:5]] == ["latent", "b4.conv1", "b4.torgb", "b8.conv0", "b8.conv1"]
    assert {s.name: s.resolution for s in g.sites}["b8.conv0"] == 4


def test_identity_modulation_changes_no_bit() -> None:
    g, _ = pair(noise="const")
    expected = g(latents(3)).images
    assert torch.equal(g(latents(3), modulate=lambda site, x: x.clone()).images, expected)


def test_modulation_is_differentiable_at_every_site() -> None:
    g, _ = pair(noise="const")
    gains = {site.name: torch.ones(site.channels, requires_grad=True) for site in g.sites}

    def scale(site: Site, x: Tensor) -> Tensor:
        return x * gains[site.name].view(-1, *[1] * (x.ndim - 2))

    g(latents(2), modulate=scale).images.square().sum().backward()
    assert all(gain.grad is not None and gain.grad.abs().sum() > 0 for gain in gains.values())


def test_noise_comes_from_its_stream() -> None:
    g, _ = pair()
    draws = Draws()
    first = g(latents(2), draws=draws).images
    assert draws.asked == ["noise"]
    assert torch.equal(first, g(latents(2), draws=Draws()).images)
    g.noise = "none"
    assert not torch.allclose(first, g(latents(2)).images)
    assert torch.equal(g(latents(2)).images, g(latents(2)).images)


def test_noise_differs_between_samples() -> None:
    g, _ = pair()
    images = g(latents(1).expand(2, -1), draws=Draws()).images
    assert not torch.allclose(images[0], images[1])


def test_mixing() -> None:
    g, _ = pair(noise="none")
    plain = g(latents(4))
    never, always = Draws(), Draws()
    assert torch.equal(g(latents(4), draws=never, mixing=0.0).ws, plain.ws) and never.asked == []
    mixed = g(latents(4), draws=always, mixing=1.0).ws
    same = (mixed == plain.ws).all(2).all(0)
    cutoff = int(same.sum())
    assert always.asked == ["mixing"] and 1 <= cutoff < g.num_ws
    assert same.tolist() == [True] * cutoff + [False] * (g.num_ws - cutoff)


def test_truncation_pulls_towards_the_average() -> None:
    g, _ = pair(noise="const")
    g.mapping.w_avg.normal_()
    g.psi = 0.0
    images, ws = g(latents(2))
    torch.testing.assert_close(ws, g.mapping.w_avg.expand(2, g.num_ws, -1))
    torch.testing.assert_close(images[0], images[1])


def test_average_style_moves_in_training_only() -> None:
    g, _ = pair()
    before = g.mapping.w_avg.clone()
    g(latents(4))
    assert torch.equal(g.mapping.w_avg, before)
    g.train()(latents(4))
    torch.testing.assert_close(g.mapping.w_avg, before * 0.995 + 0.005 * g.mapping(latents(4)).mean(0))


def test_fused_equals_unfused() -> None:
    g, _ = pair(noise="const", fused="never")
    unfused = g(latents(3)).images
    g.synthesis.fused = "always"
    torch.testing.assert_close(g(latents(3)).images, unfused, rtol=1e-4, atol=1e-5)


def test_scale_of_demodulated_weights_is_free() -> None:
    """Eq. 3: a demodulated convolution ignores the scale of its weights."""
    x, w, s = torch.randn(2, 4, 8, 8), torch.randn(5, 4, 3, 3), torch.randn(2, 4)
    y = L.modulated_conv2d(x, w, s, padding=1)
    torch.testing.assert_close(L.modulated_conv2d(x, w * 7, s, padding=1), y, rtol=1e-4, atol=1e-5)


def test_original_architecture_has_no_skip() -> None:
    _, d = pair(architecture="orig")
    assert not [name for name, _ in d.named_parameters() if "skip" in name]
    assert d(torch.randn(4, 3, R, R))[0].isfinite().all()


def test_labels_matter_and_must_be_given() -> None:
    g, d = pair(num_classes=3, noise="const")
    z = latents(1).expand(2, -1)
    images = g(z, torch.tensor([0, 2])).images
    assert not torch.allclose(images[0], images[1])
    logits = d(images[:1].expand(2, -1, -1, -1), torch.tensor([0, 2]))[0]
    assert logits[0] != logits[1]
    with pytest.raises(ValueError, match="labels: missing"):
        d(images)


class TestMinibatchStddev:
    def test_equal_samples_have_none(self) -> None:
        y = L.minibatch_stddev(torch.randn(1, 6, 4, 4).expand(8, -1, -1, -1), 4)
        torch.testing.assert_close(y[:, 6], torch.full((8, 4, 4), 1e-4))

    def test_groups_are_strided(self) -> None:
        """Group i of n holds samples i, i + n, ...: only their order within the group is free."""
        x = torch.randn(8, 6, 4, 4)
        y = L.minibatch_stddev(x, 4)[:, 6, 0, 0]
        assert torch.equal(y[0::2], y[:1].expand(4)) and torch.equal(y[1::2], y[1:2].expand(4))
        torch.testing.assert_close(y[0], (x[0::2].var(0, correction=0) + 1e-8).sqrt().mean())

    @pytest.mark.parametrize(("n", "limit", "size"), [(8, 4, 4), (2, 4, 2), (6, 4, 3), (7, 4, 1), (6, None, 6)])
    def test_group_is_the_largest_divisor(self, n: int, limit: int | None, size: int) -> None:
        x = torch.randn(n, 2, 4, 4)
        torch.testing.assert_close(L.minibatch_stddev(x, limit), L.minibatch_stddev(x, size))

    def test_can_be_left_out(self) -> None:
        _, d = pair(mbstd_channels=0)
        images = torch.randn(3, 3, R, R)
        torch.testing.assert_close(d(images)[0][:1], d(images[:1])[0])


class TestDerivatives:
    @pytest.mark.parametrize("settings", [{}, {"up": 2}, {"down": 2}, {"up": (2, 1), "down": (1, 3), "padding": 2}])
    def test_fir(self, settings: dict[str, Any]) -> None:
        f = _fir.setup_filter(torch.randn(3, 4), normalize=False).double()
        x = torch.randn(1, 2, 6, 5, dtype=torch.float64, requires_grad=True)

        def op(x: Tensor) -> Tensor:
            return _fir.upfirdn2d(x, f, **{"padding": 1, **settings})

        assert torch.autograd.gradcheck(op, x) and torch.autograd.gradgradcheck(op, x)

    @pytest.mark.parametrize("up", [1, 2])
    @pytest.mark.parametrize("fused", [False, True])
    def test_modulated_convolution(self, up: int, fused: bool) -> None:
        f = _fir.setup_filter((1, 3, 3, 1)).double()
        inputs = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in [(2, 2, 3, 3), (2, 2, 3, 3), (2, 2)]]

        def op(x: Tensor, w: Tensor, s: Tensor) -> Tensor:
            return L.modulated_conv2d(x, w, s, f, up=up, padding=1, fused=fused, flip_weight=up == 1)

        assert torch.autograd.gradcheck(op, inputs) and torch.autograd.gradgradcheck(op, inputs)

    def test_r1_by_finite_differences(self) -> None:
        """The second-order gradient of R1 along a direction, in float64."""
        _, d = pair()
        d.double()
        images = torch.randn(4, 3, R, R, dtype=torch.float64, requires_grad=True)
        weight = d.b16.conv1.weight
        direction = torch.randn_like(weight)

        def penalty() -> Tensor:
            return r1_penalty(images, d(images)[0]).mean()

        (grad,) = torch.autograd.grad(penalty(), weight)
        step, values = 1e-6, []
        for sign in (1, -2):
            with torch.no_grad():
                weight += sign * step * direction
            values.append(penalty().detach())
        torch.testing.assert_close((values[0] - values[1]) / (2 * step), (grad * direction).sum(), rtol=1e-4, atol=0)

    def test_path_length_reaches_every_style(self) -> None:
        g, _ = pair(noise="const")
        images, ws = g.train()(latents(2))
        path_length(images, ws, torch.tensor(0.5), torch.randn_like(images), 0.01).penalty.mean().backward()
        grads = {n: p.grad for n, p in g.named_parameters() if "affine.weight" in n or n.startswith("mapping")}
        assert all(grad is not None and grad.isfinite().all() for grad in grads.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
class TestLowPrecision:
    def test_near_float32_and_finite(self, dtype: torch.dtype) -> None:
        g, d = pair(noise="const", conv_clamp=256.0, num_fp16_res=2)
        images, logits = g(latents(4)).images, d(g(latents(4)).images)[0]
        with torch.autocast("cpu", dtype):
            low = g(latents(4)).images
            low_logits, feats = d(images, taps=d.taps)
        assert low.dtype == low_logits.dtype == torch.float32
        assert (low - images).abs().max() < 0.05 * images.abs().max()
        assert (low_logits - logits).abs().max() < 0.05 * logits.abs().max() + 0.02
        lowest, highest = feats["4"], feats["16"]
        assert highest.dtype == dtype
        assert lowest.dtype == (torch.float32 if dtype == torch.float16 else dtype)

    def test_gradients(self, dtype: torch.dtype) -> None:
        g, d = pair(conv_clamp=256.0)
        with torch.autocast("cpu", dtype):
            logits, _ = d(g.train()(latents(4)).images)
        logits.sum().backward()
        for name, p in [*g.named_parameters(), *d.named_parameters()]:
            assert p.grad is not None and p.grad.isfinite().all(), name

    def test_large_styles_stay_finite(self, dtype: torch.dtype) -> None:
        """Unnormalised, these products leave float16's range."""
        x, w = torch.randn(2, 64, 8, 8).to(dtype) * 200, torch.randn(64, 64, 3, 3) * 100
        y = L.modulated_conv2d(x, w, torch.randn(2, 64) * 1e3, padding=1)
        reference = L.modulated_conv2d(x.float(), w, torch.randn(2, 64) * 1e3, padding=1)
        assert y.isfinite().all() and y.float().std() == pytest.approx(reference.std().item(), rel=0.1)


def test_clamp_bounds_every_layer() -> None:
    g, _ = pair(noise="const", conv_clamp=0.5)
    seen = []
    for block in g.synthesis.blocks:
        block.conv1.register_forward_hook(lambda _m, _i, y: seen.append(y.abs().max().item()))
    g(latents(2))
    assert len(seen) == 4 and max(seen) == 0.5


def test_copies_are_independent() -> None:
    g, _ = pair(noise="const")
    g(latents(2)).images.sum().backward()
    twin = copy.deepcopy(g)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    assert g(latents(2)).images.abs().max() > 0 and twin(latents(2)).images.abs().max() == 0


def test_names_of_published_checkpoints() -> None:
    g, d = pair(num_classes=3)
    names = {"mapping.embed.weight", "mapping.w_avg", "synthesis.b4.const", "synthesis.b8.conv0.affine.bias"}
    assert names <= set(g.state_dict()) and {"b32.fromrgb.weight", "b4.out.bias"} <= set(d.state_dict())
    assert stylegan2.own_name("synthesis.b8.conv0.weight") == "synthesis.b8.conv0.weight"
    assert stylegan2.own_name("synthesis.b8.conv0.resample_filter") is None


@pytest.mark.parametrize(
    ("changes", "resolution", "key"),
    [
        ({}, 48, "resolution"),
        ({}, 4, "resolution"),
        ({"channel_base": 16}, 32, "channel_base"),
        ({"mbstd_channels": 3}, 32, "mbstd_channels"),
    ],
)
def test_impossible_networks_are_refused(changes: dict[str, Any], resolution: int, key: str) -> None:
    with pytest.raises(ValueError, match=f"^{key}: "):
        stylegan2.check(replace(TINY, **changes), resolution, 0)
