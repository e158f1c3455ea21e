"""A trial's folder: its state, and whose turn it is to write.

Every attempt has a number there. A worker that was given up but lives on finds a later number and stops
before it writes.
"""

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.disk import read_json, write_atomic
from harness.errors import UserError
from harness.experiment.parse import scored_as
from harness.experiment.spec import Trial

LIVELY = ("running", "scoring")  # states of a trial that goes on


class Fenced(Exception):
    """A later attempt at this trial has begun; this one must write nothing more."""


def bump(folder: Path) -> int:
    """Number a new attempt at the trial in `folder`; from now on an older one may write nothing."""
    number = (owner(folder) or 0) + 1
    try:
        write_atomic(folder / "attempt", str(number).encode())
    except OSError as e:
        raise UserError(f"{folder}: {e.strerror}; a trial needs a folder that can be written") from None
    return number


def fence(folder: Path, number: int) -> None:
    """Raise Fenced where the trial in `folder` belongs to another attempt than `number`."""
    now = owner(folder)
    if now not in (None, number):
        raise Fenced(f"attempt {number} was replaced by attempt {now}")


def owner(folder: Path) -> int | None:
    """The number of the attempt that may write into `folder`, if any was made."""
    try:
        return int((folder / "attempt").read_text())
    except (OSError, ValueError):
        return None


def read_state(folder: Path) -> dict[str, Any]:
    """The content of state.json; empty where there is none."""
    return read_json(folder / "state.json")


def note_end(folder: Path, word: str, message: str | None) -> None:
    """Put an end that the worker could not record itself into state.json."""
    state = read_state(folder)
    if state.get("state") == word or (folder / "result.json").exists():
        return
    with contextlib.suppress(OSError):
        write_atomic(
            folder / "state.json",
            json.dumps({**state, "state": word, "message": message, "time": time.time()}).encode(),
        )


def finished(folder: Path, trial: Trial) -> dict[str, Any] | None:
    """The trial's result if it is there and was scored as the trial asks, else None."""
    result = read_json(folder / "result.json")
    return result if result and scored_as(result, trial.eval) else None


def was_scored(result: Mapping[str, Any]) -> bool:
    """Whether scoring made the result what it is: done, or diverged in it."""
    return result.get("status") == "done" or result.get("diverged_in") == "scoring"
