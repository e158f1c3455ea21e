"""A term of G's loss beside the GAN loss: norms, cosine and the weight that keeps to a ratio, in closed form."""

import math

import pytest
import torch
from torch import Tensor, nn

from harness.method import gradients
from harness.method.gradients import Beside


def of(own: float, gan: float, cosine: float = 0.0) -> Beside:
    return Beside(*(torch.tensor(x) for x in (own, gan, cosine)))


def test_the_norms_and_the_cosine_are_those_of_the_gradients() -> None:
    torch.manual_seed(0)
    x, u, v = torch.randn(4, 3, 8, 8, requires_grad=True), torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8)
    a, g = (x * u).sum(), 1e-6 * (x * (v - u)).sum()
    found = gradients.beside(a, [a], g, [g], x)
    assert float(found.own) == pytest.approx(float(u.norm()), rel=1e-5)
    assert float(found.gan) == pytest.approx(1e-6 * float((v - u).norm()), rel=1e-5)
    along = float((u * (v - u)).sum() / u.norm() / (v - u).norm())
    assert float(found.cosine) == pytest.approx(along, abs=1e-5) and along < -0.5
    assert x.grad is None and a.requires_grad


def test_microbatches_are_one_batch_together() -> None:
    """Norms and cosine of the whole from those of its parts, also where squares would be 0 in float32."""
    torch.manual_seed(1)
    for size in (1.0, 1e-25):
        a, g = size * torch.randn(3, 50), torch.randn(3, 50)
        cosines = nn.functional.cosine_similarity(a / size, g, dim=1)
        parts = Beside((a / size).norm(dim=1) * size, g.norm(dim=1), cosines)
        found, whole = gradients.joined(parts), (a / size).flatten()
        assert float(found.own) == pytest.approx(size * float(whole.norm()), rel=1e-5)
        torch.testing.assert_close(found.cosine, nn.functional.cosine_similarity(whole, g.flatten(), dim=0))
        assert float(found.ratio) == pytest.approx(size * float(whole.norm() / g.norm()), rel=1e-5)


@pytest.mark.parametrize(
    ("own", "gan", "ratio", "weight"),
    [
        (4.0, 2.0, 2.0, 0.1),  # binds: 0.2 / ratio
        (0.1, 2.0, 0.05, 0.8),  # does not
        (0.0, 2.0, 0.0, 0.8),  # an empty map
        (0.0, 0.0, 0.0, 0.8),
        (3.0, 0.0, gradients.MOST, 0.0),  # G has nothing to learn by
        (math.nan, 1.0, math.nan, math.nan),
        (1.0, math.nan, math.nan, math.nan),
        (0.0, math.nan, math.nan, math.nan),
        (math.inf, 1.0, math.nan, math.nan),
        (1.0, math.inf, math.nan, math.nan),
    ],
)
def test_a_weight_keeps_to_the_ratio_and_is_never_raised(own: float, gan: float, ratio: float, weight: float) -> None:
    found = of(own, gan)
    assert float(found.ratio) == pytest.approx(ratio, nan_ok=True)
    assert float(gradients.bounded(0.8, 0.2, found)) == pytest.approx(weight, nan_ok=True)


def test_between_measurements_the_larger_of_the_last_and_the_smooth_ratio_counts() -> None:
    last = smooth = torch.zeros(())
    assert gradients.reckoned(0.8, 0.2, last, smooth) == 0.8, "none is known"
    logs = []
    for ratio in (100.0, 4.0, 0.0, 4.0, 4e6, 0.5):
        last, smooth = gradients.remembered(last, smooth, torch.tensor(ratio))
        if ratio:
            logs.append(math.log(ratio) if not logs else logs[-1] + (math.log(ratio) - logs[-1]) * (1 - 0.5**0.5))
        assert float(last) == pytest.approx(ratio or 4.0) and float(smooth) == pytest.approx(
            math.exp(logs[-1]), rel=1e-4
        )
        larger = max(ratio or 4.0, math.exp(logs[-1]))
        assert float(gradients.reckoned(0.8, 0.2, last, smooth)) == pytest.approx(min(0.8, 0.2 / larger), rel=1e-4)
    last, smooth = gradients.remembered(last, smooth, torch.tensor(math.nan))
    assert gradients.reckoned(0.8, 0.2, last, smooth).isnan(), "what is not finite is not forgotten"


class Deep(nn.Module):
    """A D whose gradients at the images are small, as those of large images are."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 16, 16, 3, padding=1) for i in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = nn.functional.leaky_relu(conv(x), 0.2)
        return x.float().mean((1, 2, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_loses_no_gradient(dtype: torch.dtype) -> None:
    """Of a saturated loss of a mean over many numbers, of which a pass without scale leaves 0 in float16."""
    torch.manual_seed(0)
    d, x = Deep(), torch.randn(8, 3, 32, 32, requires_grad=True)
    target = torch.randn(8)
    found = []
    for half in (False, True):
        with torch.autocast("cpu", dtype, enabled=half):
            logits = d(x)
        gan, own = nn.functional.softplus(-logits - 9).mean(), 1e-3 * (logits - target).abs().mean()
        found.append(gradients.beside(own, [logits], gan, [logits], x))
        if half and dtype == torch.float16:
            assert not torch.autograd.grad(gan, x, retain_graph=True)[0].any()
    for exact, near in zip(*found, strict=True):
        assert float(near) == pytest.approx(float(exact), rel=0.03, abs=0.03 * abs(float(exact)))
    assert float(found[1].ratio) == pytest.approx(float(found[0].ratio), rel=0.03)
