"""Silence that is none: work outside of the loop that takes longer than `hang_s`, and a node that trains into a folder
that nobody else sees."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import psutil
import pytest

from tests.faults.ground import ROOT, Ground, Said
from tests.faults.test_limits import trouble

pytestmark = pytest.mark.slow
HANG_S = 6

HEAD = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@contextmanager
def halves(ground: Ground) -> Iterator[tuple[str, ...]]:
    """Two nodes, of which the second has a folder of its own in the place of the results; yields the words that make a
    matrix use them."""
    env = {
        **os.environ, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(ground.folder), "RAY_AUTH_MODE": "disabled",
        "RAY_raylet_start_wait_time_s": "180", "NASHBOARD_CACHE": str(ground.folder / "cache"),
    }  # fmt: skip
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("unshare: this user may not")
    ground.results.mkdir()
    start = partial(
        subprocess.Popen[str], cwd=ground.folder, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    head = start([sys.executable, "-c", HEAD], stderr=subprocess.DEVNULL)
    assert head.stdin and head.stdout
    address = next(line.strip() for line in head.stdout if line[:1].isdigit())
    join = f"from ray.scripts.scripts import cli; cli(['start', '--address={address}', '--num-cpus=1', '--block'])"
    script = 'mount -t tmpfs none "$1" && exec "$2" -c "$3"'
    other = start(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(ground.results), sys.executable, join],
        stderr=subprocess.STDOUT,
    )
    assert other.stdin and other.stdout
    assert any("Ray runtime started" in line for line in other.stdout)
    try:
        yield "--ray-address", address
    finally:
        # A node that has lost its head may leave its agents behind: they are the cluster's, not the matrix's.
        nodes = [p for one in (head, other) for p in psutil.Process(one.pid).children(recursive=True)]
        other.terminate()
        other.wait(60)
        head.stdin.close()
        head.wait(60)
        for process in nodes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for pipe in (head.stdout, other.stdin, other.stdout):
            pipe.close()


def test_a_node_does_not_share_the_folder(ground: Ground, settle: Callable[..., Said]) -> None:
    with halves(ground) as words:
        said = ground.run(*words)
    assert said.code == 2 and len(said.err.splitlines()) == 1, said
    assert str(ground.results) in said.err and "does not share this folder" in said.err and "s3://" in said.err
    assert sum(line.startswith("done") for line in said.out.splitlines()) == len(ground.finished())
    settle(ground, "node without shared folder", 1)


def test_statistics_take_longer_than_a_step_may(ground: Ground, settle: Callable[..., Said]) -> None:
    """Whoever computes them is silent for 8 s at a time, and who waits for them for four times as long."""
    trouble(ground, "statistics").touch()
    said = ground.run("--set", f"run.hang_s={HANG_S}", "--set", "run.retries=0")
    assert said.code == 0, said
    assert {(p / "attempt").read_text() for p in ground.trials()} == {"1"}
    settle(ground, "slow statistics with a short hang_s", 1)
