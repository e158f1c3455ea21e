"""A matrix under a real SLURM of two nodes, by the script that is shipped: its time ends, and it goes on by itself."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.store import checkpoint
from tests.orchestration.test_launch import ROOT, short
from tests.slurm import lacking, two_nodes

__all__ = ["short"]  # the fixture

SCRIPT = ROOT / "experiments" / "slurm.sh"
TWO_TRIALS = """
name: two
preset: chainer
seeds: [0]
dataset: {name: synthetic, resolution: 32, num_images: 256}
backbone: {width: 0.0625, z_dim: 16}
train: {total_kimg: 20, batch_size: 16, tick_kimg: 1, snapshot_kimg: 5}
arms: {baseline: {}, align: {sel: {}, align: {}}}
eval: {num_fakes: 64, batch_size: 16, metrics: [disequilibrium]}
run: {device: cpu, checkpoint_s: 2}
"""


class Job:
    """What SLURM says of a job, and what is asked of it."""

    def __init__(self, env, folder, *words, options=()):
        (folder / "two.yaml").write_text(TWO_TRIALS)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "RAY_"))} | env
        self.env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
        self.env |= {"OMP_NUM_THREADS": "1", "RAY_TMPDIR": str(folder), "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
        self.said = folder / "said.txt"
        options = ["--parsable", f"--output={self.said}", "--nodes=2", "--cpus-per-task=1", *options]
        matrix = [str(folder / "two.yaml"), "--results", str(folder / "results"), "--tracking-uri", "off", *words]
        self.number = self.call("sbatch", *options, str(SCRIPT), *matrix).strip()

    def call(self, *command):
        return subprocess.run(
            command, env=self.env, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, timeout=60
        ).stdout  # fmt: skip

    def told(self, key):
        return re.search(rf"\b{key}=(\S+)", self.call("scontrol", "-o", "show", "job", self.number)).group(1)

    def change(self, **keys):
        self.call("scontrol", "update", f"JobId={self.number}", *(f"{k}={v}" for k, v in keys.items()))

    def text(self):
        return self.said.read_text() if self.said.exists() else ""

    def until(self, true, limit_s=400):
        deadline = time.monotonic() + limit_s
        while not true():
            over = self.told("JobState") in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT") and not true()
            assert not over and time.monotonic() < deadline, self.text()[-4000:]
            time.sleep(0.5)


def progress(results):
    """{trial: images seen}, by the checkpoints."""
    found = {}
    for home in results.glob("trials/*"):
        if meta := checkpoint.meta(home / "checkpoints"):
            found[home.name] = meta["nimg"]
    return found


def digits(results):
    """All that the trials leave, but for what depends on the time of day and the speed."""
    found = {}
    for home in (results / "trials").iterdir():
        result = json.loads((home / "result.json").read_text())
        series = {k: v for k, v in result["series"].items() if not k.startswith("system/")}
        saved = checkpoint.load_latest(home / "checkpoints")
        weights = {k: v.tolist() for k, v in saved.tensors.items()}
        found[home.name] = result["status"], result["metrics"], series, weights
    return found


@pytest.mark.slow
@pytest.mark.skipif(bool(lacking()), reason=lacking())
def test_a_matrix_over_three_lifetimes_of_a_job_ends_with_the_digits_of_one_run(short):
    alone, results = short / "alone", short / "results"
    with two_nodes(short / "slurm") as env:
        job = Job(env, short, options=["--time=20", "--signal=B:TERM@120"])
        job.until(lambda: len(progress(results)) == 2)  # a core each: both nodes train
        # SLURM's own clock: less than two minutes are left, so it sends its signal at its next look.
        job.change(TimeLimit=int(job.told("RunTime").split(":")[1]) + 2)
        job.until(lambda: "lifetime 1: goes on" in job.text())
        assert not list(results.glob("trials/*/result.json"))
        before = progress(results)
        job.until(lambda: job.told("JobState") in ("PENDING", "RUNNING") and job.told("Restarts") == "1")
        job.change(TimeLimit=20)
        job.until(lambda: any(n > before.get(trial, 0) for trial, n in progress(results).items()))
        job.call("scancel", "--batch", "--signal=TERM", job.number)  # the same signal, sooner
        job.until(lambda: "lifetime 2: goes on" in job.text())
        job.until(lambda: job.told("JobState") == "COMPLETED", 600)
        assert job.told("Restarts") == "2" and "lifetime 3: the driver ended with 0" in job.text()
    command = [sys.executable, "-m", "cli", "matrix", str(short / "two.yaml"), "--local", "--tracking-uri", "off"]
    subprocess.run([*command, "--results", str(alone)], cwd=ROOT, env=job.env, check=True, capture_output=True)
    assert digits(results) == digits(alone) and len(digits(alone)) == 2
