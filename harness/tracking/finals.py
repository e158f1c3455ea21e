"""What MLflow is told of a trial's result: that of its experiment's scoring, whatever else the trial was scored as."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from harness.disk import read_json
from harness.experiment.parse import scoring_of
from harness.experiment.spec import Trial
from harness.store import journal
from harness.store.folder import RESULT, finished

HEADS = ("final/", "best/")  # how the names of scores begin
TOLD = ("status", "reason", "nimg", "metrics", "best", "cost", "dataset", "spoilt_lines", "scored_ms")

Point = tuple[str, float, int, int]  # key, value, time in ms, images seen


def read(folder: Path, trial: Trial) -> dict[str, Any]:
    """The trial's result, scored as it asks, without what is not told; empty where there is none. One that can't tell
    how it was scored is the trial's only one."""
    last = read_json(folder / RESULT)
    found = finished(folder, trial) or (last if scoring_of(last) is None else {})
    return {key: found[key] for key in TOLD if key in found}


def points(result: dict[str, Any], folder: Path) -> list[Point]:
    """Its finite scores, at the time that it or, where an earlier version made it, its journal keeps."""
    at = result.get("scored_ms")
    if at is None:
        at = max((e["time_ms"] for e in journal.read(folder / "events.jsonl").events), default=0)
    best = result.get("best") or {}
    groups = zip(HEADS, (result, best), strict=True)
    values = [(head + k, r["value"], x.get("nimg", 0)) for head, x in groups for k, r in x.get("metrics", {}).items()]
    return [(k, float(v), at, nimg) for k, v, nimg in values if isinstance(v, int | float) and math.isfinite(v)]


def mark(result: dict[str, Any]) -> str:
    """What tells whether these are the scores that were sent; empty where there is no result."""
    scores = [result.get("metrics"), (result.get("best") or {}).get("metrics"), result.get("scored_ms")]
    return hashlib.sha256(json.dumps(scores).encode()).hexdigest()[:16] if result else ""


def is_other(told: str | bool | None, result: dict[str, Any]) -> bool:
    """Whether there is a result, and another than MLflow was told of. `told`: its mark then, or true where an earlier
    version told it from the journal."""
    return "scored_ms" in result if told is True else bool(result) and told != mark(result)
