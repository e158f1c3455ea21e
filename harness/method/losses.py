"""GAN losses and their regularisers as pure functions of tensors.

Adversarial losses act on each logit; the caller takes the mean. Image and logit gradients
keep their graph, so that a penalty can be minimised.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class LogitLoss(NamedTuple):
    """Loss of each logit: G's on its fakes, D's on fakes and on reals."""

    g: Callable[[Tensor], Tensor]
    d_fake: Callable[[Tensor], Tensor]
    d_real: Callable[[Tensor], Tensor]


ADVERSARIAL = {
    # Non-saturating: -log sigmoid(D(G(z))) for G; cross entropy for D (Goodfellow et al. 2014).
    "logistic": LogitLoss(g=lambda x: F.softplus(-x), d_fake=F.softplus, d_real=lambda x: F.softplus(-x)),
    # Hinge for D, -D(G(z)) for G (Miyato et al. 2018, eqs. 16 and 17).
    "hinge": LogitLoss(g=lambda x: -x, d_fake=lambda x: F.relu(1 + x), d_real=lambda x: F.relu(1 - x)),
}


def r1_penalty(images: Tensor, logits: Tensor) -> Tensor:
    """|d D(x) / d x|^2 of each sample [N] (Mescheder et al. 2018, eq. 9, without gamma / 2).

    `images` [N, C, R, R] must require grad and `logits` [N] come from them in float32; of logits that ignore them it
    is 0.
    """
    (grad,) = torch.autograd.grad(logits.sum(), images, create_graph=True, materialize_grads=True)
    return grad.square().sum((1, 2, 3))


class PathLength(NamedTuple):
    """`penalty` and `lengths` per sample [N]; `mean` is the new running mean length, a scalar
    that is in the graph: detach it before keeping it."""

    penalty: Tensor
    lengths: Tensor
    mean: Tensor


def path_length(images: Tensor, ws: Tensor, mean: Tensor, noise: Tensor, decay: float) -> PathLength:
    """(|J_w^T y| - a)^2 for y = noise / sqrt(H W) (StyleGAN2, eq. 4 and appendix B).

    images [N, C, H, W] from ws [N, L, w_dim]; `noise` is standard normal like the images;
    `mean` a is the running mean of the lengths, which moves by `decay` before it is used.
    """
    lengths = path_lengths(images, ws, noise)
    mean = moved(mean, lengths.mean(), decay)
    return PathLength((lengths - mean).square(), lengths, mean)


def path_lengths(images: Tensor, ws: Tensor, noise: Tensor) -> Tensor:
    """|J_w^T y| of each sample [N], in the graph."""
    y = noise / (images.shape[2] * images.shape[3]) ** 0.5
    (grad,) = torch.autograd.grad((images * y).sum(), ws, create_graph=True)
    return grad.square().sum(2).mean(1).sqrt()


def moved(mean: Tensor, value: Tensor, decay: float) -> Tensor:
    """A running mean after `value`."""
    return mean + decay * (value - mean)


def ema_beta(batch: int, nimg: int, ema_kimg: float, rampup: float | None = None) -> float:
    """Share of the old average that stays after a step of `batch` images: half of it after
    `ema_kimg` thousand, and while starting after `rampup` times the `nimg` images seen before the step."""
    half_life = ema_kimg * 1000
    if rampup is not None:
        half_life = min(half_life, nimg * rampup)
    return 0.5 ** (batch / max(half_life, 1e-8))


@torch.no_grad()
def ema_update(average: torch.nn.Module, source: torch.nn.Module, beta: float) -> None:
    """average <- beta average + (1 - beta) source for parameters; buffers are copied. Those that are statistics of
    activations are then the source's, until the average makes its own (`harness.evaluation.statistics`)."""
    torch._foreach_lerp_(list(average.parameters()), list(source.parameters()), 1 - beta)
    for mine, theirs in zip(average.buffers(), source.buffers(), strict=True):
        mine.copy_(theirs)


def lazy_adam(lr: float, betas: tuple[float, float], interval: int | None) -> tuple[float, tuple[float, float]]:
    """Adam's lr and betas where a regulariser takes an extra step each `interval` steps, so that
    k + 1 updates do what k did (StyleGAN2, appendix B). None: no such steps."""
    if interval is None:
        return lr, betas
    q = interval / (interval + 1)
    return lr * q, (betas[0] ** q, betas[1] ** q)
