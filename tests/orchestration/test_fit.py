"""Shares of GPUs, from memory that was measured elsewhere."""

import pytest

from harness.errors import UserError
from harness.experiment.spec import Resources, Run
from harness.orchestration.fit import FRACTIONS, MARGIN, OVERHEAD, Memory, gpus, kind, shares
from harness.orchestration.schedule import Share
from tests import tiny

GIB = 2**30


@pytest.mark.parametrize(
    ("used", "has", "expected"),
    [(1, 80, 0.125), (7, 80, 0.125), (8, 80, 0.25), (30, 80, 0.5), (40, 80, 1.0), (79, 80, 1.0), (1, 16, 0.25)],
)
def test_small_trials_share_a_gpu(used, has, expected):
    assert gpus(Memory(used * GIB, has * GIB), parts=1, spare=1) == expected


def test_what_shares_a_gpu_fits_on_it():
    for used in range(0, 80 * GIB, GIB // 3):
        share = gpus(Memory(used, 80 * GIB), 8, 1)
        assert share in (*FRACTIONS, 1.0)
        assert share == 1 or (used * MARGIN + OVERHEAD) / share <= 80 * GIB


def test_one_that_fills_a_gpu_takes_several_only_where_they_are_idle_and_its_microbatches_divide():
    full = Memory(60 * GIB, 80 * GIB)
    assert [gpus(full, parts=8, spare=n) for n in (0, 1, 2, 3, 7, 8, 64)] == [1, 1, 2, 2, 4, 8, 8]
    assert gpus(full, parts=1, spare=64) == 1
    assert gpus(None, parts=4, spare=4) == 4  # unknown: as if it filled one
    assert gpus(Memory(GIB, 80 * GIB), parts=8, spare=64) == 0.125


def test_one_trial_of_each_kind_is_measured():
    base = tiny.trial()
    trials = {
        "a": base,
        "other seed": tiny.trial(seed=1),
        "longer": tiny.trial(train={"total_kimg": 9}),
        "batch": tiny.trial(train={"batch_size": 16}),
        "arm": tiny.trial("sn_dcgan", "align"),
        "precision": tiny.trial(train={"precision": "bf16"}),
        "resolution": tiny.trial("stylegan2", dataset={"resolution": 64}),
    }
    asked = []

    def measure(kinds):
        asked.extend(kinds)
        return {k: Memory(30 * GIB if t.variants else GIB, 80 * GIB) for k, t in kinds.items()}

    found = shares(trials, Run(), 2.0, measure)
    assert len(asked) == len(set(asked)) == 5
    assert found["a"] == found["other seed"] == Share(0.125, 1) and found["arm"] == Share(0.5, 1)
    assert kind(base) == kind(trials["longer"]) != kind(trials["batch"])


def never(kinds):
    raise AssertionError("measured without need")


def given(have=4.0, trial=None, **run):
    resources = {k: run.pop(k) for k in list(run) if k in ("gpus", "cpus", "processes")}
    return shares({"t": trial or tiny.trial("stylegan2")}, Run(resources=Resources(**resources), **run), have, never)[
        "t"
    ]


def test_nothing_is_measured_without_gpus_or_when_the_share_is_given():
    assert given(have=0.0) == Share(0.0, 1)
    assert given(device="cpu") == Share(0.0, 1)
    assert given(gpus=0.25, cpus=2) == Share(0.25, 2)
    assert given(gpus=2.0) == Share(2.0, 1, 2)
    assert given(processes=2) == Share(2.0, 1, 2)
    assert given(processes=2, device="cpu") == given(processes=2, have=0.0) == Share(0.0, 1, 2)


def test_shares_that_make_no_sense_are_refused():
    with pytest.raises(UserError, match="gpus: 1.5: must be whole"):
        given(gpus=1.5)
    with pytest.raises(UserError, match="2 processes on 0.5 GPUs"):
        given(gpus=0.5, processes=2)
    with pytest.raises(UserError, match="4 processes cannot divide the 2 microbatches"):
        given(gpus=4.0)
