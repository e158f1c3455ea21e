"""CR, bCR and zCR against recorded numbers, through the variant's own hooks: only D's logits and G's images are the
file's."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor

from harness.method.generator import Fakes
from harness.method.hooks import DStep, GStep, Hooks
from harness.rng import Streams
from harness.variants import consistency
from tests.golden._golden import Case, cases, close, gradients

EXACT = 1e-12
DRAWS = Streams(0, "test", 0)
NONE = cast(Any, None)


def variant(case: Case, kind: Any) -> Hooks:
    c = case.config
    if kind == "cr":
        return consistency.hooks(consistency.Options(kind, real=c["lambda_real"]), 32)
    if kind == "bcr":
        return consistency.hooks(consistency.Options(kind, real=c["lambda_real"], fake=c["lambda_fake"]), 32)
    options = consistency.Options(kind, zcr_d=c["lambda_zcr_d"], zcr_g=c["lambda_zcr_g"], delta=c["sigma_z"])
    return consistency.hooks(options, 32)


@pytest.mark.parametrize(("case", "kind"), cases("method_consistency*", lambda c: [(k, k) for k in ("cr", "bcr")]))
def test_consistency_in_image_space(case: Case, kind: str) -> None:
    names = [k.removeprefix("in/logits_") for k in sorted(case.keys) if k.startswith("in/logits_")]
    logits = {n: case[f"in/logits_{n}"].double().requires_grad_() for n in names}
    n = len(logits["real"])
    reals, fakes = torch.rand(n, 3, 8, 8), torch.rand(n, 3, 8, 8) - 2  # told apart by their sign

    def score(images: Tensor, labels: Tensor | None) -> Tensor:
        return logits["real_aug" if images.mean() > 0 else "fake_aug"]

    step = DStep(
        reals=reals, labels=None, z=NONE, fakes=Fakes(fakes, fakes, None), fake_labels=None, score=score, sample=NONE,
        real_logits=logits["real"], fake_logits=logits["fake"], draws=DRAWS, nimg=0, see=lambda x, kind: x, number=0,
    )  # fmt: skip
    term = variant(case, kind).d_term(step, {})
    assert term is not None
    close(term.value, case[f"out/{kind}"], EXACT, kind)
    for name, grad in gradients(term.value, logits).items():
        key = f"out/{kind}_grad_{name}"
        if key in case:
            close(grad, case[key], EXACT, key)
        else:
            assert kind == "cr" and not grad.any()


@pytest.mark.parametrize("case", cases("method_consistency*"))
def test_consistency_in_latent_space(case: Case) -> None:
    images, shifted = (case[f"in/zcr_img_{z}"].double().requires_grad_() for z in ("z", "z_shifted"))
    logits, near = (case[f"in/zcr_logits_{z}"].double().requires_grad_() for z in ("z", "z_shifted"))
    z = torch.zeros(len(logits), 16)

    def sample(other: Tensor, labels: Tensor | None) -> Fakes:
        assert other.shape == z.shape and 0 < other.abs().max() < 6 * case.config["sigma_z"]
        return Fakes(shifted, shifted, None)

    def score(seen: Tensor, labels: Tensor | None) -> Tensor:
        assert seen is shifted
        return near

    own, fakes = variant(case, "zcr"), Fakes(images, images, None)
    d = own.d_term(
        DStep(
            reals=NONE, labels=None, z=z, fakes=fakes, fake_labels=None, real_logits=NONE, fake_logits=logits,
            score=score, sample=sample, draws=DRAWS, nimg=0, see=lambda x, kind: x, number=0,
        ), {},
    )  # fmt: skip
    assert d is not None
    close(d.value, case["out/zcr_d_term"], EXACT, "d_term")
    for name, grad in gradients(d.value, {"z": logits, "z_shifted": near}).items():
        close(grad, case[f"out/zcr_d_grad_{name}"], EXACT, name)
    g = own.g_term(
        GStep(
            fakes=fakes, labels=None, z=z, logits=NONE, feats={}, gan=NONE, real_logits=None, score=score,
            sample=sample, draws=DRAWS, nimg=0,
        ), {},
    )  # fmt: skip
    assert g is not None
    close(g.value, case["out/zcr_g_term"], EXACT, "g_term")
    for name, grad in gradients(g.value, {"img_z": images, "img_z_shifted": shifted}).items():
        close(grad, case[f"out/zcr_g_grad_{name}"], EXACT, name)
