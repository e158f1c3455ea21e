"""One driver for an experiment, and one Ray of our own for a machine: locks that die with their process."""

import hashlib
import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import locks
from harness.disk import cache_folder
from harness.errors import UserError

REMEDY = "results must go to a folder that can be written"


class Busy(UserError):
    """Another driver has the lock. Exit code 3."""

    exit_code = 3


@contextmanager
def hold(folder: Path, taken: str = "") -> Iterator[None]:
    """Hold `folder`/.lock, which names this process; raises Busy where another process has it."""
    taken = taken or f"{folder}: another driver ({{}}) works on it; wait for it or stop it"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"{folder}: {e.strerror}; {REMEDY}") from None
    try:
        with locks.held(folder / ".lock", REMEDY) as file:
            if file.writable():
                file.truncate(0)
                file.write(locks.process(os.getpid(), os.geteuid()).encode())
                file.flush()
            yield
    except locks.Taken as e:
        raise Busy(taken.format(e)) from None


@contextmanager
def hold_machine(taken: str) -> Iterator[None]:
    """Be the one driver of all users that has a Ray of its own here; raises Busy, `taken` with who it is.

    *Here* is the temporary folder: who shares it shares the lock, and a part of a machine (its GPUs divided by SLURM
    or CUDA_VISIBLE_DEVICES) that has a TMPDIR of its own has a lock of its own.
    """
    place = hashlib.sha256(os.fsencode(Path(tempfile.gettempdir()).resolve())).hexdigest()[:16]
    if sys.platform != "linux":  # there is no list of names: among the drivers of this user only
        with hold(cache_folder() / f"ray-{place}", taken):
            yield
        return
    try:
        with locks.named(f"nashboard-ray-{place}"):
            yield
    except locks.Taken as e:
        raise Busy(taken.format(e)) from None


def driver(folder: Path) -> str | None:
    """Who drives the experiment in `folder` now ("process 123 of alice on host"), or None."""
    return locks.holder(folder / ".lock")


def request_stop(folder: Path) -> str:
    """Do to the driver of `folder` what its user's Ctrl-C does; returns who that is."""
    who = driver(folder)
    if who is None:
        raise UserError(f"{folder}: no driver works on it; nothing to stop")
    said = re.fullmatch(r"process (\d+)(?: of .+)? on (\S+)", who)
    if said is None or int(said[1]) < 2:  # 0 and 1 are no driver, and to kill they mean others
        raise UserError(f"{folder}: its driver is {who}, which names no process; press Ctrl-C where it runs")
    if said[2] != socket.gethostname():
        raise UserError(f"{folder}: its driver is {who}; run `stop` there")
    try:
        os.kill(int(said[1]), signal.SIGINT)
    except ProcessLookupError:
        raise UserError(f"{folder}: its driver ({who}) has just ended") from None
    except PermissionError:
        raise UserError(f"{folder}: its driver is {who}, another user's; ask them to stop it") from None
    return who
