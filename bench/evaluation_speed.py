"""Ours against `torch_fidelity.calculate_metrics` on the same images and weights, and what DI costs.

    python bench/evaluation_speed.py                  256 images a side on the CPU, some minutes
    python bench/evaluation_speed.py --count 2000 --device cuda
    python bench/evaluation_speed.py --only di

Each run is a process of its own, so that peak memory is its own; ours and theirs alternate.
Weights are random numbers in the published layout unless --weights names the real file.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
BATCH, SUBSETS = 32, 20
Numbers = dict[str, float]


def images(count: int) -> tuple[Any, Any]:
    """Fakes and reals, uint8 [count, 3, 32, 32]: a degraded copy of synthetic images and others of them."""
    import torch

    from harness.datasets import synthetic

    drawn = torch.from_numpy(synthetic.load(synthetic.Options(num_images=2 * count)).images)
    noise = torch.randn(drawn[:count].shape, generator=torch.Generator().manual_seed(0))
    return (0.7 * drawn[:count] + 30 + 15 * noise).clamp(0, 255).to(torch.uint8), drawn[count:]


def theirs(count: int, device: str, weights: Path) -> Numbers:
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
        feature_extractor="inception-v3-compat", feature_extractor_weights_path=str(weights), batch_size=BATCH,
        kid_subsets=SUBSETS, kid_subset_size=count // 2, cache=False, verbose=False,
    )  # fmt: skip
    short = {"inception_score_mean": "is", "frechet_inception_distance": "fid", "kernel_inception_distance_mean": "kid"}
    values = {short.get(k, k): v for k, v in found.items() if k in (*short, "precision", "recall")}
    return {**values, "seconds": time.perf_counter() - start}


def ours(count: int, device: str, weights: Path, only_fid: bool = False) -> Numbers:
    import os

    import torch

    from harness.frechet import distance
    from harness.metrics import Sample, _distances, _features, inception_score, precision_recall
    from harness.metrics._collector import Collector

    fake, real = images(count)
    start = time.perf_counter()
    os.environ[_features.INCEPTION_VARIABLE] = str(weights)
    extractor = _features.Extractor("inception-v3-compat", 299, "any")
    pooled, logits = Sample("fakes", count, extractor), Sample("fakes", count, extractor, "logits")
    gathered = []
    for data in (fake, real):
        collector = Collector(extractor, [pooled], [] if only_fid else [pooled, logits], device)
        for batch in data.split(BATCH):
            collector.add(batch)
        gathered.append(collector.evidence)
    values = {"fid": distance(*(e.moments[pooled] for e in gathered))}
    if not only_fid:
        a, b = (torch.from_numpy(e.features[pooled]) for e in gathered)
        rows = _distances.subset_rows(count, count, SUBSETS, count // 2, 2020)
        values["kid"] = float(_distances.kernel_subsets(a.numpy(), b.numpy(), rows).mean())
        values["is"] = float(
            inception_score.split_scores(torch.from_numpy(gathered[0].features[logits]), 10, 2020).mean()
        )
        values["precision"] = float(precision_recall.inside(a, b, precision_recall.radii(b, 3)).double().mean())
        values["recall"] = float(precision_recall.inside(b, a, precision_recall.radii(a, 3)).double().mean())
    return {**values, "seconds": time.perf_counter() - start}


def in_process(who: str, count: int, device: str, weights: Path) -> Numbers:
    command = [sys.executable, __file__, "--run", who, "--count", str(count), "--device", device, "--weights", weights]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def compare(count: int, device: str, weights: Path, rounds: int) -> None:
    runs: dict[str, list[Numbers]] = {"theirs": [], "ours": []}
    for _ in range(rounds):
        for who, results in runs.items():
            results.append(in_process(who, count, device, weights))
    print(f"\n{count} images a side, {device}, Inception, batch {BATCH}; best of {rounds}, alternating\n")
    print("| | torch-fidelity | ours | relative difference |\n|---|---|---|---|")
    first = {who: results[0] for who, results in runs.items()}
    for name in ("fid", "kid", "is", "precision", "recall"):
        a, b = first["theirs"][name], first["ours"][name]
        print(f"| {name} | {a:.8g} | {b:.8g} | {abs(b - a) / max(abs(a), 1e-30):.1e} |")
    for name, unit in (("seconds", "s"), ("peak_mib", "MiB"), ("growth_mib", "MiB over the loaded libraries")):
        a, b = (min(r[name] for r in runs[who]) for who in ("theirs", "ours"))
        print(f"| {name.split('_')[0]} ({unit}) | {a:.1f} | {b:.1f} | {b / a - 1:+.0%} |")
    for more in (count // 2, count):
        found = in_process("fid", more, device, weights)
        print(f"\nours, FID alone, {more} images a side: {found['growth_mib']:.0f} MiB over the loaded libraries")


def di(evaluations: tuple[int, ...] = (400, 1600, 6400, 25_600), runs: int = 300, n: int = 64) -> None:
    """The spread over independent pools of both estimators of DI, for the same number of D evaluations.

    The paper's own 200 x (64 + 64) fresh images are the last row; above it the pools are redrawn.
    """
    from harness import scores

    rng = np.random.default_rng(0)
    print("\nstandard error of DI over fresh pools, in standard deviations of D's scores (Gaussian, n = 64)\n")
    print(
        "| D evaluations | paper's 200 repeats | exact expectation | jackknife says | exact reaches the former with |"
    )
    print("|---|---|---|---|---|")
    for total in evaluations:
        pools = [rng.normal(0, 1, (2, total // 2)) for _ in range(runs)]
        paper = np.std([scores.sampled_di(real, fake, n, 200, rng).value for real, fake in pools], ddof=1)
        found = [scores.exact_di(real, fake, n) for real, fake in pools]
        exact = np.std([f.value for f in found], ddof=1)
        jackknife = np.mean([f.se for f in found if f.se is not None])
        needed = total * (exact / paper) ** 2  # its error falls as 1 / sqrt(evaluations)
        print(f"| {total} | {paper:.4f} | {exact:.4f} | {jackknife:.4f} | {needed:.0f} ({needed / total:.0%}) |")
    real, fake = rng.normal(0, 1, (2, 50_000))
    start = time.perf_counter()
    scores.exact_di(real, fake, n)
    exact_s = time.perf_counter() - start
    start = time.perf_counter()
    scores.sampled_di(real, fake, n, 200, rng)
    paper_s = time.perf_counter() - start
    print(f"\n50,000 + 50,000 scores: exact with its error {exact_s:.4f} s; 200 repeats {paper_s:.4f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=("di", "features"))
    parser.add_argument("--run", choices=("ours", "theirs", "fid"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        import torch
        import torch_fidelity  # noqa: F401 (loaded on both sides before memory is measured)

        torch.zeros(1, device=args.device)
        loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if args.run == "theirs":
            found = theirs(args.count, args.device, args.weights)
        else:
            found = ours(args.count, args.device, args.weights, only_fid=args.run == "fid")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({**found, "peak_mib": peak, "growth_mib": peak - loaded}))
        return
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(f"commit {commit or 'none'}, {platform.machine()}, Python {platform.python_version()}")
    if args.only != "features":
        di()
    if args.only != "di":
        with tempfile.TemporaryDirectory() as folder:
            from tests.inception import random_weights

            weights = args.weights or random_weights(Path(folder) / "weights.pth")
            compare(args.count, args.device, weights, args.rounds)


if __name__ == "__main__":
    main()
