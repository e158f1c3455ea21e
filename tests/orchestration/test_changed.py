"""What becomes of results that are not as asked: scored again, refused or put away, and never written over."""

import json
import textwrap
from functools import partial

import pytest

from harness.errors import Diverged, UserError
from harness.experiment import files, ids
from harness.metrics import disequilibrium
from harness.orchestration import matrix, plan, recognise, status
from harness.trial import run as trial
from harness.trial import scoring
from harness.variants import sel
from tests.e2e.test_cli import TINY


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(trial, "draw", lambda *_: {})  # takes longer than all else
    (tmp_path / "tiny.yaml").write_text(textwrap.dedent(TINY))

    def load(*sets):
        return files.load(tmp_path / "tiny.yaml", ["arms={baseline: {}}", "train.total_kimg=0.016", *sets])

    return load


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def run(results):
    return partial(matrix.run, results=results, launcher="inline", tracking_uri="off")


@pytest.fixture
def home(load, run, results):
    """The folder of a trial that is done."""
    (entry,) = run(load()).trials
    return results / "trials" / entry.id


def read(home):
    return json.loads((home / "result.json").read_text())


def edit(home, **values):
    (home / "result.json").write_text(json.dumps({**read(home), **values}))


def not_finite(*_, **__):
    raise Diverged("a score is not finite")


def untrainable(*_, **__):
    pytest.fail("trained")


def weights(home):
    return {p.name: p.read_bytes() for p in home.glob("checkpoints/*.safetensors")}


def test_scores_that_are_there_outlive_a_metric_that_is_not_finite(load, run, home, monkeypatch):
    before = (home / "result.json").read_bytes()
    with monkeypatch.context() as m:
        m.setattr(scoring, "of_last", not_finite)
        assert set(run(load(), rescore=True).ends.values()) == {"failed"}
        assert (home / "result.json").read_bytes() == before
        assert "a score is not finite" in json.loads((home / "state.json").read_text())["message"]
    assert run(load()).exit_code == 0, "and stands, where it answers what is asked"


def test_another_scoring_that_is_not_finite_is_a_result_of_its_own(load, run, home, monkeypatch):
    before, again = read(home), load("eval.num_fakes=96")
    with monkeypatch.context() as m:
        m.setattr(scoring, "of_last", not_finite)
        assert set(run(again).ends.values()) == {"diverged"}
    monkeypatch.setattr(trial, "train", untrainable)
    assert run(load()).exit_code == 0
    assert before in [json.loads(p.read_text()) for p in home.glob("result*.json")]


@pytest.mark.slow
def test_what_diverged_in_scoring_is_scored_again_and_not_trained(load, run, results, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr(scoring, "of_last", not_finite)
        made = run(load())
    (id,) = made.ends
    home = results / "trials" / id
    assert made.ends == {id: "diverged"} and read(home)["diverged_in"] == "scoring"
    assert run(load()).ends == {id: "diverged"}, "the same code says the same"
    before = weights(home)
    said = []
    code = read(home)["code"]
    edit(home, code={**code, "scoring": {**code["scoring"], "harness.metrics.disequilibrium": "0" * 64}})
    assert run(load(), say=said.append).ends == {id: "done"}
    assert "scored again by the code that is here" in said[-1] and weights(home) == before
    edit(home, status="diverged", diverged_in="scoring")
    assert run(load(), rescore=True).ends == {id: "done"} and weights(home) == before


def test_what_diverged_while_it_trained_answers_whatever_scoring_is_asked(load, run, results, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr(trial, "train", not_finite)
        (id,) = run(load()).ends
    home = results / "trials" / id
    before = read(home)
    assert before["diverged_in"] == "training"
    assert run(load("eval.num_fakes=96"), rescore=True).ends == {id: "diverged"} and read(home) == before


def test_a_result_without_its_networks_is_not_trained_over(load, run, home, results, monkeypatch):
    before = read(home)
    for path in home.glob("checkpoints/*.safetensors"):
        path.unlink()
    with monkeypatch.context() as m:
        m.setattr(disequilibrium, "EPOCH", 2)
        for choice in ("ask", "accept"):
            with pytest.raises(UserError, match=r"scored otherwise .* 1 trial \(synthetic/baseline/s0\).* --retrain"):
                run(load(), other_code=choice)
        assert read(home) == before and not (results / "superseded").exists()
        assert run(load(), other_code="retrain").exit_code == 0
        assert read(home)["scoring"]["epochs"] == {"metric.disequilibrium": 2}
    (kept,) = (results / "superseded").iterdir()
    assert read(kept) == before


def test_a_worker_that_finds_a_result_but_no_networks_refuses(load, run, home, monkeypatch):
    before = read(home)
    for path in home.glob("checkpoints/*.safetensors"):
        path.write_bytes(b"spoilt")  # which only its reader sees
    monkeypatch.setattr(trial, "train", untrainable)
    assert set(run(load("eval.num_fakes=96")).ends.values()) == {"failed"}
    assert read(home) == before
    assert "last checkpoint is not whole" in json.loads((home / "state.json").read_text())["message"]


def test_other_code_is_seen_where_the_scoring_is_another_too(load, run, home):
    code = read(home)["code"]
    edit(home, code={**code, "training": {**code["training"], "harness.method.losses": "0" * 64}})
    again = load("eval.num_fakes=96")
    with pytest.raises(UserError, match="other code than is here trained 1 trial"):
        run(again)


def test_plan_counts_no_hours_for_what_is_only_scored(load, home, results):
    def known(experiment):
        return recognise.recognise(experiment, results).experiment

    def grid(experiment):
        made = plan.table(known(experiment), results, (), [1], 1)
        return made.rows[0][-1], "\n".join(made.notes)

    again = load("eval.num_fakes=96")
    state, said = grid(again)
    assert state == "to score" and "to do: 0 trials" in said and "to score: 1 trials" in said
    assert status.table(known(again), results).rows[0][1] == "scored otherwise"
    code = read(home)["code"]
    edit(home, code={**code, "training": {**code["training"], "harness.method.losses": "0" * 64}})
    other = "trained by other code than is here (harness/method/losses.py): synthetic/baseline/s0"
    assert other in grid(load())[1] and other in grid(again)[1] and other in status.table(known(again), results).notes
    for path in home.glob("checkpoints/*.safetensors"):
        path.unlink()
    state, said = grid(again)
    assert state == "scored otherwise" and "to do: 1 trials" in said


def test_what_an_older_epoch_made_is_accepted_with_its_code(load, run, results, monkeypatch):
    experiment = load("arms={sel: {sel: {}}}")
    (entry,) = run(experiment).trials
    home = results / "trials" / entry.id
    code = read(home)["code"]
    edit(home, code={**code, "training": {**code["training"], "harness.variants.sel": "0" * 64}})
    before = read(home)
    monkeypatch.setattr(sel, "EPOCH", 2)
    monkeypatch.setattr(trial, "train", untrainable)
    experiment = load("arms={sel: {sel: {}}}")
    assert run(experiment, accept_old=True).ends == {entry.id: "done"}
    assert run(experiment).ends == {entry.id: "done"}, "it is asked once"
    assert read(home) == before
    assert json.loads((home / ids.FILE).read_text())["epochs"] == {"variant.sel": 2}


def test_the_advice_about_other_code_forgets_no_word_of_the_command(load, run, home):
    code = read(home)["code"]
    edit(home, code={**code, "training": {**code["training"], "harness.method.losses": "0" * 64}})
    with pytest.raises(UserError, match="as they are: --accept-old --accept-code"):
        run(load(), accept_old=True)
    with pytest.raises(UserError, match="as they are: --accept-code"):
        run(load())
