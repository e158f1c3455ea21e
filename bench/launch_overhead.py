"""What launching costs: `python -m bench.launch_overhead [TRIALS]` prints one JSON object.

Trials that do nothing, through the real launcher and a Ray of its own: time to the first one,
trials per minute after it, memory of the driver, and the time to find that all is finished.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from harness.attempt import Control
from harness.config import Eval, Plugin, Run, Train, Trial
from harness.launch import launch
from harness.matrix import Cell, Entry
from harness.schema import parse


def noop(config: dict[str, Any], folder: Path, run: dict[str, Any], control: Control, attempt: int) -> str:
    """A trial that only leaves a result."""
    (folder / "result.json").write_text('{"status": "done"}')
    return "done"


def entries(number: int) -> list[Entry]:
    """So many different trials."""
    made = []
    for seed in range(number):
        trial = Trial(Plugin("none", Run()), Plugin("none", Run()), False, (), Train(), Eval(()), seed)
        made.append(Entry(trial.id, trial, (Cell("bench", "none", "none", seed),)))
    return made


def measure(number: int) -> dict[str, float]:
    """Seconds, trials per minute and MiB; see the names."""
    todo, run = entries(number), parse(Run, {}, "run")
    starts: list[float] = []

    def seen(id: str, word: str, report: dict[str, Any]) -> None:
        if word == "done":
            starts.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)

        def finished(entry: Entry) -> str | None:
            try:
                return str(json.loads((results / "trials" / entry.id / "result.json").read_text())["status"])
            except OSError:
                return None

        def go() -> float:
            """Seconds from here to the end of a launch."""
            began = time.perf_counter()
            words = launch(
                todo, results, run, experiment="bench", finished=finished, on_progress=seen,
                worker="bench.launch_overhead:noop",
            )  # fmt: skip
            assert set(words.values()) == {"done"}
            return time.perf_counter() - began

        began = time.perf_counter()
        whole = go()
        memory = psutil.Process(os.getpid()).memory_info().rss / 2**20
        again = go()
    return {
        "trials": number,
        "first_trial_done_s": round(starts[0] - began, 2),
        "trials_per_minute_after_it": round((len(starts) - 1) / (starts[-1] - starts[0]) * 60),
        "trials_per_minute_in_all": round(number / whole * 60),
        "whole_s": round(whole, 2),
        "driver_rss_mib": round(memory),
        "finished_again_s": round(again, 3),
    }


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 500)))
