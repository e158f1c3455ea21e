"""A Ray of our own, or a cluster's: reached, greeted with its token, left again. The only ray import."""

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from harness import command, proxies
from harness.disk import ROOT
from harness.errors import UserError, redact
from harness.process import cores, on_ending
from harness.store import lock

MARK = "NASHBOARD_DRIVER"
"""Variable of all processes of a Ray of ours: the process that began it."""

_TOKEN = secrets.token_hex(32)  # of every Ray of our own that this process starts: Ray reads it once
_PREFIX = "nbray"
_LONGEST = 107 - len(f"/{_PREFIX}1234567-12345678/r/session_2026-11-25_14-26-01_289567_1234567/sockets/plasma_store")
"""Bytes of a folder in which Ray can make its sockets: `man 7 unix` gives a path 107."""


@contextmanager
def connect(address: str | None, ship_code: bool) -> Iterator[Any]:
    """A running Ray, ours or the cluster at `address`; shut down or left on exit."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    proxies.spare_this_machine()
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    _shut_token_file()
    with contextlib.ExitStack() as stack:
        if address is None:
            # Two Rays on one machine would each give away all of its GPUs.
            remedy = "wait for it, give both drivers one Ray (`ray start --head` and --ray-address), or try --local"
            stack.enter_context(
                lock.hold_machine(f"this machine: another driver ({{}}) runs its own Ray here; {remedy}")
            )
            _sweep()
            stack.enter_context(_environment(_of_our_own()))
            options |= {"address": "local", "include_dashboard": False, "object_store_memory": 100 * 2**20}
            options["num_cpus"] = cores()
            options["_temp_dir"] = str(_session_folder())
        else:
            reach(address)
            options["address"] = address
            if ship_code:
                options["runtime_env"] = {"py_modules": [str(ROOT / "harness"), str(ROOT / "backbones")]}
        with _patient() as asked:
            import ray

            _retitle(ray)
            if address is None:
                stack.enter_context(_on_loopback())
            try:
                with _deaf():
                    ray.init(**options)
            except Exception as e:  # Ray raises of all kinds
                where = f"--ray-address {address}: did not answer as Ray" if address else "Ray did not start here"
                raise UserError(f"{where}: {type(e).__name__}: {first_line(e)}") from e
        try:
            if asked:
                raise KeyboardInterrupt
            yield ray
        finally:
            ray.shutdown()


@contextmanager
def _patient() -> Iterator[list[int]]:
    """While Ray starts, a first Ctrl-C, SIGTERM or SIGHUP is only noted: inside, it would leave half a Ray, or end this
    process by a fault in Ray's own code. A second Ctrl-C ends it at once."""
    asked: list[int] = []

    def note(number: int, _: object) -> None:
        asked.append(number)
        if asked.count(signal.SIGINT) > 1:
            raise KeyboardInterrupt

    with on_ending(note):
        yield asked


@contextmanager
def _deaf() -> Iterator[None]:
    """What Ray starts within hears no hangup, and nothing that a shell, `timeout` or a user sends to all processes of
    the driver's group: it would end at once, with the trials that the driver has yet to save."""
    from ray._private import services as of_ray

    services: Any = of_ray
    before, popen = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP}), services.ConsolePopen
    services.ConsolePopen = partial(popen, process_group=0)
    try:
        yield
    finally:
        services.ConsolePopen = popen
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _of_our_own() -> dict[str, str]:
    """Variables for a Ray that is ours alone: it listens on loopback, and wants a token that no file holds."""
    path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    ours = {
        MARK: str(os.getpid()),
        "SPT_NOENV": "1",  # else its agents show their variables to everybody, as their names
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # what it does on those systems: no cluster, so 127.0.0.1 will do
        "PYTHONPATH": os.pathsep.join(filter(None, path if str(ROOT) in path else [str(ROOT), *path])),
    }
    given = {v: os.environ[v] for v in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH") if v in os.environ}
    if given.get("RAY_AUTH_MODE", "token") == "token":
        ours["RAY_AUTH_MODE"] = "token"
        if len(given.keys() - {"RAY_AUTH_MODE"}) == 0:
            ours["RAY_AUTH_TOKEN"] = _TOKEN
    return ours


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """`variables` set within; the MLflow server, or a cluster's Ray, that comes later gets none of them."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Within, Ray takes loopback for this node's address, even where it was imported before `_of_our_own` said so."""
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = not ray_constants.IS_WINDOWS_OR_OSX


def _session_folder() -> Path:
    """A new folder for Ray's sockets, logs and session, which Ray itself opens to everybody: in one that is not.

    In RAY_TMPDIR, else the temporary folder, else where those are too long for a socket's path, in /tmp. It is left
    for whoever looks for Ray's logs, until the next Ray of this user.
    """
    for base in (os.environ.get("RAY_TMPDIR"), tempfile.gettempdir(), "/tmp"):
        if base and len(os.fsencode(base)) <= _LONGEST:
            try:
                outer = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=base))
            except OSError as e:
                raise UserError(f"{base}: {e.strerror}; Ray needs a folder for its sockets: set RAY_TMPDIR") from None
            print(f"Ray's own logs: {outer}/r/session_latest/logs")
            return outer / "r"
    raise AssertionError("/tmp is short")


def _retitle(ray: Any) -> None:
    """Take passwords out of this process's command line, which Ray shows as that of a job, and `ps` to everybody."""
    shown = " ".join(psutil.Process().cmdline())
    if redact(shown) != shown:
        ray._raylet.setproctitle(" ".join(command.words()))


def _sweep() -> None:
    """End what a killed driver's Ray left behind (an agent outlives its node when that dies while it starts), and
    remove the folders of drivers that are gone."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            driver = process.environ().get(MARK) if process.name().startswith("ray::") else None
            if driver and not psutil.pid_exists(int(driver)):
                process.kill()
    for base in {os.environ.get("RAY_TMPDIR") or "/tmp", tempfile.gettempdir(), "/tmp"}:
        for folder in Path(base).glob(f"{_PREFIX}*-*"):
            driver = folder.name.removeprefix(_PREFIX).partition("-")[0]
            with contextlib.suppress(OSError):
                ours = folder.lstat().st_uid == os.geteuid() and not folder.is_symlink()
                if ours and driver.isdigit() and not psutil.pid_exists(int(driver)):
                    shutil.rmtree(folder, ignore_errors=True)


def _shut_token_file() -> None:
    """Let nobody else read the token that Ray keeps in the home folder, which it writes for all to read."""
    path = Path.home() / ".ray" / "auth_token"
    with contextlib.suppress(OSError):
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)


def reach(address: str) -> None:
    """Raise UserError in seconds where Ray itself would try for minutes, and say whether it shall offer its token."""
    host, _, port = address.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 2**16:
        raise UserError(f"--ray-address {address}: must be host:port, like head-node:6379, with a port up to 65535")
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
    except (OSError, UnicodeError) as e:  # the second: what can't be a name at all
        raise UserError(f"--ray-address {address}: no answer ({e}); is `ray start --head` running there?") from None
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token" if _asks_for_token(address) else "disabled"


def _asks_for_token(address: str) -> bool:
    """Whether the cluster wants a token. One must know before importing Ray: it never offers the token by
    itself, and with one offered to a cluster that wants none, every actor dies before it starts."""
    code = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1]).get_all_node_info(timeout=5)"
    command = [sys.executable, "-c", code, address]
    env = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30)
    except subprocess.TimeoutExpired:
        raise UserError(f"--ray-address {address}: something answers there, but not as Ray does") from None
    if "InvalidAuthToken" not in done.stderr:
        return False
    given = any(v in os.environ for v in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if not given and not (Path.home() / ".ray" / "auth_token").exists():
        raise UserError(f"--ray-address {address}: wants a token; copy its ~/.ray/auth_token here")
    return True


def node_ip() -> str:
    """The address under which other nodes reach the one that this worker runs on."""
    import ray

    return str(ray.util.get_node_ip_address())


def place() -> str:
    """Where this worker runs, for the log."""
    import ray

    node, gpus = ray.get_runtime_context().get_node_id()[:8], os.environ.get("CUDA_VISIBLE_DEVICES")
    return f"node {node} ({node_ip()}), GPUs {gpus or 'none'}"


def first_line(e: Exception) -> str:
    return (str(e).strip().splitlines() or [type(e).__name__])[0][:300]
