"""What MLflow shows is what the journals say: once each, in any order of troubles, rebuilt from nothing."""

import base64
import json
import math
import shutil
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
from PIL import Image

from harness.store import journal as journals
from harness.store.journal import Journal
from harness.tracking import views
from harness.tracking.mirror import Mirror
from harness.tracking.sink import Sink, sync
from harness.tracking.sqlite import default_uri
from tests.fake_trials import entry

pytestmark = pytest.mark.filterwarnings("ignore:::(mlflow|sqlalchemy|alembic|pydantic|google|starlette).*")
A, B = entry(name_="baseline"), entry(name_="sel")


@pytest.fixture
def results(tmp_path, mlflow_db):
    shutil.copy(mlflow_db, tmp_path / "mlflow.db")
    return tmp_path


def write(results, e, nimgs, *, commit=None, state="running", image=False, bad=False):
    """Append points to a trial's journal and commit up to `commit` of the steps, all where None."""
    folder = results / "trials" / e.id
    journal = Journal(folder / "events.jsonl", journals.committed(folder))
    offset = journal.commit()
    for nimg in nimgs:
        values = {"loss/g": float(nimg), "eval/di": -float(nimg)}
        journal.metrics(nimg, values | ({"loss/d": math.nan, "scores/a@b": 1.0} if bad else {}))
        if image:
            (folder / "samples").mkdir(exist_ok=True)
            Image.new("RGB", (8, 8), (nimg % 255, 0, 0)).save(folder / "samples" / f"{nimg:09d}.png")
            journal.image(nimg, f"samples/{nimg:09d}.png")
        if commit is None or nimg <= commit:
            offset = journal.commit()
    journal.close()
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / "latest.json").write_text(json.dumps({"nimg": 0, "journal_offset": offset}))
    say(folder, state)
    return folder


def say(folder, state):
    (folder / "state.json").write_text(json.dumps({"state": state, "nimg": 1, "time": time.time()}))


def finish(folder, **result):
    whole = {
        "nimg": 9, "cost": {"params_g": 5.0}, "dataset": {"name": "synthetic", "fingerprint": "ab" * 32}, **result
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(whole))
    (folder / "env.json").write_text(json.dumps({"commit": "c0ffee"}))
    say(folder, "done")


def runs(mirror):
    """{trial id: its active run in the store}"""
    found = mirror._client.search_runs([mirror.experiment_id], "tags.kind = 'trial'")
    assert len({r.data.tags["trial.id"] for r in found}) == len(found)
    return {r.data.tags["trial.id"]: r for r in found}


def curve(mirror, e, key="loss/g"):
    history = mirror._client.get_metric_history(runs(mirror)[e.id].info.run_id, key)
    return sorted((m.step, m.value) for m in history)


def fresh(results, *entries):
    mirror = Mirror(results, "x", entries or (A, B), None)
    mirror.update()
    return mirror


def test_only_what_is_committed_is_shipped_and_each_point_once(results):
    folder = write(results, A, range(5), commit=2)
    mirror = fresh(results)
    assert curve(mirror, A) == [(i, i) for i in range(3)]
    write(results, A, range(3, 7))  # resumed at 2: 3 and 4 are computed again
    mirror.update()
    mirror.update()
    assert curve(fresh(results), A) == [(i, i) for i in range(7)]
    assert mirror.behind() == 0 and journals.committed(folder) > 0


def test_a_run_carries_axes_colour_status_costs_and_data(results):
    finish(write(results, A, range(3), state="done"))
    write(results, B, range(3))
    mirror = fresh(results)
    run = runs(mirror)[A.id]
    assert run.data.params["arm"] == "baseline" and run.data.params["seed"] == "0"
    assert run.info.status == "FINISHED" and runs(mirror)[B.id].info.status == "RUNNING"
    assert run.data.tags["status"] == "done" and run.data.tags["commit"] == "c0ffee"
    assert run.data.tags["mlflow.runColor"] != runs(mirror)[B.id].data.tags["mlflow.runColor"]
    assert run.data.metrics["cost/params_g"] == 5.0
    assert run.inputs.dataset_inputs[0].dataset.name == "synthetic"
    parent = mirror._client.get_run(run.data.tags["mlflow.parentRunId"])
    assert parent.data.tags["kind"] == "matrix" and parent.info.status == "RUNNING"


def test_a_non_finite_value_is_dropped_with_a_tag_and_a_name_made_fit(results):
    write(results, A, range(2), bad=True)
    run = runs(fresh(results))[A.id]
    assert "loss/d" not in run.data.metrics and run.data.tags["non_finite"] == "loss/d at 0, loss/d at 1"
    assert run.data.metrics["scores/a_b"] == 1.0


def test_pictures_are_sent_once_even_when_the_record_of_sending_is_lost(results):
    write(results, A, range(3), image=True)
    fresh(results)
    for book in (results / "x").glob("tracking-*.json"):
        book.unlink()
    mirror = fresh(results)
    files = mirror._client.list_artifacts(runs(mirror)[A.id].info.run_id, "images")
    assert sorted(f.path.split("+")[2] for f in files if f.path.endswith(".png")) == ["0", "1", "2"]
    assert curve(mirror, A) == [(i, i) for i in range(3)]


@pytest.mark.slow
def test_a_deleted_database_is_rebuilt_by_sync(results, mlflow_db):
    finish(write(results, A, range(2000), state="done"))
    write(results, B, range(3), state="interrupted")
    fresh(results)
    for leftover in results.glob("mlflow.db*"):
        leftover.unlink()
    shutil.copy(mlflow_db, results / "mlflow.db")
    assert sync(results, "x", (A, B), note="| a | b |") == default_uri(results)
    mirror = fresh(results)
    assert curve(mirror, A) == [(i, i) for i in range(2000)] and len(curve(mirror, B)) == 3
    assert runs(mirror)[B.id].info.status == "KILLED"
    parent = mirror._client.get_run(runs(mirror)[B.id].data.tags["mlflow.parentRunId"])
    assert parent.data.tags["mlflow.note.content"] == "| a | b |"


def test_a_run_deleted_by_hand_and_a_trial_trained_anew_get_new_runs(results):
    write(results, A, range(3))
    folder = write(results, B, range(3))
    mirror = fresh(results)
    old = runs(mirror)
    mirror._client.delete_run(old[A.id].info.run_id)
    write(results, A, range(3, 5))
    mirror.update()
    mirror.update()
    assert curve(mirror, A) == [(i, i) for i in range(5)]
    shutil.rmtree(folder)
    write(results, B, range(100, 110))
    mirror.update()
    assert curve(mirror, B) == [(i, i) for i in range(100, 110)]
    assert runs(mirror)[B.id].info.run_id != old[B.id].info.run_id


def test_an_older_checkpoint_waits_until_the_journal_has_grown_back(results):
    folder = write(results, A, range(6))
    mirror = fresh(results)
    whole = (folder / "events.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    (folder / "checkpoints" / "latest.json").write_text(json.dumps({"journal_offset": len(b"".join(lines[:3]))}))
    run = runs(mirror)[A.id].info.run_id
    mirror.update()
    write(results, A, range(3, 8))
    mirror.update()
    assert runs(mirror)[A.id].info.run_id == run and curve(mirror, A) == [(i, i) for i in range(8)]


def test_a_spoilt_line_loses_that_line_only(results):
    folder = write(results, A, range(3))
    with (folder / "events.jsonl").open("ab") as f:
        f.write(b'{"nimg": 3, \xff\n{"nimg": 4, "time_ms": 1, "metrics": {"loss/g": 4.0}}\n[1]\n')
    lines = journals.read(folder / "events.jsonl")
    finish(folder, spoilt_lines=lines.spoilt)
    mirror = fresh(results)
    assert curve(mirror, A) == [(0, 0), (1, 1), (2, 2), (4, 4)]
    assert [[x, y] for x, y in curve(mirror, A)] == journals.series(lines.events)["loss/g"]  # as result.json has it
    assert runs(mirror)[A.id].data.tags["spoilt_lines"] == "2"


def test_a_picture_outside_the_trial_is_not_sent(results):
    Image.new("RGB", (8, 8)).save(results / "secret.png")
    folder = write(results, A, range(1))
    with (folder / "events.jsonl").open("ab") as f:
        f.write(json.dumps({"nimg": 1, "time_ms": 1, "image": "../../secret.png"}).encode() + b"\n")
    finish(folder)
    mirror = fresh(results)
    assert not mirror._client.list_artifacts(runs(mirror)[A.id].info.run_id, "images")


def test_the_sink_is_late_not_lost_when_the_store_fails(results, monkeypatch):
    write(results, A, range(3))
    real, fails = Mirror.update, []

    def update(self):
        if len(fails) < 2:
            fails.append(1)
            raise OSError("http://me:secret@host is down")
        real(self)

    monkeypatch.setattr(Mirror, "update", update)
    sink = Sink(results, "x", (A,))
    sink.start()
    deadline = time.monotonic() + 5
    while sink.problem is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sink.problem == "http://***@host is down"
    assert sink.close("note", timeout_s=30) == 0 and sink.problem is None
    assert curve(fresh(results, A), A) == [(i, i) for i in range(3)]


def test_importing_tracking_is_cheap():
    code = (
        "import sys, harness.tracking.mirror, harness.tracking.sink\n"
        "assert not {'mlflow', 'torch', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_views_are_readable_and_name_the_parent():
    both = "final/x", "final/di"
    made = views.tags("p4rent", ["loss/g"], both, both, 7)
    state = json.loads(made["mlflow.sharedViewState.by-arm"])
    assert state["name"] == "by arm" and state["state"].startswith("deflate;")
    assert len(state["state"]) < 5000
    drawn = json.loads(zlib.decompress(base64.b64decode(state["state"].removeprefix("deflate;"))))["compareRunCharts"]
    points = [c for c in drawn if c["type"] == "SCATTER"]
    assert [(c["xaxis"]["key"], c["yaxis"]["key"]) for c in points] == [("final/di", "final/x")]


@pytest.mark.slow
def test_several_processes_may_create_the_database_at_once(tmp_path):
    for n in range(4):
        write(tmp_path, entry(name_=f"t{n}"), range(3), state="interrupted")
    code = (
        "import sys; from pathlib import Path; from harness.tracking.sink import sync\n"
        "from tests.fake_trials import entry\n"
        "n = sys.argv[2]; sync(Path(sys.argv[1]), 'e' + n, (entry(name_='t' + n),))"
    )
    root = Path(__file__).parents[2]
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(n)], cwd=root) for n in range(4)]
    assert [p.wait(400) for p in both] == [0, 0, 0, 0]
    for n in range(4):
        mirror = Mirror(tmp_path, f"e{n}", (entry(name_=f"t{n}"),), None)
        mirror.update()
        assert len(curve(mirror, entry(name_=f"t{n}"))) == 3
    assert not list(tmp_path.glob(".mlflow*"))
