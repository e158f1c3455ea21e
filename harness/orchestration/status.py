"""How far an experiment's trials are, read from the results folder: works beside a running matrix."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.experiment.matrix import entries
from harness.experiment.spec import Experiment
from harness.report.tables import Grid
from harness.store import code, lease
from harness.store.folder import LIVELY, ended_badly, finished, read_state, stored

FRESH_S = 60.0  # a trial that another experiment's driver runs has said something since


def table(experiment: Experiment, results: Path) -> Grid:
    """One line per trial: its state, how far it is and how fast, and what it said last."""
    rows, others = [], []
    driver = lease.driver(results / experiment.name)
    elsewhere = any(lease.driver(path.parent) for path in results.glob("*/.lock"))
    for e in entries(experiment):
        folder = results / "trials" / e.id
        result, last = finished(folder, e.trial), stored(folder, e.trial)
        others.append((e.name, code.other(folder, e.trial, last, accepted=False)))
        told = _as_it_is(read_state(folder), bool(driver), elsewhere)
        now = {"state": result["status"], "nimg": result["nimg"]} if result else told
        if last and not result and now.get("state") not in LIVELY and not ended_badly(folder, e.trial):
            now = {**now, "state": "scored otherwise", "nimg": last.get("nimg"), "message": None}
        kimg = f"{_number(now, 'nimg') / 1000:.4g}/{e.trial.train.total_kimg:g}"
        rate = f"{_number(now, 'images_per_s'):.3g}" if now.get("state") == "running" else ""
        rows.append((e.name, str(now.get("state", "waiting")), kimg, rate, str(now.get("message") or "")))
    for t in experiment.tables:
        rows += [(f"{s}/{arm}", "not possible", "", "", why) for (s, arm), why in t.not_possible.items()]
    header = ("trial", "state", "kimg", "img/s", "")
    notes = [f"driver: {driver or 'none'}", *filter(None, [code.told(others)])]
    return Grid(experiment.name, header, tuple(rows), tuple(notes), len(header))


def _as_it_is(state: Mapping[str, Any], driven: bool, elsewhere: bool) -> dict[str, Any]:
    """What state.json says, unless it says that the trial goes on while nobody drives it: a driver that was killed took
    back nothing. `elsewhere`: another experiment's driver is at work, perhaps at a trial that both share."""
    lively = elsewhere and time.time() - _number(state, "time") < FRESH_S
    if driven or lively or state.get("state") not in LIVELY:
        return dict(state)
    return {**state, "state": "interrupted", "message": "its driver is gone; the same command goes on"}


def _number(state: Mapping[str, Any], name: str) -> float:
    """A number that state.json holds; 0 where a disk spoilt it."""
    value = state.get(name, 0)
    return float(value) if isinstance(value, int | float) else 0.0
