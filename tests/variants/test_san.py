"""SAN on both backbones: tests/golden/test_methods_san.py has its equations."""

from typing import Any, cast

import pytest
import torch

from backbones import Last
from harness.method.hooks import ArmHooks
from harness.training.arm import build, load_data
from harness.variants.san import Options, San, hooks, scale_and_direction
from tests import tiny
from tests.variants.arms import arm, trained, unequal


@pytest.mark.parametrize("backbone", list(tiny.BACKBONES))
def test_the_gan_loss_moves_the_length_and_the_term_the_direction(backbone: str) -> None:
    """Whatever the loss: along w only, and across w only. The values are D's own."""
    trial = tiny.trial(backbone, "baseline", True)
    data, _ = load_data(trial)
    _, d, _ = build(trial, data, torch.device("cpu"))
    d.eval()
    x, labels = torch.randn(6, 3, 32, 32), torch.arange(6) % data.num_classes
    together = ArmHooks({"san": hooks(Options(), 32)})
    real, fake = together.look(d, x, labels, "real"), together.look(d, x.flip(3), labels, "fake")
    for seen, images in ((real, x), (fake, x.flip(3))):
        torch.testing.assert_close(seen.d, d(images, labels)[0])
        torch.testing.assert_close(seen.g, seen.d)
    h = d.penultimate(x)[0].detach()
    last = d.last_layer(labels)
    weight, bias = last.weight.detach().requires_grad_(), last.bias.detach()
    head = San(Options()).head(h, last._replace(weight=weight, bias=bias), labels, "real")
    assert head.term is not None
    (along,) = torch.autograd.grad(head.d.sum(), weight, retain_graph=True)
    (across,) = torch.autograd.grad(head.term, weight)
    unit = weight / weight.norm(dim=1, keepdim=True)
    torch.testing.assert_close(along, (along * unit).sum(1, keepdim=True) * unit, rtol=1e-4, atol=1e-5)
    assert ((across * unit).sum(1).abs() < 1e-4 * across.norm(dim=1)).all()


@pytest.mark.parametrize("length", [1e-3, 1.0, 1e3])
def test_the_direction_is_on_the_sphere_whatever_the_length_and_however_it_moves(length: float) -> None:
    weight = (length * torch.randn(4, 16, generator=torch.Generator().manual_seed(0))).double().requires_grad_()
    moving = torch.optim.SGD([weight], lr=0.1 * length)
    h, sides = torch.randn(4, 16).double(), cast(Any, ("real", "fake"))
    for _ in range(3):
        scale, omega = scale_and_direction(weight)
        torch.testing.assert_close(omega.norm(dim=1), torch.ones(4).double(), rtol=1e-14, atol=0)
        torch.testing.assert_close(scale * omega, weight, rtol=1e-14, atol=0)
        moving.zero_grad()
        for side in sides:
            head = hooks(Options(), 32).head(h, Last(weight, weight.new_zeros(1)), None, side)
            assert head.term is not None
            (head.d.sum() + head.term).backward()
        moving.step()


@pytest.mark.slow
def test_g_takes_the_gradient_of_the_same_d() -> None:
    """G's loss is unchanged: where D is the same, G's first step is the baseline's."""
    base, own = (
        trained(arm("sn_dcgan", v, total_kimg=0.008, d={"lr": 1e-30}, g={"eps": 1e-3})) for v in ({}, {"san": {}})
    )
    moved = {k: v for k, v in base.tensors().items() if k.startswith("g/")}
    for name, value in moved.items():
        torch.testing.assert_close(own.tensors()[name], value, rtol=1e-4, atol=1e-5)
    strong, weak = (trained(arm("stylegan2", {"san": {"weight": w}}, True)) for w in (1.0, 0.0))
    assert unequal(strong, weak, "d/"), "the direction is trained by its term alone"
