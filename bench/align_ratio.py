"""What `max_ratio` of align costs beside align without it, in whole training steps of SN-DCGAN (width 0.25, batch 32).

    python -m bench.align_ratio --threads 2            15 rounds of 16 steps: about 6 minutes on two cores
    python -m bench.align_ratio --clock cpu            CPU seconds: for a machine that others use too

Three arms in turn in every round of one process: without, at the default `ratio_every`, and measuring in every step.
A cost is the median over rounds of the ratio of two arms' times within a round. Figures go to bench/align_ratio.md.
"""

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.method_cost import Arm
from harness.trial.environment import environment
from harness.variants.align import Options

OUT = Path(__file__).with_suffix(".md")
READING = {"objective": "softplus", "rectify": "per_channel"}
MAX_RATIO = 0.3


def arms(device: torch.device) -> dict[str, Arm]:
    options: dict[str, dict[str, Any]] = {
        "without": {},
        f"every {Options.ratio_every} steps": {"max_ratio": MAX_RATIO},
        "every step": {"max_ratio": MAX_RATIO, "ratio_every": 1},
    }
    over: dict[str, dict[str, Any]] = {"backbone": {"width": 0.25}, "train": {"batch_size": 32, "tick_kimg": 1e6}}
    return {
        name: Arm("sn_dcgan32", {"sel": {}, "align": {**READING, **own}}, "paper", device, **over)
        for name, own in options.items()
    }


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("--rounds", type=int, default=15)
    p.add_argument("--steps", type=int, default=16, help="of an arm in a round: a multiple of ratio_every")
    p.add_argument("--threads", type=int, help="default: torch's own")
    p.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = p.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    every = arms(device)
    names = list(every)
    for arm in every.values():
        arm.steps(8, clock)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for i in range(args.rounds):
        for name in names[i % 3 :] + names[: i % 3]:
            seconds[name].append(every[name].steps(args.steps, clock) / args.steps)
        print(f"round {i + 1} of {args.rounds}", flush=True)
    env = environment(device)
    words = " ".join(f"--{k} {v}" for k, v in vars(args).items() if v is not None)
    lines = [
        "# The cost of `max_ratio`",
        "",
        f"Whole steps of SN-DCGAN (width 0.25, 32x32, batch 32, + L_align), arms in turn, {args.rounds} rounds of "
        f"{args.steps} steps, {args.clock} time;",
        "median (quartiles) over rounds of ratios within a round.",
        f"`python -m bench.align_ratio {words}`; commit {env['commit']}, torch {env['versions']['torch']}, "
        f"{env['device']}, {env['machine']['cpu']}, {env['threads']} threads.",
        "",
        "| gradients measured | seconds a step | time / without |",
        "|---|---|---|",
    ]
    for name in names:
        ratios = sorted(a / b for a, b in zip(seconds[name], seconds["without"], strict=True))
        low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
        beside = "" if name == "without" else f"{median(ratios):.3f} ({low:.3f} to {high:.3f})"
        lines.append(f"| {name} | {median(seconds[name]):.3g} | {beside} |")
    dear = median(a / b for a, b in zip(seconds["every step"], seconds["without"], strict=True)) - 1
    share = dear / Options.ratio_every
    lines += [
        "",
        f"One in {Options.ratio_every} of the measurements of the last row: {share:.1%} of a step.",
        "The row above it is the direct figure, which needs a quiet machine: read its quartiles.",
    ]
    OUT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(OUT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
