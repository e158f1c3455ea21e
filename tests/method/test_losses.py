"""Losses by closed form."""

import copy
import math

import pytest
import torch
from torch import nn

from harness.method import losses


def test_logistic_is_binary_cross_entropy() -> None:
    x = torch.linspace(-5, 5, 11)
    gan, bce = losses.ADVERSARIAL["logistic"], nn.functional.binary_cross_entropy_with_logits
    torch.testing.assert_close(gan.d_real(x), bce(x, torch.ones(11), reduction="none"))
    torch.testing.assert_close(gan.d_fake(x), bce(x, torch.zeros(11), reduction="none"))
    torch.testing.assert_close(gan.g(x), gan.d_real(x))


def test_hinge() -> None:
    x, gan = torch.tensor([-2.0, 0.0, 0.5, 2.0]), losses.ADVERSARIAL["hinge"]
    assert gan.d_real(x).tolist() == [3.0, 1.0, 0.5, 0.0]
    assert gan.d_fake(x).tolist() == [0.0, 1.0, 1.5, 3.0]
    assert gan.g(x).tolist() == [2.0, 0.0, -0.5, -2.0]


def test_r1_of_a_linear_score_is_its_squared_norm() -> None:
    w = torch.randn(3, 4, 4, requires_grad=True)
    images = torch.randn(5, 3, 4, 4, requires_grad=True)
    penalty = losses.r1_penalty(images, (images * w).sum((1, 2, 3)))
    torch.testing.assert_close(penalty, w.square().sum().expand(5))
    (grad,) = torch.autograd.grad(penalty.mean(), w)
    torch.testing.assert_close(grad, 2 * w)


def test_path_length_of_a_scaled_latent() -> None:
    """Images a * w give J^T y = a y, the same in each of the layers that share it."""
    a = torch.tensor(3.0, requires_grad=True)
    ws = torch.randn(2, 1, 48, requires_grad=True)
    noise = torch.randn(2, 3, 4, 4)
    result = losses.path_length((a * ws).reshape(2, 3, 4, 4), ws, torch.tensor(1.0), noise, decay=0.25)
    lengths = 3 * noise.flatten(1).norm(dim=1) / 4
    mean = 1 + 0.25 * (lengths.mean() - 1)
    torch.testing.assert_close(result.lengths, lengths)
    torch.testing.assert_close(result.mean, mean)
    torch.testing.assert_close(result.penalty, (lengths - mean).square())
    assert torch.autograd.grad(result.penalty.mean(), a)[0].isfinite()


def test_ema_halves_in_its_half_life() -> None:
    beta = losses.ema_beta(50, 10**9, ema_kimg=20)
    assert beta ** (20_000 / 50) == pytest.approx(0.5)
    assert losses.ema_beta(64, 0, 20, rampup=0.05) == 0.0
    assert losses.ema_beta(64, 1280, 20, rampup=0.05) == 0.5
    assert losses.ema_beta(64, 10**9, 20, rampup=0.05) == losses.ema_beta(64, 10**9, 20)


def test_ema_update_averages_parameters_and_copies_buffers() -> None:
    source = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = copy.deepcopy(source)
    before = {k: v.clone() for k, v in average.named_parameters()}
    with torch.no_grad():
        for p in source.parameters():
            p.add_(1)
    source.train()(torch.randn(4, 3))
    losses.ema_update(average, source, 0.75)
    for name, p in average.named_parameters():
        torch.testing.assert_close(p, before[name] + 0.25)
    assert all(torch.equal(a, b) for a, b in zip(average.buffers(), source.buffers(), strict=True))


def test_lazy_adam_keeps_the_decay_of_k_steps() -> None:
    """k + 1 updates at the corrected betas decay as k did; lr falls in proportion."""
    lr, (beta1, beta2) = losses.lazy_adam(0.0025, (0.5, 0.99), 4)
    assert lr * 5 == pytest.approx(0.0025 * 4)
    assert math.isclose(beta1**5, 0.5**4) and math.isclose(beta2**5, 0.99**4)
    assert losses.lazy_adam(0.0025, (0.5, 0.99), None) == (0.0025, (0.5, 0.99))
