"""MLflow's web pages over results/: a lean server on this machine only, and the link of our view."""

import contextlib
import html
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import process, proxies
from harness.disk import ROOT
from harness.errors import UserError
from harness.tracking import gate, sqlite, views

START_S = 90.0


@contextmanager
def serve(results: Path, port: int = 5000, host: str = "127.0.0.1", key: str = "") -> Iterator[str]:
    """A running server; yields its address. One process, no job runners: they outlive the server. With a `key`, only
    for those who have it (see `gate`).

    Raises UserError where the port is taken or there is no database yet.
    """
    db = results.absolute() / "mlflow.db"
    if not db.exists():
        raise UserError(f"{db}: not there; run a matrix first, or `sync` to build it from the results")
    uri = sqlite.default_uri(results)
    sqlite.check(db)
    if not 0 <= port < 2**16:
        raise UserError(f"--port {port}: must be from 0 to {2**16 - 1}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as e:
            raise UserError(f"--port {port}: {e.strerror}; give another, like --port {port + 1}") from None
        port = probe.getsockname()[1]  # port 0: any free one
    proxies.spare_this_machine()
    there = ["--host", host, "--port", str(port), "--workers", "1"]
    artifacts = (results.absolute() / "mlartifacts").as_uri()
    lean = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    if key:
        command = [sys.executable, "-m", "uvicorn", "--factory", "harness.tracking.gate:app", *there]
        command += ["--no-access-log", "--app-dir", str(ROOT)]  # a log would hold the key
        lean[gate.ORDER] = gate.order(key, uri, artifacts)
    else:
        command = [sys.executable, "-m", "mlflow", "server", *there, "--no-serve-artifacts"]
        command += ["--backend-store-uri", uri, "--default-artifact-root", artifacts]
    base = f"http://{host}:{port}"
    try:
        log = (results / "mlflow-server.log").open("w", encoding="utf-8")
    except OSError as e:
        raise UserError(f"{e.filename}: {e.strerror}; MLflow's server needs a folder that can be written") from None
    with log, process.kept(command, {**os.environ, **lean}, log) as server:
        _wait(base, server, log.name)
        yield base


def ui(
    results: Path, experiment: str | None, port: int = 5000, *, browse: bool = True, say: Callable[[str], None] = print
) -> None:
    """Serve until Ctrl-C, SIGTERM or SIGHUP; says, and opens in a browser, the link of the experiment's view."""
    key = secrets.token_urlsafe(24)
    with contextlib.suppress(KeyboardInterrupt), serve(results, port, key=key) as base:
        link = gate.keyed(view_link(base, experiment, key=key) if experiment else base, key)
        say(f"MLflow: {link}")
        say("Ctrl-C ends it.")
        with _page(link) as page:
            if browse:
                webbrowser.open(page)
            while True:
                time.sleep(3600)


@contextmanager
def _page(link: str) -> Iterator[str]:
    """A file of this user's that leads to `link`: a browser's command line can be read by everybody."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".html") as file:
        file.write(f'<meta http-equiv="refresh" content="0; url={html.escape(link)}">')
        file.flush()
        yield Path(file.name).as_uri()


def view_link(base: str, experiment: str, view: str = "by-arm", key: str = "") -> str:
    """The address of a saved view of `experiment`; the server's front page where it has no such experiment."""
    query = urllib.parse.urlencode({"experiment_name": f"nashboard/{experiment}"})
    question = urllib.request.Request(f"{base}/api/2.0/mlflow/experiments/get-by-name?{query}")
    question.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(question, timeout=30) as answer:
            id = json.load(answer)["experiment"]["experiment_id"]
    except urllib.error.HTTPError:
        return base
    return views.link(base, id, view)


def _wait(base: str, server: "subprocess.Popen[bytes]", log: str) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{base}/health", timeout=2):
            return
        time.sleep(0.2)
    raise UserError(f"MLflow's server did not start; see {log}")
