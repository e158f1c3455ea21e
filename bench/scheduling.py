"""How well full.yaml fills 64 GPUs: the scheduler's own code, simulated trials and a simulated clock.

    python -m bench.scheduling                       writes bench/scheduling.md

`schedule.drive` starts full.yaml's trials in their launch order on nodes of 8 GPUs. A trial lasts as long as
harness/orchestration/plan.py says; a shape without a measured or published GPU speed is given `--unmeasured` images
per second. A trial of n GPUs takes n-th of the time. The bound is max(longest trial, work / GPUs): no schedule can
beat it. Beside it stands what the best assignment of whole trials would reach, from trying every one.
"""

import argparse
import heapq
import platform
from collections import Counter
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from harness.experiment import files
from harness.experiment.matrix import Entry, entries
from harness.experiment.spec import Run, Trial
from harness.orchestration import fit, speeds
from harness.orchestration.schedule import Ended, Job, Share, Stop, drive
from harness.trial.environment import commit

OUT = Path(__file__).with_suffix(".md")
NODE = 8  # GPUs


class Nodes:
    """A `schedule.Pool` of `number` nodes whose trials only pass time, which it keeps."""

    def __init__(self, number: int, hours: dict[str, float]) -> None:
        self.free, self.hours, self.now = [float(NODE)] * number, hours, 0.0
        self.ends: list[tuple[float, str]] = []
        self.placed: dict[str, list[tuple[int, float]]] = {}
        self.busy, self.began = 0.0, dict[str, float]()

    def _place(self, share: Share) -> list[tuple[int, float]] | None:
        """Where the processes of one trial go: the fullest node that takes them all, else several."""
        one = share.gpus / share.processes
        room = sorted((free, i) for i, free in enumerate(self.free) if free >= one)
        whole = next((i for free, i in room if free >= share.gpus), None)
        if whole is not None:
            return [(whole, share.gpus)]
        spots = [(i, one) for free, i in room for _ in range(int(free / one))]
        return spots[: share.processes] if len(spots) >= share.processes else None

    def room(self, share: Share) -> bool:
        return self._place(share) is not None

    def start(self, job: Job) -> None:
        spots = self._place(job.share)
        assert spots is not None
        for i, gpus in spots:
            self.free[i] -= gpus
        self.placed[job.id], self.began[job.id] = spots, self.now
        self.busy += job.share.gpus * self.hours[job.id]
        heapq.heappush(self.ends, (self.now + self.hours[job.id], job.id))

    def wait(self, timeout_s: float) -> list[tuple[str, Ended]]:
        """The next trial to end, whenever that is: the clock leaps there."""
        self.now, id = heapq.heappop(self.ends)
        for i, gpus in self.placed.pop(id):
            self.free[i] += gpus
        return [(id, Ended("done"))]

    def progress(self) -> dict[str, tuple[int, dict[str, Any]]]:
        return {}

    def stop(self, id: str) -> None: ...

    def kill(self, id: str) -> None: ...

    def grown(self, share: Share) -> Share | None:
        return None


class Outcome(NamedTuple):
    """Hours, and the share of the GPUs' time that was used."""

    makespan: float
    first_seeds: float
    longest: float
    work_per_gpu: float
    used: float

    @property
    def bound(self) -> float:
        return max(self.longest, self.work_per_gpu)


def simulate(todo: Sequence[Entry], hours: dict[str, float], shares: dict[str, Share], gpus: int) -> Outcome:
    """`hours`: of each trial on one GPU."""
    lasts = {id: h / max(1.0, shares[id].gpus) for id, h in hours.items()}
    pool = Nodes(gpus // NODE, lasts)
    jobs = [Job(e.id, {}, Path(), shares[e.id]) for e in todo]
    words = drive(jobs, pool, Run(), Stop(), lambda *_: None, lambda: pool.now)
    assert set(words.values()) == {"done"} and len(words) == len(todo)
    work = sum(lasts[e.id] * shares[e.id].gpus for e in todo)
    first = max(pool.began[e.id] + lasts[e.id] for e in todo if e.trial.seed == todo[0].trial.seed)
    return Outcome(pool.now, first, max(lasts.values()), work / gpus, work / gpus / pool.now)


def best(kinds: dict[float, int], places: int) -> float:
    """The shortest makespan of trials {hours: number} in `places` equal places, by exhaustion over one place's fill."""
    lengths = tuple(sorted(kinds, reverse=True))
    sums = sorted(
        {
            round(sum(n * h for n, h in zip(c, lengths, strict=True)), 6)
            for c in _counts(tuple(kinds[h] for h in lengths))
        }
    )

    @cache
    def fits(left: tuple[int, ...], places: int, limit: float) -> bool:
        if not any(left):
            return True
        if not places:
            return False
        fills = [c for c in _counts(left) if sum(n * h for n, h in zip(c, lengths, strict=True)) <= limit + 1e-6]
        full = [c for c in fills if not any(o != c and all(a >= b for a, b in zip(o, c, strict=True)) for o in fills)]
        return any(fits(tuple(a - b for a, b in zip(left, c, strict=True)), places - 1, limit) for c in full)

    lower = sum(h * n for h, n in kinds.items()) / places
    return next(s for s in sums if s >= lower - 1e-6 and fits(tuple(kinds[h] for h in lengths), places, s))


def _counts(left: tuple[int, ...]) -> list[tuple[int, ...]]:
    if not left:
        return [()]
    return [(n, *rest) for n in range(left[0] + 1) for rest in _counts(left[1:])]


def hours_of(todo: Sequence[Entry], unmeasured: float) -> tuple[dict[str, float], Counter[str]]:
    """Hours of each trial on one GPU, and where their speeds are from."""
    records, found, sources = speeds.measured(), {}, Counter[str]()
    for e in todo:
        known = speeds.speed(e.trial, "gpu", records) or speeds.Speed(unmeasured, f"assumed: {unmeasured:g} images/s")
        found[e.id] = speeds.images(e.trial) / known.images_per_s / 3600
        sources[f"{e.trial.backbone.name}: {known.source}"] += 1
    return found, sources


def several(t: Trial, most: int) -> Share:
    """As many whole GPUs as the trial's microbatches divide among, at most `most`."""
    n = int(fit.gpus(None, fit.parts(t), most))
    return Share(float(n), 1, n)


def table(seeds: Sequence[int], gpus: int, unmeasured: float) -> list[str]:
    """Markdown: full.yaml with `seeds`, for 1, 2, 4 and 8 GPUs a trial."""
    experiment = files.load("full", [f"seeds={list(seeds)}"])
    todo = entries(experiment, partial(speeds.seconds, records=speeds.measured()))
    hours, sources = hours_of(todo, unmeasured)
    lines = [
        f"## {len(seeds)} seeds: {len(todo)} trials, {sum(hours.values()):,.0f} GPU hours", "",
        *[f"- {n} trials of {source}" for source, n in sources.items()], "",
        "| GPUs a trial | makespan | longest trial | work / GPUs | over the bound | best for whole trials | "
        "one seed of every cell | GPUs used |", "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for most in (1, 2, 4, 8):
        shares = {e.id: several(e.trial, most) for e in todo}
        o = simulate(todo, hours, shares, gpus)
        large = Counter(round(hours[id] / most, 6) for id, s in shares.items() if s.gpus == most)
        least = max(best(dict(large), gpus // most), o.bound)
        lines.append(
            f"| {most} | {o.makespan:.1f} h | {o.longest:.1f} h | {o.work_per_gpu:.1f} h | "
            f"{o.makespan / o.bound - 1:.1%} | {least:.1f} h ({least / o.bound - 1:.1%}) | {o.first_seeds:.1f} h | "
            f"{o.used:.0%} |"
        )
    return [*lines, ""]


def report(gpus: int, unmeasured: float) -> str:
    lines = [
        f"# Filling {gpus} GPUs with full.yaml", "",
        "`schedule.drive` itself, with trials that only pass time. Written by `python -m bench.scheduling` at",
        f"{commit()} on {platform.machine()}, Python {platform.python_version()}; no GPU was used.", "",
        f"{gpus // NODE} nodes of {NODE} GPUs. The bound is max(longest trial, work / GPUs). *Best for whole trials*:",
        "no order of trials that each keep this number of GPUs ends sooner; where the makespan equals it, what is lost",
        "is lost to the size of the trials. SN-DCGAN trains one microbatch a step and so on one GPU.", "",
    ]  # fmt: skip
    for seeds in (range(3), range(5)):
        lines += table(seeds, gpus, unmeasured)
    return "\n".join(lines)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--gpus", type=int, default=64)
    p.add_argument(
        "--unmeasured", type=float, default=2000, help="images per second of shapes nobody measured on a GPU"
    )
    args = p.parse_args()
    text = report(args.gpus, args.unmeasured)
    OUT.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
