"""Images per second and peak memory of whole StyleGAN2 training iterations, per preset and arm.

    python bench/stylegan2_speed.py                                     tiny64, three arms, CPU, two threads
    python bench/stylegan2_speed.py --presets tiny32 tiny64 --profile release
    python bench/stylegan2_speed.py --presets paper256 --batch 4 --steps 3
    python bench/stylegan2_speed.py --presets paper256 --device cuda --batch 64 --precision fp32 tf32 bf16

An iteration is what train.py does: D step, R1 every so often, G step with the arm's terms, EMA. R1 runs every
`--r1-every` steps here and is weighed by the preset's own interval. Each measurement is a process of its own
(its peak memory too), and arms alternate round by round, so that a busy machine slows all alike. `cpu-s` is
processor time per image over all threads: it tells more than images/s while others use the machine.
`--save` puts the figures into stylegan2_speed.json in place of older ones of the same cases, and all into .md.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
ARMS = ["baseline", "sel", "sel+align"]
HERE = Path(__file__).parent
RESOLUTION = {"tiny32": 32, "tiny64": 64, "paper256": 256, "stylegan2_cifar": 32}


def measure(job: dict[str, Any]) -> dict[str, float]:
    """Train `steps` steps after one to warm up."""
    import torch

    from harness import plugins
    from harness.experiment import files
    from harness.experiment.parse import parse_trial
    from harness.experiment.spec import Resources, Run
    from harness.training.arm import build, load_data
    from harness.training.state import State, new_state
    from harness.training.train import train
    from harness.trial import run as trial

    raw = files.preset(job["preset"], "--presets")
    variants = [] if job["arm"] == "baseline" else job["arm"].split("+")
    raw |= {"dataset": {"name": "synthetic", "resolution": RESOLUTION[job["preset"]], "num_images": 256}}
    raw |= {
        "variants": variants,
        "profile": job["profile"],
        "eval": {"metrics": {plugins.names("harness.metrics")[0]: {}}},
    }
    settings = raw["train"]
    interval, settings["r1_interval"] = settings["r1_interval"], job["r1_every"]
    settings["batch_size"] = settings["batch_gpu"] = job["batch"] or settings["batch_size"]
    settings["total_kimg"] = settings["batch_size"] * (job["steps"] + 1) / 1000
    settings["precision"], settings["tf32"] = job["precision"].replace("tf32", "fp32"), job["precision"] == "tf32"
    t = parse_trial(raw, "bench")
    run = Run(Resources(cpus=job["threads"]), device=job["device"])
    device = trial.prepare_device(run, t)
    data, _ = load_data(t)
    g, d, hooks = build(t, data, device)

    wall, busy = [], []

    def upkeep(_state: State) -> bool:
        if device.type == "cuda":
            torch.cuda.synchronize()
        wall.append(time.perf_counter())
        busy.append(time.process_time())
        return False

    state = new_state(g, d, t.train)
    train(state, t.train, data, hooks, seed=0, conditional=False, upkeep=upkeep)
    upkeep(state)
    per_image = [_iteration(times, job["r1_every"], interval) / t.train.batch_size for times in (wall, busy)]
    peak = (
        torch.cuda.max_memory_allocated()
        if device.type == "cuda"
        else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )
    return {"images_per_s": 1 / per_image[0], "cpu_s": per_image[1], "peak_mib": peak / 2**20}


def _iteration(times: list[float], r1_every: int, interval: int) -> float:
    """Seconds of a mean iteration from the times at which steps 0, 1, ... began; step 0 is left out."""
    steps = [b - a for a, b in zip(times, times[1:], strict=False)]
    plain = statistics.median(s for i, s in enumerate(steps) if i % r1_every)
    with_r1 = statistics.median(s for i, s in enumerate(steps) if i and i % r1_every == 0)
    return plain + (with_r1 - plain) / interval


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["tiny64"], choices=list(RESOLUTION))
    parser.add_argument("--arms", nargs="+", default=ARMS, help="variants joined by +; 'baseline' for none")
    parser.add_argument("--profile", default="paper", choices=["paper", "release"])
    parser.add_argument("--precision", nargs="+", default=["fp32"], choices=["fp32", "tf32", "bf16"])
    parser.add_argument("--batch", type=int, help="images per step; the preset's own without it")
    parser.add_argument("--steps", type=int, default=8, help="measured steps of one process")
    parser.add_argument("--r1-every", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--save", action="store_true", help="keep the figures in bench/stylegan2_speed.json and .md")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        print(json.dumps(measure(json.loads(args.job))))
        return

    shared = {k: getattr(args, k) for k in ("profile", "batch", "steps", "r1_every", "threads", "device")}
    cases = [(p, q, a) for p in args.presets for q in args.precision for a in args.arms]
    found: dict[tuple[str, str, str], list[dict[str, float]]] = {case: [] for case in cases}
    for _ in range(args.rounds):
        for preset, precision, arm in cases:
            job = json.dumps({**shared, "preset": preset, "precision": precision, "arm": arm})
            out = subprocess.run([sys.executable, __file__, "--job", job], check=True, capture_output=True, text=True)
            found[preset, precision, arm].append(json.loads(out.stdout.splitlines()[-1]))

    print(f"{args.device}, {args.threads} threads, {args.profile} profile, {args.rounds} rounds of {args.steps} steps")
    print(f"{'preset':10} {'precision':9} {'arm':12} {'images/s':>9} {'best':>7} {'cpu-s':>7} {'peak MiB':>9}")
    rows = []
    for (preset, precision, arm), runs in found.items():
        rates = [r["images_per_s"] for r in runs]
        row = {
            "preset": preset, "precision": precision, "arm": arm, "images_per_s": statistics.median(rates),
            "best": max(rates), "cpu_s": min(r["cpu_s"] for r in runs), "peak_mib": max(r["peak_mib"] for r in runs),
        }  # fmt: skip
        rows.append({**row, **shared})
        figures = f"{row['images_per_s']:9.2f} {row['best']:7.2f} {row['cpu_s']:7.3f} {row['peak_mib']:9.0f}"
        print(f"{preset:10} {precision:9} {arm:12} {figures}")
    if args.save:
        save(rows)


CASE = ("device", "threads", "profile", "preset", "precision", "arm", "batch")


def save(rows: list[dict[str, Any]]) -> None:
    """Lay `rows` over those of earlier runs, and write all as a table."""
    import torch

    from harness.trial.environment import commit

    path = HERE / "stylegan2_speed.json"
    origin = {
        "commit": commit(),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    kept = {tuple(r[k] for k in CASE): r for r in [*old, *({**r, **origin} for r in rows)]}
    path.write_text("[\n" + ",\n".join(map(json.dumps, kept.values())) + "\n]\n", encoding="utf-8")
    lines = [
        "# StyleGAN2: images per second and peak memory of whole training iterations\n",
        "`python bench/stylegan2_speed.py --save` (see its head); median over rounds, each a process of its own.\n",
        "| device | preset | batch | precision | profile | arm | images/s | best | cpu-s | peak MiB | commit |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in kept.values():
        lines.append(
            f"| {r['machine']}, {r['device']}, {r['threads']} threads | {r['preset']} | {r['batch'] or 'own'} "
            f"| {r['precision']} | {r['profile']} | {r['arm']} | {r['images_per_s']:.2f} | {r['best']:.2f} "
            f"| {r['cpu_s']:.3f} | {r['peak_mib']:.0f} | {r['commit']} |"
        )
    (HERE / "stylegan2_speed.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
