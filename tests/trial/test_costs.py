"""Parameters and multiply-adds that stand in a result, against layers counted by hand."""

import pytest
import torch

from harness.experiment.parse import merge, parse_trial, to_plain
from harness.experiment.spec import Trial
from harness.training.arm import build, load_data
from harness.trial import run as trial
from tests import tiny


def costs(t: Trial) -> dict[str, int]:
    g, d, _ = build(t, load_data(t)[0], torch.device("cpu"))
    before = {k: v.clone() for m in (g, d) for k, v in m.state_dict().items()}
    found = trial.costs(g.train(), d.eval())
    assert g.training and g.backbone.training and not d.training
    assert all(torch.equal(before[k], v) for m in (g, d) for k, v in m.state_dict().items())
    assert all(p.grad is None for m in (g, d) for p in m.parameters())
    return found


def test_the_paper_sized_sn_dcgan() -> None:
    """A k x k convolution of c to o channels costs k^2 c o per pixel it writes, or reads if transposed."""
    full = merge(to_plain(tiny.trial()), {"backbone": {"width": 1.0, "z_dim": 128}}, "test")
    found = costs(parse_trial(full, "test"))
    g = 128 * 8192 + 16 * (16 * 512 * 256 + 64 * 256 * 128 + 256 * 128 * 64) + 9 * 1024 * 64 * 3
    d = 9 * 1024 * 3 * 64 + 3 * 16 * 256 * 64 * 128 + 3 * 9 * 256 * 128 * 128 + 512 * 16
    assert (found["macs_g"], found["macs_d"]) == (g, d)
    assert found["params_d"] > found["params_g"] > 3_000_000


@pytest.mark.parametrize("backbone", tiny.BACKBONES)
@pytest.mark.parametrize("conditional", [False, True])
def test_an_arm_adds_what_its_layers_have(backbone: str, conditional: bool) -> None:
    baseline, sel, align, flatten = (costs(tiny.trial(backbone, arm, conditional)) for arm in tiny.ARMS)
    assert sel == align
    assert sel["params_g"] - baseline["params_g"] == 3 * ((9 + 1) * 64 + 2 * (9 * 64 + 1))
    assert sel["macs_g"] - baseline["macs_g"] == (16 + 64 + 256) * 9 * 64 * 3
    z = tiny.BACKBONES[backbone]["z_dim"]
    assert flatten["params_g"] - baseline["params_g"] == z * (z + 16 + 64 + 256) + z
    assert flatten["macs_g"] - baseline["macs_g"] == z * (z + 16 + 64 + 256)
    assert len({c["macs_d"] for c in (baseline, sel, flatten)}) == 1
