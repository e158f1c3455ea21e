"""Cells that can't be: found out before anything runs, and known again where no networks can be built."""

import json
from collections.abc import Mapping
from pathlib import Path

from harness.disk import read_json, write_atomic
from harness.errors import UserError
from harness.experiment.matrix import entries
from harness.experiment.spec import Experiment
from harness.store import remote
from harness.store.folder import RESULT

NOTE = "not_possible.json"  # in results/<name>/: {trial id: why}


def asked(experiment: Experiment) -> dict[str, str] | None:
    """Where `preflight` is to put the trials that can't be; None where they refuse the whole experiment."""
    return {} if experiment.run.not_possible == "mark" else None


def marked(experiment: Experiment, reasons: Mapping[str, str] | None) -> Experiment:
    """The experiment with the cells of these trials marked. UserError where none would be left."""
    left = experiment.without(reasons or {})
    if reasons and not entries(left):
        raise UserError(f"{experiment.path}: no cell is possible; the first: {next(iter(reasons.values()))}")
    return left


def told(experiment: Experiment) -> list[str]:
    """A line for each cell that can't be."""
    cells = [(t, place, why) for t in experiment.tables for place, why in t.not_possible.items()]
    return [f"{t.name}: {setting}/{arm}: not possible: {why}" for t, (setting, arm), why in cells]


def keep(experiment: Experiment, results: Path, reasons: Mapping[str, str] | None) -> None:
    """Note them for those who only read. Of an experiment that marks none, only what is no longer so is taken back."""
    note = results / experiment.name / NOTE
    if dict(reasons or {}) != read_json(note):
        write_atomic(note, json.dumps(dict(reasons or {}), indent=1).encode())
        remote.publish(note, f"{experiment.name}/{NOTE}")


def recalled(experiment: Experiment, results: Path) -> Experiment:
    """The experiment as its last matrix found it, where it asks for marks. A trial with a result is possible."""
    if experiment.run.not_possible != "mark":
        return experiment
    noted = read_json(results / experiment.name / NOTE)
    known = {id: str(why) for id, why in noted.items() if not (results / "trials" / id / RESULT).exists()}
    return experiment.without(known)
