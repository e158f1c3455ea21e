"""One attempt at a trial, in whatever process: its number, its line to the driver, its end.

Every attempt has a number in the trial's folder. A worker that was given up but lives on
finds a later number there and stops before it writes.
"""

import contextlib
import errno
import importlib
import json
import time
import traceback
from pathlib import Path
from typing import Any

from harness import outside, remote
from harness.errors import UserError
from harness.schedule import Ended

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class Fenced(Exception):
    """A later attempt at this trial has begun; this one must write nothing more."""


class Control:
    """What a trial sees of its driver: the `Control` of harness/trial.py."""

    def __init__(self) -> None:
        self.reports, self.last, self.stopping = 0, dict[str, Any](), False

    def stop(self) -> bool:
        return self.stopping

    def report(self, progress: dict[str, Any]) -> None:
        self.reports, self.last = self.reports + 1, progress


def make(
    worker: str, config: dict[str, Any], folder: Path, run: dict[str, Any], control: Control, number: int
) -> Ended:
    """Make attempt `number` at a trial; an exception ends it as failed, with its traceback in the folder.

    `worker`: "module:function" with the signature of `trial.run`; the sources of plugins from outside that came with
    `run` are in use before it is looked up.
    """
    try:
        module, _, function = worker.partition(":")
        options = outside.unpacked(run)
        return Ended(getattr(importlib.import_module(module), function)(config, folder, options, control, number))
    except Exception as e:
        return failure(e, folder, number)


def failure(e: Exception, folder: Path, number: int) -> Ended:
    """What the exception `e` makes of attempt `number`; its traceback goes into the folder."""
    if _owner(folder) not in (None, number):
        return Ended("interrupted", "another driver took this trial over")
    text = f"{type(e).__name__}: {' '.join(str(e).split())}"[:500]
    if type(e).__name__ == "Lost":
        return Ended("crashed", f"another of its processes was lost ({text})")
    if disk_is_full(e):  # no fault of the trial, which goes on from its checkpoint when there is room
        return Ended("interrupted", text, fatal=True)
    with contextlib.suppress(OSError):
        (folder / "traceback.txt").write_text("".join(traceback.format_exception(e)))
    return Ended("oom" if out_of_memory(e) else "failed", text)


def out_of_memory(e: Exception) -> bool:
    """Whether memory ran out; torch's CPU allocator, C++ and oneDNN raise a bare RuntimeError then."""
    named = isinstance(e, MemoryError) or type(e).__name__ == "OutOfMemoryError"
    return named or any(words in str(e) for words in ("allocate memory", "bad_alloc", "could not create a primitive"))


def disk_is_full(e: BaseException | None) -> bool:
    """Whether a disk that is full, or turned read-only, is behind `e`."""
    if e is None:
        return False
    return isinstance(e, OSError) and e.errno in NO_ROOM or disk_is_full(e.__context__)


def bump(folder: Path) -> int:
    """Number a new attempt at the trial in `folder`; from now on an older one may write nothing."""
    number = (_owner(folder) or 0) + 1
    part = folder / ".attempt.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part.write_text(str(number))
        part.replace(folder / "attempt")
    except OSError as e:
        raise UserError(f"{folder}: {e.strerror}; a trial needs a folder that can be written") from None
    remote.publish(folder / "attempt", f"trials/{folder.name}/attempt")
    return number


def fence(folder: Path, number: int) -> None:
    """Raise Fenced where the trial in `folder` belongs to another attempt than `number`."""
    owner = _owner(folder)
    if owner not in (None, number):
        raise Fenced(f"attempt {number} was replaced by attempt {owner}")


def _owner(folder: Path) -> int | None:
    try:
        return int((folder / "attempt").read_text())
    except (OSError, ValueError):
        return None


def read_state(folder: Path) -> dict[str, Any]:
    """The content of state.json; empty where there is none."""
    try:
        state = json.loads((folder / "state.json").read_text())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def note_end(folder: Path, word: str, message: str | None) -> None:
    """Put an end that the worker could not record itself into state.json."""
    state = read_state(folder)
    if state.get("state") == word or (folder / "result.json").exists():
        return
    part = folder / ".state.part"
    with contextlib.suppress(OSError):
        part.write_text(json.dumps({**state, "state": word, "message": message, "time": time.time()}))
        part.replace(folder / "state.json")
