"""The command line as a user meets it: real files, and real processes where they matter."""

import contextlib
import json
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

import cli
from harness import plugins
from harness.data import prepare
from harness.experiment import files
from tests.cifar_files import write_archive
from tests.pictures.test_gallery import ALWAYS, EDITS

ROOT = Path(__file__).parent.parent.parent
TINY = """
    name: tiny
    preset: chainer
    seeds: [0]
    dataset: {name: synthetic, num_images: 64}
    backbone: {width: 0.0625, z_dim: 8}
    train: {total_kimg: 0.128, batch_size: 8, tick_kimg: 0.032, snapshot_kimg: 0.064}
    arms: {baseline: {}, sel: {sel: {}}, align: {sel: {}, align: {}}}
    labels: {sel: + SEL, align: + L_align}
    eval: {num_fakes: 64, batch_size: 16, metrics: [disequilibrium]}
"""


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(textwrap.dedent(TINY))
    return path


def start(*words, cwd, **more):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "NASHBOARD_CACHE": str(cwd / "cache")}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), *map(str, words)],
        cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **more,
    )  # fmt: skip


def run(*words, cwd):
    process = start(*words, cwd=cwd)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.mark.filterwarnings("ignore:::(mlflow|sqlalchemy|alembic|pydantic|google|starlette).*")
def test_a_matrix_ends_with_tables_and_results_that_last(tiny, tmp_path, mlflow_db, capsys, monkeypatch):
    words = ["matrix", str(tiny), "--local", "--set", "arms={baseline: {}, align: {sel: {}, align: {}}}"]
    folder = tmp_path / "results"
    folder.mkdir()
    shutil.copy(mlflow_db, folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path / "cache"))
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "Baseline" in out
    assert "+ L_align" in out
    assert {p.suffix for p in (folder / "tiny" / "tables").iterdir()} == {".md", ".csv", ".tex"}
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as db:
        assert db.execute("select count(*) from metrics where key = 'loss/g'").fetchone()[0] == 2 * 4
    results = [json.loads(p.read_text()) for p in folder.glob("trials/*/result.json")]
    assert len(results) == 2
    for result in results:
        assert result["status"] == "done"
        assert result["nimg"] == 128
        assert np.isfinite(result["metrics"]["di"]["value"])
        assert len(result["samples"]) == 3
        assert {"loss/d", "loss/g", "scores/real_min", "scores/fake_max", "eval/di"} <= set(result["series"])
        assert result["env"]["commit"]
        home = folder / "trials" / result["id"]
        assert set(result["figures"]) == ALWAYS | (EDITS if result["config"]["variants"] else set())
        assert all((home / path).stat().st_size > 10_000 for path in result["figures"].values())
        assert not (home / "figures" / "failed.txt").exists()
    before = {p: p.read_bytes() for p in folder.glob("trials/*/result.json")}
    began = time.monotonic()
    assert cli.main(words) == 0
    assert "2 finished before" in capsys.readouterr().out
    assert time.monotonic() - began < 30, "a finished matrix starts nothing"
    assert before == {p: p.read_bytes() for p in folder.glob("trials/*/result.json")}


@pytest.mark.slow
def test_a_process_of_its_own_makes_everything_from_nothing(tiny, tmp_path):
    code, out, err = run("matrix", tiny, "--local", "--set", "arms={baseline: {}}", cwd=tmp_path)
    assert code == 0, err
    assert "Baseline" in out
    assert (tmp_path / "results" / "mlflow.db").exists()


@pytest.mark.slow
def test_interrupted_it_saves_and_says_130(tiny, tmp_path):
    process = start(
        "matrix", tiny, "--local", "--set", "train.total_kimg=100", "--set", "run.checkpoint_s=0", cwd=tmp_path
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("results/trials/*/checkpoints/*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in out


@pytest.mark.parametrize("word", [None, *cli.VERBS])
def test_each_verb_says_what_it_does_and_takes(word, capsys):
    """With nothing wrong: argparse itself fails on what it can't format."""
    with pytest.raises(SystemExit) as end:
        cli.parser().parse_args([*([word] if word else []), "--help"])
    said = capsys.readouterr().out
    assert end.value.code == 0 and (word or "VERB") in said
    options = cli.VERBS[word].options if word else ()
    assert all(name in said for o in options for name in o.how.get("choices", o.names))


@pytest.mark.parametrize("word", cli.VERBS)
def test_each_verb_shows_two_examples_that_are_true(word, capsys):
    """The parser takes them, and what they name of ours is there."""
    assert len(set(cli.VERBS[word].examples)) == 2
    with pytest.raises(SystemExit):
        cli.parser().parse_args([word, "--help"])
    said = capsys.readouterr().out
    for example in cli.VERBS[word].examples:
        line = f"nashboard {word} {example}".rstrip()
        assert f"\n  {line}\n" in said
        args = cli.parser().parse_args(shlex.split(line, comments=True)[1:])
        experiment = getattr(args, "experiment", None)
        if experiment and experiment != "mine.yaml":
            files.load(experiment, getattr(args, "set", []))
        assert {*(getattr(args, "metrics", None) or "fid").split(",")} <= {*plugins.names("harness.metrics")}
        assert word != "data" or args.name in prepare.RECIPES


def test_plan_runs_nothing(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plan", str(tiny), "--set", "seeds=[0,1]"]) == 0
    assert "6 unique trials" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()


def test_cifar10_in_its_genuine_format_trains_end_to_end(tiny, tmp_path, monkeypatch):
    write_archive(tmp_path / "cifar-10-python.tar.gz", count=80)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path / "cache"))
    sets = ["dataset.name=cifar10", "dataset.path=cifar-10-python.tar.gz", "dataset.expect_full=false"]
    sets += ["conditional=true", "arms={align: {sel: {}, align: {}}}", "train.total_kimg=0.032"]
    words = [word for s in sets for word in ("--set", s)]
    assert cli.main(["matrix", str(tiny), "--local", "--tracking-uri", "off", *words]) == 0
    result = json.loads(next(tmp_path.glob("results/trials/*/result.json")).read_text())
    assert result["config"]["conditional"]
    assert result["dataset"]["name"] == "cifar10"
    assert "di_heldout" in result["metrics"], "the test batch is held out"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["matrix", "nothing.yaml"], "no such experiment file"),
        (["matrix", "tiny.yaml", "--set", "train.total_kmig=1"], "did you mean 'total_kimg'"),
        (["matrix", "tiny.yaml", "--set", "dataset.name=cifar10"], "cifar-10-python.tar.gz"),
        (["matrix", "tiny.yaml", "--set", "dataset.resolution=16"], "resolution: 16"),
        (["matrix", "tiny.yaml", "--set", "arms={a: {align: {}}}"], "needs heatmaps"),
        (["matrix", "tiny.yaml", "--set", "eval.num_fakes=0"], "eval.num_fakes: 0: must be >= 2"),
        (["matrix", "tiny.yaml", "--set", "eval.weights=ema"], "train.ema_kimg is off"),
        (["matrix", "tiny.yaml", "--results", "tiny.yaml/x"], "tiny.yaml"),
        (["matrix", "tiny.yaml", "--set", "dataset.name=image_zip", "--set", "dataset.path=gone.zip"], "gone.zip"),
        (["plan", "tiny.yaml", "--set", "seeds=3"], "seeds: 3: must be a list"),
        (["data", "prepare", "noto_emojy", "--source", "x", "--out", "y.zip"], "noto_emoji"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tiny, tmp_path, words, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1, err
    assert message in err
    assert not list(tmp_path.glob("results/trials/*")), "nothing half-written"
