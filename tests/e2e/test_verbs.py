"""Rules that hold for every verb: bad input is one line and exit code 2 whichever verb meets it; what a verb starts
ends with it, however it ends; what it shows is true now."""

import contextlib
import io
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import psutil
import pytest
from PIL import Image

import cli
from harness.orchestration import recognise, status
from harness.store import lock
from tests.e2e.test_cli import start, tiny

__all__ = ["tiny"]  # the fixture


def pictures(path, count=70):
    """A ZIP of images without labels."""
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(count):
            png = io.BytesIO()
            Image.new("RGB", (32, 32), (i, 255 - i, 3 * i % 256)).save(png, "PNG")
            archive.writestr(f"{i:03d}.png", png.getvalue())


# ── one preflight ────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["dataset.resolution=16"], "resolution: 16"),
        (["dataset={name: image_zip, path: junk.zip}"], "junk.zip"),
        (["dataset={name: image_zip, path: empty}"], "holds no images"),
        (["dataset={name: image_zip, path: plain.zip}", "conditional=true"], "no labels"),
        (["dataset={name: image_zip, path: plain.zip, resolution: 48}"], "resolution: 48"),
        (["dataset={name: cifar10, path: gone.tar.gz}", "backbone={name: stylegan2, z_dim: 0}"], "z_dim"),
        (["eval.weights=ema"], "train.ema_kimg is off"),
        (["eval.metrics={fd_efficientnet_lite0: {}}", "eval.num_reals=65"], "num_reals: 65"),
        (["run.resources.processes=3"], "cannot divide"),
        (["run.resources.gpus=1.5"], "gpus: 1.5"),
    ],
)
def test_what_matrix_refuses_plan_refuses_in_the_same_line(tiny, tmp_path, sets, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path / "cache"))
    pictures(tmp_path / "plain.zip")
    (tmp_path / "junk.zip").write_bytes(b"junk")
    (tmp_path / "empty").mkdir()
    options = [word for s in sets for word in ("--set", s)]
    said = []
    for words in (["plan", "tiny.yaml"], ["matrix", "tiny.yaml", "--local", "--tracking-uri", "off"]):
        assert cli.main([*words, *options]) == 2
        said.append(capsys.readouterr().err)
    assert said[0] == said[1] and message in said[0] and said[0].count("\n") == 1
    assert not (tmp_path / "results" / "trials").exists()


@pytest.mark.slow
def test_plan_fetches_nothing_and_needs_no_images(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def refuse(*_, **__):
        raise AssertionError("a connection")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "hub"))
    for data in ("{name: cifar10, path: none/cifar-10-python.tar.gz}", "{name: image_zip, path: gone.zip}"):
        words = ["plan", "tiny.yaml", "--set", f"dataset={data}", "--set", "eval.metrics=[fid, disequilibrium]"]
        assert cli.main(words) == 0, capsys.readouterr().err
    too_small = ["--set", "dataset={name: image_zip, path: gone.zip, resolution: 16}"]
    assert cli.main(["plan", "tiny.yaml", *too_small]) == 2
    assert "resolution: 16" in capsys.readouterr().err, "what is known without them is held against the networks"


def test_a_cluster_that_is_not_there_is_told_before_torch_is_loaded(tmp_path):
    code = (
        "import sys, cli\n"
        "code = cli.main(['matrix', 'smoke', '--ray-address', 'nohost', '--results', sys.argv[1]])\n"
        "assert code == 2 and 'torch' not in sys.modules and 'ray' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=Path(cli.__file__).parent, check=True, capture_output=True
    )


def test_a_cluster_that_is_not_there_is_told_before_all_that_takes_long(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recognise, "recognise", lambda *_: pytest.fail("looked at the images first"))
    shape, absent = ["nohost", ":1", "host:", "host:0", "host:99999", "host:²", "host:-1"], ["127.0.0.1:1", "a..b:1"]
    for address, message in (*((a, "must be host:port") for a in shape), *((a, "no answer") for a in absent)):
        assert cli.main(["matrix", "tiny.yaml", "--ray-address", address]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and message in err


@pytest.mark.parametrize("place", ["tiny.yaml", "tiny.yaml/below/it"])
@pytest.mark.parametrize("verb", ["matrix", "plan", "report", "status", "stop", "sync", "attention", "ui"])
def test_results_that_are_no_folder_are_refused_by_every_verb(tiny, tmp_path, verb, place, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main([verb, "tiny.yaml", "--results", place]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"--results {place}: tiny.yaml is no folder" in err


# ── true now ─────────────────────────────────────────────────────────────────


def test_status_takes_nothing_for_running_that_nobody_drives(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trials = recognise.recognise(cli_loaded(tiny), tmp_path / "results").experiment
    ids = [e.id for e in status.entries(trials)]
    for i, (id, state) in enumerate(zip(ids, ("running", "scoring", "failed"), strict=True)):
        home = tmp_path / "results" / "trials" / id
        home.mkdir(parents=True)
        now = {"state": state, "nimg": 64, "images_per_s": 1234.0, "time": time.time() - 3600 * i, "message": "so far"}
        (home / "state.json").write_text(json.dumps(now))

    def shown():
        assert cli.main(["status", "tiny.yaml"]) == 0
        return capsys.readouterr().out

    out = shown()
    assert out.count("interrupted") == 2 and "driver: none" in out and "same command goes on" in out
    assert "running" not in out and "scoring" not in out and "1.23e+03" not in out and "failed" in out
    with lock.hold(tmp_path / "results" / "tiny"):
        out = shown()
        assert "running" in out and "scoring" in out and "1.23e+03" in out and f"process {os.getpid()}" in out
    with lock.hold(tmp_path / "results" / "another"):  # which may share a trial that said something just now
        out = shown()
        assert "running" in out and "scoring" not in out and out.count("interrupted") == 1


SPOILT = ['{"state": "running", "nimg": "x", "images_per_s": [], "time": {}}', '{"state": ["x"]}', "[1]", "\0", "{"]


@pytest.mark.parametrize("text", SPOILT)
@pytest.mark.parametrize("driven", [False, True])
def test_status_reads_past_a_spoilt_state(tiny, tmp_path, capsys, monkeypatch, text, driven):
    monkeypatch.chdir(tmp_path)
    trials = recognise.recognise(cli_loaded(tiny), tmp_path / "results").experiment
    home = tmp_path / "results" / "trials" / status.entries(trials)[0].id
    home.mkdir(parents=True)
    (home / "state.json").write_text(text)
    with lock.hold(tmp_path / "results" / "tiny") if driven else contextlib.nullcontext():
        assert cli.main(["status", "tiny.yaml"]) == 0
    assert "0/0.128" in capsys.readouterr().out


def cli_loaded(path):
    from harness.experiment import files

    return files.load(str(path), [])


# ── ends ─────────────────────────────────────────────────────────────────────


def until(true, patience_s=120):
    deadline = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def gone(processes):
    return all(not p.is_running() or p.status() == psutil.STATUS_ZOMBIE for p in processes)


TWO = ("train.batch_gpu=4", "run.resources.processes=2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "sets"),
    [(signal.SIGTERM, ()), (signal.SIGHUP, ()), (signal.SIGHUP, TWO), (signal.SIGTERM, TWO)],
    ids=["SIGTERM", "SIGHUP", "SIGHUP, two processes", "SIGTERM, two processes"],
)
def test_signals_save_and_stop_however_often_they_come(tiny, tmp_path, number, sets):
    words = ["matrix", tiny, "--local"]
    for word in ("train.total_kimg=100", "run.checkpoint_s=1000", *sets):
        words += ["--set", word]
    process = start(*words, cwd=tmp_path)
    until(lambda: list(tmp_path.glob("results/trials/*/samples/*.png")))
    for _ in range(3):  # a shell tells of a hangup, and then so does the system
        os.killpg(process.pid, number)
        time.sleep(0.02)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in out and not err, err
    assert list(tmp_path.glob("results/trials/*/checkpoints/*.safetensors")), "saved"


@pytest.mark.slow
def test_a_terminal_that_goes_away_saves_and_stops(tiny, tmp_path):
    ours, theirs = pty.openpty()
    words = ("matrix", tiny, "--local", "--set", "train.total_kimg=100", "--set", "run.checkpoint_s=1000")
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        os.login_tty(theirs) if hasattr(os, "login_tty") else (os.setsid(), [os.dup2(theirs, n) for n in range(3)])
        os.chdir(tmp_path)
        os.environ |= {"OMP_NUM_THREADS": "1", "NASHBOARD_CACHE": str(tmp_path / "cache")}
        os.execv(sys.executable, [sys.executable, cli.__file__, *map(str, words)])
    os.close(theirs)
    os.set_blocking(ours, False)

    def drawn():
        with contextlib.suppress(BlockingIOError):
            os.read(ours, 65536)
        return list(tmp_path.glob("results/trials/*/samples/*.png"))

    until(drawn)
    os.close(ours)
    os.kill(pid, signal.SIGHUP)  # as the system does where the terminal was the process's own
    _, code = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(code) == 130
    assert list(tmp_path.glob("results/trials/*/checkpoints/*.safetensors")), "saved"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL, signal.SIGINT])
def test_no_server_outlives_its_ui(tmp_path, number):
    from harness.tracking import sqlite

    sqlite.create(tmp_path / "results" / "mlflow.db", tmp_path / "results" / "mlartifacts")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start("ui", "--no-browser", "--port", port, cwd=tmp_path)
    assert process.stdout and process.stderr
    assert process.stdout.readline().startswith("MLflow: http://127.0.0.1:")
    below = psutil.Process(process.pid).children(recursive=True)
    assert len(below) >= 2
    process.send_signal(number)
    process.wait(20)
    if number != signal.SIGKILL:
        assert gone(below) and process.returncode == 0
    until(lambda: gone(below), 20)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
    process.stdout.close()
    process.stderr.close()
