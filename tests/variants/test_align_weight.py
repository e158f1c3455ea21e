"""The weight of L_align in real tiny trainings: bounded where it is measured and between, and nothing else moved."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.experiment.spec import Trial
from harness.method import gradients
from harness.method.hooks import GStep, Memory, Term
from harness.training import ranks
from harness.training.arm import build, load_data
from harness.training.state import State, new_state
from harness.training.train import train
from harness.trial.upkeep import Upkeep, earliest_bad
from harness.variants.align import Alignment
from tests import tiny

MOST = 0.1
ALONG = {"objective": "softplus", "rectify": "per_channel"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trial_of(backbone: str = "sn_dcgan", steps: int = 4, batch_gpu: int | None = 4, /, **options: Any) -> Trial:
    return tiny.trial(
        backbone, "align", variants={"align": options}, train={"total_kimg": steps * 0.008, "batch_gpu": batch_gpu}
    )


def run(
    trial: Trial, upkeep: Callable[[State], bool] = lambda state: False, resume: tuple[Any, int] | None = None
) -> State:
    data, _ = load_data(trial)
    g, d, hooks = build(trial, data, torch.device("cpu"))
    state = new_state(g, d, trial.train)
    if resume is not None:
        state.load(*resume)
    train(state, trial.train, data, hooks, seed=0, conditional=False, upkeep=upkeep)
    return state


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Tensor, Tensor]]:
    """(steps before, gradient that L_align as applied has at the fakes, that of the GAN loss) of every microbatch."""
    seen: list[tuple[int, Tensor, Tensor]] = []
    own = Alignment.g_term

    def g_term(self: Alignment, step: GStep, memory: Memory) -> Term:
        term, x = own(self, step, memory), step.fakes.images
        a, g = (torch.autograd.grad(y, x, retain_graph=True)[0] for y in (term.value, step.gan))
        seen.append((step.past, a, g))
        return term

    monkeypatch.setattr(Alignment, "g_term", g_term)
    return seen


def test_the_bound_is_exact_where_it_is_measured(applied: Any) -> None:
    """Of each microbatch, with equality where it binds, and so of the whole; the curves are those of the whole."""
    state = run(trial_of("sn_dcgan", 5, **ALONG, max_ratio=MOST, ratio_every=2))
    for past, a, g in applied:
        if past % 2 == 0:
            assert float(a.norm() / g.norm()) == pytest.approx(MOST, rel=1e-4), past
    stats = state.stats.stacked()
    assert len(stats["loss/align/weight"]) == 2 * 5 and (stats["loss/align/weight"] < 1).all()
    assert len(stats["loss/align/ratio"]) == len(stats["loss/align/cosine"]) == 3
    for i, past in enumerate((0, 2, 4)):
        weights = stats["loss/align/weight"][2 * past : 2 * past + 2]
        both = [(a / w, g) for (_, a, g), w in zip(applied[2 * past : 2 * past + 2], weights, strict=True)]
        a, g = (torch.cat(x).flatten() for x in zip(*both, strict=True))
        torch.testing.assert_close(stats["loss/align/ratio"][i], a.norm() / g.norm(), rtol=1e-3, atol=0)
        cosine = torch.nn.functional.cosine_similarity(a, g, dim=0)
        torch.testing.assert_close(stats["loss/align/cosine"][i], cosine, rtol=1e-3, atol=1e-3)
    # Between them both microbatches have the weight that the memory of the step before says.
    last, smooth = torch.zeros(()), torch.zeros(())
    for i, past in enumerate((1, 3)):
        last, smooth = gradients.remembered(last, smooth, stats["loss/align/ratio"][i])
        wanted = gradients.reckoned(1.0, MOST, last, smooth)
        torch.testing.assert_close(stats["loss/align/weight"][2 * past : 2 * past + 2], wanted.expand(2))


@pytest.mark.slow
def test_between_measurements_the_bound_holds_within_a_factor(applied: Any) -> None:
    """From the first step on, where ratios fall from hundreds to below 1: of 96 steps of 8 images none is above 4
    times the bound and 1 in 20 above 1.5 times; measured 2.9 and 1.03."""
    run(trial_of("sn_dcgan", 96, None, **ALONG, max_ratio=MOST))
    over = torch.tensor([float(a.norm() / g.norm()) / MOST for past, a, g in applied if past % 8])
    assert len(over) == 84 and over.max() < 4 and over.quantile(0.95) < 1.5
    assert over.median() > 0.1, "nor is the term starved"


def test_a_bound_that_does_not_bind_changes_nothing() -> None:
    """Looking at gradients moves no weight, buffer, moment or draw: L_align, G and D are as without."""
    for backbone in tiny.BACKBONES:
        plain, loose = (
            run(trial_of(backbone, 2, **ALONG, weight=0.3, **more)).tensors()
            for more in ({}, {"max_ratio": 1e9, "ratio_every": 1})
        )  # fmt: skip
        left = [k for k in plain if not k.startswith(("places/", "stats/raw/", "stats/loss/align/"))]
        assert not [k for k in left if not torch.equal(plain[k], loose[k])]
        assert torch.equal(plain["stats/loss/align"], loose["stats/loss/align"])
        assert (loose["stats/loss/align/weight"] == 0.3).all() and len(loose["stats/loss/align/ratio"]) == 2
        assert not [k for k in plain if k.startswith("memory/")]


def test_a_resumed_trial_remembers_its_ratios() -> None:
    kept: dict[int, dict[str, Tensor]] = {}

    def keep(state: State) -> bool:
        kept[state.nimg] = {k: v.clone() for k, v in state.tensors().items()}
        return False

    trial = trial_of("sn_dcgan", 5, **ALONG, max_ratio=MOST, ratio_every=3, warmup_kimg=0.02)
    whole = run(trial, keep).tensors()
    assert kept[8]["memory/align/last"] > 0 and not torch.equal(
        kept[8]["memory/align/last"], whole["memory/align/last"]
    )
    assert equal(run(trial, resume=(kept[16], 16)).tensors(), whole)


def follow(rank: int, trial: Trial) -> Callable[[], None]:
    def rest() -> None:
        run(trial)

    return rest


@pytest.mark.slow
def test_two_processes_bound_as_one() -> None:
    trial = trial_of("stylegan2", 4, **ALONG, max_ratio=MOST, ratio_every=2)
    alone = run(trial).tensors()
    with ranks.team(2, torch.device("cpu"), follow, trial):
        together = run(trial).tensors()
    assert alone.keys() == together.keys() and "memory/align/smooth" in alone
    assert not [k for k in alone if not torch.equal(alone[k], together[k]) and not k.startswith("places/")]


def test_the_weight_rises_from_0_with_the_images_shown() -> None:
    state = run(trial_of("sn_dcgan", 4, None, weight=0.5, warmup_kimg=0.016))
    assert state.stats.stacked()["loss/align/weight"].tolist() == [0.0, 0.25, 0.5, 0.5]
    bare = run(trial_of("sn_dcgan", 1, None, weight=0.0)).tensors()
    first = run(trial_of("sn_dcgan", 1, None, warmup_kimg=1.0)).tensors()
    assert all(torch.equal(bare[k], first[k]) for k in bare if k.startswith(("g/", "d/", "opt_")))


def test_a_gradient_that_is_not_finite_ends_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    true = gradients.beside

    def spoilt(*given: Any) -> gradients.Beside:
        found = true(*given)
        return found._replace(own=found.own * torch.nan)

    monkeypatch.setattr(gradients, "beside", spoilt)
    stats = run(trial_of("sn_dcgan", 1, **ALONG, max_ratio=MOST)).stats
    assert earliest_bad(stats.stacked(), stats.places) == "raw/align/gradient"
    assert stats.stacked()["loss/align/weight"].isnan().all()


def reported(trial: Trial) -> dict[int, dict[str, float]]:
    """What the journal has of each tick."""
    told: dict[int, dict[str, float]] = {}
    data, _ = load_data(trial)
    made = Upkeep.__new__(Upkeep)
    made.trial, made.data, made.seen, made._tick, made._tick_nimg = trial, data, -1, 0.0, 0
    made.journal = SimpleNamespace(metrics=told.__setitem__, commit=lambda: None)  # type: ignore[assignment]
    made.live = SimpleNamespace(update=lambda **kind: None)

    def upkeep(state: State) -> bool:
        if made._crossed(state.nimg, trial.train.tick_kimg):
            made.report(state)
        made.seen = state.nimg
        return False

    made.report(run(trial, upkeep))
    return told


def test_a_tick_tells_of_measured_steps_alone() -> None:
    """Without `max_ratio` the last step of each tick; with it every so many steps, and no point where there is none."""
    at = {"loss/align/ratio", "loss/align/cosine"}
    plain = reported(trial_of("sn_dcgan", 7, None, **ALONG))
    assert list(plain) == [16, 32, 48, 56] and all(at <= v.keys() for v in plain.values())
    seldom = reported(trial_of("sn_dcgan", 7, None, **ALONG, max_ratio=MOST, ratio_every=4))
    assert [at <= v.keys() for v in seldom.values()] == [True, False, True, False]
    assert not [k for v in seldom.values() for k, x in v.items() if x != x or k.startswith("raw")]
    assert all("loss/align/weight" in v for v in seldom.values())
    assert not [k for v in plain.values() for k in v if k == "loss/align/weight"]
