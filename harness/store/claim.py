"""Whose folder results/<name> is. Two experiment files of one name would write their reports over each other's."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from harness.disk import read_json, write_atomic
from harness.errors import UserError
from harness.experiment.loader import read_yaml
from harness.experiment.matrix import entries
from harness.experiment.spec import Experiment
from harness.store import remote

NOTE = "experiment.json"  # in results/<name>/


def check(experiment: Experiment, results: Path) -> None:
    """Raise UserError where the folder of results is that of another experiment file of the same name.

    The same file may change as it likes, and may be moved or copied. Another one is refused while the first is there
    under that name; where it is not (moved, or on another machine) unless they share a trial.
    """
    folder = results / experiment.name
    before, mine = _noted(folder), _about(experiment)
    if not before or not mine or any(before.get(key) == mine[key] for key in ("file", "sha256")):
        return
    theirs = Path(str(before.get("file")))
    if _name(theirs) == experiment.name or not {*before.get("trials", ())} & {*mine["trials"]}:
        raise UserError(
            f"{experiment.path}: name: {experiment.name!r}: {folder} holds the report of another file of that name, "
            f"{theirs}; give this one another name, or other --results, or move that folder away"
        )


def take(experiment: Experiment, results: Path) -> None:
    """Note that the folder of results is the experiment file's, where `check` lets it be."""
    check(experiment, results)
    note, mine = results / experiment.name / NOTE, _about(experiment)
    if mine and _noted(note.parent) != mine:
        write_atomic(note, json.dumps(mine, indent=1).encode())
        remote.publish(note, f"{experiment.name}/{NOTE}")


def _noted(folder: Path) -> dict[str, Any]:
    """The note of the folder; at a URL, the one that is there: other machines work at it, too."""
    if remote.url() is None:
        return read_json(folder / NOTE)
    with contextlib.suppress(ValueError):
        found = json.loads(remote.read(f"{folder.name}/{NOTE}") or b"{}")
        return found if isinstance(found, dict) else {}
    return {}


def _about(experiment: Experiment) -> dict[str, Any]:
    """What tells an experiment file; nothing of one that is no file."""
    try:
        content = experiment.path.read_bytes()
    except OSError:
        return {}
    return {
        "file": str(experiment.path.resolve()),
        "sha256": hashlib.sha256(content).hexdigest(),
        "trials": sorted({e.id for e in entries(experiment)}),
    }


def _name(file: Path) -> Any:
    with contextlib.suppress(UserError, OSError):
        return read_yaml(file).get("name")
    return None
