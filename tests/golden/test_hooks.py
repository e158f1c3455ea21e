"""The sketches of tests/contract/sketches.py against numbers of the public implementations."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from backbones import Last
from harness.method.generator import Fakes
from harness.method.hooks import DStep, GStep
from tests.contract.sketches import San, Zcr
from tests.golden._golden import Case, cases, close, gradients

EXACT = 1e-12


@pytest.mark.parametrize(("case", "kind"), cases("method_san*", lambda c: [(k, k) for k in ("uncond", "cond")]))
def test_san(case: Case, kind: str) -> None:
    of, out = f"in/{kind}", f"out/{kind}"
    weight = case[f"{of}/weight"].requires_grad_()
    h = {side: case[f"{of}/h_{side}"].requires_grad_() for side in ("real", "fake")}
    labels = case[f"{of}/y"] if kind == "cond" else None
    last = Last(weight if labels is None else weight[labels], torch.zeros(1, dtype=torch.float64))
    real, fake = (San().head(h[side], last, labels, cast(Any, side)) for side in ("real", "fake"))
    assert real.term is not None and fake.term is not None
    close(real.d, case[f"{out}/real_fun"], EXACT, "real_fun")
    close(fake.d, case[f"{out}/fake_fun"], EXACT, "fake_fun")
    terms = real.term + fake.term
    close(terms, case[f"{out}/d_loss_dir_part"], EXACT, "dir_part")
    loss = F.relu(1 - real.d).mean() + F.relu(1 + fake.d).mean() + terms
    close(loss, case[f"{out}/d_loss"], EXACT, "d_loss")
    inputs = {"weight": weight, "h_real": h["real"], "h_fake": h["fake"]}
    for name, grad in gradients(loss, inputs).items():
        close(grad, case[f"{out}/d_grad_{name}"], EXACT, name)
    last = last._replace(weight=weight if labels is None else weight[labels])
    g = San().head(h["fake"], last, labels, None)
    assert g.term is None
    close(g.g, case[f"{out}/g_logits"], EXACT, "g_logits")
    for name, grad in gradients(-g.g.mean(), {"weight": weight, "h_fake": h["fake"]}).items():
        close(grad, case[f"{out}/g_grad_{name}"], EXACT, name)


@pytest.mark.parametrize("case", cases("method_consistency*"))
def test_zcr(case: Case) -> None:
    own = Zcr(case.config["lambda_zcr_d"], case.config["lambda_zcr_g"], case.config["sigma_z"])
    images, shifted = case["in/zcr_img_z"].requires_grad_(), case["in/zcr_img_z_shifted"].requires_grad_()
    logits, near = case["in/zcr_logits_z"].requires_grad_(), case["in/zcr_logits_z_shifted"].requires_grad_()
    z = torch.zeros(len(logits), 2)

    def draws(name: str) -> torch.Generator:
        return torch.Generator().manual_seed(0)

    def sample(other: Tensor, labels: Tensor | None) -> Fakes:
        assert other.shape == z.shape and 0 < other.abs().max() < 6 * case.config["sigma_z"]
        return Fakes(shifted, shifted, None)

    def score(seen: Tensor, labels: Tensor | None) -> Tensor:
        assert seen is shifted
        return near

    fakes: Any = Fakes(images, images, None)
    none: Any = None
    d = own.d_term(DStep(none, none, z, fakes, none, none, logits, score, sample, cast(Any, draws), 0), {})
    close(d.value, case["out/zcr_d_term"], EXACT, "d_term")
    for name, grad in gradients(d.value, {"z": logits, "z_shifted": near}).items():
        close(grad, case[f"out/zcr_d_grad_{name}"], EXACT, name)
    g = own.g_term(GStep(fakes, none, z, none, none, none, none, score, sample, cast(Any, draws), 0), {})
    close(g.value, case["out/zcr_g_term"], EXACT, "g_term")
    for name, grad in gradients(g.value, {"img_z": images, "img_z_shifted": shifted}).items():
        close(grad, case[f"out/zcr_g_grad_{name}"], EXACT, name)
