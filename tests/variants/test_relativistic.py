"""Relativistic pairing: what its equations say of the loss, of both penalties and of the arms written with it."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from backbones import sn_dcgan
from harness.errors import UserError
from harness.experiment.files import load
from harness.method import schedules
from harness.method.generator import Fakes
from harness.method.hooks import DStep
from harness.training.arm import build, load_data
from harness.variants.relativistic import Options, hooks
from tests import tiny
from tests.variants.arms import OFF, Linear, arm, trained, unequal

NONE = cast(Any, None)


def gan(**options: Any) -> Any:
    found = hooks(Options(**options), 32).adversarial
    assert found is not None
    return found


@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0, 1000.0])
def test_exchanged_sides_turn_ds_loss_into_gs_and_their_difference_is_that_of_the_means(scale: float) -> None:
    real, fake = (torch.randn(2, 512, generator=torch.Generator().manual_seed(1)) * scale).double()
    assert torch.equal(gan().d(real, fake), gan().g(real, fake))
    assert torch.equal(gan().d(fake, real), gan().g(fake, real))
    difference = gan().d(real, fake) - gan().g(fake, real)
    torch.testing.assert_close(difference, (fake - real).mean(), rtol=1e-13, atol=1e-14 * scale)


def test_logits_that_tie_still_teach_both_sides() -> None:
    """A D that starts at 0 everywhere."""
    real, fake = (torch.zeros(4, requires_grad=True) for _ in range(2))
    gan().d(real, fake).backward()
    assert real.grad is not None and fake.grad is not None
    assert torch.equal(real.grad, torch.full((4,), -1 / 8)) and torch.equal(fake.grad, -real.grad)


def d_term(d: nn.Module, options: Options, number: int = 0, nimg: int = 0) -> Any:
    reals, fakes = (torch.randn(5, 3, 4, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    step = DStep(
        reals=reals, labels=None, z=NONE, fakes=Fakes(fakes, fakes, None), fake_labels=None, real_logits=d(reals)[0],
        fake_logits=d(fakes)[0], score=NONE, sample=NONE, draws=NONE, nimg=nimg, see=NONE, number=number,
    )  # fmt: skip
    return hooks(options, 32).d_term(step, {})


def test_both_penalties_are_the_squared_gradient_of_a_linear_d() -> None:
    weight = torch.arange(48, dtype=torch.float64).view(3, 4, 4) / 10
    d, norm = Linear(weight), weight.square().sum()
    for options, r1, r2 in (
        (Options(), 0.5, 0.5), (Options(r1_gamma=0.2), 0.1, 0.1), (Options(r1_gamma=2.0, r2_gamma=0.4), 1.0, 0.2),
        (Options(r2_gamma=0.0), 0.5, 0.0), (Options(r1_gamma=0.0, r2_gamma=3.0), 0.0, 1.5),
        (Options(interval=4), 2.0, 2.0),
    ):  # fmt: skip
        term = d_term(d, options)
        torch.testing.assert_close(term.value, (r1 + r2) * norm)
        assert set(term.parts) == {name for name, gamma in (("r1", r1), ("r2", r2)) if gamma}
        assert all(torch.isclose(part, norm) for part in term.parts.values())
        (grad,) = torch.autograd.grad(term.value, d.weight)
        torch.testing.assert_close(grad, 2 * (r1 + r2) * weight)
    assert d_term(d, Options(r1_gamma=0.0)) is None and not hooks(Options(r1_gamma=0.0), 32).at_images


def test_a_d_that_ignores_its_input_has_no_penalty() -> None:
    class Deaf(Linear):
        def forward(self, images: Tensor, labels: Any = None, *, taps: Any = ()) -> Any:
            return self.bias.expand(len(images)), {}

    zero = torch.zeros(3, 4, 4, dtype=torch.float64)
    for d in (Linear(zero), Deaf(zero)):
        term = d_term(d, Options())
        assert term.parts["r1"] == term.parts["r2"] == term.value == 0
        if type(d) is Linear:
            (grad,) = torch.autograd.grad(term.value, d.weight)
            assert not grad.any()


def test_penalties_come_every_so_many_steps_and_follow_their_schedule() -> None:
    d = Linear(torch.ones(3, 4, 4, dtype=torch.float64))
    found = [d_term(d, Options(interval=3), number=n) is not None for n in range(7)]
    assert found == [True, False, False, True, False, False, True]
    gamma = schedules.Schedule(1.0, 0.1, 1.0, "cosine")
    for nimg in (0, 250, 500, 1000, 5000):
        term = d_term(d, Options(r1_gamma=gamma), nimg=nimg)
        assert term.value.item() == pytest.approx(48 * schedules.at(gamma, nimg))  # gamma / 2 (|w|^2 + |w|^2)
    assert d_term(d, Options(r1_gamma=schedules.Schedule(0.0, 1.0, 1.0, "linear"))) is None


@pytest.mark.slow
def test_in_training_every_step_of_d_has_its_penalties_and_the_loss_is_of_pairs() -> None:
    recipe = {**OFF, "d_steps": 2, "total_kimg": 0.048}
    stats = trained(arm("stylegan2", {"relativistic": {}}, True, **recipe)).stats.stacked()
    apart = stats["scores/fake"] - stats["scores/real"]
    torch.testing.assert_close(stats["loss/d"], torch.nn.functional.softplus(apart).mean(1))
    assert len(stats["loss/relativistic/r1"]) == len(stats["loss/relativistic/r2"]) == 3 * 2 * 2  # two microbatches
    assert (stats["loss/relativistic/r1"] > 0).all() and (stats["loss/relativistic/r2"] > 0).all()
    assert "loss/r1" not in stats
    lazy = trained(arm("stylegan2", {"relativistic": {"interval": 4}}, **recipe)).stats.stacked()
    assert len(lazy["loss/relativistic/r1"]) == 2 * 2, "steps 0 and 4 of the six"


def test_without_penalties_the_recipes_loss_is_the_baseline() -> None:
    """So that {GAN, RpGAN} x {R1, R1 + R2} are arms of this one variant, and differ by what their names say."""
    idle = arm("sn_dcgan", {"relativistic": {"loss": "recipe", "r1_gamma": 0}}, **OFF)
    assert not unequal(trained(idle), trained(arm("sn_dcgan", {}, **OFF)))
    r1 = trained(arm("sn_dcgan", {"relativistic": {"loss": "recipe", "r2_gamma": 0}}, **OFF)).stats.stacked()
    assert "loss/relativistic/r1" in r1 and "loss/relativistic/r2" not in r1


TWO_BY_TWO = """
name: two_by_two
preset: tiny32
dataset: {name: synthetic, resolution: 32, num_images: 64}
train: {r1_gamma: 0, r1_interval: null}
eval: {num_fakes: 64, metrics: {disequilibrium: {}}}
seeds: [0]
arms:
  gan_r1: {relativistic: {loss: recipe, r2_gamma: 0}}
  gan_r1_r2: {relativistic: {loss: recipe}}
  rpgan_r1: {relativistic: {r2_gamma: 0}}
  rpgan_r1_r2: {relativistic: {r1_gamma: {from: 1, to: 0.1, kimg: 4, shape: cosine}}}
"""


def test_the_published_two_by_two_is_four_arms(tmp_path: Path) -> None:
    (tmp_path / "two_by_two.yaml").write_text(TWO_BY_TWO)
    (table,) = load(tmp_path / "two_by_two.yaml").tables
    found = {}
    for (_, name), (trial,) in table.cells.items():
        own = cast(Any, hooks(trial.variant("relativistic"), 32))
        found[name] = own.adversarial is not None, *(bool(gamma) for gamma in own.gammas)
        assert not trial.train.r1_gamma and trial.train.r1_interval is None
    assert found == {
        "gan_r1": (False, True, False), "gan_r1_r2": (False, True, True),
        "rpgan_r1": (True, True, False), "rpgan_r1_r2": (True, True, True),
    }  # fmt: skip
    assert len({trial.id for (trial,) in table.cells.values()}) == 4


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (
            {"r1_gamma": 2.0, "r1_interval": 1},
            "relativistic: refuses train.r1_gamma, here 2.0; set it to 0.0, in",
        ),
        (
            {"r1_interval": 16},
            "relativistic: refuses train.r1_interval, here 16; set it to null, in this arm by",
        ),
    ],
)
def test_the_recipes_own_r1_is_refused_with_the_remedy(recipe: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as e:
        tiny.trial("sn_dcgan", variants={"relativistic": {}}, train=recipe)
    assert message in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("tracked", [True, False])
def test_batch_norm_in_d_is_refused(tracked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made = sn_dcgan.build

    def with_batch_norm(*args: Any) -> Any:
        g, d = made(*args)
        d.conv[1] = nn.Sequential(d.conv[1], nn.BatchNorm2d(int(d.conv[1].bias.numel()), track_running_stats=tracked))
        return g, d

    monkeypatch.setattr(sn_dcgan, "build", with_batch_norm)
    trial = arm("sn_dcgan", {"relativistic": {}}, **OFF)
    with pytest.raises(UserError, match="variants.relativistic: refuses batch norm in D, here BatchNorm2d in sn_dcgan"):
        build(trial, load_data(trial)[0], torch.device("meta"))
    build(arm("sn_dcgan", {}), load_data(trial)[0], torch.device("meta"))
