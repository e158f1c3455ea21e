"""MLflow's web pages behind a key: MLflow asks nobody who he is, and loopback is open to every user of a machine.

The key is in the link that is said to the user; the first visit leaves it in the browser as a cookie. A program sends
it as MLflow's clients do: MLFLOW_TRACKING_TOKEN, which becomes `Authorization: Bearer <key>`.
"""

import hmac
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

ORDER = "NASHBOARD_GATE"  # variable of the server's process: the text that `order` makes
OPEN = "/health"  # says that the server is up, and nothing else
Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


def order(key: str, store: str, artifacts: str) -> str:
    """What `app` is to serve: the database's URI, and the folder's for pictures."""
    return json.dumps({"key": key, "store": store, "artifacts": artifacts})


def keyed(link: str, key: str) -> str:
    """`link`, which opens the gate."""
    base, mark, place = link.partition("#")
    return f"{base}{'' if base.endswith('/') else '/'}?key={key}{mark}{place}"


def app() -> App:
    """For `uvicorn --factory`: MLflow's own application, as `mlflow server` starts it, behind the gate."""
    told = json.loads(os.environ.pop(ORDER))
    from mlflow.server import constants

    os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = told["store"]
    os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = told["artifacts"]
    from mlflow.server.fastapi_app import app as pages

    return shut(pages, told["key"])


def shut(pages: App, key: str) -> App:
    """`pages` for whoever has the key, 401 for all others."""

    async def gate(scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" or scope.get("path") == OPEN or _has(scope, key):
            await pages(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif _is(parse_qs(scope["query_string"].decode("latin-1")).get("key", [""])[0], key):
            cookie = f"{_cookie(scope)}={key}; Path=/; HttpOnly; SameSite=Lax"
            await _answer(send, 303, "", (b"location", scope["path"].encode()), (b"set-cookie", cookie.encode()))
        else:
            await _answer(send, 401, "This page opens by the link that `nashboard ui` printed.\n")

    return gate


async def _answer(send: Any, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
    plain = (b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")
    await send({"type": "http.response.start", "status": status, "headers": [*plain, *headers]})
    await send({"type": "http.response.body", "body": text.encode()})


def _has(scope: Message, key: str) -> bool:
    """Whether a request brings the key, as a cookie or as a client's token."""
    for name, value in scope["headers"]:
        text = value.decode("latin-1")
        if name == b"authorization" and _is(text.removeprefix("Bearer "), key):
            return True
        if name == b"cookie":
            cookies: SimpleCookie = SimpleCookie()
            try:
                cookies.load(text)
            except CookieError:
                continue
            if (found := cookies.get(_cookie(scope))) and _is(found.value, key):
                return True
    return False


def _cookie(scope: Message) -> str:
    """Its name: browsers tell servers on other ports of one host not apart."""
    return f"nashboard-{scope['server'][1]}"


def _is(said: str, key: str) -> bool:
    return hmac.compare_digest(said.encode(), key.encode())
