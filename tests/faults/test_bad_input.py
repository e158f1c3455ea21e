"""Whatever is put in: one line, exit code 2, within seconds, nothing run and nothing left behind."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import cli
from harness.datasets import cifar10
from harness.evaluation.features import INCEPTION_VARIABLE
from harness.store import remote
from tests.faults import bad_files, bad_input, bad_models
from tests.faults.bad_input import RAN, Case

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:::(mlflow|sqlalchemy|alembic|pydantic).*")]
ROOT = Path(__file__).parent.parent.parent
WITHIN_S = 5.0
PROCESS_S = 10.0  # with the imports of a fresh process, 3 to 5 s alone on two cores, beside whatever else runs
SAMPLE = 20  # cases that also meet a process of their own
CASES = [
    case
    for cases in (
        bad_input.yamls, bad_input.arguments, bad_files.zip_cases, bad_files.archive_cases,
        bad_models.checkpoint_cases, bad_models.pickle_cases, bad_models.inception_cases,
    )
    for case in cases()
]  # fmt: skip


def content(folder: Path) -> dict[Path, bytes]:
    """All files but the one from which `data prepare` would go on."""
    kept = [p for p in folder.rglob("*") if not p.name.startswith("out.zip.part")]
    return {p: p.read_bytes() if p.is_file() and not p.is_symlink() else b"" for p in kept}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a case runs; statistics are cached elsewhere, and no download is tried."""
    made = tmp_path / "here"
    made.mkdir()
    monkeypatch.chdir(made)
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(INCEPTION_VARIABLE, "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "_url", None)
    monkeypatch.setattr(cifar10, "URL", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    return made


@pytest.fixture(scope="module", autouse=True)
def imported():
    """What a first call would import, which is not a case's time."""
    import mlflow

    from harness.evaluation import evaluate
    from harness.orchestration import launch
    from harness.weights import importer as weights

    assert mlflow and evaluate and launch and weights
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def judge(case: Case, folder: Path, before: dict[Path, bytes], code: object, err: str) -> None:
    assert code == 2, err[-2000:]
    assert err.endswith("\n") and err.count("\n") == 1 and err[:-1].isprintable(), err[-2000:]
    assert err.startswith("nashboard") and case.says in err and len(err) < 1200, err[-2000:]
    assert not (folder / RAN).exists(), "code in the input was run"
    assert content(folder) == before, "something new"


def test_there_are_many_and_each_has_a_name():
    names = [case.name for case in CASES]
    assert len(names) >= 300
    assert sorted(set(names)) == sorted(names)
    assert sum("code" in name or "calls" in name for name in names) > 40


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_it_is_one_line_and_leaves_nothing(case, folder, capsys):
    case.files(folder)
    before, start = content(folder), time.monotonic()
    code: object = None
    try:
        code = cli.main(case.words)
    except SystemExit as e:  # argparse's way
        code = e.code
    took = time.monotonic() - start
    judge(case, folder, before, code, capsys.readouterr().err)
    assert took < WITHIN_S


@pytest.mark.parametrize("case", CASES[:: len(CASES) // SAMPLE], ids=lambda case: case.name)
def test_so_it_is_in_a_process_of_its_own(case, folder):
    if any("\0" in word for word in case.words):
        pytest.skip("no such word can be given to a process")
    case.files(folder)
    before, start = content(folder), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *case.words], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=60,
    )  # fmt: skip
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime  # whatever else the machine does
    judge(case, folder, before, done.returncode, done.stderr)
    assert took < PROCESS_S


# ── the same, unbroken ───────────────────────────────────────────────────────


def accepted(capsys, *words: str) -> None:
    assert cli.main(words) == 0, capsys.readouterr().err


def test_the_experiment_unbroken_runs(folder, capsys):
    bad_input.experiment(folder)
    accepted(capsys, "matrix", "tiny.yaml", "--local", "--tracking-uri", "off")


@pytest.mark.parametrize(
    ("name", "data", "sets"),
    [
        ("a.zip", bad_files.good_zip, ["dataset.name=image_zip", "eval.metrics.disequilibrium.n=2"]),
        ("cifar-10-python.tar.gz", bad_files.good_archive, ["dataset.name=cifar10", "dataset.expect_full=false"]),
    ],
)
def test_the_data_unbroken_are_trained_on(folder, capsys, name, data, sets):
    bad_input.experiment(folder)
    (folder / name).write_bytes(data())
    options = [word for s in (*sets, f"dataset.path={name}", "arms={a: {}}") for word in ("--set", s)]
    accepted(capsys, "matrix", "tiny.yaml", "--local", "--tracking-uri", "off", *options)


def test_the_checkpoint_unbroken_is_scored_and_the_pickle_imported(folder, capsys):
    bad_models.in_folder(folder, bad_models.good_checkpoint())
    (folder / "c.safetensors").write_bytes(bad_models.good_checkpoint())
    for path in (".", "c.safetensors"):
        accepted(capsys, "eval", path, "--num-fakes", "64", "--device", "cpu")
    (folder / "n.pkl").write_bytes(bad_models.good_pickle())
    accepted(capsys, "import-weights", "n.pkl")
