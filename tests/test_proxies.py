"""What is said to this machine goes through no proxy, whatever a site sets for its users."""

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
import requests

from harness import proxies
from harness.tracking import server

ROOT = Path(__file__).parent.parent
NOWHERE = "http://127.0.0.1:9"  # the port of what throws away
FORMS = {
    "small": {"http_proxy": NOWHERE, "https_proxy": NOWHERE},
    "capitals": {"HTTP_PROXY": NOWHERE, "HTTPS_PROXY": NOWHERE},
    "one for all": {"all_proxy": NOWHERE, "http_proxy": NOWHERE},
    "with exceptions": {"http_proxy": NOWHERE, "no_proxy": "intranet.example"},
    "exceptions in capitals": {"http_proxy": NOWHERE, "NO_PROXY": "intranet.example, .lab.example"},
    "no exceptions": {"http_proxy": NOWHERE, "no_proxy": "", "NO_PROXY": ""},
    "all is excepted": {"http_proxy": NOWHERE, "no_proxy": "*"},
}


@pytest.fixture
def clean(monkeypatch):
    """An environment of which nothing stays."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    urllib.request.urlcleanup()  # it keeps the proxies that it once saw
    yield monkeypatch
    urllib.request.urlcleanup()


class _Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"experiment": {"experiment_id": "7"}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def port():
    listening = http.server.ThreadingHTTPServer(("0.0.0.0", 0), _Answer)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield listening.server_port
    listening.shutdown()
    listening.server_close()


@pytest.mark.parametrize("form", FORMS)
def test_no_client_asks_a_proxy_for_this_machine(form, clean, port):
    for name, value in FORMS[form].items():
        clean.setenv(name, value)
    excepted = form == "all is excepted"
    if not excepted:
        with pytest.raises(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
    for _ in range(2):
        proxies.spare_this_machine()
    own = socket.gethostbyname(socket.gethostname())
    for host in ("127.0.0.1", "localhost", own, socket.gethostname()):
        with urllib.request.urlopen(f"http://{host}:{port}/", timeout=5) as answer:
            assert answer.status == 200
        assert requests.get(f"http://{host}:{port}/", timeout=5).ok
    assert "/experiments/7" in server.view_link(f"http://127.0.0.1:{port}", "x")
    if not excepted:
        assert urllib.request.proxy_bypass("elsewhere.example") == 0  # all else goes as the site wants it
        given = FORMS[form].get("no_proxy") or FORMS[form].get("NO_PROXY") or ""
        kept = {name.strip() for name in given.split(",") if name}
        assert kept <= set(os.environ["no_proxy"].split(",")) & set(os.environ["NO_PROXY"].split(","))
        assert os.environ["no_proxy"].count("localhost") == 1


def test_without_a_proxy_nothing_changes(clean):
    before = dict(os.environ)
    proxies.spare_this_machine()
    assert dict(os.environ) == before


@pytest.mark.slow
def test_a_matrix_and_its_pages_work_behind_a_proxy(tmp_path):
    (tmp_path / "t.yaml").write_text(
        "{name: t, preset: chainer, dataset: {name: synthetic, resolution: 32, num_images: 64}, "
        "backbone: {width: 0.0625, z_dim: 8}, arms: {baseline: {}}, run: {device: cpu}, "
        "train: {total_kimg: 0.064, batch_size: 8, tick_kimg: 0.016, snapshot_kimg: 0.032}, "
        "eval: {num_fakes: 24, batch_size: 8, metrics: {disequilibrium: {n: 8}}}}"
    )
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    env |= {"http_proxy": NOWHERE, "HTTPS_PROXY": NOWHERE, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    there = ["--results", str(tmp_path / "results")]
    cli = [sys.executable, "-m", "cli"]
    subprocess.run([*cli, "matrix", str(tmp_path / "t.yaml"), "--local", *there], cwd=ROOT, env=env, check=True)
    begun = time.monotonic()
    ui = subprocess.Popen(
        [*cli, "ui", "t", "--no-browser", "--port", "0", *there], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    try:
        said = next(line for line in ui.stdout if "http://127.0.0.1:" in line)
        assert time.monotonic() - begun < 85, "the wait for an answer was not until its end"
        base = said.split("MLflow: ")[1].split("/#")[0].strip()
        again = [*cli, "matrix", str(tmp_path / "t.yaml"), "--local", "--tracking-uri", base]
        done = subprocess.run(
            [*again, "--results", str(tmp_path / "second")], cwd=ROOT, env=env, capture_output=True, text=True
        )  # fmt: skip
        assert done.returncode == 0 and "behind" not in done.stdout + done.stderr
        assert not list((tmp_path / "second").glob("mlflow.db"))
    finally:
        ui.send_signal(signal.SIGINT)
        ui.wait(30)
        ui.stdout.close()
