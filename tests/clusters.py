"""Ray clusters of several nodes on this machine, with GPUs that are only declared."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SCRIPT = """
import json, sys
from ray.cluster_utils import Cluster
head, *others = [{"num_cpus": c, "num_gpus": g} for c, g in json.loads(sys.argv[1])]
cluster = Cluster(initialize_head=True, head_node_args=head)
nodes = [cluster.add_node(**n) for n in others]
cluster.wait_for_nodes(timeout=180)
print("address", cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(nodes.pop(), allow_graceful=False)
    print("removed", flush=True)
cluster.shutdown()
"""


class Nodes:
    """`address`: host:port of the head."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin and process.stdout
        self._in, self._out = process.stdin, process.stdout
        self.address = next(line.split()[1] for line in self._out if line.startswith("address"))

    def lose_one(self) -> None:
        """The last node's agent is killed; its workers live on for a while."""
        self._in.write("remove\n")
        self._in.flush()


@contextlib.contextmanager
def nodes(folder: Path, *each: tuple[int, int], auth: str = "disabled") -> Iterator[Nodes]:
    """Nodes of (cores, GPUs), the first one the head. `folder` has a short name: Ray's sockets go there."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(folder), "RAY_AUTH_MODE": auth}
    env["RAY_raylet_start_wait_time_s"] = "180"  # on a busy machine
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, json.dumps(each)], env=env, cwd=folder, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdin and process.stdout
    try:
        yield Nodes(process)
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()
