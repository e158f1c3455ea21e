"""The number of processes that train a trial together moves no number: every backbone, every variant, every phase."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones import sn_dcgan
from harness import plugins
from harness.errors import UserError
from harness.experiment.parse import parse_trial, to_plain
from harness.experiment.spec import Trial
from harness.method.hooks import ArmHooks, DStep, Hooks, Term
from harness.training import order, ranks
from harness.training.arm import build, load_data
from harness.training.state import new_state
from harness.training.train import train
from tests import tiny
from tests.contract import NOT_POSSIBLE, names

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
OUTSIDE = {"plain_dcgan": {"name": "plain_dcgan", "width": 8, "z_dim": 8}}
BACKBONES = names("backbones")
VARIANTS = ("baseline", *names("harness.variants"))
_ADAM = {"lr": 1e-3, "eps": 1e-3}  # a gradient that is rounding alone makes no whole step of its sign
EVERYTHING: dict[str, Any] = {
    "batch_size": 8, "batch_gpu": 4, "total_kimg": 0.048, "d_steps": 2, "r1_gamma": 1.0, "r1_interval": 2,
    "ema_kimg": 0.02, "g": _ADAM, "d": _ADAM,
}  # fmt: skip
WEIGHTS = ("g/", "d/", "g_ema/", "opt_", "memory/", "pl_mean", "stats/")


def trial_of(backbone: str, variant: str, **train: Any) -> Trial:
    """All phases of the loop that the variant does not refuse."""
    chosen: dict[str, Any] = {}
    off: dict[str, Any] = {}
    if variant != "baseline":
        module = plugins.find("harness.variants", variant)
        needs = [n for n in VARIANTS[1:] for what in getattr(module, "REQUIRES", ())
                 if what in getattr(plugins.find("harness.variants", n), "PROVIDES", ())][:1]  # fmt: skip
        chosen = {**dict.fromkeys(needs, {}), variant: {}}
        off = tiny.without(module)
    known = tiny.BACKBONES | tiny.OTHERS
    like = backbone if backbone in known else "sn_dcgan"
    styles = {"pl_weight": 2.0, "pl_interval": 2, "style_mixing": 0.9} if like == "stylegan2" else {}
    own = {} if backbone in known else {"backbone": OUTSIDE[backbone]}
    return tiny.trial(
        like, "baseline", True, variants=chosen, train={**EVERYTHING, **styles, **off, **train}, **own
    )  # fmt: skip


def trained(trial: Trial, also: dict[str, Hooks] | None = None) -> dict[str, Tensor]:
    torch.set_num_threads(1)
    data, _ = load_data(trial)
    g, d, hooks = build(trial, data, CPU)
    state = new_state(g, d, trial.train)
    together = ArmHooks({**hooks.variants, **(also or {})})
    train(
        state, trial.train, data, together,
        seed=trial.seed, conditional=trial.conditional, upkeep=lambda state: False,
    )  # fmt: skip
    return {k: v.clone() for k, v in state.tensors().items() if k.startswith(WEIGHTS)}


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


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, float]:
    """By how much of its scale each tensor that is not the same bits differs."""
    assert a.keys() == b.keys()
    off = {k: (a[k].double() - b[k].double()).abs().max() for k in a if not torch.equal(a[k], b[k])}
    return {k: float(v / a[k].double().abs().max().clamp_min(1e-3)) for k, v in off.items()}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_two_processes_with_a_microbatch_each_leave_the_bits_of_one(backbone: str) -> None:
    """Weights, running moments, power iterations, w_avg, path length's mean, EMA, Adam, memories, losses and scores."""
    possible = [v for v in VARIANTS if (backbone, v) not in NOT_POSSIBLE]
    trials = [trial_of(backbone, v) for v in possible]
    for variant, (alone, together) in zip(possible, by_both(trials), strict=True):
        assert not differing(alone, together), variant
        moving = [k for k in alone if k.startswith(("g/", "d/")) and k.endswith(("running_var", "w_avg", "_u"))]
        assert bool(moving) == (backbone not in (*OUTSIDE, "r3gan")) and all(alone[k].abs().sum() > 0 for k in moving)


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
