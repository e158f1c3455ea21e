"""This process and its children: the cores that it may use, the signals that end it, and children that end with it."""

import contextlib
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""By which a user, a system, or a terminal that is gone ask for an end: all as Ctrl-C does."""


# ── signals ──────────────────────────────────────────────────────────────────


@contextmanager
def on_ending(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Within, the signals of ENDING go to `handler`; a hangup that is ignored (nohup) stays ignored. Nothing happens
    outside of the main thread, which alone can receive any."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.getsignal(s) for s in ENDING if s != signal.SIGHUP or signal.getsignal(s) != signal.SIG_IGN}
    for s in before:
        signal.signal(s, handler)
    try:
        yield
    finally:
        for s, old in before.items():
            signal.signal(s, signal.SIG_DFL if old is None else old)


def end_as_by_ctrl_c() -> None:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt from now on, so that what was begun is ended in order."""
    for s in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(s) == signal.SIG_DFL:
            signal.signal(s, signal.default_int_handler)


@contextmanager
def loading() -> Iterator[None]:
    """While libraries load, Ctrl-C ends the process at once, with 130. A KeyboardInterrupt raised inside an import
    may be swallowed there, or leave half a library that fails later."""
    with on_ending(lambda *_: os._exit(130)):
        yield


# ── children ─────────────────────────────────────────────────────────────────


def end_with_parent(*ignored: signal.Signals) -> None:
    """End this process, one of multiprocessing's, when its parent has ended, however that was. Signals `ignored` here
    are the parent's to answer: a terminal sends them to all."""
    for s in ignored:
        signal.signal(s, signal.SIG_IGN)
    if multiprocessing.parent_process() is not None:
        threading.Thread(target=_outlive_not, name="parent", daemon=True).start()


def _outlive_not() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


KEEPER = """
import os, signal, subprocess, sys, threading
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
def gone():
    child.wait()
    os.killpg(0, signal.SIGKILL)
threading.Thread(target=gone, daemon=True).start()
sys.stdin.buffer.read()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.killpg(0, signal.SIGTERM)
threading.Event().wait(5)
os.killpg(0, signal.SIGKILL)
"""
"""Runs a command until its own standard input ends, which is when whoever holds the other end does; then ends it and
all that it started."""


@contextmanager
def kept(command: Sequence[str], env: Mapping[str, str], output: IO[str]) -> Iterator["subprocess.Popen[bytes]"]:
    """`command` as a process that ends with this block, and with this process, even one that is killed; so does all
    that it starts. Yields its keeper, which ends when it does."""
    keeper = subprocess.Popen(
        [sys.executable, "-c", KEEPER, *command], env=dict(env), stdin=subprocess.PIPE, stdout=output,
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    assert keeper.stdin
    try:
        yield keeper
    finally:
        with contextlib.suppress(OSError):
            keeper.stdin.close()
        keeper.wait()


# ── cores ────────────────────────────────────────────────────────────────────


def cores() -> int:
    """How many cores this process may use: of those that it is bound to, what its control groups allow."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(bound, allowed())))


def use_own_cores() -> None:
    """Let torch, which heeds what this process is bound to but no control group, have no more threads than cores."""
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), cores()))


def allowed(groups: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> float:
    """Cores' worth of time that the control groups of this process give it, infinite where they set no limit: the
    least of its own group and of all above it (https://docs.kernel.org/admin-guide/cgroup-v2.html, `cpu.max`)."""
    try:
        lines = groups.read_text(encoding="utf-8").splitlines()
    except OSError:
        return math.inf
    found = [math.inf]
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = mount / controllers if controllers else mount
        home = root / path.strip("/")
        for group in (home, *home.parents):
            if group.is_relative_to(root):
                found.append(_quota(group))
    return min(found)


def _quota(group: Path) -> float:
    """The limit of one control group, of either version."""
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
        return math.inf if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota_us = int((group / "cpu.cfs_quota_us").read_text(encoding="utf-8"))
        return quota_us / int((group / "cpu.cfs_period_us").read_text(encoding="utf-8")) if quota_us > 0 else math.inf
    return math.inf
