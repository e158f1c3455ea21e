"""Tiny arms, trained."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from backbones import Discriminator
from harness.experiment.spec import Trial
from harness.training.arm import build, load_data
from harness.training.state import State, new_state
from harness.training.train import train
from tests import tiny

OFF: dict[str, Any] = {"r1_gamma": 0.0, "r1_interval": None}


def arm(backbone: str, variants: dict[str, Any], conditional: bool = False, **recipe: Any) -> Trial:
    """A tiny trial of three steps with `variants`, {name: options}."""
    return tiny.trial(
        backbone, "baseline", conditional, variants=variants, train={"total_kimg": 0.024, **recipe}
    )  # fmt: skip


def trained(
    trial: Trial, upkeep: Callable[[State], bool] = lambda state: False, resume: tuple[Any, int] | None = None
) -> State:
    data, _ = load_data(trial)
    g, d, hooks = build(trial, data, torch.device("cpu"))
    state = new_state(g, d, trial.train)
    if resume is not None:
        state.load(*resume)
    train(state, trial.train, data, hooks, seed=trial.seed, conditional=trial.conditional, upkeep=upkeep)
    return state


def unequal(a: State, b: State, *prefixes: str) -> list[str]:
    """The tensors of both that are not the same bits, of those names."""
    mine, other = a.tensors(), b.tensors()
    names = [k for k in mine if k.startswith(prefixes or ("",))]
    assert names and all(k in other for k in names)
    return [k for k in names if not torch.equal(mine[k], other[k])]


class Linear(Discriminator):
    """<weight, x> + bias for images of 3 x 4 x 4, whose gradient at every image is `weight`."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight)
        self.bias = torch.nn.Parameter(weight.new_ones(1))

    def forward(
        self, images: Tensor, labels: Tensor | None = None, *, taps: tuple[str, ...] = ()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return (images * self.weight).sum((1, 2, 3)) + self.bias, {}
