"""SAN against numbers recorded from the authors' implementations, through the variant's own hooks."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from backbones import Last
from harness.method.hooks import Head
from harness.variants.san import Options, hooks, scale_and_direction
from tests.golden._golden import Case, cases, close, close_all, gradients

EXACT = 1e-12
SAN = hooks(Options(), 32)


def kinds(case: Case) -> list[tuple[str, str]]:
    """One D without classes or with them, and one with a scale and a bias of its own, as the file has them."""
    return [(k, k) for k in sorted({key.split("/")[1] for key in case.keys if key.startswith("in/")})]


def parameters(case: Case, kind: str) -> dict[str, Tensor]:
    given = case.group(f"in/{kind}/")
    return {name: value.double().requires_grad_() for name, value in given.items() if name != "y"}


def look(case: Case, kind: str, given: dict[str, Tensor], side: Any) -> Head:
    """The head's answer to the features of one side, with the last layer as the kind has it. One with a scale of its
    own is the same function as a layer of that length, and its bias is added to the features."""
    h, weight = given["h_fake" if side is None else f"h_{side}"], given["weight"]
    labels = case.group(f"in/{kind}/y").get("")
    if labels is not None:
        weight = weight[labels]
    if "scale" in given:
        weight = given["scale"] * scale_and_direction(weight)[1]
    if "bias" in given:
        h = h + given["bias"]
    return SAN.head(h, Last(weight, torch.zeros(1, dtype=torch.float64)), labels, side)


def parts_of_d(case: Case, kind: str, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """D's loss and its parts, by the names of the file."""
    real, fake = look(case, kind, given, "real"), look(case, kind, given, "fake")
    assert real.term is not None and fake.term is not None
    close(real.d, case[f"out/{kind}/real_fun"], EXACT, "real_fun")
    close(fake.d, case[f"out/{kind}/fake_fun"], EXACT, "fake_fun")
    close(-real.term, case[f"out/{kind}/real_dir"].mean(), EXACT, "real_dir")
    close(fake.term, case[f"out/{kind}/fake_dir"].mean(), EXACT, "fake_dir")
    hinge, direction = F.relu(1 - real.d).mean() + F.relu(1 + fake.d).mean(), real.term + fake.term
    softplus = F.softplus(-real.d).mean() + F.softplus(fake.d).mean() + direction
    return {"": hinge + direction, "_fun_part": hinge, "_dir_part": direction, "_softplus": softplus}


@pytest.mark.parametrize(("case", "kind"), cases("method_san*", kinds))
def test_d(case: Case, kind: str) -> None:
    given, out = parameters(case, kind), f"out/{kind}"
    for part, loss in parts_of_d(case, kind, given).items():
        if f"{out}/d_loss{part}" in case:
            close(loss, case[f"{out}/d_loss{part}"], EXACT, f"d_loss{part}")
    for part in parts_of_d(case, kind, given):
        names = [name for name in given if f"{out}/d_grad_{name}{part}" in case]
        if names:
            grads = gradients(parts_of_d(case, kind, given)[part], {name: given[name] for name in names})
            close_all(grads, {name: case[f"{out}/d_grad_{name}{part}"] for name in names}, EXACT)
            assert part or names == list(given)


@pytest.mark.parametrize(("case", "kind"), cases("method_san*", kinds))
def test_g_sees_the_whole_layer(case: Case, kind: str) -> None:
    given, out = parameters(case, kind), f"out/{kind}"
    seen = look(case, kind, given, None)
    assert seen.term is None
    close(seen.g, case[f"{out}/g_logits"], EXACT, "g_logits")
    if f"{out}/g_loss" in case:
        close(-seen.g.mean(), case[f"{out}/g_loss"], EXACT, "g_loss")
    names = [n for n in given if f"{out}/g_grad_{n}" in case]
    if names:
        grads = gradients(-seen.g.mean(), {n: given[n] for n in names})
        close_all(grads, {n: case[f"{out}/g_grad_{n}"] for n in names}, EXACT)


@pytest.mark.parametrize(("case", "kind"), cases("method_san*", kinds))
def test_the_direction_is_the_weight_put_back_onto_the_sphere(case: Case, kind: str) -> None:
    scale, omega = scale_and_direction(case[f"in/{kind}/weight"])
    close(scale * omega, case[f"in/{kind}/weight"], EXACT, "weight")
    if (key := f"out/{kind}/weight_after_normalize") in case:
        close(omega, case[key], EXACT, key)
