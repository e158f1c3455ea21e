"""MLflow's pages for whoever has the key, and for nobody else."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from http.cookiejar import CookieJar
from typing import Any

import pytest

from harness.disk import ROOT
from harness.tracking import gate

KEY = "k" * 32


async def _pages(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"secret"})


def ask(path="/", query="", kind="http", **headers):
    """(messages that come back) of a request to pages behind the gate."""
    scope = {
        "type": kind, "path": path, "query_string": query.encode(), "server": ("127.0.0.1", 5000),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    came = []

    async def send(message):
        came.append(message)

    shut: Any = gate.shut(_pages, KEY)
    asyncio.run(shut(scope, None, send))
    return came


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"path": "/api/2.0/mlflow/experiments/search"},
        {"path": "/health/../api"},
        {"query": "key="},
        {"query": f"key={KEY[:-1]}"},
        {"authorization": "Bearer "},
        {"authorization": f"Bearer {KEY}x"},
        {"cookie": f"nashboard-5001={KEY}"},
        {"cookie": "nashboard-5000="},
        {"cookie": "\x00=;;=é"},
    ],
    ids=str,
)
def test_without_the_key_there_is_nothing(request_):
    start, body = ask(**request_)
    assert start["status"] == 401 and b"secret" not in body["body"]


def test_a_websocket_without_the_key_is_closed():
    assert ask(kind="websocket") == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize(
    "request_",
    [{"authorization": f"Bearer {KEY}"}, {"cookie": f"a=b; nashboard-5000={KEY}"}, {"path": gate.OPEN}],
    ids=str,
)
def test_with_the_key_the_pages_are_there(request_):
    assert ask(**request_)[1]["body"] == b"secret"


def test_the_link_leaves_a_cookie_and_takes_itself_out_of_the_address():
    link = gate.keyed("http://127.0.0.1:5000/#/experiments/1/runs?a=b", KEY)
    assert link == f"http://127.0.0.1:5000/?key={KEY}#/experiments/1/runs?a=b"
    assert gate.keyed("http://127.0.0.1:5000", KEY) == f"http://127.0.0.1:5000/?key={KEY}"
    start, _ = ask(query=f"key={KEY}")
    headers = dict(start["headers"])
    assert start["status"] == 303 and headers[b"location"] == b"/"
    assert ask(cookie=headers[b"set-cookie"].decode().partition(";")[0])[1]["body"] == b"secret"


@pytest.mark.slow
def test_the_server_of_ui_answers_by_its_link_alone(tmp_path, mlflow_db):
    shutil.copy(mlflow_db, tmp_path / "mlflow.db")
    command = [sys.executable, str(ROOT / "cli.py"), "ui", "--results", str(tmp_path), "--port", "0", "--no-browser"]
    ui = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert ui.stdout
    try:
        link = next(line for line in ui.stdout if line.startswith("MLflow: ")).split()[1]
        base, _, query = link.partition("/?")
        api = f"{base}/api/2.0/mlflow/experiments/search?max_results=9"
        for address in (f"{base}/", api, f"{base}/?key=wrong", f"{base}/get-artifact?path=x&run_uuid=y"):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(address)
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        assert b"MLflow" in browser.open(link).read()
        assert b"experiments" in browser.open(api).read()
        client = urllib.request.Request(api, headers={"Authorization": f"Bearer {query.removeprefix('key=')}"})
        assert b"experiments" in urllib.request.urlopen(client).read()
        assert query.removeprefix("key=") not in (tmp_path / "mlflow-server.log").read_text()
    finally:
        ui.send_signal(signal.SIGINT)
        ui.wait(30)
        ui.stdout.close()
