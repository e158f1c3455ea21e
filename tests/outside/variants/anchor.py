"""D's logits of each side stay near their own moving average: it may move, but slowly.

R = mean (D(x) - a_real)^2 + mean (D(G(z)) - a_fake)^2,    D's loss += weight R
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from harness.method.hooks import DStep, Hooks, Memory, Term


@dataclass(frozen=True)
class Options:
    weight: Annotated[float, ">= 0"] = 0.3
    decay: Annotated[float, ">= 0, < 1"] = 0.99  # of the averages, a step
    start_kimg: Annotated[float, ">= 0"] = 0.0  # until then the averages learn, and nothing is added


def hooks(options: Options, resolution: int) -> Hooks:
    return Anchor(options)


class Anchor(Hooks):
    """Part `distance`: R, unweighted. Its memory: the averages `real` and `fake`, and their `weight` so far, by which
    they are divided, as in Adam."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def memory(self) -> Memory:
        return {name: torch.zeros(()) for name in ("real", "fake", "weight")}

    def d_term(self, step: DStep, memory: Memory) -> Term | None:
        if step.nimg == 0 or step.nimg < self.options.start_kimg * 1000:
            return None
        real, fake = (memory[name] / memory["weight"] for name in ("real", "fake"))
        distance = (step.real_logits - real).square().mean() + (step.fake_logits - fake).square().mean()
        return Term(self.options.weight * distance, {"distance": distance})

    def learn(
        self, memory: Memory, real: Tensor, fake: Tensor, parts: dict[str, Tensor], shown: int, nimg: int
    ) -> Memory:
        new = {"real": real.mean(), "fake": fake.mean(), "weight": torch.ones_like(memory["weight"])}
        return {name: memory[name].lerp(value, 1 - self.options.decay) for name, value in new.items()}
