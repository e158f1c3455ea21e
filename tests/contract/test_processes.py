"""The number of processes that train a trial together moves no number: every backbone, every phase of the loop."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones import sn_dcgan
from harness.errors import UserError
from harness.experiment.parse import parse_trial, to_plain
from harness.experiment.spec import Trial
from harness.method.hooks import DStep, Hooks, Term
from harness.training import order, ranks
from harness.training.arm import build, load_data
from tests import tiny
from tests.contract import cells
from tests.contract.cells import BACKBONES, CPU, Cell, differing

pytestmark = pytest.mark.slow


def trial_of(backbone: str, variant: str, **train: Any) -> Trial:
    return cells.trial_of(Cell(backbone, variant, True), **train)


def trained(trial: Trial, also: dict[str, Hooks] | None = None) -> dict[str, Tensor]:
    torch.set_num_threads(1)
    return cells.left(cells.trained(trial, also=also or {}))


def follow(rank: int, plain: list[dict[str, Any]]) -> Callable[[], None]:
    def rest() -> None:
        for raw in plain:
            trained(parse_trial(raw, "t"))

    return rest


def by_both(trials: list[Trial], world: int = 2) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """What one process leaves of each trial, and what `world` leave."""
    alone = [trained(t) for t in trials]
    with ranks.team(world, CPU, follow, [to_plain(t) for t in trials]):
        together = [trained(t) for t in trials]
    return zip(alone, together, strict=True)


@pytest.mark.cover
def test_two_processes_with_a_microbatch_each_leave_the_bits_of_one() -> None:
    """Weights, running moments, power iterations, w_avg, path length's mean, EMA, Adam, memories, losses and scores, of
    every backbone; with every variant: tests/contract/test_cells.py, and all of them: make contract."""
    trials = [trial_of(backbone, "baseline") for backbone in BACKBONES]
    moved = set()
    for backbone, (alone, together) in zip(BACKBONES, by_both(trials), strict=True):
        assert not differing(alone, together), backbone
        moving = [k for k in alone if k.startswith(("g/", "d/")) and k.endswith(("running_var", "w_avg", "_u"))]
        assert all(alone[k].abs().sum() > 0 for k in moving), backbone
        moved |= {k.rsplit(".", 1)[-1] for k in moving}
    assert {"running_var", "w_avg", "_u"} <= moved, "each kind of them is met"


@pytest.mark.parametrize(("world", "microbatch"), [(2, 2), (4, 2), (4, 1)])
def test_so_do_other_numbers_of_both(world: int, microbatch: int) -> None:
    """The sum of the gradients is taken in the order of the microbatches too."""
    some = ("baseline", "align", "lecam")
    trials = [trial_of(b, v, batch_gpu=microbatch, total_kimg=0.032) for b in tiny.BACKBONES for v in some]
    for trial, (alone, together) in zip(trials, by_both(trials, world), strict=True):
        assert not differing(alone, together), (trial.backbone.name, trial.variants)


class Later(Hooks):
    """Scores its fakes once more from the third step on, so that D's power iterations become more."""

    def d_term(self, step: DStep, memory: Any) -> Term | None:
        if step.nimg < 32:
            return None
        again = step.score(step.fakes.images, step.fake_labels).square().mean()
        return Term(0.1 * again, {"again": again})


def with_later(rank: int, raw: dict[str, Any]) -> Callable[[], None]:
    def rest() -> None:
        trained(parse_trial(raw, "t"), {"later": Later()})

    return rest


def test_a_variant_that_sets_in_later_changes_the_number_of_passes_on_all() -> None:
    trial = trial_of("sn_dcgan", "baseline", total_kimg=0.064)
    alone = trained(trial, {"later": Later()})
    with ranks.team(2, CPU, with_later, to_plain(trial)):
        together = trained(trial, {"later": Later()})
    assert not differing(alone, together)
    assert len(alone["stats/loss/later/again"]) == 2 * 2 * 2, "two steps of D in two steps, two microbatches"


class Counting(nn.Module):
    """A layer that counts its passes in a buffer of its own and tells nobody."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, *args: Any) -> Any:
        self.get_buffer("passes").add_(1)
        return self.layer(*args)


def test_a_buffer_that_nobody_can_order_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    built = sn_dcgan.build

    def counting(*args: Any) -> Any:
        g, d = built(*args)
        g.to_rgb = Counting(g.to_rgb)
        return g, d

    monkeypatch.setattr(sn_dcgan, "build", counting)
    trial = trial_of("sn_dcgan", "baseline")
    assert trained(trial)["g/backbone.to_rgb.passes"] > 0, "one process has no need to"
    data, _ = load_data(trial)
    g, d, _ = build(trial, data, CPU)
    mine = order.Order(1, 2, 2, {"G": g, "D": d})
    with pytest.raises(UserError, match=r"backbone: G.backbone.to_rgb.passes moves .* by backbones.follow"):
        for _ in mine.turns("g", g, lambda: None):
            z, labels = g.backbone.sample_z(4, torch.Generator()), torch.zeros(4, dtype=torch.int64)
            g(z, labels, draws=lambda name: torch.Generator())
