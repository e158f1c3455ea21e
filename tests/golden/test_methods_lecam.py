"""LeCam against numbers recorded from the authors' two rules, through the variant's own hooks.

The authors move the averages by the logits of a step before its penalty; training here does so behind it. So these
tests call `learn` before `d_term`; tests/variants/test_lecam.py has the order of training.
"""

from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.method.hooks import DStep, Hooks, Memory
from harness.variants import lecam
from tests.golden._golden import Case, cases, close, gradients

EXACT = 1e-12


def rule(case: Case, name: str) -> tuple[lecam.LeCam, Memory, Tensor]:
    """The variant with the constants of one of the two rules, what it remembers at first, and the number of each step,
    so that a step shows as many images as the file has logits."""
    config, batch = case.config[name], case["in/real_logits"].shape[1]
    memory: Memory
    if name == "biggan":
        options = lecam.Options(case.config["lambda_"], config["decay"], config["start_itr"] * batch / 1000)
        first = torch.tensor(config["init"], dtype=torch.float64)
        memory = {"real": first, "fake": first, "weight": torch.ones_like(first)}
        steps = case["in/iteration"]
    else:
        assert config["zero_debias"]
        options = lecam.Options(case.config["lambda_"], config["decay"])
        memory = {k: v.double() for k, v in lecam.hooks(options, 32).memory().items()}
        steps = torch.arange(1, len(case["in/real_logits"]) + 1)
    return cast(lecam.LeCam, lecam.hooks(options, 32)), memory, steps


def as_step(real: Tensor, fake: Tensor, nimg: int) -> DStep:
    none = cast(Any, None)
    return DStep(
        reals=none, labels=None, z=none, fakes=none, fake_labels=None, real_logits=real, fake_logits=fake, score=none,
        sample=none, draws=none, nimg=nimg, see=none, number=0,
    )  # fmt: skip


@pytest.mark.parametrize(("case", "name"), cases("method_lecam*", lambda c: [(n, n) for n in ("biggan", "stylegan2")]))
def test_rule(case: Case, name: str) -> None:
    own, memory, steps = rule(case, name)
    real, fake = (case[f"in/{side}_logits"].flatten(1).double() for side in ("real", "fake"))
    batch, weight, out = real.shape[1], case.config["lambda_"], f"out/{name}"
    assert type(own).learn is not Hooks.learn and type(own).d_term is not Hooks.d_term
    for i, number in enumerate(steps.tolist()):
        r, f = real[i].requires_grad_(), fake[i].requires_grad_()
        memory = own.learn(memory, r.detach(), f.detach(), {}, batch, number * batch)
        averages = torch.stack(own.averages(memory))
        close(averages, case[f"{out}/ema_real_fake"][i], EXACT, f"averages {number}")
        if f"{out}/biased_real_fake" in case:
            biased = torch.stack([memory["real"], memory["fake"]])
            close(biased, case[f"{out}/biased_real_fake"][i], EXACT, f"biased {number}")
        penalty = lecam.distance(r, f, *averages)
        close(penalty, case[f"{out}/penalty"][i], EXACT, f"penalty {number}")
        term = own.d_term(as_step(r, f, number * batch), memory)
        if f"{out}/active" in case:
            assert (term is not None) == bool(case[f"{out}/active"][i])
            total = F.relu(1 - r).mean() + F.relu(1 + f).mean() + (0 if term is None else term.value)
            close(total, case[f"{out}/hinge_plus_active_lambda_penalty"][i], EXACT, f"hinge {number}")
        else:
            assert term is not None
        value = weight * penalty if term is None else term.value
        if term is not None:
            close(term.parts["distance"], case[f"{out}/penalty"][i], EXACT, f"part {number}")
        for side, grad in gradients(value, {"real": r, "fake": f}).items():
            close(grad, case[f"{out}/grad_{side}_of_lambda_penalty"][i].flatten(), EXACT, f"grad_{side} {number}")
