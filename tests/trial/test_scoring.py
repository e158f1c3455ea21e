"""Distances while a trial trains, and the best snapshot by them: found, kept, resumed, scored beside the last."""

import dataclasses
import json

import pytest
import torch

from harness.disk import cache_folder
from harness.errors import UserError
from harness.evaluation import evaluate
from harness.evaluation.evidence import record
from harness.experiment.parse import parse_trial, to_plain
from harness.store import checkpoint
from harness.training import trained
from harness.training.arm import build, load_data
from harness.training.state import State, new_state
from harness.trial import run as trials
from harness.trial import scoring
from tests import tiny

NAME = "fd_efficientnet_lite0_32px_16_full"
EVAL = {
    "num_fakes": 32, "batch_size": 8, "during": {"kimg": 0.016, "num_fakes": 16},
    "metrics": {"fd_efficientnet_lite0": {"size": 32}, "disequilibrium": {"n": 16}},
}  # fmt: skip


class Control:
    """Asks to stop when it is asked for the `at`-th time."""

    def __init__(self, at=None):
        self.at = at

    def stop(self):
        self.at = self.at - 1 if self.at is not None else None
        return self.at == 0

    def report(self, progress):
        pass


@pytest.fixture
def planted(monkeypatch, tmp_path):
    """A watch over an untrained trial whose distances are given, and what moves it on."""
    trial = tiny.trial(eval=EVAL)
    data, _ = load_data(trial)
    g, d, _ = build(trial, data, torch.device("cpu"))
    state = new_state(g, d, trial.train)

    def measure(watch, nimg, value):
        monkeypatch.setattr(evaluate, "evaluate", lambda *_, **__: {NAME: record(value, "lower", {})})
        state.nimg = nimg
        with torch.no_grad():
            next(d.parameters()).fill_(nimg)
        assert watch.measure(state, lambda done, total: None) == {NAME: record(value, "lower", {})}

    def watch(resumed=None):
        return scoring.Watch(trial, data, tmp_path, resumed)

    return watch, measure, {"config": to_plain(trial)}


def kept(watch):
    """What its file holds of the best: the number that was written into D."""
    saved = checkpoint.read_whole(watch.folder / watch.best["file"])
    return saved and float(next(v for k, v in saved.tensors.items() if k.startswith("d/")).flatten()[0])


def test_the_best_so_far_is_kept_and_the_first_of_equals(planted):
    start, measure, _ = planted
    watch = start()
    for nimg, value, best in ((10, 5.0, 10), (20, 7.0, 10), (30, 3.0, 30), (40, 3.0, 30)):
        measure(watch, nimg, value)
        assert (watch.best["nimg"], kept(watch)) == (best, best)
        watch.committed()
    assert watch.best | {"by": NAME, "value": 3.0, "among": 4} == watch.best
    watch.committed()
    assert [p.name for p in watch.folder.iterdir()] == [watch.best["file"]]


def test_what_a_checkpoint_names_outlives_better_ones_that_none_names(planted):
    """Killed after two better snapshots and before the next checkpoint: what it resumes from still has its best."""
    start, measure, meta = planted
    watch = start()
    measure(watch, 10, 5.0)
    watch.committed()
    then = meta | {"best": watch.best}
    measure(watch, 20, 4.0)
    measure(watch, 30, 3.0)
    again = start(then)
    assert (again.best["nimg"], kept(again)) == (10, 10)
    measure(again, 20, 6.0)  # not the same digits, as on a GPU
    again.committed()
    assert (again.best["nimg"], again.best["among"], kept(again)) == (10, 2, 10)
    assert len(list(again.folder.iterdir())) == 1


def test_the_checkpoint_before_the_last_has_its_best_too(planted):
    start, measure, _ = planted
    watch = start()
    for nimg in (10, 20, 30):
        measure(watch, nimg, -nimg)
        watch.committed()
    assert sorted(p.name[:9] for p in watch.folder.iterdir()) == ["000000020", "000000030"]


def test_a_best_by_another_distance_is_forgotten(planted):
    start, measure, meta = planted
    watch = start()
    measure(watch, 10, 5.0)
    assert start(meta | {"best": watch.best}).best == watch.best
    meta["config"]["eval"]["during"]["num_fakes"] = 24
    assert start(meta | {"best": watch.best}).best is None


def test_a_best_that_is_gone_is_said(planted):
    start, measure, _ = planted
    watch = start()
    measure(watch, 10, 5.0)
    path = watch.folder / watch.best["file"]
    path.write_bytes(path.read_bytes()[:-1])
    state = State(*[None] * 6, nimg=20)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="gone or broken.*eval.during=null"):
        scoring.of_best(watch, state, {}, None, None)


def test_what_during_asks_for():
    metrics = {"fd_efficientnet_lite0": {"size": 32, "protocols": [{"num_reals": 9}]}, "disequilibrium": {}}
    asked = tiny.trial(eval={**EVAL, "metrics": metrics}).eval
    short = asked.while_training
    assert [m.name for m in short.metrics] == ["fd_efficientnet_lite0"]
    assert (short.num_fakes, short.during, short.metrics[0].options.protocols) == (16, None, ())
    assert short.metrics[0].options.size == 32
    assert dataclasses.replace(asked, during=None).while_training is None
    with pytest.raises(UserError, match="eval.during.metric: 'di': must be a distance of eval.metrics: fd_eff"):
        tiny.trial(eval={**EVAL, "during": {"kimg": 1, "metric": "di"}})
    with pytest.raises(UserError, match="eval.during: no distance among eval.metrics"):
        tiny.trial(eval={"during": {"kimg": 1}})


def test_during_decides_no_weights_and_leaves_older_results_valid():
    off, on = tiny.trial(), tiny.trial(eval=EVAL)
    assert off.id == on.id
    assert "during" not in to_plain(off)["eval"]
    for one in (off, on):
        assert parse_trial(to_plain(one), "again") == one


def run(trial, folder, at=None):
    return trials.run(to_plain(trial), folder, {"device": "cpu", "checkpoint_s": 1e9}, Control(at))


@pytest.mark.slow
def test_a_trial_scores_its_last_and_its_best(tmp_path, monkeypatch):
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)
    trial = tiny.trial("stylegan2", "align", eval=EVAL, train={"total_kimg": 0.096})
    assert run(trial, tmp_path / "a") == "done"
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    measured = dict(result["series"][f"eval/{NAME}"])
    assert list(measured) == [16, 32, 48, 64, 80, 96]
    best, last = result["best"], result["metrics"]
    assert (best["by"], best["among"]) == (NAME, 6)
    assert best["value"] == min(measured.values()) == measured[best["nimg"]]
    assert best["metrics"].keys() == last.keys()
    long = NAME.replace("16", "32")
    assert result["series"][f"best/{long}"] == [[best["nimg"], best["metrics"][long]["value"]]]
    assert result["series"][f"final/{long}"] == [[96, last[long]["value"]]]
    # The file scores as the result says, whoever reads it; the last as well.
    (file,) = (tmp_path / "a" / "checkpoints" / "best").iterdir()
    for path, nimg, records in ((file, best["nimg"], best["metrics"]), (tmp_path / "a", 96, last)):
        model = trained.load(path)
        assert model.nimg == nimg
        again = evaluate.evaluate(
            model.g, model.d, model.data, model.heldout, trial.eval, seed=0, conditional=False, device="cpu",
            cache=cache_folder(), weights_used=model.weights,
        )  # fmt: skip
        assert again == records
    # Measuring moves nothing: without it the same weights.
    plain = dataclasses.replace(trial, eval=dataclasses.replace(trial.eval, during=None))
    assert run(plain, tmp_path / "plain") == "done"
    ends = [checkpoint.load_latest(tmp_path / f / "checkpoints").tensors for f in ("a", "plain")]
    assert all(torch.equal(v, ends[1][k]) for k, v in ends[0].items())
    assert "best" not in json.loads((tmp_path / "plain" / "result.json").read_text())
    # Interrupted again and again, it ends with the same digits.
    for at in (3, 5, 4, 20):
        words = run(trial, tmp_path / "torn", at)
    assert words == "done"
    torn = json.loads((tmp_path / "torn" / "result.json").read_text())
    for key in ("metrics", "best"):
        assert torn[key] == result[key]
    assert torn["series"][f"eval/{NAME}"] == result["series"][f"eval/{NAME}"]
