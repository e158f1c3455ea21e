"""An S3 server (moto's) that misbehaves as it is told: `python -m tests.store.s3_server PORT FILE`.

FILE holds JSON, read at every request: `refuse`, the share of requests that are answered 503; `reset`, the share whose
connection is reset, every other time after the request was carried out; `late_s`, for how long a listing lacks a new
object. To freeze it is to send it SIGSTOP.
"""

import itertools
import json
import os
import re
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

Respond = Callable[..., Any]
SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"


class Misbehaving:
    """A WSGI application around another one."""

    def __init__(self, app: Any, faults: Path) -> None:
        self.app, self.faults = app, faults
        self.born: dict[str, float] = {}  # path -> when it was first written
        self.owed = {"refuse": 0.0, "reset": 0.0}
        self.count = itertools.count()

    def __call__(self, environ: dict[str, Any], respond: Respond) -> Iterable[bytes]:
        told = json.loads(self.faults.read_text())
        if self.due("refuse", told):
            respond("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(SLOW_DOWN)))])
            return [SLOW_DOWN]
        reset = self.due("reset", told)
        if reset and next(self.count) % 2:
            return self.reset(environ, respond)
        heard: list[Any] = []
        body = b"".join(self.app(environ, lambda *words: heard.append(words)))
        status, headers = heard[0][:2]
        if environ["REQUEST_METHOD"] == "PUT" and status.startswith("200"):
            self.born.setdefault(environ["PATH_INFO"].lstrip("/").partition("/")[2], time.monotonic())
        if "list-type=2" in environ.get("QUERY_STRING", ""):
            body = self.without_young(body, told.get("late_s", 0))
            headers = [(k, v) for k, v in headers if k.lower() != "content-length"]
            headers.append(("Content-Length", str(len(body))))
        if reset:
            return self.reset(environ, respond)
        respond(status, headers)
        return [body]

    def due(self, kind: str, told: dict[str, float]) -> bool:
        self.owed[kind] += told.get(kind, 0)
        if self.owed[kind] < 1:
            return False
        self.owed[kind] -= 1
        return True

    def without_young(self, listing: bytes, late_s: float) -> bytes:
        def keep(found: re.Match[bytes]) -> bytes:
            age = time.monotonic() - self.born.get(unquote(found[1].decode()), 0)
            return found[0] if age >= late_s else b""

        return re.sub(rb"<Contents>\s*<Key>(.*?)</Key>.*?</Contents>", keep, listing, flags=re.DOTALL)

    def reset(self, environ: dict[str, Any], respond: Respond) -> Iterable[bytes]:
        """Close the connection with a reset, and let the rest of the answer go nowhere."""
        connection: socket.socket = environ["werkzeug.socket"]
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        nowhere, other = socket.socketpair()
        os.dup2(nowhere.fileno(), connection.fileno())
        nowhere.close()
        other.close()
        respond("200 OK", [("Content-Length", "0")])
        return [b""]


if __name__ == "__main__":
    app = Misbehaving(DomainDispatcherApplication(create_backend_app), Path(sys.argv[2]))
    run_simple("127.0.0.1", int(sys.argv[1]), app, threaded=True)
