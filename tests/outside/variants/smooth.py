"""Total variation (Rudin, Osher & Fatemi 1992) of the fakes as a term of G's loss: less noise from pixel to pixel."""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from harness.method.hooks import GStep, Hooks, Memory, Term


@dataclass(frozen=True)
class Options:
    weight: Annotated[float, ">= 0"] = 0.1


class Smoothness(Hooks):
    """Part `smooth`: the mean absolute difference of neighbouring pixels, unweighted."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def g_term(self, step: GStep, memory: Memory) -> Term:
        variation = total_variation(step.fakes.images.float())
        return Term(self.weight * variation, {"smooth": variation.detach()})


def hooks(options: Options, resolution: int) -> Smoothness:
    return Smoothness(options.weight)


def total_variation(images: Tensor) -> Tensor:
    """Of images [N, C, H, W]: the mean absolute difference along x, plus that along y."""
    return images.diff(dim=3).abs().mean() + images.diff(dim=2).abs().mean()
