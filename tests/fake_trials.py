"""Trials of real processes and files but no network: they journal, checkpoint, resume, and break on demand.

Run as a script, it launches some: `python -m tests.fake_trials RESULTS '[{"fault": "crash", ...}, ...]' ...`.
"""

import json
import os
import signal
import sys
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.experiment import ids
from harness.experiment.matrix import Cell, Entry
from harness.experiment.spec import Eval, Plugin, Resources, Run, Train, Trial
from harness.orchestration.fit import Memory
from harness.orchestration.launch import launch
from harness.store.journal import Journal

EVERY = 10  # steps between checkpoints


@dataclass(frozen=True)
class Options:
    """`fault`: crash | crash once | raise | hang | oom | none, at step `at`."""

    name_: str = "a"
    steps: int = 30
    step_s: float = 0.0
    fault: str = "none"
    at: int = 15
    memory: float = 0.0  # of a GPU


def entry(**options: Any) -> Entry:
    """A trial with `options`, as a matrix would list it."""
    o = Options(**options)
    trial = Trial(Plugin("none", Options()), Plugin("fake", o), False, (), Train(batch_gpu=8), Eval(()), 0)
    return Entry(trial.id, trial, (Cell("fake", "setting", o.name_, 0),))


def finished(results: Path) -> Any:
    return lambda entry: "done" if (results / "trials" / entry.id / "result.json").exists() else None


def train(config: dict[str, Any], folder: Path, run: dict[str, Any], control: Any, attempt: int) -> str:
    """One point a step in the journal: loss/g = step. A resumed trial continues at its checkpoint."""
    o = Options(**{k: v for k, v in config["backbone"].items() if k != "name"})
    with (folder / "starts.jsonl").open("a") as f:
        env = {"omp": os.environ.get("OMP_NUM_THREADS"), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}
        f.write(json.dumps({"attempt": attempt, "pid": os.getpid(), **env}) + "\n")
    latest = folder / "checkpoints" / "latest.json"
    saved = json.loads(latest.read_text()) if latest.exists() else {"nimg": 0, "journal_offset": 0}
    with closing(Journal(folder / "events.jsonl", saved["journal_offset"])) as journal:
        return _steps(o, journal, latest, folder, saved["nimg"], control, attempt)


def measure(config: dict[str, Any], run: dict[str, Any]) -> Memory:
    """In place of `fit.measure`: the process really has a GPU to itself, what it measures is made up."""
    assert os.environ["CUDA_VISIBLE_DEVICES"] != "" and "torch" not in sys.modules
    return Memory(int(config["backbone"]["memory"] * 80 * 2**30), 80 * 2**30)


def _steps(o: Options, journal: Journal, latest: Path, folder: Path, at: int, control: Any, attempt: int) -> str:
    for step in range(at, o.steps):
        stop = control.stop()
        if stop or step % EVERY == 0:
            offset = journal.commit()
            _write(latest, {"file": "none", "nimg": step, "journal_offset": offset})
        if stop:
            return _state(folder, "interrupted", step)
        if step == o.at:
            _break(o.fault, folder)
        journal.metrics(step, {"loss/g": float(step), "loss/d": -float(step)})
        control.report({"state": "running", "nimg": step, "total_nimg": o.steps, "attempt": attempt})
        time.sleep(o.step_s)
    journal.metrics(o.steps, {"final/fid": 10.0})
    journal.commit()
    _write(
        folder / "result.json", {"status": "done", "nimg": o.steps, "metrics": {}, "scoring": ids.of_scoring(Eval(()))}
    )
    return _state(folder, "done", o.steps)


def _break(fault: str, folder: Path) -> None:
    if fault == "crash" or (fault == "crash once" and not (folder / "crashed").exists()):
        (folder / "crashed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "raise":
        raise ValueError("broken on purpose")
    if fault == "oom":
        raise MemoryError
    if fault == "hang":
        time.sleep(3600)


def _state(folder: Path, word: str, step: int) -> str:
    _write(folder / "state.json", {"state": word, "nimg": step, "time": time.time()})
    return word


def _write(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value))
    part.replace(path)


def main(results: str, trials: str, run: str = "{}", options: str = "{}") -> int:
    """Launch `trials` (list of Options) and write their words to RESULTS/words.json. Exit code as the CLI's."""
    entries = [entry(**t) for t in json.loads(trials)]
    told = (Path(results) / "told.jsonl").open("a", buffering=1)
    knobs = json.loads(run)
    knobs["resources"] = Resources(**knobs.get("resources", {}))
    began = time.monotonic()
    try:
        words = launch(
            entries,
            Path(results),
            Run(**knobs),
            experiment="fake",
            finished=finished(Path(results)),
            on_progress=lambda id, word, report: print(
                json.dumps({"id": id, "word": word, **report, "s": time.monotonic() - began}), file=told
            ),
            worker="tests.fake_trials:train",
            **json.loads(options),
        )
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return getattr(e, "exit_code", 2)
    names = {e.id: asdict(e.trial.backbone.options)["name_"] for e in entries}
    (Path(results) / "words.json").write_text(json.dumps({names[id]: word for id, word in words.items()}))
    return 130 if "interrupted" in words.values() else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
