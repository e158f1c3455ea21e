"""Relativistic pairing with R1 and R2: D says which image of a pair is the real one, and its gradient is kept small at
reals and at fakes, as R3GAN trains (Jolicoeur-Martineau 2019, https://arxiv.org/abs/1807.00734; Huang et al. 2024,
https://arxiv.org/abs/2501.05441).

    D: softplus(-(D(x) - D(G(z)))) + gamma1 / 2 |grad D(x)|^2 + gamma2 / 2 |grad D(G(z))|^2
    G: softplus(-(D(G(z)) - D(x)))

x and G(z) of equal index are a pair and of one label; G's step meets the reals of the next step of D.

The published comparison {GAN, RpGAN} x {R1, R1 + R2} as four arms that share all else, the penalties' places and their
optimiser among it (the recipe's own R1 takes a step of Adam of its own):

    gan_r1:      {relativistic: {loss: recipe, r2_gamma: 0}}        rpgan_r1:     {relativistic: {r2_gamma: 0}}
    gan_r1_r2:   {relativistic: {loss: recipe}}                     rpgan_r1_r2:  {relativistic: {}}

`loss: recipe` keeps `train.loss`, without pairs. Each arm's gamma may be swept, and may be a schedule (R3GAN on
CIFAR-10: `r1_gamma: {from: 0.05, to: 0.005, kimg: 20000, shape: cosine}`).

Where we differ: the paper has no default of gamma, but one for each data set; ours is that with which its stacked MNIST
begins. Penalties are means over the microbatch and taken in the precision of the pass that made the logits (R3GAN: bf16
in its highest stages alone). With `interval` k > 1 they enter the loss of every k-th step of D, k times as heavy, and
Adam is not corrected for it as in StyleGAN2; the paper takes them in every step and reports that stacked MNIST fails at
k = 8.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.method.hooks import Adversarial, DStep, Hooks, Memory, Term
from harness.method.losses import r1_penalty
from harness.method.schedules import Scheduled, at

EPOCH = 1


@dataclass(frozen=True)
class Options:
    loss: Literal["relativistic", "recipe"] = "relativistic"  # recipe: `train.loss` stays, without pairs
    r1_gamma: Annotated[Scheduled, ">= 0"] = 1.0  # at reals; 0: no R1
    r2_gamma: Annotated[Scheduled, ">= 0"] | None = None  # at fakes; 0: no R2, None: as r1_gamma
    interval: Annotated[int, ">= 1"] = 1  # steps of D from penalty to penalty


CLASHES = ("train.r1_gamma", "train.r1_interval")  # the latter corrects Adam for a lazy R1


def hooks(options: Options, resolution: int) -> Hooks:
    return Relativistic(options)


def apart(logits: Tensor, partners: Tensor) -> Tensor:
    """softplus(-(logits - partners)) of each pair [N]: the loss of the side that wants its logits above. In this form
    it is exact at any distance, where torch's softplus is cut off above 20."""
    return -F.logsigmoid(logits - partners)


def _of_d(real: Tensor, fake: Tensor) -> Tensor:
    return apart(real, fake).mean()


def _of_g(fake: Tensor, real: Tensor | None) -> Tensor:
    assert real is not None
    return apart(fake, real).mean()


class Relativistic(Hooks):
    """Parts `r1` and `r2`, where they are taken: the squared gradient norms, unweighted."""

    each_alone = True

    def __init__(self, options: Options) -> None:
        self.gammas = options.r1_gamma, options.r1_gamma if options.r2_gamma is None else options.r2_gamma
        self.interval = options.interval
        self.at_images = any(self.gammas)
        self.adversarial = Adversarial(_of_d, _of_g, paired=True) if options.loss == "relativistic" else None

    def d_term(self, step: DStep, memory: Memory) -> Term | None:
        if step.number % self.interval:
            return None
        r1, r2 = (at(gamma, step.nimg) for gamma in self.gammas)
        sides = {"r1": (r1, step.reals, step.real_logits), "r2": (r2, step.fakes.images, step.fake_logits)}
        taken = {k: (gamma, r1_penalty(x, logits).mean()) for k, (gamma, x, logits) in sides.items() if gamma}
        if not taken:
            return None
        value = torch.stack([self.interval * gamma / 2 * penalty for gamma, penalty in taken.values()]).sum()
        return Term(value, {k: penalty for k, (_, penalty) in taken.items()})
