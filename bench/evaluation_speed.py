"""Ours against `torch_fidelity.calculate_metrics` on the same images and weights; memory; what DI costs.

    python -m bench.evaluation_speed                            256 images a side on the CPU, some minutes
    python -m bench.evaluation_speed --count 2000 --device cuda
    python -m bench.evaluation_speed --only features|memory|di

Each run is a process of its own, so that peak memory is its own; ours and theirs alternate. Weights are random
numbers in the published layout unless --weights names the real file. Every run is noted when it ends, so that the
same command goes on where it was interrupted; at the end figures go to bench/evaluation.json and bench/evaluation.md,
in which a part that was not asked for stays as it was.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
SUBSETS = 20
VALUES = ("fid", "kid", "is", "precision", "recall")
Numbers = dict[str, Any]


# ── one run, in a process of its own ─────────────────────────────────────────


def images(count: int) -> tuple[Any, Any]:
    """Fakes and reals, uint8 [count, 3, 32, 32]: a degraded copy of synthetic images and others of them."""
    import torch

    from harness.datasets import synthetic

    drawn = torch.from_numpy(synthetic.load(synthetic.Options(num_images=2 * count)).images)
    noise = torch.randn(drawn[:count].shape, generator=torch.Generator().manual_seed(0))
    return (0.7 * drawn[:count] + 30 + 15 * noise).clamp(0, 255).to(torch.uint8), drawn[count:]


def theirs(count: int, device: str, weights: Path, batch: int) -> Numbers:
    import torch
    import torch_fidelity

    class Images(torch.utils.data.Dataset):
        def __init__(self, data: Any) -> None:
            self.data = data

        def __len__(self) -> int:
            return len(self.data)

        def __getitem__(self, index: int) -> Any:
            return self.data[index]

    fake, real = images(count)
    start = time.perf_counter()
    found = torch_fidelity.calculate_metrics(
        input1=Images(fake), input2=Images(real), cuda=device == "cuda", isc=True, fid=True, kid=True, prc=True,
        feature_extractor="inception-v3-compat", feature_extractor_weights_path=str(weights), batch_size=batch,
        kid_subsets=SUBSETS, kid_subset_size=count // 2, cache=False, verbose=False,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    short = {"inception_score_mean": "is", "frechet_inception_distance": "fid", "kernel_inception_distance_mean": "kid"}
    return {**{short.get(k, k): v for k, v in found.items() if short.get(k, k) in VALUES}, "seconds": seconds}


def ours(count: int, device: str, weights: Path, batch: int) -> Numbers:
    import torch

    from harness.evaluation import features as _features
    from harness.evaluation.collect import Collector
    from harness.evaluation.evidence import Sample
    from harness.evaluation.frechet import distance
    from harness.metrics import _distances, inception_score, precision_recall

    fake, real = images(count)
    start = time.perf_counter()
    extractor = _features.Extractor("inception-v3-compat", 299, "any")
    pooled, logits = Sample("fakes", count, extractor), Sample("fakes", count, extractor, "logits")
    gathered = []
    for data in (fake, real):
        collector = Collector(extractor, [pooled], [pooled, logits], device)
        for some in data.split(batch):
            collector.add(some)
        gathered.append(collector.evidence)
    features_s = time.perf_counter() - start
    a, b = (torch.from_numpy(e.features[pooled]) for e in gathered)
    rows = _distances.subset_rows(count, count, SUBSETS, count // 2, 2020)
    splits = inception_score.split_scores(torch.from_numpy(gathered[0].features[logits]), 10, 2020)
    values = {
        "fid": distance(*(e.moments[pooled] for e in gathered)),
        "kid": float(_distances.kernel_subsets(a.numpy(), b.numpy(), rows).mean()),
        "is": float(splits.mean()),
        "precision": float(precision_recall.inside(a, b, precision_recall.radii(b, 3)).double().mean()),
        "recall": float(precision_recall.inside(b, a, precision_recall.radii(a, 3)).double().mean()),
    }
    return {**values, "features_s": features_s, "seconds": time.perf_counter() - start}


def whole_pass(count: int, device: str, weights: Path, batch: int) -> Numbers:
    """`harness.evaluation.evaluate` itself with `count` fakes of an untrained SN-DCGAN: FID and DI, 64 reals."""
    import torch

    from backbones import sn_dcgan
    from harness.datasets import synthetic
    from harness.evaluation import evaluate
    from harness.experiment.spec import Eval, Plugin
    from harness.method.generator import SpatialGenerator
    from harness.metrics import disequilibrium, fid

    torch.manual_seed(0)
    g, d = sn_dcgan.build(sn_dcgan.Options(width=0.25), 32, 0)
    asked = (
        Plugin("fid", fid.Options(weights="any")),
        Plugin("disequilibrium", disequilibrium.Options(n=min(64, count))),
    )
    data = synthetic.load(synthetic.Options(num_images=64))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as cache:
        records = evaluate.evaluate(
            SpatialGenerator(g.to(device)), d.to(device), data, None,
            Eval(asked, num_fakes=count, batch_size=batch), seed=0, conditional=False, device=device,
            cache=Path(cache), weights_used="raw",
        )  # fmt: skip
    return {"di": records["di"]["value"], "seconds": time.perf_counter() - start}


RUNS: dict[str, Callable[..., Numbers]] = {"theirs": theirs, "ours": ours, "pass": whole_pass}


def run(who: str, count: int, device: str, weights: Path, batch: int) -> Numbers:
    """Time, and peak memory of the process: as it is, and beyond what the loaded libraries take."""
    import torch
    import torch_fidelity  # noqa: F401 (loaded on both sides before memory is measured)

    from harness.evaluation import features as _features

    os.environ[_features.INCEPTION_VARIABLE] = str(weights)
    torch.zeros(1, device=device)
    loaded = peak_mib()
    found = RUNS[who](count, device, weights, batch)
    peak = peak_mib()
    found |= {"peak_mib": peak, "growth_mib": peak - loaded}
    if device == "cuda":
        found["device_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return found


def peak_mib() -> float:
    """The largest resident size of this process. `getrusage` would count its parent's, from before the exec."""
    (line,) = (x for x in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


# ── DI ───────────────────────────────────────────────────────────────────────


def di(evaluations: tuple[int, ...] = (400, 1600, 6400, 25_600), runs: int = 300, n: int = 64) -> Numbers:
    """The spread over independent pools of both estimators of DI, for the same number of D evaluations, in standard
    deviations of D's (Gaussian) scores. Below the paper's 200 x (64 + 64) the pools are redrawn."""
    from harness.evaluation import scores

    rng = np.random.default_rng(0)
    rows = []
    for total in evaluations:
        pools = [rng.normal(0, 1, (2, total // 2)) for _ in range(runs)]
        paper = np.std([scores.sampled_di(real, fake, n, 200, rng).value for real, fake in pools], ddof=1)
        found = [scores.exact_di(real, fake, n) for real, fake in pools]
        exact = np.std([f.value for f in found], ddof=1)
        jackknife = np.mean([f.se for f in found if f.se is not None])
        needed = total * (exact / paper) ** 2  # its error falls as 1 / sqrt(evaluations)
        rows.append([total, *map(float, (paper, exact, jackknife, needed))])
        say(f"di: {total} evaluations: paper's {paper:.4f}, exact {exact:.4f}")
    real, fake = rng.normal(0, 1, (2, 50_000))
    start = time.perf_counter()
    scores.exact_di(real, fake, n)
    return {"rows": rows, "pools": runs, "n": n, "exact_s": time.perf_counter() - start}


# ── all runs, noted one by one ───────────────────────────────────────────────


def features(count: int, rounds: int) -> Iterator[tuple[str, int, int]]:
    """(who, images, round) of the comparison, alternating."""
    yield from ((who, count, i) for i in range(rounds) for who in ("theirs", "ours"))


def memory(count: int) -> Iterator[tuple[str, int, int]]:
    yield from (("pass", n, 0) for n in (count // 4, count // 2, count))


def say(text: str) -> None:
    print(text, flush=True)


def measured(todo: list[tuple[str, int, int]], notes: Path, head: Numbers, weights: Path) -> list[Numbers]:
    """Every run of `todo`; those that `notes` hold, made under the same `head`, are not made again."""
    kept = json.loads(notes.read_text(encoding="utf-8")) if notes.exists() else {}
    runs: list[Numbers] = kept["runs"] if kept.get("head") == head else []
    for i, (who, count, turn) in enumerate(todo):
        at = {"who": who, "count": count, "round": turn}
        what = f"{i + 1}/{len(todo)} {who}, {count} images"
        found = next((r for r in runs if at.items() <= r.items()), None)
        if found is None:
            say(f"{what} ...")
            words = [sys.executable, "-W", "ignore", __file__, "--run", who, "--count", count, "--weights", weights]
            words += ["--device", head["device"], "--batch", head["batch"]]
            done = subprocess.run([str(w) for w in words], stdout=subprocess.PIPE, text=True)
            if done.returncode:
                raise SystemExit(f"{what}: ended with {done.returncode}; the same command goes on from here")
            found = {**at, **json.loads(done.stdout.splitlines()[-1])}
            runs.append(found)
            notes.write_text(json.dumps({"head": head, "runs": runs}), encoding="utf-8")
        say(f"{what}: {found['seconds']:.1f} s, peak {found['peak_mib']:.0f} MiB")
    asked = [{"who": w, "count": n, "round": t} for w, n, t in todo]
    return [r for r in runs if any(at.items() <= r.items() for at in asked)]


# ── what is said of it ───────────────────────────────────────────────────────


def about(part: Numbers) -> str:
    env = part["env"]
    where = f"{env['device']}, {env['machine']['cpu']}, {env['threads']} threads"
    return f"Commit {env['commit']}, torch {env['versions']['torch']}, {where}.\n"


def comparison(part: Numbers) -> str:
    """Values and their largest relative difference over the rounds, time and memory: the least of each side."""
    by = {who: [r for r in part["runs"] if r["who"] == who] for who in ("theirs", "ours")}
    count, head = by["ours"][0]["count"], part["head"]
    lines = [
        f"{about(part)}\n{count} images of 32x32 a side, weights: {head['weights']}, batches of {head['batch']}, KID "
        f"in {SUBSETS} subsets of {count // 2}; time and memory: the least of {len(by['ours'])} runs, in turn.\n",
        "| | torch-fidelity | ours | largest relative difference |\n|---|---:|---:|---:|",
    ]
    for name in VALUES:
        apart = max(
            abs(o[name] - t[name]) / max(abs(t[name]), 1e-30) for o, t in zip(by["ours"], by["theirs"], strict=True)
        )
        lines.append(f"| {name} | {by['theirs'][0][name]:.9g} | {by['ours'][0][name]:.9g} | {apart:.1e} |")
    units = {
        "seconds": "seconds",
        "peak_mib": "peak memory, MiB",
        "growth_mib": "of it beyond the loaded libraries, MiB",
    }
    for name, title in {**units, "device_mib": "peak on the GPU, MiB"}.items():
        if name in by["ours"][0]:
            a, b = (min(r[name] for r in by[who]) for who in ("theirs", "ours"))
            lines.append(f"| {title} | {a:.1f} | {b:.1f} | {b / a - 1:+.0%} |")
    a, b = (2 * count / min(r["seconds"] for r in by[who]) for who in ("theirs", "ours"))
    lines.append(f"| images/s, all five metrics | {a:.1f} | {b:.1f} | {b / a:.2f}x |")
    return "\n".join(lines) + "\n"


def growth(part: Numbers) -> str:
    on_gpu = "device_mib" in part["runs"][0]
    rows = [
        f"| {r['count']} | {r['peak_mib']:.0f} | {r['growth_mib']:.0f} |"
        + (f" {r['device_mib']:.0f} |" if on_gpu else "")
        + f" {r['seconds']:.1f} |"
        for r in part["runs"]
    ]
    head = "| fakes | peak MiB | beyond the loaded libraries |" + " on the GPU |" * on_gpu + " seconds |"
    rule = "|---:" * (4 + on_gpu) + "|"
    what = "`harness.evaluation.evaluate`: FID and DI of an untrained SN-DCGAN against 64 reals; a process a row.\n"
    return "\n".join([f"{about(part)}\n{what}", head, rule, *rows]) + "\n"


def errors(part: Numbers) -> str:
    rows = [f"| {t} | {p:.4f} | {e:.4f} | {j:.4f} | {x:.0f} ({x / t:.0%}) |" for t, p, e, j, x in part["rows"]]
    head = (
        "| D evaluations | paper's 200 repeats | exact expectation | jackknife says | exact reaches the former with |"
    )
    what = f"Standard error over {part['pools']} fresh pools, in standard deviations of D's scores (Gaussian, n = "
    tail = f"\n50,000 + 50,000 scores: the exact value with its error takes {part['exact_s']:.3f} s.\n"
    return "\n".join([f"{about(part)}\n{what}{part['n']}).\n", head, "|---:" * 5 + "|", *rows]) + "\n" + tail


SECTIONS: dict[str, tuple[str, Callable[[Numbers], str]]] = {
    "features": ("Against torch-fidelity", comparison),
    "memory": ("Memory of a whole pass", growth),
    "di": ("The error of DI at equal cost", errors),
}


def write(out: Path, parts: dict[str, Numbers]) -> None:
    path = out / "evaluation.json"
    every = {**(json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}), **parts}
    path.write_text(json.dumps(every, indent=1) + "\n", encoding="utf-8")
    texts = [f"## {title}\n\n{text(every[name])}" for name, (title, text) in SECTIONS.items() if name in every]
    (out / "evaluation.md").write_text(
        "\n".join(["# Scoring: cost and error\n", "`python -m bench.evaluation_speed`\n", *texts]), encoding="utf-8"
    )
    say((out / "evaluation.md").read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=256, help="images a side; 16 or more")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=SECTIONS)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        print(json.dumps(run(args.run, args.count, args.device, args.weights, args.batch)))
        return
    import torch

    from harness.trial.environment import environment
    from tests.inception import random_weights

    env, notes = environment(torch.device(args.device)), args.out / ".evaluation.part"
    chosen = [args.only] if args.only else list(SECTIONS)
    parts: dict[str, Numbers] = {}
    with tempfile.TemporaryDirectory() as folder:
        weights = args.weights or random_weights(Path(folder) / "weights.pth")
        told = f"SHA-256 {hashlib.sha256(weights.read_bytes()).hexdigest()[:8]}" if args.weights else "random numbers"
        head = {"commit": env["commit"], "device": args.device, "batch": args.batch, "weights": told,
                "threads": env["threads"]}  # fmt: skip
        for name, todo in (("features", features(args.count, args.rounds)), ("memory", memory(args.count))):
            if name in chosen:
                parts[name] = {"env": env, "head": head, "runs": measured(list(todo), notes, head, weights)}
    if "di" in chosen:
        parts["di"] = {"env": env, **di()}
    write(args.out, parts)
    notes.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
