"""One driver for an experiment, and one Ray of our own for a machine: locks that die with their process."""

import fcntl
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import UserError


class Busy(UserError):
    """Another driver has the lock. Exit code 3."""

    exit_code = 3


@contextmanager
def hold(folder: Path, taken: str = "") -> Iterator[None]:
    """Hold `folder`/.lock, which names this process; raises Busy where another process has it."""
    taken = taken or f"{folder}: another driver ({{}}) works on it; wait for it or stop it"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        f = (folder / ".lock").open("a+")
    except OSError as e:
        raise UserError(f"{folder}: {e.strerror}; results must go to a folder that can be written") from None
    with f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            f.seek(0)
            raise Busy(taken.format(f.read().strip() or "unknown")) from None
        f.truncate(0)
        f.write(f"process {os.getpid()} on {socket.gethostname()}")
        f.flush()
        yield


def driver(folder: Path) -> str | None:
    """Who drives the experiment in `folder` now ("process 123 on host"), or None."""
    try:
        with (folder / ".lock").open() as f:
            try:
                fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return f.read().strip()
    except OSError:
        pass
    return None


def request_stop(folder: Path) -> str:
    """Do to the driver of `folder` what its user's Ctrl-C does; returns who that is."""
    who = driver(folder)
    if who is None:
        raise UserError(f"{folder}: no driver works on it; nothing to stop")
    _, pid, _, host = who.split()
    if host != socket.gethostname():
        raise UserError(f"{folder}: its driver is {who}; run `stop` there")
    os.kill(int(pid), signal.SIGINT)
    return who
