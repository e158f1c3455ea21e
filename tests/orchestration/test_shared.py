"""Driver and workers must see one folder of results: found out before anything is trained."""

import time
from pathlib import Path

import pytest

from harness.experiment.spec import Run
from harness.orchestration import attempt, launch, pool, shared
from harness.orchestration.pool import RayPool
from harness.orchestration.schedule import Ended, Share
from harness.store import remote
from tests.fake_trials import entry, finished


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(shared, "LATE_S", 0.2)


def make(folder, number):
    return attempt.make("tests.fake_trials:train", {}, folder, {}, attempt.Control(), number, "(10.0.0.7)")


@pytest.mark.parametrize("there", ["nothing", "a folder", "an older attempt"])
def test_a_worker_that_does_not_see_its_attempt_ends_at_once(tmp_path, there):
    folder = tmp_path / "trials" / "0123"
    if there != "nothing":
        folder.mkdir(parents=True)
    if there == "an older attempt":
        attempt.begin(folder)
    before = sorted(tmp_path.rglob("*"))
    ended = make(folder, 2)
    assert ended.word == "interrupted" and ended.fatal == 2
    for said in (str(tmp_path), "10.0.0.7", "does not share this folder", "s3://"):
        assert said in ended.message
    assert sorted(tmp_path.rglob("*")) == before, "nothing is left there"


def test_a_url_that_means_another_place_on_that_node_is_told_too(tmp_path, monkeypatch):
    folder = tmp_path / "front" / "trials" / "0123"
    monkeypatch.setattr(remote, "_url", f"file://{tmp_path}/elsewhere")
    ended = make(folder, 1)
    assert ended.fatal == 2 and "means the same on every node" in ended.message
    (tmp_path / "elsewhere" / "trials" / "0123").mkdir(parents=True)
    (tmp_path / "elsewhere" / "trials" / "0123" / "attempt").write_text("1")
    shared.see(folder, 1)


def test_one_that_was_replaced_is_not_told_so(tmp_path):
    attempt.begin(tmp_path)
    attempt.begin(tmp_path)
    shared.see(tmp_path, 1)


def nothing(config, folder, run, control, number):
    return "done"


def test_done_without_a_result_is_failed(tmp_path):
    words = launch.launch(
        [entry()], tmp_path, Run(), experiment="x", finished=finished(tmp_path), local=True,
        worker="tests.orchestration.test_shared:nothing",
    )  # fmt: skip
    assert list(words.values()) == ["failed"]
    ended = shared.unfound(Ended("done"), tmp_path / "trials" / "0123")
    assert str(tmp_path) in ended.message and "trials/0123/result.json" in ended.message


def test_a_trial_that_every_other_would_follow_ends_the_matrix_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(attempt, "begin", lambda folder: 1)  # noted in a folder that this process does not see
    with pytest.raises(launch.Halted, match="does not share") as halted:
        launch.launch(
            [entry(), entry(name_="b")], tmp_path, Run(), experiment="x", finished=finished(tmp_path), local=True
        )
    assert halted.value.exit_code == 2


def test_a_pool_waits_for_a_result_that_is_late_and_then_calls_the_trial_failed(tmp_path, monkeypatch):
    ray = RayPool(None, Run(), "none")
    here, gone = tmp_path / "trials" / "here", tmp_path / "trials" / "gone"
    monkeypatch.setattr(pool, "FOUND_S", 0.2)
    said = [("a", here, Ended("done")), ("b", gone, Ended("diverged")), ("c", gone, Ended("crashed"))]
    assert ray._found(said) == [("c", Ended("crashed"))]
    here.mkdir(parents=True)
    (here / "result.json").write_text("{}")
    assert ray.wait(0) == [("a", Ended("done"))]
    ray.stop("b")
    ray.kill("b")
    time.sleep(0.3)
    ((id, ended),) = ray.wait(0)
    assert id == "b" and ended.word == "failed" and "said diverged" in ended.message
    assert ray.wait(0) == []


def test_idle_processes_make_room_for_an_attempt_that_waits(monkeypatch):
    """Where a node is lost before Ray says so, an attempt may be placed for which there is no room any more."""

    class Ray:
        def __init__(self):
            self.killed = []

        def wait(self, refs, **_):
            return [], refs

        def kill(self, actor):
            self.killed.append(actor)

    ray, share = Ray(), Share(0.5, 1)
    waiting = RayPool(ray, Run(), "none")
    waiting._idle = [(share, "idle")]
    waiting._running["a"] = pool._Running("actor", share, "a/1", Path("a"), "ref")
    waiting.wait(0)
    assert ray.killed == [], "it may only be starting"
    monkeypatch.setattr(pool, "PENDING_S", -1.0)
    waiting._running["a"].heard = 1, {}
    waiting.wait(0)
    assert ray.killed == [], "it runs"
    waiting._running["a"].heard = None
    waiting.wait(0)
    assert ray.killed == ["idle"] and not waiting._idle
