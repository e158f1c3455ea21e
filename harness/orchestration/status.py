"""How far an experiment's trials are, read from the results folder: works beside a running matrix."""

from pathlib import Path

from harness.experiment.matrix import entries
from harness.experiment.spec import Experiment
from harness.report.tables import Grid
from harness.store import code, lease
from harness.store.folder import finished, read_state, stored


def table(experiment: Experiment, results: Path) -> Grid:
    """One line per trial: its state, how far it is and how fast, and what it said last."""
    rows, others = [], []
    for e in entries(experiment):
        folder = results / "trials" / e.id
        result, last = finished(folder, e.trial), stored(folder, e.trial)
        others.append((e.name, code.other(folder, e.trial, last, accepted=False)))
        now = {"state": result["status"], "nimg": result["nimg"]} if result else read_state(folder)
        if last and not result and now.get("state") == last.get("status"):
            now = {**now, "state": "scored otherwise"}
        kimg = f"{now.get('nimg', 0) / 1000:.4g}/{e.trial.train.total_kimg:g}"
        rate = f"{now.get('images_per_s', 0):.3g}" if now.get("state") == "running" else ""
        rows.append((e.name, str(now.get("state", "waiting")), kimg, rate, str(now.get("message") or "")))
    header = ("trial", "state", "kimg", "img/s", "")
    notes = [f"driver: {lease.driver(results / experiment.name) or 'none'}", *filter(None, [code.told(others)])]
    return Grid(experiment.name, header, tuple(rows), tuple(notes), len(header))
