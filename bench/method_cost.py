"""What +SEL and +L_align cost beside the baseline, per profile, in whole training steps.

    python -m bench.method_cost                        all backbones, 5 rounds: about 25 minutes on two cores
    python -m bench.method_cost --only sn_dcgan32 --rounds 3 --steps 4
    python -m bench.method_cost --clock cpu            CPU seconds: for a machine that others use too

The arms are trained in turn, a few steps each, in every round of one process. A cost is the median
over rounds of the ratio of two arms' times within a round, so that what slows the machine for a while
slows both. Figures go to bench/method_cost.json and bench/method_cost.md.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from harness.data.imageset import ImageSet
from harness.experiment import files
from harness.experiment.parse import merge, parse_trial
from harness.training.arm import build, load_data
from harness.training.state import State, new_state
from harness.training.train import train
from harness.trial import run as trial
from harness.trial.environment import environment

HERE = Path(__file__).parent
PROFILES = ("paper", "release")
VARIANTS: dict[str, dict[str, Any]] = {"sel": {"sel": {}}, "align": {"sel": {}, "align": {}}}
SETTINGS = {"sn_dcgan32": ("chainer", 32), "stylegan2_tiny32": ("tiny32", 32), "stylegan2_tiny64": ("tiny64", 64)}
"""Name -> preset and image resolution."""


class Arm:
    """One arm in training; `steps(n)` goes on for n steps and returns the seconds they took."""

    def __init__(
        self, setting: str, variants: dict[str, Any], profile: str, device: torch.device, **over: dict[str, Any]
    ) -> None:
        self.trial = parse_trial(merge(plain(setting, variants, profile), over, "bench"), f"bench: {setting}")
        self.data = load(setting)
        g, d, self.hooks = build(self.trial, self.data, device)
        self.state: State = new_state(g, d, self.trial.train)
        self.costs = trial.costs(g, d)
        self.device = device

    def steps(self, n: int, clock: Callable[[], float]) -> float:
        t = self.trial.train
        end = self.state.nimg + n * t.batch_size
        self._settle()
        start = clock()
        train(
            self.state, t, self.data, self.hooks, seed=0, conditional=False,
            upkeep=lambda state: state.nimg >= end,
        )  # fmt: skip
        self._settle()
        took = clock() - start
        self.state.stats.clear()
        return took

    def _settle(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def plain(setting: str, variants: dict[str, Any], profile: str) -> dict[str, Any]:
    """The trial of an arm, in the form of an experiment file."""
    preset, resolution = SETTINGS[setting]
    changes = {
        "dataset": {"name": "synthetic", "resolution": resolution, "num_images": 1000},
        "variants": variants,
        "profile": profile,
        "train": {"total_kimg": 1e6},
        "eval": {"metrics": {"disequilibrium": {}}},
    }
    return merge(files.preset(preset, "bench"), changes, "bench")


_loaded: dict[str, ImageSet] = {}


def load(setting: str) -> ImageSet:
    """The images of a setting, drawn once."""
    if setting not in _loaded:
        _loaded[setting] = load_data(parse_trial(plain(setting, {}, "paper"), "bench"))[0]
    return _loaded[setting]


def measure(
    setting: str, rounds: int, steps: int | None, clock: Callable[[], float], device: torch.device
) -> dict[str, Any]:
    """Seconds per step of every arm, round by round, with the arms' sizes."""
    arms = {"baseline": Arm(setting, {}, "paper", device)}
    steps = steps or arms["baseline"].trial.train.r1_interval or 4
    for profile, (name, variants) in itertools.product(PROFILES, VARIANTS.items()):
        arms[f"{name}/{profile}"] = Arm(setting, variants, profile, device)
    names = list(arms)
    for arm in arms.values():
        arm.steps(1, clock)  # warm-up; it also moves R1 to the same place in every round
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            seconds[name].append(arms[name].steps(steps, clock) / steps)
        print(f"{setting}: round {i + 1} of {rounds}", flush=True)
    batch = arms["baseline"].trial.train.batch_size
    return {
        "batch_size": batch,
        "rounds": rounds,
        "steps": steps,
        "arms": {
            name: {"step_s": seconds[name], "images_per_s": batch / median(seconds[name]), **arms[name].costs}
            for name in names
        },
    }


def ratio(arms: dict[str, Any], over: str, under: str) -> float:
    """Median over rounds of the time of arm `over` as a multiple of that of `under`."""
    pairs = zip(arms[over]["step_s"], arms[under]["step_s"], strict=True)
    return median(a / b for a, b in pairs)


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    env, lines = found["env"], []
    lines += [
        "# The cost of +SEL and +L_align",
        "",
        f"Whole training steps, arms in turn, median over rounds of ratios within a round ({found['clock']} time).",
        f"`python -m bench.method_cost`; commit {env['commit']}, torch {env['versions']['torch']}, {env['device']}, "
        f"{env['machine']['cpu']}, {env['threads']} threads.",
    ]
    for setting, run in found["settings"].items():
        arms = run["arms"]
        lines += [
            "",
            f"## {setting}: batch {run['batch_size']}, {run['rounds']} rounds of {run['steps']} steps",
            "",
            "| arm | images/s | time / baseline | time / +SEL | parameters of G | multiply-adds of G per image |",
            "|---|---|---|---|---|---|",
        ]
        for name, arm in arms.items():
            kind, _, profile = name.partition("/")
            beside_sel = f"{ratio(arms, name, f'sel/{profile}'):.3f}" if kind == "align" else ""
            lines.append(
                f"| {name} | {arm['images_per_s']:.4g} | {ratio(arms, name, 'baseline'):.3f} | {beside_sel} "
                f"| {arm['params_g']:,} | {arm['macs_g']:,} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("--only", choices=tuple(SETTINGS), help="one backbone")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--steps", type=int, help="of an arm in a round (default: 16 with R1 every 16 steps, else 4)")
    p.add_argument("--threads", type=int, help="default: torch's own")
    p.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--out", type=Path, default=HERE / "method_cost", help="without suffix")
    args = p.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    chosen = [args.only] if args.only else list(SETTINGS)
    found: dict[str, Any] = {"env": environment(device), "clock": args.clock, "settings": {}}
    for setting in chosen:
        found["settings"][setting] = measure(setting, args.rounds, args.steps, clock, device)
    args.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    args.out.with_suffix(".md").write_text(table(found), encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
