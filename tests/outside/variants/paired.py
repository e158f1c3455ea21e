"""Relativistic pairing (Jolicoeur-Martineau 2019, arXiv 1807.00734) with R1 and R2 at every step, as R3GAN trains
(Huang et al. 2024, arXiv 2501.05441):

    D: softplus(-(D(x) - D(G(z)))) + gamma / 2 (|grad D(x)|^2 + |grad D(G(z))|^2)       G: softplus(-(D(G(z)) - D(x)))
"""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor
from torch.nn import functional as F

from harness.method.hooks import Adversarial, DStep, Hooks, Memory, Term
from harness.method.losses import r1_penalty


@dataclass(frozen=True)
class Options:
    gamma: Annotated[float, ">= 0"] = 1.0


CLASHES = ("train.r1_gamma",)


def hooks(options: Options, resolution: int) -> Hooks:
    return Paired(options)


def _of_d(real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(fake - real).mean()


def _of_g(fake: Tensor, real: Tensor | None) -> Tensor:
    assert real is not None
    return F.softplus(real - fake).mean()


class Paired(Hooks):
    """Parts `r1` and `r2`: the squared gradient norms, unweighted."""

    adversarial = Adversarial(_of_d, _of_g, paired=True)
    at_images = True

    def __init__(self, options: Options) -> None:
        self.gamma = options.gamma

    def d_term(self, step: DStep, memory: Memory) -> Term:
        r1 = r1_penalty(step.reals, step.real_logits).mean()
        r2 = r1_penalty(step.fakes.images, step.fake_logits).mean()
        return Term(self.gamma / 2 * (r1 + r2), {"r1": r1, "r2": r2})
