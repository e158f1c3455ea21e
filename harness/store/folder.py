"""A trial's folder: its state, whose turn it is to write, and its results, one a scoring.

Every attempt has a number there. A worker that was given up but lives on finds a later number and stops
before it writes.

A trial is trained once and may be scored in several ways, each by an experiment of its own. Each way has its result,
`result-<hash of the scoring>.json`, that no other scoring touches; `result.json` is the last one that was made. Folders
of earlier versions hold result.json alone, which keeps a file of its own when the trial is scored otherwise.
"""

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.disk import read_json, write_atomic
from harness.errors import UserError
from harness.experiment import ids
from harness.experiment.parse import scored_as, scoring_of
from harness.experiment.spec import Trial

LIVELY = ("running", "scoring")  # states of a trial that goes on
RESULT = "result.json"
ENDS = "ends.json"  # {scoring: how its last attempt ended, where that was badly}
ENDED_BADLY = ("failed", "oom", "timeout", "hung")  # tried again only when asked


class Fenced(Exception):
    """A later attempt at this trial has begun; this one must write nothing more."""


def bump(folder: Path) -> int:
    """Number a new attempt at the trial in `folder`; from now on an older one may write nothing."""
    return take(folder, (owner(folder) or 0) + 1)


def take(folder: Path, number: int) -> int:
    """Let attempt `number` be the one that may write into `folder`; returns it."""
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
        return int((folder / "attempt").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_state(folder: Path) -> dict[str, Any]:
    """The content of state.json; empty where there is none."""
    return read_json(folder / "state.json")


def note_end(folder: Path, trial: Trial, word: str, message: str | None) -> None:
    """Put an end that the worker could not record itself into state.json, and a bad one by the scoring at which it came
    into ENDS, where it stays while others of the same networks are made."""
    state = read_state(folder)
    if word in ENDED_BADLY:
        _note(folder, {ids.digest(trial.scoring): word})
    if state.get("state") in (word, "done", "diverged"):
        return
    noted = {**state, "state": word, "message": message, "time": time.time()}
    with contextlib.suppress(OSError):
        write_atomic(folder / "state.json", json.dumps(noted).encode())


def ended_badly(folder: Path, trial: Trial) -> str | None:
    """The word of an attempt that ended badly at the trial's training, or at scoring it as it asks: an end that came to
    another scoring of what is trained says nothing of this one."""
    state = read_state(folder)
    if not (folder / RESULT).exists():
        return state["state"] if state.get("state") in ENDED_BADLY else None
    word = read_json(folder / ENDS).get(ids.digest(trial.scoring))
    return word if word in ENDED_BADLY else None


def forget_end(folder: Path, trial: Trial) -> None:
    """The trial is tried again."""
    if (folder / ENDS).exists():
        _note(folder, {ids.digest(trial.scoring): None})


def _note(folder: Path, ends: Mapping[str, str | None]) -> None:
    known = {k: v for k, v in {**read_json(folder / ENDS), **ends}.items() if v is not None}
    with contextlib.suppress(OSError):
        write_atomic(folder / ENDS, json.dumps(known).encode())


def answer(folder: Path, trial: Trial) -> Path | None:
    """The file of the result that was scored as the trial asks, if there is one."""
    for name in (RESULT, _name(trial.scoring)):
        result = read_json(folder / name)
        if result and scored_as(result, trial.eval, ids.own_statistics(trial), reals=ids.reals(trial)):
            return folder / name
    return None


def finished(folder: Path, trial: Trial) -> dict[str, Any] | None:
    """The trial's result if it is there and was scored as the trial asks, else None."""
    path = answer(folder, trial)
    return read_json(path) if path else None


def stored(folder: Path, trial: Trial) -> dict[str, Any]:
    """The trial's result, scored as it asks or else in the way that was last; empty where it has none."""
    return finished(folder, trial) or read_json(folder / RESULT)


def scorings(folder: Path) -> list[Path]:
    """The files of the results that have a scoring's name."""
    return sorted(folder.glob("result-*.json"))


def results(folder: Path) -> list[dict[str, Any]]:
    """Every result in the folder, the last one first."""
    found = [read_json(path) for path in (folder / RESULT, *scorings(folder))]
    return [result for n, result in enumerate(found) if result and result not in found[:n]]


def keep(folder: Path, result: Mapping[str, Any]) -> None:
    """Write a result beside those of other scorings, and as the last."""
    last = read_json(folder / RESULT)
    for one in (last, result):
        scoring = scoring_of(one) or {"config": one.get("config")}
        path = folder / _name(scoring)
        if one and one.get("diverged_in") != "training" and not (one is last and path.exists()):
            write_atomic(path, json.dumps(one).encode())
    write_atomic(folder / RESULT, json.dumps(result).encode())


def _name(scoring: Mapping[str, Any]) -> str:
    return f"result-{ids.digest(scoring)}.json"


def was_scored(result: Mapping[str, Any]) -> bool:
    """Whether scoring made the result what it is: done, or diverged in it."""
    return result.get("status") == "done" or result.get("diverged_in") == "scoring"
