"""Trials as real processes under a real Ray: they crash, hang, are stopped, and nothing is lost."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from harness.errors import UserError
from harness.experiment.spec import Run
from harness.orchestration import attempt
from harness.orchestration.launch import launch
from harness.store import lock
from harness.store.folder import read_state
from tests.clusters import nodes
from tests.fake_trials import entry, finished

ROOT = Path(__file__).parents[2]


@pytest.fixture
def short():
    """A folder with a short name, for Ray's sockets and as TMPDIR: a machine's lock of its own."""
    path = tempfile.mkdtemp(prefix="nb", dir="/tmp")
    yield Path(path)
    for process in strays(path):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    shutil.rmtree(path, ignore_errors=True)


def start(results, trials, run=None, options=None, tmp=None):
    command = [sys.executable, "-m", "tests.fake_trials", str(results)]
    command += [json.dumps(trials), json.dumps(run or {}), json.dumps(options or {})]
    env = {**os.environ, "TMPDIR": str(tmp or results), "RAY_TMPDIR": str(tmp or results)}
    return subprocess.Popen(
        command, cwd=ROOT, env=env, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def end(driver, timeout=120):
    out, err = driver.communicate(timeout=timeout)
    return driver.returncode, out, err


def words(results):
    return json.loads((results / "words.json").read_text())


def points(results, **options):
    """The committed curve of a trial, which must be 0, 1, 2, ..."""
    lines = (results / "trials" / entry(**options).id / "events.jsonl").read_text().splitlines()
    return [e["metrics"]["loss/g"] for e in map(json.loads, lines) if "loss/g" in e["metrics"]]


def told(results):
    path = results / "told.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def until(true, timeout=60):
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def strays(folder):
    """Drivers and Ray processes that were started for `folder` and still run."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if process.pid != os.getpid() and any(str(folder) in word for word in process.info["cmdline"] or []):
            found.append(process)
    return found


# ── without Ray ──────────────────────────────────────────────────────────────


def local(results, entries, **options):
    return launch(
        entries, results, Run(), experiment="x", finished=finished(results), local=True,
        worker="tests.fake_trials:train", **options,
    )  # fmt: skip


def test_local_trials_end_in_one_word_and_need_no_ray(tmp_path):
    entries = [entry(name_="ok"), entry(name_="bug", fault="raise"), entry(name_="big", fault="oom")]
    told = []
    ended = local(tmp_path, entries, on_progress=lambda id, word, report: told.append((id, word)))
    assert list(ended.values()) == ["done", "failed", "oom"]
    assert (entries[0].id, "done") in told
    bug = tmp_path / "trials" / entries[1].id
    assert "ValueError: broken on purpose" in (bug / "traceback.txt").read_text()
    assert read_state(bug)["state"] == "failed"
    assert "ray" not in sys.modules


def test_what_is_finished_or_failed_is_not_run_again_unless_asked(tmp_path):
    entries = [entry(name_="ok"), entry(name_="bug", fault="raise")]
    first = local(tmp_path, entries)
    assert local(tmp_path, entries) == first
    numbers = [int((tmp_path / "trials" / e.id / "attempt").read_text()) for e in entries]
    assert numbers == [1, 1]
    local(tmp_path, entries, retry_failed=True)
    assert [int((tmp_path / "trials" / e.id / "attempt").read_text()) for e in entries] == [1, 2]


def test_an_attempt_that_was_replaced_ends_without_a_trace(tmp_path):
    number = attempt.begin(tmp_path)
    assert attempt.begin(tmp_path) == number + 1
    ended = attempt.make("tests.fake_trials:nothing", {}, tmp_path, {}, attempt.Control(), number)
    assert ended.word == "interrupted" and not (tmp_path / "traceback.txt").exists()


def test_one_driver_at_a_time(tmp_path):
    assert lock.driver(tmp_path) is None
    with lock.hold(tmp_path):
        assert str(os.getpid()) in lock.driver(tmp_path)
        with pytest.raises(lock.Busy, match=f"process {os.getpid()}") as busy, lock.hold(tmp_path):
            pass
        assert busy.value.exit_code == 3
    assert lock.driver(tmp_path) is None
    with pytest.raises(UserError, match="nothing to stop"):
        lock.request_stop(tmp_path)


def test_an_unwritable_results_folder_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can be written"):
        local(tmp_path / "file", [entry()])


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:1", "host:x"])
def test_a_cluster_that_does_not_answer_is_refused_in_seconds(tmp_path, address):
    began = time.monotonic()
    with pytest.raises(UserError, match="--ray-address"):
        launch([entry()], tmp_path, Run(), experiment="x", finished=finished(tmp_path), address=address)
    assert time.monotonic() - began < 5


# ── under Ray ────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_a_lost_worker_is_replaced_and_continues_its_curve(short):
    trials = [{"name_": "fine"}, {"name_": "lost", "fault": "crash once"}]
    code, out, err = end(start(short, trials))
    assert (code, out, err) == (0, "", "")
    assert words(short) == {"fine": "done", "lost": "done"}
    assert points(short, **trials[1]) == list(range(30))
    assert not strays(short)


@pytest.mark.slow
def test_a_matrix_with_every_kind_of_trouble_goes_on_to_its_end(short):
    faults = {"fine": "none", "lost": "crash once", "doomed": "crash", "bug": "raise", "stuck": "hang", "big": "oom"}
    driver = start(short, [{"name_": n, "fault": f} for n, f in faults.items()], {"retries": 1, "hang_s": 2})
    code, out, err = end(driver)
    assert (code, out, err) == (0, "", ""), err
    assert words(short) == {
        "fine": "done", "lost": "done", "doomed": "failed", "bug": "failed", "stuck": "hung", "big": "oom"
    }  # fmt: skip
    assert points(short, name_="lost", fault="crash once") == list(range(30))
    lines = [line for p in short.glob("trials/*/starts.jsonl") for line in p.read_text().splitlines()]
    assert {json.loads(line)["omp"] for line in lines} == {"1"}
    stuck = short / "trials" / entry(name_="stuck", fault="hang").id
    assert read_state(stuck)["state"] == "hung"
    assert "died" in (short / "fake" / "driver.log").read_text()
    assert not strays(short)


@pytest.mark.slow
@pytest.mark.parametrize("resources", [{"cpus": 64}, {"gpus": 8}, {"gpus": 1.5}])
def test_a_request_that_no_node_can_satisfy_is_refused_at_once(short, resources):
    code, _, err = end(start(short, [{}], {"resources": resources}))
    assert code == 2 and "run.resources" in err and len(err.splitlines()) == 1


@pytest.mark.slow
def test_ctrl_c_twice_ends_at_once(short):
    driver = start(short, [{"name_": "a", "fault": "hang", "at": 3}])
    until(lambda: any(r.get("nimg") == 2 for r in told(short)))
    began = time.monotonic()
    driver.send_signal(signal.SIGINT)
    time.sleep(0.5)
    driver.send_signal(signal.SIGINT)
    assert end(driver)[0] == 130 and time.monotonic() - began < 8
    assert words(short) == {"a": "interrupted"}


@pytest.mark.slow
def test_stop_from_another_terminal_and_resume(short):
    trials = [{"name_": "a", "steps": 300, "step_s": 0.02}]
    driver = start(short, trials)
    until(lambda: told(short))
    assert str(driver.pid) in lock.request_stop(short / "fake")
    assert end(driver)[0] == 130
    assert end(start(short, trials))[0] == 0 and points(short, **trials[0]) == list(range(300))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_what_is_told_to_every_process_of_the_group_saves_all(short, number):
    """A terminal that goes away, `kill %1`, `timeout`: all of them mean Ray's processes too."""
    trials = [{"name_": "a", "steps": 2000, "step_s": 0.02}]
    driver = start(short, trials)
    until(lambda: any(r.get("nimg", 0) > 20 for r in told(short)))
    for _ in range(2):  # by the shell, and by the system
        os.killpg(driver.pid, number)
    code, out, err = end(driver)
    assert (code, out, err) == (130, "", "")
    home = short / "trials" / entry(**trials[0]).id
    assert words(short) == {"a": "interrupted"} and read_state(home)["state"] == "interrupted"
    assert (home / "attempt").read_text() == "1", "its process lived to save"
    saved = json.loads((home / "checkpoints" / "latest.json").read_text())["nimg"]
    assert len(points(short, **trials[0])) == saved > 20
    until(lambda: not strays(short), 30)


@pytest.mark.slow
@pytest.mark.parametrize("auth", ["disabled", "token"])
def test_a_cluster_of_three_nodes_loses_one(short, auth):
    with nodes(short, (1, 0), (2, 1), (2, 1), auth=auth) as cluster:
        trials = [{"name_": n, "steps": 400, "step_s": 0.05} for n in "abcde"]
        run, options = {"resources": {"gpus": 0.5}, "retries": 3}, {"address": cluster.address}
        code, _, err = end(start(short, trials, {"resources": {"gpus": 4}}, options))
        assert code == 2 and "1 GPUs and 2 cores" in err and "they hold no 4 processes of 1 GPUs" in err
        driver = start(short, trials, run, options)
        until(lambda: len({r["id"] for r in told(short) if r.get("nimg", 0) > 20}) == 4, 150)
        assert len({r["id"] for r in told(short)}) == 4  # two halves on each of two GPUs
        cluster.lose_one()
        code, _, err = end(driver, 240)
        assert code == 0, err
        assert set(words(short).values()) == {"done"}
        assert sum(r["word"] == "waiting" for r in told(short)) >= 2
        for t in trials:
            assert points(short, **t) == list(range(400))


@pytest.mark.slow
def test_shares_are_measured_and_whole_gpus_span_nodes(short):
    with nodes(short, (1, 0), (4, 1), (4, 1)) as cluster:
        options = {"address": cluster.address, "probe": "tests.fake_trials:measure"}
        trials = [{"name_": n, "steps": 100, "step_s": 0.05, "memory": 0.3} for n in "abcd"]
        driver = start(short, trials, {}, options)
        until(lambda: len({r["id"] for r in told(short) if r.get("nimg", 0) > 2}) == 4, 90)
        assert end(driver)[0] == 0 and set(words(short).values()) == {"done"}
        # One trial for two GPUs on two nodes: it fills one, and the other would stand idle.
        code, _, err = end(start(short, [{"name_": "big", "memory": 0.9}], {}, options))
        assert (code, err) == (0, "") and words(short) == {"big": "done"}


@pytest.mark.slow
def test_time_limit(short):
    driver = start(short, [{"name_": "a", "steps": 9999, "step_s": 0.02}], {"timeout_s": 3})
    assert end(driver)[0] == 0 and words(short) == {"a": "timeout"}
