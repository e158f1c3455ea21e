"""A matrix run from Python: what the command line does, as a function with a result."""

import json
import textwrap
from functools import partial

import pytest

from harness.errors import UserError
from harness.experiment import files
from harness.orchestration import changed, matrix
from harness.report.collect import collect
from tests.e2e.test_cli import TINY


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tiny.yaml").write_text(textwrap.dedent(TINY))
    return files.load(tmp_path / "tiny.yaml", ["arms={baseline: {}}", "train.total_kimg=0.016"])


def test_the_result_says_what_came_of_it(experiment, tmp_path):
    said = []
    made = matrix.run(experiment, tmp_path / "results", launcher="inline", tracking_uri="off", say=said.append)
    (entry,) = made.trials
    assert made.ends == {entry.id: "done"}
    assert made.exit_code == 0 and made.told
    assert said == ["tiny: 1 trials, 0 finished before"]
    assert made.report.outcomes[0].scores["di"].value == made.report.outcomes[0].result["metrics"]["di"]["value"]
    assert {p.name for p in made.written} >= {"report.html", "results.csv"} and all(p.exists() for p in made.written)
    again = matrix.run(experiment, tmp_path / "results", launcher="inline", tracking_uri="off", say=said.append)
    assert said[1:] == ["tiny: 1 trials, 1 finished before"] and again.ends == made.ends


def test_bad_input_is_said_before_anything_runs(experiment, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        matrix.run(experiment, tmp_path / "file", launcher="inline", tracking_uri="off")
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_what_can_not_be_trained_again_is_not_put_away(experiment, tmp_path, monkeypatch):
    results = tmp_path / "results"
    run = partial(matrix.run, experiment, results, launcher="inline", tracking_uri="off", other_code="retrain")
    (entry,) = run().trials
    record = json.loads((results / "trials" / entry.id / "result.json").read_text())
    record["code"]["training"]["harness.method.losses"] = "0" * 64
    (results / "trials" / entry.id / "result.json").write_text(json.dumps(record))

    def refuse(*_):
        raise UserError("no data")

    with monkeypatch.context() as m:
        m.setattr(matrix, "preflight", refuse)
        with pytest.raises(UserError, match="no data"):
            run()
    assert not (results / "superseded").exists()
    assert run().exit_code == 0
    assert len(list((results / "superseded").iterdir())) == 1


@pytest.mark.parametrize(
    ("words", "code"),
    [(["done", "done"], 0), (["done", "diverged"], 1), (["failed", "done"], 1), (["failed", "interrupted"], 130)],
)
def test_the_exit_code_is_that_of_the_worst_end(experiment, tmp_path, words, code):
    ends = {str(i): word for i, word in enumerate(words)}
    made = matrix.Result(experiment, (), ends, collect(experiment, tmp_path), (), True, ())
    assert made.exit_code == code


def test_a_superseded_folder_takes_the_first_free_number_and_its_worker_is_fenced(tmp_path):
    for nth in (1, 2):
        home = tmp_path / "trials" / "abc"
        home.mkdir(parents=True, exist_ok=True)
        (home / "attempt").write_text(str(nth))
        (home / "result.json").write_text("{}")
        changed.supersede(tmp_path, "abc")
        assert (tmp_path / "superseded" / f"abc-{nth}" / "result.json").exists()
        assert (tmp_path / "superseded" / f"abc-{nth}" / "attempt").read_text() == str(nth + 1)
        assert {p.name: p.read_text() for p in home.iterdir()} == {"attempt": str(nth + 1)}
