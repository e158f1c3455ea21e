"""GradCAM and L_align by closed form and property."""

from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.method import attention
from harness.method.attention import (
    Normalize,
    Objective,
    Rectify,
    Truncate,
    alignment,
    gradcam,
    gradcam_weights,
    normalize,
)


def linear(n: int = 3, c: int = 5, r: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """A linear D: logit = <u, feature>. Returns u, logits and the feature."""
    g = torch.Generator().manual_seed(0)
    u = torch.randn(c, r, r, generator=g, dtype=torch.float64)
    feature = torch.randn(n, c, r, r, generator=g, dtype=torch.float64).requires_grad_()
    return u, (feature * u).sum((1, 2, 3)), feature


@pytest.mark.parametrize("rectify", get_args(Rectify))
@pytest.mark.parametrize("objective", get_args(Objective))
def test_linear_d_has_the_closed_form(objective: Objective, rectify: Rectify) -> None:
    u, logits, feature = linear()
    factor = torch.ones(3).double() if objective == "logit" else -torch.sigmoid(-logits)
    weights = factor[:, None] * u.mean((1, 2))
    weighted = weights[:, :, None, None] * feature
    expected = {
        "after_sum": weighted.sum(1).clamp(min=0),
        "per_channel": weighted.clamp(min=0).sum(1),
        "absolute": weighted.sum(1).abs(),
    }[rectify]
    got = gradcam(logits, {"4": feature}, objective=objective, rectify=rectify)["4"]
    torch.testing.assert_close(got, expected[:, None])


def test_maximising_and_minimising_weigh_with_opposite_signs() -> None:
    _, logits, feature = linear()
    up = gradcam_weights(logits, {"4": feature}, "logit")["4"].flatten(1)
    down = gradcam_weights(logits, {"4": feature}, "softplus")["4"].flatten(1)
    torch.testing.assert_close(F.cosine_similarity(up, down), -torch.ones(3).double())


def test_weights_are_detached_unless_asked_for() -> None:
    feature = torch.randn(2, 3, 4, 4, requires_grad=True)
    logits = (feature**3).sum((1, 2, 3))
    fixed = gradcam_weights(logits, {"4": feature})["4"]
    through = gradcam_weights(logits, {"4": feature}, differentiate=True)["4"]
    assert not fixed.requires_grad and through.requires_grad
    torch.testing.assert_close(fixed, through.detach())
    (grad,) = torch.autograd.grad(through.sum(), feature)
    torch.testing.assert_close(grad, 6 * feature.detach() / 16)


def test_the_graph_and_other_gradients_are_left_alone() -> None:
    layer = torch.nn.Conv2d(3, 4, 3, padding=1)
    feature = layer(torch.randn(2, 3, 4, 4))
    logits = feature.square().sum((1, 2, 3))
    alone = torch.autograd.grad(logits.sum(), list(layer.parameters()), retain_graph=True)
    gradcam(logits, {"4": feature})
    assert all(p.grad is None for p in layer.parameters())
    logits.sum().backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(layer.parameters(), alone, strict=True) if p.grad is not None)


@pytest.mark.parametrize("how", ["minmax", "max"])
def test_normalised_maps_fill_the_unit_range(how: Normalize) -> None:
    maps = torch.rand(6, 1, 5, 5, generator=torch.Generator().manual_seed(0)) * 30 + 2
    scaled = normalize(maps, how)
    assert torch.equal(scaled.amax((1, 2, 3)), torch.ones(6))
    assert (scaled.amin((1, 2, 3)) == 0).all() == (how == "minmax")
    torch.testing.assert_close(normalize(7 * maps, how), scaled)
    assert torch.equal(normalize(maps, "none"), maps)


def test_extrema_are_constants_of_the_gradient() -> None:
    maps = torch.tensor([[[[1.0, 3.0], [2.0, 5.0]]]], requires_grad=True)
    (grad,) = torch.autograd.grad(normalize(maps).sum(), maps)
    assert torch.equal(grad, torch.full_like(maps, 0.25))


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
@pytest.mark.parametrize("truncate", get_args(Truncate))
def test_degenerate_maps_have_a_finite_zero_gradient(value: float, truncate: Truncate) -> None:
    flat = torch.full((2, 1, 4, 4), value, requires_grad=True)
    # Resized, a constant map carries rounding noise, which must not be stretched to [0, 1].
    big = F.interpolate(flat, size=(23, 23), mode="bilinear", align_corners=True)
    scaled = normalize(big)
    loss = alignment(scaled, torch.rand(2, 1, 23, 23), truncate=truncate)
    (grad,) = torch.autograd.grad(loss, flat)
    assert (scaled == 0).all() and loss.isfinite() and (grad == 0).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("truncate", get_args(Truncate))
@pytest.mark.parametrize("how", ["minmax", "max"])
def test_nothing_that_is_not_finite_is_dropped(how: Normalize, truncate: Truncate, bad: float) -> None:
    maps = torch.rand(2, 1, 4, 4)
    maps[1, 0, 2, 3] = bad
    assert not alignment(normalize(maps, how), torch.rand(2, 1, 4, 4), truncate=truncate).isfinite()
    assert not alignment(torch.rand(2, 1, 4, 4), maps, truncate=truncate).isfinite()


def test_truncations() -> None:
    a = torch.tensor([0.0, 0.1, 0.25, 0.3, 0.5, 1.0]).reshape(1, 1, 2, 3)
    zero = torch.zeros_like(a)
    assert alignment(a, zero, 0.25, "none").item() == pytest.approx(2.15 / 6)
    assert alignment(a, zero, 0.25, "zero_below").item() == pytest.approx(1.8 / 6)
    assert alignment(a, zero, 0.25, "mean_above").item() == pytest.approx(1.8 / 3)
    assert alignment(a, zero, 0.4, "mean_above").item() == pytest.approx(1.5 / 2)
    # Fewer than two above tau: the mean of all.
    assert alignment(a, zero, 0.6, "mean_above").item() == pytest.approx(2.15 / 6)
    assert alignment(a, zero, 1.0, "mean_above").item() == pytest.approx(2.15 / 6)


@pytest.mark.parametrize("truncate", get_args(Truncate))
def test_zero_at_equality(truncate: Truncate) -> None:
    maps = torch.rand(3, 1, 8, 8, requires_grad=True)
    loss = alignment(maps, maps.detach().clone(), truncate=truncate)
    (grad,) = torch.autograd.grad(loss, maps)
    assert loss == 0 and (grad == 0).all()


@pytest.mark.parametrize("truncate", get_args(Truncate))
@pytest.mark.parametrize("rectify", get_args(Rectify))
def test_gradient_matches_finite_differences(rectify: Rectify, truncate: Truncate) -> None:
    """Of L_align w.r.t. D's features with fixed weights. Extrema are held constant by definition,
    so the scaling of one point is applied to its neighbours."""
    g = torch.Generator().manual_seed(3)
    weights = torch.randn(2, 4, 1, 1, generator=g, dtype=torch.float64)
    feature = torch.randn(2, 4, 3, 3, generator=g, dtype=torch.float64).requires_grad_()
    heatmap = torch.rand(2, 1, 3, 3, generator=g, dtype=torch.float64)
    values = attention.attention_map(weights, feature, rectify).detach()
    low, span = values.amin((1, 2, 3), True), values.amax((1, 2, 3), True) - values.amin((1, 2, 3), True)

    def fixed_scale(f: Tensor) -> Tensor:
        maps = (attention.attention_map(weights, f, rectify) - low) / span
        return alignment(maps, heatmap, 0.25, truncate)

    def as_used(f: Tensor) -> Tensor:
        return alignment(normalize(attention.attention_map(weights, f, rectify)), heatmap, 0.25, truncate)

    (grad,) = torch.autograd.grad(as_used(feature), feature)
    numeric = torch.zeros_like(grad)
    step = 1e-6
    for i in range(grad.numel()):
        e = torch.zeros(grad.numel(), dtype=torch.float64)
        e[i] = step
        e = e.reshape(grad.shape)
        with torch.no_grad():
            numeric.view(-1)[i] = (fixed_scale(feature + e) - fixed_scale(feature - e)) / (2 * step)
    torch.testing.assert_close(grad, numeric, rtol=1e-6, atol=1e-9)
    assert grad.abs().max() > 0


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_features_give_float32_maps(half: torch.dtype) -> None:
    _, _, exact = linear()
    feature = exact.detach().to(half).requires_grad_()
    logits = feature.float().square().sum((1, 2, 3))
    with torch.autocast("cpu", torch.bfloat16):
        maps = gradcam(logits, {"4": feature})["4"]
    assert maps.dtype == torch.float32
    weights = gradcam_weights(logits, {"4": feature})["4"]
    expected = (weights * feature.float()).sum(1, keepdim=True).relu()
    assert torch.equal(maps, expected)
