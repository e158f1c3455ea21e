"""One trial, scored in several ways: every scoring keeps its result, and nothing is measured twice."""

import contextlib
import json
import shutil
import sqlite3
import textwrap

import pytest

import cli
from harness.errors import Diverged
from harness.evaluation import evaluate
from harness.metrics import disequilibrium
from harness.trial import run as trial
from tests.e2e.test_results_known import as_before
from tests.image_files import noise, png, write_zip

ONE = """
    name: NAME
    preset: chainer
    conditional: false
    dataset: {name: image_zip, path: set.zip}
    backbone: {width: 0.0625, z_dim: 8}
    train: {total_kimg: 0.016, batch_size: 8, tick_kimg: 0.016}
    arms: {baseline: {}}
    eval: {num_fakes: 16, batch_size: 8, metrics: METRICS}
    run: {device: cpu}
"""
FD, DI = "fd_efficientnet_lite0: {size: 32}", "disequilibrium: {n: 4, repeats: 2}"
FD_NAME = "fd_efficientnet_lite0_32px_16_full"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(trial, "draw", lambda *_: {})
    write_zip(tmp_path / "set.zip", {f"{i:03d}.png": png(noise(i, 32)) for i in range(12)})
    for name, metrics in (("both", f"{{{FD}, {DI}}}"), ("one", f"{{{DI}}}")):
        (tmp_path / f"{name}.yaml").write_text(textwrap.dedent(ONE).replace("NAME", name).replace("METRICS", metrics))
    return tmp_path


@pytest.fixture
def say(capsys):
    def command(verb, name, *words, code=0, tracking="off"):
        more = ("--local", "--tracking-uri", tracking) if verb == "matrix" else ()
        assert cli.main([verb, f"{name}.yaml", *more, *words]) == code
        return capsys.readouterr().out

    return command


@pytest.fixture
def measured(monkeypatch):
    """Names of the metrics of each pass that is made from now on."""
    seen, real = [], evaluate.evaluate

    def noted(g, d, data, heldout, spec, **more):
        seen.append([m.name for m in spec.metrics])
        return real(g, d, data, heldout, spec, **more)

    monkeypatch.setattr(evaluate, "evaluate", noted)
    return seen


def home(here):
    (folder,) = (here / "results" / "trials").iterdir()
    return folder


def scores(here, name):
    """The row of the experiment's only trial in its results.csv, without what no scoring decides."""
    lines = (here / "results" / name / "results.csv").read_text().splitlines()
    row = dict(zip(lines[0].split(","), lines[1].split(","), strict=False))
    return {k: v for k, v in row.items() if k.split(".")[0] in ("di", "score_auc", FD_NAME, "state")}


def weights(here):
    return {p.name: p.read_bytes() for p in here.glob("results/trials/*/checkpoints/*.safetensors")}


def test_neither_of_two_experiments_loses_what_it_measured(here, say, measured):
    say("matrix", "both")
    first, networks = scores(here, "both"), weights(here)
    assert first["state"] == "done" and first[FD_NAME]
    assert "1 trials, 0 finished before" in say("matrix", "one")
    second = scores(here, "one")
    assert second["di"] == first["di"] and FD_NAME not in second and weights(here) == networks
    assert "1 trials, 1 finished before" in say("matrix", "both") and scores(here, "both") == first
    assert "done" in say("status", "one") and "done" in say("status", "both")
    assert len(list(home(here).glob("result-*.json"))) == 2
    assert measured == [["fd_efficientnet_lite0", "disequilibrium"]], "the second asks for no figure that is not there"


@pytest.mark.slow
def test_only_what_is_missing_is_measured(here, say, measured):
    say("matrix", "one")
    di = scores(here, "one")["di"]
    say("matrix", "both")
    assert scores(here, "both")["di"] == di
    more = ["--set", f"eval.metrics={{{FD[:-1]}, protocols: [{{}}, {{num_fakes: 8}}]}}, {DI}}}"]
    say("matrix", "both", *more)
    say("matrix", "one", "--set", "eval.num_fakes=8")
    assert measured == [["disequilibrium"], ["fd_efficientnet_lite0"], ["fd_efficientnet_lite0"], ["disequilibrium"]]
    assert scores(here, "one")["di"] != di, "of other pools"
    assert len(list(home(here).glob("result-*.json"))) == 4
    say("matrix", "both", "--rescore")
    assert measured[4:] == [["fd_efficientnet_lite0", "disequilibrium"]], "whoever asks for it gets all anew"


@pytest.mark.slow
def test_a_scoring_that_diverges_is_a_result_and_stands_in_nobodys_way(here, say, monkeypatch):
    """Nor does one that fails: what another scoring of the same networks came to says nothing of this one."""
    say("matrix", "one")
    first, real = scores(here, "one"), evaluate.evaluate

    def spiky(g, d, data, heldout, spec, **more):
        if any(m.name == "fd_efficientnet_lite0" for m in spec.metrics):
            raise Diverged("eval: features are not finite")
        return real(g, d, data, heldout, spec, **more)

    monkeypatch.setattr(evaluate, "evaluate", spiky)
    say("matrix", "both", code=1)
    assert scores(here, "both")["state"] == "diverged" and "diverged" in say("status", "both")
    assert "1 trials, 1 finished before" in say("matrix", "one") and scores(here, "one") == first

    def broken(*_, **__):
        raise RuntimeError("boom")

    monkeypatch.setattr(evaluate, "evaluate", broken)
    other = ("--set", "eval.num_fakes=8")
    say("matrix", "one", *other, code=1)
    assert "failed" in say("status", "one", *other) and scores(here, "one")["state"] == "failed"
    monkeypatch.setattr(evaluate, "evaluate", real)
    say("matrix", "one", *other, code=1)  # as ever: only when asked
    say("matrix", "one", "--set", "eval.num_fakes=12")
    assert scores(here, "one")["state"] == "done"
    say("report", "one", *other)
    assert scores(here, "one")["state"] == "failed", "whatever became of another scoring"
    say("matrix", "one", *other, "--retry-failed")
    assert scores(here, "one")["state"] == "done"


@pytest.mark.slow
def test_curves_of_another_g_than_is_scored_are_not_summed_up(here, say):
    averaged = ("--set", "train.ema_kimg=0.01", "--set", "train.snapshot_kimg=0.008", "--set", "train.tick_kimg=0.008")
    raw = (*averaged, "--set", "eval.weights=raw")
    assert "over the last 2 snapshots" in say("matrix", "one", *averaged).lower()
    assert "over the last" not in say("matrix", "one", *raw).lower(), "of the averaged G, which this one does not score"
    assert "over the last 2 snapshots" in say("report", "one", *averaged).lower()


@pytest.mark.slow
def test_what_other_code_or_another_epoch_measured_is_not_taken(here, say, measured, monkeypatch):
    say("matrix", "both")
    with monkeypatch.context() as m:
        m.setattr(disequilibrium, "EPOCH", 2)
        assert "scored otherwise" in say("report", "both")
        say("matrix", "both")
        assert measured[1:] == [["disequilibrium"]], "the distance is as it was"
    for path in home(here).glob("result*.json"):
        result = json.loads(path.read_text())
        result["code"]["scoring"]["harness.metrics.disequilibrium"] = "0" * 64
        path.write_text(json.dumps(result))
    say("matrix", "one")
    assert measured[2:] == [["disequilibrium"]]


@pytest.mark.slow
def test_two_drivers_may_score_a_trial_at_once(here, say, monkeypatch):
    """One takes the folder over while the other is in its pass; both end with their figures."""
    say("matrix", "one")
    (here / "both.yaml").rename(here / "slow.yaml")
    (here / "slow.yaml").write_text((here / "slow.yaml").read_text().replace("name: both", "name: slow"))
    real = evaluate.evaluate

    def overtaken(*args, **more):
        monkeypatch.setattr(evaluate, "evaluate", real)
        told = more.pop("progress")
        say("matrix", "one", "--set", "eval.num_fakes=8")
        return real(*args, progress=told, **more)

    attempt = int((home(here) / "attempt").read_text())
    monkeypatch.setattr(evaluate, "evaluate", overtaken)
    say("matrix", "slow")
    assert int((home(here) / "attempt").read_text()) == attempt + 2, "the second really began while the first was at it"
    assert scores(here, "slow")[FD_NAME]
    for name, sets in (("slow", ()), ("one", ("--set", "eval.num_fakes=8")), ("one", ())):
        assert "1 trials, 1 finished before" in say("matrix", name, *sets)
    assert json.loads((home(here) / "state.json").read_text())["state"] == "done"


@pytest.mark.slow
def test_whose_networks_were_put_away_meanwhile_writes_nothing(here, say, monkeypatch):
    say("matrix", "one")
    real = evaluate.evaluate

    def put_away(*args, **more):
        home(here).rename(here / "away")
        home_again = here / "results" / "trials" / json.loads((here / "away" / "result.json").read_text())["id"]
        home_again.mkdir()
        (home_again / "attempt").write_text("99")
        return real(*args, **more)

    monkeypatch.setattr(evaluate, "evaluate", put_away)
    say("matrix", "both", code=130)
    assert {p.name for p in home(here).iterdir()} == {"attempt", "state.json"}, "and the driver notes its end"


@pytest.mark.slow
def test_a_result_of_an_earlier_version_is_kept_when_its_trial_is_scored_otherwise(here, say):
    say("matrix", "both")
    folder = as_before(home(here), "0ld")
    for path in folder.glob("result-*.json"):
        path.unlink()
    before = (folder / "result.json").read_bytes()
    say("report", "both")
    row = scores(here, "both")
    assert row[FD_NAME] and "1 trials, 0 finished before" in say("matrix", "one")
    assert (folder / "result.json").read_bytes() != before
    say("report", "both")
    assert scores(here, "both") == row and "1 trials, 1 finished before" in say("matrix", "both")
    assert json.loads(before) in [json.loads(p.read_text()) for p in folder.glob("result-*.json")]


@pytest.mark.slow
def test_a_distance_to_a_part_that_an_earlier_version_called_full_is_scored_again(here, say, measured):
    sets = ("--set", "dataset.max_images=8")
    say("matrix", "both", *sets)
    networks = weights(here)
    for path in home(here).glob("result*.json"):
        if path.name != "result.json":
            path.unlink()
    result = json.loads((home(here) / "result.json").read_text())
    assert result["scoring"].pop("reals") == result["dataset"]["identity"]
    (home(here) / "result.json").write_text(json.dumps(result))
    assert "scored otherwise" in say("report", "both", *sets)
    say("matrix", "both", *sets)
    assert weights(here) == networks
    protocol = json.loads((home(here) / "result.json").read_text())["metrics"][FD_NAME]["protocol"]
    assert protocol["num_reals"] == 12 and protocol["dataset"] != result["dataset"]["fingerprint"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:::(mlflow|sqlalchemy|alembic|pydantic|google|starlette).*")
def test_mlflow_has_each_experiments_own_scores(here, say, mlflow_db):
    (here / "results").mkdir()
    shutil.copy(mlflow_db, here / "results")
    uri = f"sqlite:///{here}/results/mlflow.db"
    for name in ("both", "one", "both"):
        say("matrix", name, tracking=uri)
    query = """select e.name, m.key, m.value from metrics m join runs r using (run_uuid)
               join experiments e using (experiment_id) where m.key like 'final/%' and r.lifecycle_stage = 'active'"""
    with contextlib.closing(sqlite3.connect(here / "results" / "mlflow.db")) as db:
        found = db.execute(query).fetchall()
    di = {e: [v for x, k, v in found if (x, k) == (e, "final/di")] for e in ("nashboard/both", "nashboard/one")}
    assert di["nashboard/both"] == di["nashboard/one"] and len(di["nashboard/one"]) == 1
    assert [x for x, k, _ in found if k == f"final/{FD_NAME}"] == ["nashboard/both"]
