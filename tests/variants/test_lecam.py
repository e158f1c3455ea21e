"""LeCam in training: tests/golden/test_methods_lecam.py has its equations."""

from typing import Any

import pytest
import torch

from harness.variants import lecam
from tests.variants.arms import arm, trained, unequal

NAMES = ("real", "fake", "weight")


def test_a_step_is_trained_on_the_averages_of_the_steps_before_it() -> None:
    """One step old: the first has none. Every step moves them once, by the mean over all logits of its steps of D and
    their microbatches, so that the number of processes that made them doesn't matter."""
    recipe: dict[str, Any] = {"total_kimg": 0.064, "d_steps": 2, "d": {"lr": 0.02}, "g": {"lr": 0.02}}
    state = trained(arm("stylegan2", {"lecam": {"weight": 2.0, "decay": 0.8}}, **recipe))
    stats = state.stats.stacked()
    real, fake = (stats[f"scores/{side}"].view(4, 4, 4) for side in ("real", "fake"))  # steps, passes, images
    distances = stats["loss/lecam/distance"].view(3, 4)
    a_real = a_fake = weight = torch.zeros(())
    for i in range(4):
        if i:
            for j in range(4):
                wanted = lecam.distance(real[i, j], fake[i, j], a_real / weight, a_fake / weight)
                torch.testing.assert_close(distances[i - 1, j], wanted)
                fresh = lecam.distance(real[i, j], fake[i, j], real[i].mean(), fake[i].mean())
                assert not torch.isclose(wanted, fresh), "told from the averages of its own step"
        a_real, a_fake = 0.8 * a_real + 0.2 * real[i].mean(), 0.8 * a_fake + 0.2 * fake[i].mean()
        weight = 0.8 * weight + 0.2
    for name, value in zip(NAMES, (a_real, a_fake, weight), strict=True):
        torch.testing.assert_close(state.memory["lecam"][name], value)


def test_until_its_start_the_averages_are_the_last_steps_and_nothing_is_added() -> None:
    """Steps of 8 images and a start at 16: the third step begins there, the fourth is the first with a term."""
    late = {"lecam": {"start_kimg": 0.016}}
    assert not unequal(trained(arm("sn_dcgan", {})), trained(arm("sn_dcgan", late)), "g/", "d/")
    state = trained(arm("sn_dcgan", late, total_kimg=0.032))
    stats = state.stats.stacked()
    assert len(stats["loss/lecam/distance"]) == 1
    for side in ("real", "fake"):
        first, *others = stats[f"scores/{side}"].mean(1)
        for mean in others:  # the step that ends at the start finds the last mean, and decays from there on
            first = 0.99 * first + 0.01 * mean
        torch.testing.assert_close(state.memory["lecam"][side], first)
    assert state.memory["lecam"]["weight"] == 1


@pytest.mark.parametrize(("options", "moves"), [({"weight": 0.0}, False), ({"weight": 3.0}, True)])
def test_it_moves_d_by_its_weight(options: dict[str, Any], moves: bool) -> None:
    base, own = trained(arm("sn_dcgan", {})), trained(arm("sn_dcgan", {"lecam": options}))
    assert bool(unequal(base, own, "d/")) == moves


def test_its_memory_outlives_a_resume() -> None:
    trial = arm("sn_dcgan", {"lecam": {}}, total_kimg=0.032)
    kept: dict[str, Any] = {}

    def keep(state: Any) -> bool:
        if state.nimg == 16:
            kept.update({k: v.clone() for k, v in state.tensors().items()})
        return False

    whole, again = trained(trial, keep), trained(trial, resume=(kept, 16))
    assert kept["memory/lecam/weight"] == pytest.approx(1 - 0.99**2)
    assert not unequal(whole, again)
    forgetful = {k: v * 0 + 1 if k.startswith("memory/") else v for k, v in kept.items()}
    assert unequal(whole, trained(trial, resume=(forgetful, 16)), "d/")


def test_without_relu_it_is_the_papers_equation() -> None:
    real, fake = torch.randn(2, 16).double()
    a_real, a_fake = torch.tensor(0.3).double(), torch.tensor(-0.2).double()
    wanted = (real - a_fake).square().mean() + (fake - a_real).square().mean()
    torch.testing.assert_close(lecam.distance(real, fake, a_real, a_fake, rectified=False), wanted)
    assert lecam.distance(real, fake, a_real, a_fake) < wanted
