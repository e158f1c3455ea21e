"""The relativistic pair loss against numbers recorded from a public implementation, through the variant's own hooks."""

import pytest

from harness.variants.relativistic import Options, hooks
from tests.golden._golden import Case, cases, close, gradients

EXACT = 1e-14


@pytest.mark.parametrize("case", cases("method_relativistic*"))
def test_both_sides(case: Case) -> None:
    real, fake = (case[f"in/{side}_logits"].double().requires_grad_() for side in ("real", "fake"))
    gan = hooks(Options(), 32).adversarial
    assert gan is not None and gan.paired
    for step, loss in (("d", gan.d(real, fake)), ("g", gan.g(fake, real))):
        close(loss, case[f"out/{step}_loss"], EXACT, step)
        for side, grad in gradients(loss, {"real": real, "fake": fake}).items():
            close(grad, case[f"out/{step}_grad_{side}"], EXACT, f"{step}_grad_{side}")
    for i in range(len(real)):  # a pair alone
        one = slice(i, i + 1)
        close(gan.d(real[one], fake[one]), case["out/d_per_sample"].reshape(-1)[i], EXACT, f"pair {i} of D's")
        close(gan.g(fake[one], real[one]), case["out/g_per_sample"].reshape(-1)[i], EXACT, f"pair {i} of G's")
