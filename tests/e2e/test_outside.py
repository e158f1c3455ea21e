"""A metric, a dataset, a backbone and a variant of one's own: a file each, and one word in the YAML."""

import contextlib
import csv
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import cli
from harness import outside
from harness.store import checkpoint

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "tests" / "outside"
FILES = {f"{kind}.py" for kind in ("backbones/plain_dcgan", "datasets/gratings", "metrics/energy_distance")}
DISTANCE = "energy_distance_32px_64_full"
OWN = """
    preset: chainer
    plugins: [../mine]
    dataset: {name: gratings, num_images: 64}
    backbone: {name: plain_dcgan, width: 8, z_dim: 16}
    train: {total_kimg: 0.064, batch_size: 8, tick_kimg: 0.016, snapshot_kimg: 0.064}
    arms: {baseline: {}, smooth: {smooth: {}}, anchor: {anchor: {}, set: {train.d.lr: 1.0e-4}}}
    eval: {num_fakes: 64, batch_size: 16, metrics: {energy_distance: {size: 32}, disequilibrium: {}}}
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A working folder with an experiment in one place and plugins in another."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path / "cache"))
    for file in outside.read(EXAMPLE).files:
        (tmp_path / "mine" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(EXAMPLE / file, tmp_path / "mine" / file)
    path = tmp_path / "experiments" / "own.yaml"
    path.parent.mkdir()
    path.write_text(textwrap.dedent(OWN))
    yield path
    outside.use([])


def run(*words, cwd):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *map(str, words)],
        cwd=cwd, env=env, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    return done.stdout


@pytest.mark.filterwarnings("ignore:::(mlflow|sqlalchemy|alembic|pydantic|google|starlette).*")
def test_their_results_are_in_table_report_and_mlflow(own, tmp_path, mlflow_db, capsys):
    results = tmp_path / "results"
    results.mkdir()
    shutil.copy(mlflow_db, results)
    words = ["matrix", str(own), "--local"]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "smooth" in out and "Energy distance" in out, "its own metric heads the table"
    with (results / "own" / "results.csv").open() as f:
        rows = {row["variants"]: row for row in csv.DictReader(f)}
    assert set(rows) == {"", "smooth", "anchor"}
    for variants, row in rows.items():
        assert (row["state"], row["dataset"], row["backbone"]) == ("done", "gratings", "plain_dcgan")
        assert float(row[DISTANCE]) > 0
        used = FILES | ({f"variants/{variants}.py"} if variants else set())
        assert {name.split()[0] for name in row["plugins"].split(", ")} == used
        home = results / "trials" / row["id"]
        digests = outside.digests(outside.read(tmp_path / "mine").files)
        assert json.loads((home / "env.json").read_text())["plugins"] == {name: digests[name] for name in used}
        assert outside.digests(outside.read(home / "plugins").files) == {name: digests[name] for name in used}
    assert DISTANCE in (results / "own" / "tables" / "own.csv").read_text()
    page = (results / "own" / "report.html").read_text()
    assert DISTANCE in page and "variants/smooth.py" in page
    assert "anchor also sets train.d.lr=0.0001" in page
    saved = checkpoint.load_latest(results / "trials" / rows["anchor"]["id"] / "checkpoints")
    assert saved.tensors["memory/anchor/weight"] > 0
    with contextlib.closing(sqlite3.connect(results / "mlflow.db")) as db:
        for key in (f"final/{DISTANCE}", "loss/smooth", "loss/anchor/distance"):
            assert db.execute("select count(*) from metrics where key = ?", [key]).fetchone()[0] > 0, key

    # What was trained is read back without the folder: by the files that the trial kept.
    shutil.rmtree(tmp_path / "mine")
    outside.use([])
    assert cli.main(["eval", str(results / "trials" / rows["smooth"]["id"]), "--metrics", "energy_distance"]) == 0
    assert DISTANCE in capsys.readouterr().out
    assert cli.main(words) == 2
    assert "mine: is no folder" in capsys.readouterr().err


@pytest.mark.slow
def test_other_processes_have_them_too(own, tmp_path):
    """A trial of two processes on Ray, and one scored by two."""
    more = ["--set", "run.resources.processes=2", "--set", "train.batch_gpu=4", "--set", "arms={smooth: {smooth: {}}}"]
    run("matrix", own, "--tracking-uri", "off", *more, cwd=tmp_path)
    shutil.rmtree(tmp_path / "mine")
    (trial,) = (tmp_path / "results" / "trials").iterdir()
    assert json.loads((trial / "result.json").read_text())["status"] == "done"
    assert DISTANCE in run("eval", trial, "--workers", 2, cwd=tmp_path)
    assert "samples.png" in run("pictures", trial, cwd=tmp_path)
