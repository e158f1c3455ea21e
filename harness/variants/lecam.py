"""LeCam: D's logits of each side stay near the moving average of the other's (Tseng et al. 2021,
https://arxiv.org/abs/2104.03310, eq. 4).

    R = mean relu(D(x) - a_fake)^2 + mean relu(a_real - D(G(z)))^2          D's loss += weight R

a_real and a_fake are moving averages of the means of D's logits of reals and of fakes.

Where we differ:
- A step is trained on the averages of the steps before it (the authors move them first, by the same step's logits).
  So they are one step old, and the same for any number of processes; the first step of all has none, and no R.
- One move a step of G, by the logits of all D's steps and processes in it (the authors: one each step of D).
- The paper's eq. 4 has no relu, the authors' code has: `rectified: false` is the equation.
- The authors' two networks average in two ways. `start_kimg: 0` is that of their StyleGAN2: from the first step on, and
  divided by the weight so far, as in Adam. Above 0 it is that of their BigGAN (1,000 steps, decay 0.9): until then the
  averages are the last step's means and nothing is added. Their weights are 0.3 (BigGAN) and 3e-7 (StyleGAN2 on 1,000
  images of FFHQ), the decay of their StyleGAN2 0.99.
- The logits are of what D sees, other variants' augmentations included.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.method.hooks import DStep, Hooks, Memory, Term

EPOCH = 1


@dataclass(frozen=True)
class Options:
    weight: Annotated[float, ">= 0"] = 0.3
    decay: Annotated[float, ">= 0, < 1"] = 0.99  # of the averages, a step
    start_kimg: Annotated[float, ">= 0"] = 0.0  # until then the averages are the last step's, and nothing is added
    rectified: bool = True  # only logits beyond the other side's average count


def hooks(options: Options, resolution: int) -> Hooks:
    return LeCam(options)


def distance(real: Tensor, fake: Tensor, a_real: Tensor, a_fake: Tensor, rectified: bool = True) -> Tensor:
    """R of logits of reals and of fakes [N], a scalar."""
    above, below = real - a_fake, a_real - fake
    if rectified:
        above, below = F.relu(above), F.relu(below)
    return above.square().mean() + below.square().mean()


class LeCam(Hooks):
    """Part `distance`: R, unweighted. Its memory: the sums `real` and `fake`, and the `weight` that is in them so far,
    by which they are divided."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.start = round(options.start_kimg * 1000)  # images

    def memory(self) -> Memory:
        return {name: torch.zeros(()) for name in ("real", "fake", "weight")}

    def averages(self, memory: Memory) -> tuple[Tensor, Tensor]:
        """a_real and a_fake."""
        return memory["real"] / memory["weight"], memory["fake"] / memory["weight"]

    def d_term(self, step: DStep, memory: Memory) -> Term | None:
        if step.nimg <= self.start:
            return None
        r = distance(step.real_logits, step.fake_logits, *self.averages(memory), self.options.rectified)
        return Term(self.options.weight * r, {"distance": r})

    def learn(
        self, memory: Memory, real: Tensor, fake: Tensor, parts: dict[str, Tensor], shown: int, nimg: int
    ) -> Memory:
        new = {"real": real.mean(), "fake": fake.mean(), "weight": torch.ones_like(memory["weight"])}
        decay = self.options.decay if nimg >= self.start else 0.0
        return {name: memory[name].lerp(value, 1 - decay) for name, value in new.items()}
