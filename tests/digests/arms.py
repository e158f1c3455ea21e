"""Eight tiny arms, and the few steps of each that are digested: real data, networks and loop, one thread."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harness.experiment import ids
from harness.experiment.spec import Trial
from harness.training.arm import build, load_data
from harness.training.state import new_state
from harness.training.train import train
from tests import tiny


class Arm(NamedTuple):
    """The first three arguments of `tiny.trial`, the trial's seed and what is laid on its `train`."""

    backbone: str
    arm: str
    conditional: bool
    seed: int
    train: dict[str, Any]


# Chosen so that grounds agree (about 1e-5 over four of them): where a gradient is only rounding, Adam with a small eps
# makes whole steps of its sign; and where a value lies next to a kink (ReLU, the extrema and the threshold of L_align)
# rounding decides the side, so each arm has a seed at which none does.
_ADAM = {"eps": 1e-3}
_SN_DCGAN = {"total_kimg": 0.024, "g": _ADAM, "d": _ADAM}
_STYLEGAN2 = {"total_kimg": 0.024, "g": {"lr": 2.5e-3, **_ADAM}, "d": {"lr": 2.5e-3, **_ADAM}}
_TWO_OF_D = {"total_kimg": 0.048, "d_steps": 2, "loss": "hinge"}
ARMS = {
    "sn_dcgan-baseline": Arm("sn_dcgan", "baseline", False, 7, {**_SN_DCGAN, **_TWO_OF_D}),
    "sn_dcgan-sel": Arm("sn_dcgan", "sel", True, 7, {**_SN_DCGAN, "batch_gpu": 4, "r1_gamma": 1.0, "r1_interval": 2}),
    "sn_dcgan-align": Arm("sn_dcgan", "align", False, 7, {**_SN_DCGAN, "lr_decay": "linear"}),
    "sn_dcgan-flatten": Arm("sn_dcgan", "flatten", False, 7, {**_SN_DCGAN, "ema_kimg": 0.02, "loss": "hinge"}),
    # All of StyleGAN2's: R1, path length, style mixing, EMA; microbatches but in the last.
    "stylegan2-baseline": Arm("stylegan2", "baseline", False, 4, _STYLEGAN2),
    "stylegan2-sel": Arm("stylegan2", "sel", True, 6, _STYLEGAN2),
    "stylegan2-align": Arm("stylegan2", "align", False, 1, {**_STYLEGAN2, **_TWO_OF_D}),
    "stylegan2-flatten": Arm("stylegan2", "flatten", True, 3, {**_STYLEGAN2, "ema_rampup": None, "batch_gpu": None}),
}


def epochs(name: str) -> dict[str, int]:
    """The EPOCHs above 1 that arm `name` hangs on."""
    found: dict[str, int] = ids.of_trial(_trial(name))["epochs"]
    return found


def _trial(name: str) -> Trial:
    arm = ARMS[name]
    return tiny.trial(arm.backbone, arm.arm, arm.conditional, train=arm.train, seed=arm.seed)


def trained(name: str) -> dict[str, Tensor]:
    """All tensors of the state of arm `name` after its steps, without what was only measured."""
    trial = _trial(name)
    data, _ = load_data(trial)
    with one_thread():
        g, d, hooks = build(trial, data, torch.device("cpu"))
        state = new_state(g, d, trial.train)
        train(
            state, trial.train, data, hooks,
            seed=trial.seed, conditional=trial.conditional, upkeep=lambda state: False,
        )  # fmt: skip
    return _unmeasured(state.tensors())


def _unmeasured(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As if the gradients of L_align had not been looked at: no such values, and the others numbered without them."""
    measured = ("raw/align/", "loss/align/ratio", "loss/align/cosine")
    left = {k: v for k, v in tensors.items() if not k.partition("/")[2].startswith(measured)}
    places = [k for k in left if k.startswith("places/")]
    order = torch.cat([left[k] for k in places]).sort().values if places else torch.zeros(0)
    return left | {k: torch.searchsorted(order, left[k]) for k in places}


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread of OpenMP, MKL and oneDNN within: how many share a sum decides its last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
