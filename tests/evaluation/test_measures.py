"""What a measure's digest holds: all that decides its records, and not how it is written."""

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from torch import nn

from harness import plugins
from harness.data.imageset import ImageSet
from harness.evaluation import evaluate, measures
from harness.evaluation.evidence import Setting
from harness.experiment.schema import parse
from harness.experiment.spec import Eval, Plugin
from harness.metrics import disequilibrium

FD, DI = "fd_efficientnet_lite0", "disequilibrium"


def images(count, name="a"):
    return ImageSet(np.zeros((count, 3, 8, 8), np.uint8), None, 0, f"{name}{count}", {})


def metric(name, **options):
    return Plugin(name, parse(plugins.find("harness.metrics", name).Options, options, name))


def setting(*metrics, **over):
    spec = Eval(metrics, **{"num_fakes": 100, **{k: over.pop(k) for k in ("num_fakes", "num_reals") if k in over}})
    return Setting(spec, **{"data": images(200), "heldout": images(80, "h"), **over})


def digests(*metrics, **over):
    return list(measures.split(setting(*metrics, **over)))


def test_each_protocol_is_a_measure_of_its_own_however_it_is_written():
    both = digests(metric(FD, protocols=[{}, {"num_fakes": 50}]), metric(DI))
    assert len(set(both)) == 3
    assert digests(metric(FD, protocols=[{"num_fakes": 50, "num_reals": 200}])) == both[1:2]
    assert digests(metric(FD)) == digests(metric(FD, protocols=[{"num_reals": 200}])) == both[:1]
    assert digests(metric(FD, protocols=[{}, {}])) == both[:1], "asked twice, measured once"
    asked = measures.split(setting(metric(FD, protocols=[{}, {"num_fakes": 50}])))
    assert [digests(one) for one in asked.values()] == [[digest] for digest in asked]


def test_more_fakes_move_no_distance_of_so_many_and_every_figure_of_all():
    half = {"protocols": [{"num_fakes": 50}]}
    assert digests(metric(FD, **half)) == digests(metric(FD, **half), num_fakes=300)
    for name in (FD, DI):
        assert digests(metric(name)) != digests(metric(name), num_fakes=99)
    assert digests(metric(DI)) != digests(metric(DI), num_reals=90)


@pytest.mark.parametrize(
    "over",
    [{"seed": 1}, {"conditional": True}, {"weights_used": "ema"}, {"data": images(200, "b")}],
    ids=lambda over: next(iter(over)),
)
def test_whatever_decides_its_records_decides_its_digest(over):
    assert not set(digests(metric(FD), metric(DI))) & set(digests(metric(FD), metric(DI), **over))


def test_options_and_epochs_decide_the_digest_of_their_own_metric(monkeypatch):
    before = digests(metric(FD), metric(DI))
    assert digests(metric(FD, size=64), metric(DI))[0] != before[0]
    assert digests(metric(FD), metric(DI, n=32))[1] != before[1]
    monkeypatch.setattr(disequilibrium, "EPOCH", 2)
    after = digests(metric(FD), metric(DI))
    assert after[0] == before[0] and after[1] != before[1]


def test_the_images_compared_with_decide_it_and_no_others():
    whole, other = images(400, "whole"), images(400, "other")
    part, of_other = (replace(images(200), part_of=lambda x=x: x) for x in (whole, other))
    asked = metric(FD), metric(FD, protocols=[{"split": "trained"}]), metric(DI)
    first, second = ([digests(one, data=data)[0] for one in asked] for data in (part, of_other))
    assert first[0] != second[0] and first[1:] == second[1:]
    held = {"heldout": images(80, "other")}
    assert digests(metric(DI), **held) != digests(metric(DI)) and digests(metric(FD), **held) == digests(metric(FD))


def test_a_pass_makes_no_more_fakes_than_are_asked_for(monkeypatch, tmp_path):
    asked, network = [], cast(Any, nn.Identity())

    class Stop(Exception):
        pass

    def see(job, *_):
        asked.append(job.count)
        raise Stop

    monkeypatch.setattr(evaluate, "see_shared", see)
    monkeypatch.setattr(evaluate, "reference", lambda *_, **__: evaluate.Evidence())
    for metrics, count in (([metric(FD, protocols=[{"num_fakes": 40}])], 40), ([metric(FD)], 100), ([metric(DI)], 100)):
        case = setting(*metrics)
        with pytest.raises(Stop):
            evaluate.evaluate(
                network, network, case.data, case.heldout, case.spec, seed=0, conditional=False, device="cpu",
                cache=tmp_path, weights_used="raw",
            )  # fmt: skip
        assert asked[-1] == count
