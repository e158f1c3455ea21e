"""The readings of L_align side by side: their measures in closed form, and the three facts on a small trained model."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from harness.evaluation import readings
from harness.evaluation.readings import _pulls, compare, peaks
from harness.experiment import files
from harness.experiment.parse import merge, parse_trial
from harness.method.hooks import per_logit
from harness.method.losses import ADVERSARIAL
from harness.training.arm import build, load_data
from harness.training.state import new_state
from harness.training.train import train
from harness.variants import align

PAPER, COHERENT = "logit, after sum (paper)", "softplus, per channel (coherent)"


def test_the_named_readings_are_the_profiles_and_all_align_the_same_levels():
    found = readings.readings((8, 16))
    assert {o.levels for o in found.values()} == {(8, 16)}
    same = {name: (o.objective, o.rectify, o.truncate) for name, o in found.items()}
    assert same[PAPER] == ("logit", "after_sum", "zero_below")
    assert same[COHERENT] == ("softplus", "per_channel", "zero_below")
    assert same["release"] == ("softplus", "per_channel", "mean_above")
    assert found["release"].compare_at == "image"
    assert len(set(same.values())) == len(found) == 6


def test_peaks_of_known_maps():
    x = torch.zeros(4, 1, 5, 5)
    x[0, 0, 0, 0] = x[0, 0, 4, 2] = 1  # two, at the border
    x[1, 0, 1:3, 1] = 1  # a ridge of two equal pixels has no pixel above all its neighbours
    x[2, 0, 2] = torch.arange(5.0)
    found = peaks(x)
    assert found[:3].tolist() == [2, 0, 1]
    assert np.isnan(found[3])


def test_pulls_of_known_gradients():
    own = torch.tensor([3.0, 4.0, 0.0, 2.0]).reshape(2, 1, 1, 2)
    pull = torch.tensor([-6.0, -8.0, 5.0, 0.0]).reshape(2, 1, 1, 2)
    found = _pulls(pull, own)
    assert found["ratio"].tolist() == pytest.approx([2, 2.5])
    assert found["cosine"].tolist() == pytest.approx([-1, 0])
    assert found["batch"].tolist() == pytest.approx([(125 / 29) ** 0.5])
    none = _pulls(0 * pull, own)
    assert np.isnan(none["cosine"]).all()
    assert not none["ratio"].any()
    assert np.isnan(_pulls(pull, 0 * own)["batch"]).all()


def small(kimg):
    """A narrow SN-DCGAN, a baseline, on drawn shapes, after `kimg`."""
    over = {
        "dataset": {"name": "synthetic", "resolution": 32, "num_images": 1000},
        "backbone": {"width": 0.125},
        "train": {"total_kimg": kimg or 1, "batch_size": 16},
        "eval": {"metrics": {"disequilibrium": {}}, "num_fakes": 64},
    }
    trial = parse_trial(merge(files.preset("chainer", "test"), over, "test"), "test")
    data, _ = load_data(trial)
    g, d, hooks = build(trial, data, torch.device("cpu"))
    state = new_state(g, d, trial.train)
    train(state, trial.train, data, hooks, seed=0, conditional=False, upkeep=lambda state: not kimg)
    return g, d, data, hooks, per_logit(ADVERSARIAL[trial.train.loss])


def test_a_comparison_leaves_the_networks_as_they_were_and_repeats():
    g, d, data, hooks, gan = small(0)
    before = {k: v.clone() for k, v in (g.state_dict() | d.state_dict()).items()}
    found = compare(g, d, data, hooks, gan, count=8, batch_size=8)
    assert compare(g, d, data, hooks, gan, count=8, batch_size=8) == found
    assert all(torch.equal(v, before[k]) for k, v in (g.state_dict() | d.state_dict()).items())
    assert all(p.grad is None for network in (g, d) for p in network.parameters())
    assert {r["num"] + r["num_flat"] for r in found[PAPER].values()} == {1, 8}
    assert found["logit, absolute"]["signs/fakes/4"]["value"] == pytest.approx(1)


def mean(found, reading, what):
    return np.mean([found[reading][f"{what}/{level}"]["value"] for level in (4, 8, 16)])


@pytest.mark.slow
def test_the_three_facts_of_a_small_trained_model():
    """Maps of the paper's text exclude each other under D and -D, and are empty where D is sure of a fake; per channel
    none is. The logit pulls against G's own loss, softplus along. And weight 1 is no neutral choice."""
    g, d, data, hooks, gan = small(1)
    found = compare(g, d, data, hooks, gan, count=128, batch_size=64)
    summed, channels = (PAPER, "softplus, after sum"), ("logit, per channel", COHERENT, "release")
    for reading in summed:
        assert all(found[reading][f"signs/fakes/{level}"]["value"] < -0.2 for level in (4, 8, 16))
    for reading in channels:
        assert mean(found, reading, "signs/fakes") > mean(found, PAPER, "signs/fakes") + 0.3
        assert mean(found, reading, "empty/fakes") == mean(found, reading, "empty/reals") == 0
    assert found[PAPER]["empty/fakes/4"]["value"] > 0.5
    for reading in (PAPER, "logit, per channel"):
        assert found[reading]["cosine"]["value"] < -0.1
    for reading in ("softplus, after sum", COHERENT, "release"):
        assert found[reading]["cosine"]["value"] > 0.3
    first = compare(*small(0), count=128, batch_size=64)
    for reading in found:
        assert first[reading]["ratio"]["value"] > 100 > 10 * found[reading]["ratio"]["value"]


def test_the_rule_of_a_reading_is_the_one_that_trains():
    """What the comparison calls coherent is the profile, option by option; its bound only weighs."""
    profile: Any = align.PROFILES["coherent"]
    assert align.Options(profile="coherent", **profile) == replace(
        readings.readings((4, 8, 16))[COHERENT], max_ratio=0.1
    )
