"""Results on S3: a matrix against a real server that freezes, resets, refuses and lists late, to the digits of one
that had none of it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from harness.store import lease, remote
from harness.store.bucket import Store
from tests.orchestration.test_cluster import ROOT, end, matrix, short, told, until

__all__ = ["short"]  # the fixture

URL = "s3://bucket/runs"
LONG = ("--local", "--set", "train.total_kimg=0.768")
AT_URL = ("unused", "--results", URL, *LONG)
FROZEN_S = 75
PATIENCE_S = 600


class Server:
    """`tests.store.s3_server` in a process of its own, and what it is to do wrong."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.faults, self.log = folder / "faults.json", (folder / "server.log").open("w")
        self.do()
        command = [sys.executable, "-m", "tests.store.s3_server", str(self.port), str(self.faults)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=self.log, stderr=self.log)
        until(self.answers, 60)

    def answers(self):
        assert self.process.poll() is None, (self.faults.parent / "server.log").read_text()
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    def do(self, **wrong):
        part = self.faults.with_suffix(".part")
        part.write_text(json.dumps(wrong))
        part.replace(self.faults)


@pytest.fixture
def server(short, monkeypatch):
    made = Server(short)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{made.port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(short / "here"))
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("bucket")
    yield made
    made.process.kill()
    made.process.wait()
    made.log.close()


def trial(folder):
    return next((folder / "alone" / "trials").iterdir()).name


def there(name):
    return [path for path in Store(URL).paths("trials") if name in path]


def fetched(folder):
    """All that is at the URL, in a folder `store`."""
    Store(URL).pull("trials", folder / "store" / "trials")
    return told(folder, "store")


def whole(folder, monkeypatch, done):
    """A driver that has seen nothing of it finds all finished, and says the same tables."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "elsewhere"))
    code, again, err = end(matrix(folder, *AT_URL), PATIENCE_S)
    assert code == 0 and "1 trials, 1 finished before" in again, again + err
    tables = [out[out.index("Arm ") : out.index("report: ")] for out in (done, again)]
    assert tables[0] == tables[1]
    assert fetched(folder) == told(folder, "alone")


@pytest.mark.slow
def test_a_matrix_on_s3_outlives_what_its_server_does(short, server, monkeypatch):
    assert end(matrix(short, "alone", *LONG), PATIENCE_S)[0] == 0
    server.do(refuse=0.15, reset=0.1, late_s=5)
    driver = matrix(short, *AT_URL)
    until(lambda: there(".safetensors"), 240)
    os.kill(server.process.pid, signal.SIGSTOP)
    time.sleep(FROZEN_S)
    os.kill(server.process.pid, signal.SIGCONT)
    code, out, err = end(driver, PATIENCE_S)
    assert code == 0, out + err
    whole(short, monkeypatch, out)
    assert len(there(".safetensors")) == 2  # no more than a local folder keeps
    server.do()
    assert {p.rpartition("/")[2] for p in there("/.attempts/")} == {"1"}


@pytest.mark.slow
def test_a_driver_on_s3_is_killed_and_another_machine_goes_on(short, server, monkeypatch):
    assert end(matrix(short, "alone", *LONG), PATIENCE_S)[0] == 0
    server.do(late_s=5)
    monkeypatch.setattr(remote, "_url", URL)
    with lease.drive(short / "third" / "one"):  # another driver, which lives
        code, out, err = end(matrix(short, *AT_URL), PATIENCE_S)
    assert code == 3 and "another driver (process" in err and "works on it at s3://bucket/runs" in err, out + err
    driver = matrix(short, *AT_URL)
    until(lambda: Store(URL).version(f"trials/{trial(short)}/checkpoints/latest.json"), 240)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.communicate()
    monkeypatch.setenv("XDG_CACHE_HOME", str(short / "second"))
    code, out, err = end(matrix(short, *AT_URL), PATIENCE_S)
    assert code == 0 and "without an end: waiting 30 s for a sign of it" in out, out + err
    whole(short, monkeypatch, out)
