"""A Ray of our own, or a cluster's: reached, greeted with its token, left again. The only ray import."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from harness.disk import ROOT
from harness.errors import UserError
from harness.process import cores, on_ending
from harness.store import lock

MARK = "NASHBOARD_DRIVER"
"""Variable of all processes of a Ray of ours: the process that began it."""


@contextmanager
def connect(address: str | None, ship_code: bool) -> Iterator[Any]:
    """A running Ray, ours or the cluster at `address`; shut down or left on exit."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    with contextlib.ExitStack() as stack:
        if address is None:
            # Two Rays on one machine would each give away all of its GPUs.
            machine = Path(tempfile.gettempdir()) / "nashboard-ray"
            machine.mkdir(exist_ok=True)
            remedy = "wait for it, or give both drivers one Ray: `ray start --head` and --ray-address"
            stack.enter_context(
                lock.hold(machine, f"this machine: another driver ({{}}) runs its own Ray here; {remedy}")
            )
            _sweep()
            os.environ |= {MARK: str(os.getpid()), "SPT_NOENV": "1"}  # by the latter Ray's agents show it
            os.environ.setdefault("RAY_AUTH_MODE", "token")
            path = os.environ.get("PYTHONPATH", "")
            if str(ROOT) not in path.split(os.pathsep):
                os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), path]))
            options |= {"address": "local", "include_dashboard": False, "object_store_memory": 100 * 2**20}
            options["num_cpus"] = cores()
        else:
            reach(address)
            options["address"] = address
            ours = {k: v for k, v in os.environ.items() if k.startswith("NASHBOARD_")}
            options["runtime_env"] = {"env_vars": ours} if ours else {}
            if ship_code:
                options["runtime_env"]["py_modules"] = [str(ROOT / "harness"), str(ROOT / "backbones")]
        with _patient() as asked:
            import ray

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
    """What is started within hears no hangup: a terminal that goes away tells all its processes, and Ray's would end
    at once, with the trials that the driver has yet to save."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _sweep() -> None:
    """End what a killed driver's Ray left behind: an agent outlives its node when that dies while it starts."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            driver = process.environ().get(MARK) if process.name().startswith("ray::") else None
            if driver and not psutil.pid_exists(int(driver)):
                process.kill()


def reach(address: str) -> None:
    """Raise UserError in seconds where Ray itself would try for minutes, and say whether it shall offer its token."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--ray-address {address}: must be host:port, like head-node:6379")
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
    except OSError as e:
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
