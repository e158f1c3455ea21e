"""What a trial's run in MLflow is called and carries: pure, of an entry of the matrix and what its trial says."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from harness.experiment.matrix import Entry
from harness.tracking import views

STATUS = {"running": "RUNNING", "scoring": "RUNNING", "done": "FINISHED", "interrupted": "KILLED"}  # else FAILED
MOST_NAMES = 4000  # characters of the tag `non_finite`, which MLflow cuts at 5,000 (8,000 in newer releases)


def tags(entry: Entry, parent: str, arms: Sequence[str]) -> dict[str, str]:
    """Whose run it is, under the run `parent`, in the colour of its arm among all `arms`."""
    return {
        "kind": "trial",
        "trial.id": entry.id,
        "serves": "; ".join(f"{c.table}: {c.setting}, {c.arm}, seed {c.seed}" for c in entry.serves),
        "mlflow.parentRunId": parent,
        "mlflow.runColor": views.colour(entry.serves[0].arm, arms),
        "mlflow.source.name": "nashboard",
    }


def params(entry: Entry) -> dict[str, Any]:
    """The axes of the matrix and what one compares by; the whole configuration is a file of the run."""
    cell, trial = entry.serves[0], entry.trial
    return {
        "table": cell.table,
        "setting": cell.setting,
        "arm": cell.arm,
        "seed": trial.seed,
        "dataset": trial.dataset.name,
        "resolution": getattr(trial.dataset.options, "resolution", None) or "native",
        "backbone": trial.backbone.name,
        "conditional": trial.conditional,
        "variants": " + ".join(v.name for v in trial.variants) or "none",
        "kimg": f"{trial.train.total_kimg:g}",
        "batch_size": trial.train.batch_size,
    }


def state(live: Mapping[str, Any], result: Mapping[str, Any], closed: bool) -> dict[str, str]:
    """{"status", "message"} of a trial, the latter at an end alone: by its `result` where there is one, else by its
    state.json. `closed`: no driver will change it any more."""
    word, message = str(live.get("state")), str(live.get("message") or "")
    if result.get("status"):
        word, message = str(result["status"]), str(result.get("reason") or "")
    elif word in ("done", "diverged") and not result:
        word = "scoring"  # another experiment's scoring is done, this one's is to come
    if STATUS.get(word) == "RUNNING" and closed:
        word = "interrupted"  # its driver is gone
    return {"status": word, "message": "" if STATUS.get(word) == "RUNNING" else message[:4000]}


def name(key: str) -> str:
    """A metric's name with only what MLflow takes."""
    return re.sub(r"[^\w\-. :/]", "_", key)


def non_finite(before: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """{"text": names, the earliest first, as many as a tag holds, "more": how many it does not}, `before` and new."""
    text, more = before.get("text", ""), before.get("more", 0)
    for value in names:
        if more or len(text) + len(value) > MOST_NAMES:
            more += 1
        else:
            text = f"{text}, {value}" if text else value
    return {"text": text, "more": more}
