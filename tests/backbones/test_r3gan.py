"""R3GAN, config E: published sizes, what it starts as, where variants act, which stages are in half precision."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones import r3gan
from harness.experiment import files
from harness.experiment.parse import merge, parse_trial
from harness.rng import stream
from harness.training.arm import build, load_data
from tests import tiny

TINY = r3gan.Options(widths=(16, 16, 8, 8))

# Millions of parameters of G and D as the paper prints them (appendix), and what sets them.
PUBLISHED: dict[str, tuple[tuple[int, ...], int | None, int, int, str, str]] = {
    "Stacked MNIST": ((768,) * 4, None, 32, 0, "20.73", "20.68"),
    "CIFAR-10": ((768,) * 4, None, 32, 10, "20.78", "21.28"),
    "FFHQ-64": ((*(768,) * 4, 384), None, 64, 0, "22.43", "22.38"),
    "FFHQ-256": ((*(768,) * 4, 384, 192, 96), None, 256, 0, "23.06", "23.01"),
    "ImageNet-32": ((1536,) * 4, 96, 32, 1000, "82.91", "86.55"),
    "ImageNet-64": ((1536,) * 5, 96, 64, 1000, "103.57", "107.21"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts_to_the_printed_digit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    widths, groups, resolution, classes, *printed = PUBLISHED[name]
    monkeypatch.setattr(r3gan, "_normal", lambda *shape, gain=1.0: nn.Parameter(torch.empty(shape)))  # none is drawn
    options = r3gan.Options(widths=widths, groups=None if groups is None else (groups,) * len(widths))
    pair = r3gan.build(options, resolution, classes)
    assert [f"{sum(p.numel() for p in net.parameters()) / 1e6:.2f}" for net in pair] == printed


@pytest.mark.parametrize("preset", ["r3gan_cifar", "r3gan_ffhq64", "r3gan_ffhq256", "r3gan_stacked", "r3gan_tiny"])
def test_a_preset_is_a_trial_and_fits_its_resolution(preset: str) -> None:
    raw = merge(
        files.preset(preset, ""), {"dataset": {"name": "synthetic"}, "eval": {"metrics": ["disequilibrium"]}}, ""
    )
    trial = parse_trial(raw, "t")
    options = trial.backbone.options
    r3gan.check(options, 4 << (len(options.widths) - 1), 0)
    assert (trial.train.precision == "bf16") == (preset != "r3gan_tiny")


def test_every_block_starts_as_the_identity_and_no_conv_is_dead() -> None:
    """W3 is 0, so features pass unchanged; after one step of W3 the others have a gradient too."""
    torch.manual_seed(0)
    block = r3gan.Block(16, 2, depth=8)
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(block(x), x)
    block(x).square().sum().backward()
    assert block.weight3.grad is not None and block.weight3.grad.abs().sum() > 0
    with torch.no_grad():
        block.weight3 -= 1e-3 * block.weight3.grad
    block(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())
    assert block.weight1.std().item() == pytest.approx(math.sqrt(2 / 1.04 / 16) * 8**-0.25, rel=0.1)


@pytest.mark.parametrize(
    ("options", "resolution", "message"),
    [
        ({}, 64, r"widths: \[768, 768, 768, 768\]: must be 5 for 64x64, those of 4, 8, 16, 32, 64"),
        ({}, 48, "resolution: 48: must be a power of two"),
        ({"widths": (12,) * 4}, 32, "widths: 12: must be a multiple of 8; or set groups"),
        ({"widths": (12,) * 4, "groups": (5,) * 4}, 32, "groups: 5: must divide 24"),
        ({"widths": (12,) * 4, "groups": (3,)}, 32, r"groups: \[3\]: must be 4, one for each of the widths"),
    ],
)
def test_what_can_not_be_made_is_refused(options: dict[str, Any], resolution: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        r3gan.check(r3gan.Options(**options), resolution, 0)


@pytest.mark.parametrize("stages", [0, 1, 2, 4])
def test_half_precision_is_of_the_highest_stages_alone(stages: int) -> None:
    torch.manual_seed(0)
    options = r3gan.Options(widths=TINY.widths, half_stages=stages)
    g, d = r3gan.build(options, 32, 3)
    z, labels = g.sample_z(2, stream(0, "z")), torch.tensor([0, 2])
    entered: dict[str, Tensor] = {}

    def modulate(site: Any, x: Tensor) -> Tensor:
        entered[site.name] = x
        return x

    with torch.autocast("cpu", torch.bfloat16):
        images = g(z, labels, modulate=modulate).images
        logits, feats = d(images, labels, taps=d.taps)
    low = {str(32 >> i) for i in range(stages)}
    for maps in (entered, feats):
        assert {r for r, x in maps.items() if x.dtype == torch.bfloat16} == low
        assert {r for r, x in maps.items() if x.dtype == torch.float32} == maps.keys() - low
    assert images.dtype == logits.dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in (*g.parameters(), *d.parameters()))
    exact = g(z, labels).images
    assert torch.equal(images, exact) == (stages == 0)
    torch.testing.assert_close(images, exact, rtol=0.05, atol=0.05 * exact.abs().max().item())


@pytest.mark.slow
@pytest.mark.parametrize("conditional", [False, True])
def test_penalties_and_alignment_train_in_half_precision(conditional: bool) -> None:
    """Second derivatives pass the casts, SEL and GradCAM find their places."""
    from tests.training.test_train import run

    trial = tiny.trial(
        "r3gan", "align", conditional,
        train={"precision": "bf16", "total_kimg": 0.016, "r1_gamma": 1.0, "r1_interval": 1, "ema_kimg": 0.02},
    )  # fmt: skip
    state = run(trial)
    assert all(v.isfinite().all() for v in state.tensors().values())
    g, d, hooks = build(trial, load_data(trial)[0], torch.device("cpu"))
    assert hooks.taps == ("4", "8", "16") and set(hooks.taps) <= set(d.taps)
    assert g.encoder is not None
    assert [site.name for site in g.encoder.reads] == ["4", "8", "16"]
