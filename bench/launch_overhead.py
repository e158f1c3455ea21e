"""What launching costs, into bench/launch_overhead.json and .md: `python -m bench.launch_overhead [--trials 500]`.

Through the real launcher and a Ray of its own: time to the first step of a real training, wall time that launching
adds to a trial, trials that do nothing per minute, the driver's memory, and the time to find that all is finished:
by the launcher alone, and by the whole command with its tables and its report.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from harness.experiment import files
from harness.experiment.matrix import Cell, Entry, entries
from harness.experiment.parse import to_plain
from harness.experiment.schema import parse, plain
from harness.experiment.spec import Eval, Plugin, Run, Train, Trial
from harness.orchestration.attempt import Control
from harness.orchestration.launch import launch
from harness.process import cores

OUT = Path(__file__).with_suffix(".json")
ROOT = OUT.parent.parent
TRAINING = """
name: overhead
preset: chainer
seeds: [{seeds}]
dataset: {{name: synthetic, resolution: 32, num_images: 512}}
backbone: {{width: 0.25}}
train: {{total_kimg: {kimg}, batch_size: 16, tick_kimg: 0.064}}
eval: {{num_fakes: 64, metrics: [disequilibrium]}}
run: {{device: cpu, resources: {{cpus: {cpus}}}}}
"""


def noop(config: dict[str, Any], folder: Path, run: dict[str, Any], control: Control, attempt: int) -> str:
    """A trial that only leaves a result."""
    (folder / "result.json").write_text('{"status": "done"}', encoding="utf-8")
    return "done"


def nothing(number: int) -> list[Entry]:
    """So many different trials for `noop`."""
    made = []
    for seed in range(number):
        trial = Trial(Plugin("none", Run()), Plugin("none", Run()), False, (), Train(), Eval(()), seed)
        made.append(Entry(trial.id, trial, (Cell("bench", "none", "none", seed),)))
    return made


class Launched:
    """A launch of `todo` in `results`, timed: seconds from its start until each trial was first seen, and ended."""

    def __init__(self, todo: list[Entry], results: Path, run: Run, worker: str) -> None:
        self.seen: dict[str, float] = {}
        self.ended: dict[str, float] = {}
        began = time.perf_counter()

        def finished(entry: Entry) -> str | None:
            try:
                return str(
                    json.loads((results / "trials" / entry.id / "result.json").read_text(encoding="utf-8"))["status"]
                )
            except OSError:
                return None

        def tell(id: str, word: str, report: dict[str, Any]) -> None:
            self.seen.setdefault(id, time.perf_counter() - began)
            if word == "done":
                self.ended[id] = time.perf_counter() - began

        words = launch(todo, results, run, experiment="bench", finished=finished, on_progress=tell, worker=worker)
        assert set(words.values()) == {"done"}
        self.whole = time.perf_counter() - began


def trials_that_do_nothing(number: int) -> dict[str, float]:
    todo, run = nothing(number), parse(Run, {}, "run")
    with tempfile.TemporaryDirectory() as folder:
        first = Launched(todo, Path(folder), run, "bench.launch_overhead:noop")
        memory = psutil.Process(os.getpid()).memory_info().rss / 2**20
        again = Launched(todo, Path(folder), run, "bench.launch_overhead:noop")
    ends = sorted(first.ended.values())
    return {
        f"first_of_{number}_done_s": round(ends[0], 2),
        f"trials_per_minute_of_{number}": round((len(ends) - 1) / (ends[-1] - ends[0]) * 60),
        f"trials_per_minute_of_{number}_with_start_and_end": round(number / first.whole * 60),
        f"driver_rss_mib_at_{number}": round(memory),
        f"{number}_found_finished_s": round(again.whole, 3),
    }


def finished_matrix(number: int) -> dict[str, float]:
    """Seconds of the whole command on a matrix that is finished: one real training, copied to every seed."""
    with experiment(1, 0.064) as (folder, todo, run):
        results = folder / "results"
        Launched(todo, results, run, "harness.trial.run:run")
        made = json.loads((results / "trials" / todo[0].id / "result.json").read_text(encoding="utf-8"))
        seeds = f"seeds=[{', '.join(map(str, range(number)))}]"
        for entry in entries(files.load(folder / "overhead.yaml", [seeds])):
            home = results / "trials" / entry.id
            home.mkdir(exist_ok=True)
            (home / "result.json").write_text(
                json.dumps({**made, "id": entry.id, "config": to_plain(entry.trial)}), encoding="utf-8"
            )
        command = [sys.executable, "cli.py", "matrix", str(folder / "overhead.yaml"), "--set", seeds]
        command += ["--results", str(results), "--tracking-uri", "off"]
        began = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        first, began = time.perf_counter() - began, time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        again = time.perf_counter() - began
        return {f"command_on_{number}_finished_s": round(first, 2), f"and_once_more_on_{number}_s": round(again, 2)}


@contextmanager
def experiment(seeds: int, kimg: float) -> Iterator[tuple[Path, list[Entry], Run]]:
    """Real trainings, each with all cores to itself: one after another however they are launched."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "overhead.yaml")
        numbers = ", ".join(map(str, range(seeds)))
        path.write_text(TRAINING.format(seeds=numbers, kimg=kimg, cpus=cores()), encoding="utf-8")
        loaded = files.load(path)
        yield Path(folder), list(entries(loaded)), loaded.run


def plain_loop(seeds: int, kimg: float) -> list[float]:
    """The ends of the same trainings one after another in this process, in seconds from the first one's start."""
    from harness.trial import run as trial

    with experiment(seeds, kimg) as (folder, todo, run):
        began = time.perf_counter()
        ends = []
        for e in todo:
            assert trial.run(to_plain(e.trial), folder / e.id, plain(run), Control()) == "done"
            ends.append(time.perf_counter() - began)
        return ends


def added_per_trial(seeds: int, kimg: float) -> dict[str, float]:
    """Launched against a plain loop in a fresh process. Start and end of Ray are not in it, the start of the one
    worker is: it is added to the first training, and apart from what each further one is made to wait."""
    command = [sys.executable, "-m", "bench.launch_overhead", "--plain", str(seeds), str(kimg)]
    environ = {**os.environ, "OMP_NUM_THREADS": str(cores())}
    said = subprocess.run(command, cwd=ROOT, env=environ, check=True, capture_output=True, text=True).stdout
    alone = json.loads(said.splitlines()[-1])
    with experiment(seeds, kimg) as (folder, todo, run):
        launched = Launched(todo, folder, run, "harness.trial.run:run")
    begun = min(launched.seen.values())
    under_ray = sorted(end - begun for end in launched.ended.values())
    each, each_alone = ((ends[-1] - ends[0]) / (seeds - 1) for ends in (under_ray, alone))
    return {
        "trainings": seeds,
        "plain_loop_first_s": round(alone[0], 2),
        "launched_first_s": round(under_ray[0], 2),
        "plain_loop_s_per_further_training": round(each_alone, 3),
        "launched_s_per_further_training": round(each, 3),
        "added_s_per_further_training": round(each - each_alone, 3),
        "added_percent_per_further_training": round((each / each_alone - 1) * 100, 2),
        "added_s_per_training": round((under_ray[-1] - alone[-1]) / seeds, 3),
        "added_percent": round((under_ray[-1] / alone[-1] - 1) * 100, 2),
    }


def to_first_step() -> float:
    """Seconds from the command to the first trained step that the results folder tells of; it is told each second."""
    with experiment(1, 100) as (folder, todo, _):
        command = [sys.executable, "cli.py", "matrix", str(folder / "overhead.yaml"), "--results", str(folder)]
        began = time.perf_counter()
        driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        state = folder / "trials" / todo[0].id / "state.json"
        try:
            while not (state.exists() and json.loads(state.read_text(encoding="utf-8"))["nimg"]):
                assert driver.poll() is None, "the driver ended before its first step"
                time.sleep(0.02)
            return round(time.perf_counter() - began, 2)
        finally:
            driver.terminate()
            driver.wait()


def describe(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    rows = [f"| {key.replace('_', ' ')} | {value} |" for key, value in found.items()]
    head = """# What launching costs

Written by `python -m bench.launch_overhead`; its docstring says what is timed. Aims: first step within 15 s; under
1 s and 2 % added to a training; 500 trials a minute; a finished matrix of 1,000 found in 2 s without Ray.

| | |
| --- | --- |
"""
    return head + "\n".join(rows) + "\n"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--trials", type=int, nargs="+", default=[500, 1000], help="numbers of trials that do nothing")
    p.add_argument("--trainings", type=int, default=8, help="2 or more")
    p.add_argument("--kimg", type=float, default=1.6, help="length of a training")
    p.add_argument("--plain", nargs=2, metavar=("N", "KIMG"), help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.plain:
        print(json.dumps(plain_loop(int(args.plain[0]), float(args.plain[1]))))
        return
    from harness.trial.environment import commit  # brings torch, which the driver of a real matrix holds too

    found: dict[str, Any] = {
        "commit": commit(), "machine": f"{platform.machine()}, {cores()} cores",
        "python": platform.python_version(), "load_before": round(os.getloadavg()[0], 1),
        "command_to_first_step_s": to_first_step(),
    }  # fmt: skip
    for number in args.trials:
        found |= trials_that_do_nothing(number)
        print(found, file=sys.stderr)
    found |= finished_matrix(max(args.trials))
    found |= added_per_trial(args.trainings, args.kimg)
    OUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    OUT.with_suffix(".md").write_text(describe(found), encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
