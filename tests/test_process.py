"""The cores of this process, the signals that end it, and children that end with it however it ends."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from harness import process

ROOT = Path(__file__).parents[1]


def until(true, patience_s=20):
    deadline = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


# ── cores ────────────────────────────────────────────────────────────────────


def groups(tmp_path, line, limits):
    """Files as the kernel shows them: a process in the groups of `line`, and {group: {file: content}}."""
    (tmp_path / "cgroup").write_text(line)
    for group, files in limits.items():
        folder = tmp_path / "fs" / group
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text)
    return process.allowed(tmp_path / "cgroup", tmp_path / "fs")


def v1(quota_us):
    return {"cpu.cfs_quota_us": str(quota_us), "cpu.cfs_period_us": "100000"}


@pytest.mark.parametrize(
    ("line", "limits", "cores"),
    [
        ("0::/\n", {"": {"cpu.max": "150000 100000\n"}}, 1.5),
        ("0::/\n", {"": {"cpu.max": "max 100000\n"}}, math.inf),
        ("0::/a/b\n", {"a": {"cpu.max": "200000 100000\n"}, "a/b": {"cpu.max": "max 100000\n"}}, 2.0),
        ("0::/a/b\n", {"a": {"cpu.max": "400000 100000\n"}, "a/b": {"cpu.max": "50000 100000\n"}}, 0.5),
        ("4:cpu,cpuacct:/x\n1:memory:/y\n", {"cpu,cpuacct/x": v1(300_000)}, 3.0),
        ("4:cpu,cpuacct:/x\n0::/\n", {"cpu,cpuacct/x": v1(-1)}, math.inf),
        ("2:cpuset:/\n", {"cpuset": {"cpu.max": "100000 100000\n"}}, math.inf),
        ("0::/../outside\n", {"": {"cpu.max": "100000 100000\n"}}, 1.0),
        ("0::/\n", {"": {"cpu.max": "rubbish\n"}}, math.inf),
        ("rubbish\n", {}, math.inf),
    ],
)  # fmt: skip
def test_the_least_limit_of_all_groups_above_counts(tmp_path, line, limits, cores):
    assert groups(tmp_path, line, limits) == cores


def test_cores_follow_affinity_and_control_groups(monkeypatch, tmp_path):
    assert process.allowed(tmp_path / "none", tmp_path) == math.inf
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    for allowed, cores in ((math.inf, 8), (1.5, 2), (0.25, 1), (100, 8)):
        monkeypatch.setattr(process, "allowed", lambda allowed=allowed: allowed)
        assert process.cores() == cores


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_a_process_bound_to_one_core_counts_one():
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
    code += "from harness import process; print(process.cores())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_verbs_that_compute_have_no_more_threads_than_cores(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(process, "allowed", lambda: 0.5)
    try:
        torch.set_num_threads(2)
        process.use_own_cores()
        assert torch.get_num_threads() == 1
        process.use_own_cores()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_nothing_counts_the_machine_s_cores():
    code = [ROOT / "cli.py", *(p for name in ("harness", "backbones") for p in (ROOT / name).rglob("*.py"))]
    assert [p.name for p in code if "cpu_count" in p.read_text()] == ["process.py"]


# ── signals ──────────────────────────────────────────────────────────────────


@pytest.fixture
def terminal():
    """A hangup ends this process and its children, also where these tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", process.ENDING)
def test_every_ending_signal_goes_to_the_handler_and_back(number, terminal):
    before, seen = signal.getsignal(number), []
    with process.on_ending(lambda number, _: seen.append(number)):
        os.kill(os.getpid(), number)
    assert seen == [number] and signal.getsignal(number) == before


def test_a_hangup_that_is_ignored_stays_so_and_ctrl_c_does_not():
    before = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGHUP, signal.SIGINT)}
    seen = []
    try:
        with process.on_ending(lambda number, _: seen.append(number)):  # nohup; a background job of a script
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        for s, old in before.items():
            signal.signal(s, old)
    assert seen == [signal.SIGINT]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_verb_ends_in_order_by_any_of_them(number, terminal):
    code = (
        "import time; from harness import process; process.end_as_by_ctrl_c()\n"
        "try: print('ready', flush=True); time.sleep(60)\n"
        "except KeyboardInterrupt: print('in order')"
    )
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout and child.stdout.readline() == "ready\n"
    child.send_signal(number)
    assert child.communicate(timeout=20)[0] == "in order\n"


# ── children ─────────────────────────────────────────────────────────────────

GRANDCHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(61)', 'MARK'])"
KEPT = """
import os, sys, time
from harness import process
with open(os.devnull, "w") as log, process.kept([sys.executable, "-c", sys.argv[1]], os.environ, log):
    print("ready", flush=True)
    sys.stdin.read() if sys.argv[2] == "end" else time.sleep(60)
"""
POOL = """
import sys, time
from concurrent.futures import ProcessPoolExecutor
import multiprocessing
from harness import process
if __name__ == "__main__":
    pool = ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), initializer=process.end_with_parent)
    for future in [pool.submit(time.sleep, 0.2) for _ in range(4)]: future.result()
    print("ready", flush=True)
    time.sleep(60)
"""


def descendants(pid):
    return psutil.Process(pid).children(recursive=True)


def gone(processes):
    return all(not p.is_running() or p.status() == psutil.STATUS_ZOMBIE for p in processes)


@pytest.mark.parametrize("how", ["end", "SIGTERM", "SIGKILL"])
def test_what_is_kept_ends_with_its_keeper_s_owner_and_all_that_it_started_too(how):
    owner = subprocess.Popen(
        [sys.executable, "-c", KEPT, GRANDCHILD, how],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdin and owner.stdout and owner.stdout.readline() == "ready\n"
    until(lambda: len(descendants(owner.pid)) == 3)
    below = descendants(owner.pid)
    if how != "end":
        owner.send_signal(getattr(signal, how))
    owner.stdin.close()
    owner.wait(20)
    until(lambda: gone(below))
    owner.stdout.close()


def test_a_kept_command_that_ends_by_itself_ends_its_keeper(tmp_path):
    with (
        (tmp_path / "log").open("w") as log,
        process.kept([sys.executable, "-c", "print('x')"], os.environ, log) as keeper,
    ):
        until(lambda: keeper.poll() is not None)
    assert (tmp_path / "log").read_text() == "x\n"


def test_processes_of_a_pool_end_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "pool.py").write_text(POOL)
    owner = subprocess.Popen(
        [sys.executable, tmp_path / "pool.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout and owner.stdout.readline() == "ready\n"
    below = [p for p in descendants(owner.pid) if "spawn_main" in " ".join(p.cmdline())]
    assert len(below) == 2
    owner.kill()
    owner.wait(20)
    until(lambda: gone(below))
    owner.stdout.close()
