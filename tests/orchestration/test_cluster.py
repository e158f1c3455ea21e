"""Real trainings through the matrix on clusters of several nodes: processes that train one trial together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness.store import checkpoint
from tests.clusters import nodes
from tests.orchestration.test_launch import ROOT, end, short, until

__all__ = ["short"]  # the fixture

ONE_TRIAL = """
name: one
preset: tiny32
dataset: {name: synthetic, resolution: 32, num_images: 64}
backbone: {z_dim: 16, w_dim: 16, mapping_layers: 2, channel_base: 128, channel_max: 8}
train: {total_kimg: 0.256, batch_size: 8, batch_gpu: 4, tick_kimg: 0.032, snapshot_kimg: 0.128, r1_interval: 3}
arms: {align: {sel: {}, align: {}}}
eval: {num_fakes: 64, batch_size: 8, metrics: [disequilibrium]}
run: {device: cpu, checkpoint_s: 0.2}
"""


def matrix(folder: Path, name: str, *words: str) -> subprocess.Popen[str]:
    (folder / "one.yaml").write_text(ONE_TRIAL)
    command = [sys.executable, "cli.py", "matrix", str(folder / "one.yaml"), "--tracking-uri", "off"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_TMPDIR": str(folder), "TMPDIR": str(folder)}
    return subprocess.Popen(
        [*command, "--results", str(folder / name), *words], cwd=ROOT, env=env, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def told(folder: Path, name: str):
    """What a trial leaves that its speed and its number of processes must not change."""
    (home,) = (folder / name / "trials").iterdir()
    result = json.loads((home / "result.json").read_text())
    saved = checkpoint.load_latest(home / "checkpoints")
    weights = {k: v.tolist() for k, v in saved.tensors.items() if not k.startswith("places/")}
    series = {k: v for k, v in result["series"].items() if not k.startswith("system/")}
    return result["status"], result["metrics"], series, weights


def processes(folder: Path, name: str) -> list[psutil.Process]:
    """Ray workers that run a method of this name below `folder`."""
    found = []
    for p in psutil.process_iter(["cmdline"]):
        words = p.info["cmdline"] or []
        if words and words[0].startswith("ray::") and words[0].endswith(name):
            found.append(p)
    return found


@pytest.mark.slow
def test_processes_on_several_nodes_train_one_trial_as_one_process_does(short):
    assert end(matrix(short, "alone", "--local"))[0] == 0
    with nodes(short, (1, 0), (1, 1), (1, 1)) as cluster:
        there = ["--ray-address", cluster.address]
        too_much = ["--set", "run.resources.gpus=2", "--set", "run.resources.cpus=2"]
        code, _, err = end(matrix(short, "refused", *there, *too_much), 120)
        assert code == 2 and "they hold no 2 processes of 1 GPUs (nodes: 0 GPUs and 1 cores; 1 GPUs" in err
        code, out, err = end(matrix(short, "two", *there, "--set", "run.resources.gpus=2"), 240)
        assert code == 0, out + err
        assert told(short, "two") == told(short, "alone")

        driver = matrix(short, "lost", *there, "--set", "run.resources.gpus=2", "--set", "run.retries=3")
        until(lambda: list(short.glob("lost/trials/*/checkpoints/*.safetensors")), 120)
        (mate,) = processes(short, "follow")
        mate.kill()
        code, out, err = end(driver, 240)
        assert code == 0, out + err
        (home,) = (short / "lost" / "trials").iterdir()
        assert (home / "attempt").read_text() == "2"
        assert told(short, "lost") == told(short, "alone")
        until(lambda: not processes(short, "follow"), 20)


@pytest.mark.slow
def test_a_stopped_team_saves_and_one_process_can_go_on_from_there(short):
    assert end(matrix(short, "alone", "--local"))[0] == 0
    driver = matrix(short, "team", "--set", "run.resources.processes=2")
    until(lambda: list(short.glob("team/trials/*/checkpoints/*.safetensors")), 120)
    time.sleep(0.5)
    os.killpg(driver.pid, signal.SIGINT)
    assert end(driver)[0] == 130
    assert end(matrix(short, "team", "--local"))[0] == 0
    assert told(short, "team") == told(short, "alone")


def rehearsal(folder: Path) -> Path:
    """rehearsal.yaml's SN-DCGAN part: one seed of its six cells, each a quarter as long."""
    import yaml

    whole = yaml.safe_load((ROOT / "experiments" / "rehearsal.yaml").read_text())
    part = whole["include"]["table2"]
    part["seeds"] = [0]
    part["train"]["total_kimg"] = 0.32
    part["eval"] |= {"num_fakes": 128, "num_reals": 256}
    (folder / "part.yaml").write_text(yaml.safe_dump({**whole, "name": "part", "include": {"table2": part}}))
    return folder / "part.yaml"


@pytest.mark.slow
def test_three_nodes_run_the_rehearsal_with_halves_of_gpus_and_with_whole_ones(short):
    """Run with -s, it prints where each trial ran."""
    path = rehearsal(short)
    with nodes(short, (2, 1), (2, 1), (4, 2)) as cluster:
        for gpus in (0.5, 1):
            results = short / f"gpus{gpus}"
            command = [
                sys.executable,
                "cli.py",
                "matrix",
                str(path),
                "--results",
                str(results),
                "--tracking-uri",
                "off",
            ]
            command += ["--ray-address", cluster.address, "--set", "run.device=cpu"]
            done = subprocess.run(
                [*command, "--set", f"run.resources.gpus={gpus}"],
                cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=400,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            log = [line for line in (results / "part" / "driver.log").read_text().splitlines() if "on node" in line]
            print(f"\n{gpus} GPUs a trial:", *sorted(log), sep="\n")
            assert len(log) == len(list(results.glob("trials/*/result.json"))) == 6
            assert len({line.split("on node ")[1].split()[0] for line in log}) > 1
            assert all("GPUs none" not in line for line in log)
