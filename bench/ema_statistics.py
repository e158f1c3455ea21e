"""What the averaged G of the emoji experiment scores with the raw G's batch statistics, and with its own.

    python -m bench.ema_statistics --kimg 16                 3 seeds of the baseline: half an hour on one core
    python -m bench.ema_statistics --arms baseline sel align as shipped, 64 kimg: several hours

One training serves four scorings: the raw G as it is, and with statistics recomputed like the averaged one's (a
control); the averaged G with the raw one's (as versions before statistics were its own scored it), and with its own.
What is done is kept in --work, and a run that was ended goes on there. Figures go to bench/ema_statistics.json and .md.
"""

import argparse
import copy
import json
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from harness import disk
from harness.errors import UserError
from harness.evaluation import evaluate
from harness.experiment import files
from harness.experiment.matrix import entries
from harness.experiment.parse import to_plain
from harness.experiment.schema import plain
from harness.experiment.spec import Resources, Run, Trial
from harness.method.generator import SpatialGenerator
from harness.training import trained
from harness.training.model import Trained, settle
from harness.trial import run as trials
from harness.trial.environment import environment

HERE = Path(__file__).parent
WAYS = {
    "raw": "raw G",
    "raw_recomputed": "raw G, statistics recomputed",
    "ema_of_raw": "averaged G, the raw one's statistics",
    "ema": "averaged G, its own statistics",
}


class Control:
    """A line a minute of what the trial does."""

    def __init__(self) -> None:
        self.said = 0.0

    def stop(self) -> bool:
        return False

    def report(self, progress: dict[str, Any]) -> None:
        if progress["time"] - self.said > 60:
            self.said = progress["time"]
            print(f"  {progress['state']}: {progress['nimg']} images {progress.get('message') or ''}", flush=True)


def with_statistics_of(average: SpatialGenerator, raw: SpatialGenerator) -> SpatialGenerator:
    """The averaged weights with the raw network's buffers."""
    mixed = copy.deepcopy(average)
    for mine, theirs in zip(mixed.buffers(), raw.buffers(), strict=True):
        mine.copy_(theirs)
    return mixed


def recomputed(model: Trained) -> SpatialGenerator:
    g = copy.deepcopy(model.g)
    settle(model.trial, g, model.data)
    return g


def figures(model: Trained, g: SpatialGenerator) -> dict[str, float]:
    """The distance and the DI of one generator, as the experiment scores."""
    trial = model.trial
    records = evaluate.evaluate(
        g, model.d, model.data, model.heldout, trial.eval, seed=trial.seed, conditional=trial.conditional,
        device="cpu", cache=disk.cache_folder(), weights_used=model.weights,
    )  # fmt: skip
    return {name: float(record["value"]) for name, record in records.items()}


def measure(trial: Trial, folder: Path, threads: int) -> dict[str, dict[str, float]]:
    """{way of scoring: its figures} of one trial, trained in `folder` or found there."""
    kept = folder / "ways.json"
    found = disk.read_json(kept)
    result = disk.read_json(folder / "result.json")
    if not result:
        options = plain(Run(resources=Resources(cpus=threads), device="cpu"))
        if (word := trials.run(to_plain(trial), folder, options, Control())) != "done":
            raise UserError(f"{folder}: {word}")
        result = disk.read_json(folder / "result.json")
    found["ema"] = {name: record["value"] for name, record in result["metrics"].items()}
    raw, average = (trained.load(folder, sets=[f"eval.weights={weights}"]) for weights in ("raw", "ema"))
    for way, make in (
        ("ema_of_raw", lambda: with_statistics_of(average.g, raw.g)),
        ("raw", lambda: raw.g),
        ("raw_recomputed", lambda: recomputed(raw)),
    ):
        if way not in found:
            print(f"  scoring: {WAYS[way]}", flush=True)
            found[way] = figures(average if way == "ema_of_raw" else raw, make())
            disk.write_atomic(kept, json.dumps(found, indent=1).encode())
    return found


def table(told: dict[str, Any]) -> str:
    """The figures as Markdown."""
    env = told["env"]
    lines = [
        "# An averaged generator and whose statistics it is scored with",
        "",
        f"`{told['command']}`: `experiments/emoji.yaml` at {told['kimg']:g} kimg, one training for all rows of an arm;",
        f"commit {env['commit']}, torch {env['versions']['torch']}, {env['device']}, {env['machine']['cpu']}, "
        f"{env['threads']} threads.",
    ]
    for arm, by_seed in told["arms"].items():
        names = sorted(next(iter(by_seed.values()))["ema"])
        shown = [n for n in names if n.startswith("fd_")] + [n for n in names if n == "di"]
        lines += ["", f"## {arm}: seeds {', '.join(by_seed)}", ""]
        lines += [f"| | {' | '.join(f'{n}: mean ± sd' for n in shown)} | {shown[0]} by seed |"]
        lines += ["|---" * (len(shown) + 2) + "|"]
        for way, label in WAYS.items():
            columns = [[seed[way][name] for seed in by_seed.values()] for name in shown]
            cells = [f"{mean(v):.5g} ± {stdev(v) if len(v) > 1 else 0:.2g}" for v in columns]
            lines.append(f"| {label} | {' | '.join(cells)} | {', '.join(f'{v:.0f}' for v in columns[0])} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("--kimg", type=float, help="length of a training (default: the experiment's)")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--arms", nargs="+", default=["baseline"])
    p.add_argument("--data", type=Path, help="the emoji's ZIP (default: where the experiment has it)")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another override of the experiment")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--work", type=Path, default=Path("results/bench_ema_statistics"), help="trainings, kept")
    p.add_argument("--out", type=Path, default=HERE / "ema_statistics", help="without suffix")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    sets = [*args.set, f"seeds={json.dumps(args.seeds)}"]
    if args.kimg is not None:
        sets.append(f"train.total_kimg={args.kimg}")
    if args.data is not None:
        sets.append(f"dataset.path={args.data.absolute()}")
    try:
        experiment = files.load("emoji", sets)
        todo = [e for e in entries(experiment) if e.serves[0].arm in args.arms]
        told: dict[str, Any] = {
            "command": f"python -m bench.ema_statistics{' --kimg ' * (args.kimg is not None)}{args.kimg or ''}",
            "kimg": todo[0].trial.train.total_kimg if todo else 0,
            "env": environment(torch.device("cpu")),
            "arms": {arm: {} for arm in args.arms},
        }
        for entry in todo:
            print(f"{entry.name} in {args.work / entry.id}", flush=True)
            cell = entry.serves[0]
            told["arms"][cell.arm][str(cell.seed)] = measure(entry.trial, args.work / entry.id, args.threads)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return e.exit_code
    del told["env"]["argv"]
    args.out.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    args.out.with_suffix(".md").write_text(table(told), encoding="utf-8")
    print(table(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
