"""Nodes of a cluster (several raylets on this machine) that die, and one that freezes and comes back."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest

from tests.faults.ground import ROOT, Command, Ground, Said

pytestmark = pytest.mark.slow

CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
for _ in range(2):
    cluster.add_node(num_cpus=1)
cluster.wait_for_nodes(timeout=180)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
HEALTH = {  # a node that does not answer is given up after seconds, not after a minute
    "RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4", "RAY_raylet_start_wait_time_s": "180", "RAY_AUTH_MODE": "disabled",
}  # fmt: skip


@contextmanager
def cluster(ground: Ground) -> Iterator[tuple[str, ...]]:
    """Three nodes; yields the words that make a matrix use them."""
    env = {**os.environ, **HEALTH, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(ground.folder)}
    env["NASHBOARD_CACHE"] = str(ground.folder / "cache")
    nodes = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], env=env, cwd=ground.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert nodes.stdin and nodes.stdout
    try:
        yield "--ray-address", next(line.strip() for line in nodes.stdout if line[:1].isdigit())
    finally:
        nodes.stdin.close()
        nodes.wait(60)
        nodes.stdout.close()


def node(ground: Ground) -> list[psutil.Process]:
    """The raylet and the workers of a node that trains and is not the head."""
    for worker in ground.workers():
        raylet = worker.parent()
        if raylet and "--head" not in raylet.cmdline():
            return [raylet, *raylet.children(recursive=True)]
    return []


def moved(ground: Ground) -> bool:
    """Whether a trial has begun elsewhere, and saved something there."""
    late = [p for p in ground.trials() if (p / "attempt").read_text() != "1"]
    return any(c.stat().st_mtime > (p / "attempt").stat().st_mtime for p in late for c in p.glob("checkpoints/*.json"))


def halfway(ground: Ground, words: tuple[str, ...]) -> tuple[Command, list[psutil.Process]]:
    """A matrix on the cluster whose both trials have begun, and a node that trains one."""
    driver = ground.start(*words)
    driver.until(lambda: len({p.parent for p in ground.checkpoints()}) == 2)
    lost = node(ground)
    assert lost and driver.runs()
    return driver, lost


@pytest.mark.parametrize("whole", [True, False], ids=["all its processes", "its raylet alone"])
def test_a_node_is_killed(ground: Ground, settle: Callable[..., Said], whole: bool) -> None:
    with cluster(ground) as words:
        driver, lost = halfway(ground, words)
        for process in lost if whole else lost[:1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        said = driver.end()
    assert said.code == 0, said
    assert moved(ground), "the trial went on elsewhere"
    settle(ground, "node of a 3-node cluster SIGKILLed", 1, *words)


def test_a_node_freezes_and_comes_back(ground: Ground, settle: Callable[..., Said]) -> None:
    with cluster(ground) as words:
        driver, (raylet, *workers) = halfway(ground, words)
        for process in (raylet, *workers):
            process.suspend()
        assert driver.until(lambda: moved(ground))
        for process in workers:  # the raylet last, for it ends its workers when it finds itself given up
            process.resume()
        time.sleep(3)
        trained = [p for p in workers if p.is_running()]
        raylet.resume()
        said = driver.end()
    assert trained, "the lost worker was awake beside its successor"
    assert said.code == 0, said
    settle(ground, "node frozen, given up, thawed", 1, *words)
