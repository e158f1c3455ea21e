"""Images per second of every kind of trial in an experiment, for `plan`: what it knows of speeds.

    python -m bench.throughput                                  rehearsal and table2, on this machine
    python -m bench.throughput --experiments full --steps 16    paper256: on a GPU
    python -m bench.throughput --clock cpu                      CPU seconds: for a machine that others use too

Every shape (see harness/orchestration/plan.py) is trained for `--steps` steps after two to warm up, on drawn images
of its size. A figure replaces the one of the same shape and device; the others stay.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from harness.experiment import files
from harness.experiment.matrix import entries
from harness.experiment.parse import to_plain
from harness.experiment.spec import Resources, Run, Trial
from harness.orchestration import speeds
from harness.plugins import find
from harness.process import cores
from harness.training.arm import build
from harness.training.state import State, new_state
from harness.training.train import train
from harness.trial import run as trial
from harness.trial.environment import environment

WARM_UP = 2


def distinct(names: list[str]) -> list[Trial]:
    """One trial of each shape."""
    found: dict[str, Trial] = {}
    for name in names:
        for e in entries(files.load(name)):
            found.setdefault(json.dumps(speeds.shape(e.trial), sort_keys=True), e.trial)
    return list(found.values())


def measure(t: Trial, steps: int, clock: str, device: torch.device) -> float:
    """Images per second over whole training steps."""
    synthetic = find("harness.datasets", "synthetic")
    data = synthetic.load(synthetic.Options(resolution=speeds.resolution(t) or 32, num_images=256))
    g, d, hooks = build(t, data, device)
    times: list[float] = []

    def upkeep(state: State) -> bool:
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.process_time() if clock == "cpu" else time.perf_counter())
        return len(times) > WARM_UP + steps

    train(new_state(g, d, t.train), t.train, data, hooks, seed=0, conditional=t.conditional, upkeep=upkeep)
    return steps * t.train.batch_size * t.train.d_steps / (times[WARM_UP + steps] - times[WARM_UP])


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--experiments", nargs="+", default=["rehearsal", "table2"])
    p.add_argument("--steps", type=int, default=16, help="16: one of them with lazy R1")
    p.add_argument("--threads", type=int, default=1, help="as run.resources.cpus")
    p.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--out", type=Path, default=speeds.THROUGHPUT)
    args = p.parse_args()
    device = torch.device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    env = environment(device)
    about = {"commit": env["commit"], "torch": env["versions"]["torch"], "clock": args.clock, "steps": args.steps}
    about |= {"machine": f"{name if name != 'cpu' else env['machine']['cpu']}, {cores()} cores"}
    rows: list[dict[str, Any]] = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else []
    for t in distinct(args.experiments):
        trial.prepare_device(Run(Resources(cpus=args.threads), device="cuda" if device.type == "cuda" else "cpu"), t)
        longer = files.override(to_plain(t), ["train.total_kimg=1.0e+9"], "bench")
        rate = measure(longer, args.steps, args.clock, device)
        row = {"shape": speeds.shape(t), "device": name, "images_per_s": round(rate, 2), **about}
        rows = [r for r in rows if (r["shape"], r["device"]) != (row["shape"], name)] + [row]
        variants = " + ".join(row["shape"]["variants"]) or "baseline"
        side = row["shape"]["resolution"]
        print(f"{t.backbone.name} {side} {variants}: {rate:.1f} images/s", flush=True)
        args.out.write_text("[\n" + ",\n".join(json.dumps(r) for r in rows) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
