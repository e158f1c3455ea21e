"""Every file of the shelf of variants, and some that a user would bring, are options that read back; and what the
protocol refuses. How each trains on which backbone: tests/contract/cells.py."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import harness.variants
from harness import plugins
from harness.errors import UserError
from harness.experiment.parse import parse_trial, to_plain
from harness.experiment.schema import parse, plain
from harness.experiment.spec import Trial
from harness.training.arm import build, load_data
from harness.training.state import new_state
from harness.training.train import train
from tests import tiny
from tests.contract.cells import VARIANTS, needed


def trial_of(backbone: str, name: str, conditional: bool = False, **train: Any) -> Trial:
    """A tiny trial with variant `name`."""
    variant = plugins.find("harness.variants", name)
    recipe = {"total_kimg": 0.032, **train, **tiny.without(variant)}
    return tiny.trial(backbone, "baseline", conditional, variants={**needed(variant), name: {}}, train=recipe)


@pytest.mark.parametrize("name", VARIANTS)
def test_defaults_parse_and_read_back(name: str) -> None:
    module = plugins.find("harness.variants", name)
    options = parse(module.Options, {}, name)
    assert parse(module.Options, plain(options), name) == options
    assert hasattr(module, "encoder") or hasattr(module, "hooks")
    for profile in getattr(module, "PROFILES", {}).values():
        parse(module.Options, profile, name)
    trial = trial_of("sn_dcgan", name)
    assert parse_trial(to_plain(trial), "t") == trial


# ── rules of the protocol ────────────────────────────────────────────────────


def test_a_paired_loss_pairs() -> None:
    """Partners share a label in both steps, and D's loss is that of the pairs with R1 and R2."""
    trial = trial_of("sn_dcgan", "paired", conditional=True)
    data, _ = load_data(trial)
    g, d, hooks = build(trial, data, torch.device("cpu"))
    labels: list[Tensor] = []
    d.register_forward_pre_hook(lambda _, args: labels.append(args[1]))
    state = new_state(g, d, trial.train)
    train(state, trial.train, data, hooks, seed=0, conditional=True, upkeep=lambda s: s.nimg >= 16)
    assert len(labels) == 8  # D: reals, fakes; G: reals, fakes; two steps
    for real, fake in zip(labels[::2], labels[1::2], strict=True):
        assert torch.equal(real, fake)
    assert torch.equal(labels[2], labels[4])  # G meets the reals of D's next step
    stats = state.stats.stacked()
    apart = stats["scores/fake"] - stats["scores/real"]
    torch.testing.assert_close(stats["loss/d"], torch.nn.functional.softplus(apart).mean(1))
    assert (stats["loss/paired/r1"] > 0).all() and (stats["loss/paired/r2"] > 0).all() and "loss/r1" not in stats


@pytest.mark.parametrize(
    ("variants", "train", "message"),
    [
        ({"paired": {}}, {"r1_gamma": 1.0, "r1_interval": 4}, "variants.paired: refuses train.r1_gamma, here 1.0; set"),
        ({"paired": {}, "other": {}}, {}, "variants.other: can't be in one arm with paired; keep one of them"),
        ({"strange": {}}, {}, "variants.strange: CLASHES: 'train.gama': no such key of a trial"),
        ({"picky": {}}, {}, "variants.picky.weight: 2: must be at most 1 without sel"),
    ],
)
def test_what_a_variant_refuses_is_one_line(
    variants: Any, train: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Options:\n    weight: int = 2\n"
    check = (
        "def check(options, others):\n"
        "    if 'sel' not in others and options.weight > 1:\n"
        "        raise ValueError(f'weight: {options.weight}: must be at most 1 without sel')\n"
    )
    clashes = {"other": "CLASHES = ('paired',)\n", "strange": "CLASHES = ('train.gama',)\n"}
    for name, text in {**clashes, "picky": check}.items():
        (tmp_path / f"{name}.py").write_text(options + text)
        monkeypatch.delitem(sys.modules, f"harness.variants.{name}", raising=False)
    monkeypatch.setattr(harness.variants, "__path__", [*harness.variants.__path__, str(tmp_path)])
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    with pytest.raises(UserError) as e:
        tiny.trial("sn_dcgan", variants=variants, train=train)
    assert message in str(e.value) and "\n" not in str(e.value)
