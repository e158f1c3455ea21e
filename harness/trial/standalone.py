"""One trained model scored by itself: what `nashboard eval` does, as a function."""

import json
from collections.abc import Callable
from pathlib import Path

from harness import disk
from harness.errors import UserError
from harness.evaluation import evaluate
from harness.evaluation.evidence import Record
from harness.report import networks, tables
from harness.training.model import Trained


def score(
    model: Trained, out: Path | None = None, *, workers: int = 1, progress: Callable[[int, int], None] | None = None
) -> dict[str, Record]:
    """The records of one pass over `model` as its trial asks, {name: record}; `out`: also write them there, as JSON.
    `workers` and `progress` as in `evaluate`. Raises UserError before the pass where it or `out` is impossible."""
    spec = model.trial.eval
    evaluate.check(spec, model.data, model.heldout)
    if out is not None:
        if out.is_dir():
            raise UserError(f"--out {out}: is a folder; name a file")
        disk.check_writable(out.parent, "--out")
    records = evaluate.evaluate(
        model.g, model.d, model.data, model.heldout, spec, seed=model.trial.seed, conditional=model.trial.conditional,
        device=next(model.g.parameters()).device, cache=disk.cache_folder(), weights_used=model.weights,
        workers=workers, progress=progress,
    )  # fmt: skip
    if out is not None:
        disk.write_atomic(out, json.dumps(records, indent=1).encode())
    return records


def grid(model: Trained, name: str, records: dict[str, Record]) -> tables.Grid:
    """A row per record; below them, which of them favour the model called `name`."""
    rows = [
        (metric, tables.number(r["value"]), "" if r["se"] is None else f"{r['se']:.2g}")
        for metric, r in records.items()
    ]
    shared = {metric: networks.shared(model.trial, r["protocol"]) for metric, r in records.items()}
    notes = [networks.note(metric, [name], network) for metric, network in shared.items() if network]
    title = f"{name} after {model.nimg} images ({model.weights} G)"
    return tables.Grid(title, ("metric", "value", "se"), tuple(rows), tuple(notes), 1)
