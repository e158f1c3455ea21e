"""What an experiment costs, before anything runs: images, hours, disk, and when it would end.

A trial's hours are its images over the speed of its shape (`speeds`). Scoring at its end is not part of them.
"""

import heapq
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.console import duration
from harness.experiment.matrix import Entry, entries
from harness.experiment.spec import Experiment, Train, Trial
from harness.orchestration import changed, fit, possible, speeds
from harness.orchestration.speeds import CLASSES, KINDS, Kind, Record, images, resolution, speed
from harness.report.tables import Grid
from harness.store import claim, code
from harness.store.checkpoint import KEEP
from harness.store.folder import finished, stored
from harness.trial.preflight import preflight

if TYPE_CHECKING:
    from harness.data.imageset import ImageSet

UNTRAINED = ("to do", "data not here", "scored otherwise")  # the last: its networks are gone; matrix asks first

# ── time ─────────────────────────────────────────────────────────────────────


def slots(devices: float, share: float) -> int:
    """How many trials of `share` devices (a fraction, or whole) run at once on `devices`."""
    return max(0, int(devices / share + 1e-9))


def finishes(seconds: Sequence[float], slots: int) -> list[float]:
    """When each trial ends if they start in this order, each as soon as one of `slots` is free."""
    free, ends = [0.0] * slots, []
    for s in seconds:
        ends.append(heapq.heappop(free) + s)
        heapq.heappush(free, ends[-1])
    return ends


class Finish(NamedTuple):
    """Seconds from now until one seed of every cell, and until all trials are trained, on `devices`."""

    devices: int
    first_s: float
    all_s: float


@dataclass(frozen=True)
class Forecast:
    """Time on one kind of device. `seconds` holds for every trial how long it takes one device, None where unknown."""

    kind: Kind
    trials: tuple[Entry, ...]
    seconds: tuple[float | None, ...]
    sources: Mapping[str, int]  # where speeds are known from -> how many trials

    @property
    def hours(self) -> float:
        """Hours of one device, over the trials whose speed is known."""
        return sum(s for s in self.seconds if s is not None) / 3600

    @property
    def unknown(self) -> tuple[Entry, ...]:
        return tuple(e for e, s in zip(self.trials, self.seconds, strict=True) if s is None)

    def finish(self, devices: int, share: float, first: Container[str]) -> Finish | None:
        """On `devices`, of which each trial takes `share`, those without a speed left out; `first` are the ids of one
        seed of every cell. A trial is taken to need as many device seconds on several or a part as on one.
        None where not one trial fits."""
        known = [(e.id, s / share) for e, s in zip(self.trials, self.seconds, strict=True) if s is not None]
        if not known or not slots(devices, share):
            return None
        ends = finishes([s for _, s in known], slots(devices, share))
        early = [end for (id, _), end in zip(known, ends, strict=True) if id in first]
        return Finish(devices, max(early, default=0.0), max(ends))


def forecast(trials: Iterable[Entry], kind: Kind, records: Sequence[Record]) -> Forecast:
    """How long `trials`, in launch order, will train."""
    trials = tuple(trials)
    speeds = [speed(e.trial, kind, records) for e in trials]
    seconds = tuple(images(e.trial) / s.images_per_s if s else None for e, s in zip(trials, speeds, strict=True))
    return Forecast(kind, trials, seconds, Counter(s.source for s in speeds if s))


def first_seeds(experiment: Experiment) -> frozenset[str]:
    """Ids of the trials that are the first seed of a cell."""
    return frozenset(cell[0].id for table in experiment.tables for cell in table.cells.values() if cell)


# ── disk ─────────────────────────────────────────────────────────────────────


def disk_bytes(train: Train, params_g: int, params_d: int, resolution: int, best: bool = False) -> int:
    """About what stays of a trial: its last checkpoints (float32 weights, EMA, two moments of Adam), the weights of
    the best snapshot where one is kept, and a grid of 64 images per snapshot, uncompressed."""
    copies_g = 4 if train.ema_kimg else 3
    checkpoint = 4 * (copies_g * params_g + 3 * params_d)
    grids = 1 if train.snapshot_kimg is None else int(train.total_kimg // train.snapshot_kimg) + 1
    checkpoints = KEEP * checkpoint + best * 4 * ((copies_g - 2) * params_g + params_d)
    return checkpoints + grids * 64 * 3 * resolution**2


def parameters(trial: Trial, resolution: int, classes: int) -> tuple[int, int]:
    """Parameters of G, with what its variants add, and of D; the networks are built without memory."""
    import torch

    from harness.training.arm import build

    with torch.device("meta"):
        g, d, _ = build(trial, _blank(trial, resolution, classes), torch.device("meta"))
    return sum(p.numel() for p in g.parameters()), sum(p.numel() for p in d.parameters())


def unseen(trial: Trial) -> "ImageSet | None":
    """What stands for a trial's images that are not here, as `preflight` asks for it: of their size and no more; None
    where only the files know that."""
    side = resolution(trial)
    return None if side is None else _blank(trial, side, CLASSES if trial.conditional else 0)


def _blank(trial: Trial, resolution: int, classes: int) -> "ImageSet":
    import numpy as np

    from harness.data.imageset import ImageSet

    channels = getattr(trial.dataset.options, "channels", 3)
    return ImageSet(np.empty((0, channels, resolution, resolution), np.uint8), None, classes, "", {})


def disk(trials: Iterable[Entry]) -> tuple[int, int]:
    """Bytes that the trials leave, and of how many trials that is unknown: their images' size is in files."""
    sizes: dict[str, tuple[int, int]] = {}
    total, unknown = 0, 0
    for e in trials:
        side = resolution(e.trial)
        if side is None:
            unknown += 1
            continue
        key = repr((e.trial.backbone, e.trial.variants, e.trial.conditional, side))
        classes = CLASSES if e.trial.conditional else 0
        g, d = sizes.get(key) or sizes.setdefault(key, parameters(e.trial, side, classes))
        total += disk_bytes(e.trial.train, g, d, side, e.trial.eval.during is not None)
    return total, unknown


# ── in words ─────────────────────────────────────────────────────────────────


def table(experiment: Experiment, results: Path, absent: Container[str], gpus: Iterable[int], cores: int) -> Grid:
    """The unique trials in launch order: which cells each serves, what it costs, its state. `absent`: ids of those
    whose images are not here."""
    every = entries(experiment, partial(speeds.seconds, records=speeds.measured()))
    homes = [results / "trials" / e.id for e in every]
    found = [stored(home, e.trial) for e, home in zip(every, homes, strict=True)]
    states = [_state(e, home, result, absent) for e, home, result in zip(every, homes, found, strict=True)]
    todo = [e for e, state in zip(every, states, strict=True) if state in UNTRAINED]
    others = [
        (e.name, code.other(home, e.trial, result, accepted=False))
        for e, home, result in zip(every, homes, found, strict=True)
    ]
    records = speeds.finished_here(results) + speeds.measured()
    gpu, cpu = (forecast(every, kind, records) for kind in KINDS)
    rows = []
    for e, state, *seconds in zip(every, states, gpu.seconds, cpu.seconds, strict=True):
        serves = ", ".join(dict.fromkeys(f"{c.table}: {c.setting}/{c.arm}" for c in e.serves))
        rows.append(
            (
                e.id, serves, str(e.trial.seed), e.trial.backbone.name, e.trial.dataset.name,
                f"{e.trial.train.total_kimg:g}", *("" if s is None else duration(s) for s in seconds),
                state,
            )
        )  # fmt: skip
    for t in experiment.tables:
        rows += [
            ("", f"{t.name}: {s}/{arm}", *[""] * 6, f"not possible: {why}") for (s, arm), why in t.not_possible.items()
        ]
    lines = notes(experiment, todo, records, gpus, cores)
    if count := states.count("to score"):
        lines.insert(1, f"to score: {count} trials, which are trained")
    lines += filter(None, [code.told(others)])
    places = sum(len(e.serves) for e in every)
    title = f"{experiment.name}: {len(every)} unique trials for {places} places in tables"
    header = ("trial", "serves", "seed", "backbone", "data", "kimg", "on a GPU", "on a core", "state")
    return Grid(title, header, tuple(rows), tuple(lines), len(header))


def _state(e: Entry, home: Path, last: Mapping[str, Any], absent: Container[str]) -> str:
    """What becomes of a trial: its result's word, `to score` (from its last checkpoint, at no hours of training), or
    one of UNTRAINED."""
    if result := finished(home, e.trial):
        return str(result["status"])
    if last:
        return "to score" if changed.is_whole(home, last) else "scored otherwise"
    return "data not here" if e.id in absent else "to do"


def check(experiment: Experiment, results: Path) -> tuple[Experiment, tuple[str, ...]]:
    """Raise UserError for what `matrix` would refuse, but for images and weights that are not here yet: nothing is
    fetched. Returns the experiment with its cells that can't be marked, and a line for each thing that one should know
    of the data."""
    claim.check(experiment, results.absolute())
    todo = [e.trial for e in entries(experiment) if not finished(results / "trials" / e.id, e.trial)]
    fit.check(todo, experiment.run)
    refused = possible.asked(experiment)
    noted = preflight(todo, str(experiment.path), unseen=unseen, mark=refused)
    return possible.marked(experiment, refused), noted


def notes(
    experiment: Experiment, todo: Sequence[Entry], records: Sequence[Record], gpus: Iterable[int], cores: int
) -> list[str]:
    """What is printed below the list of trials; `todo` are those without a result, in launch order."""
    shown = sum(images(e.trial) for e in todo)
    bytes_, unsized = disk(todo)
    lines = [
        f"to do: {len(todo)} trials, {shown / 1e6:,.4g} million images; one seed of every cell first, then the next",
        f"disk: about {bytes_ / 1e9:,.3g} GB" + (f", and {unsized} trials of unknown size" if unsized else ""),
    ]
    first, want = first_seeds(experiment), experiment.run.resources
    for kind, sizes, share in zip(
        KINDS, (list(gpus), [cores]), (1.0 if want.gpus == "auto" else want.gpus, float(want.cpus)), strict=True
    ):
        if kind == "gpu" and (experiment.run.device == "cpu" or not share):
            continue
        found = forecast(todo, kind, records)
        if kind == "gpu" or found.sources:
            lines += _time(found, sizes, share, first)
    return lines + ["times are of training alone: pictures and the scoring at its end come on top; nothing was run"]


def _time(found: Forecast, sizes: Sequence[int], share: float, first: Container[str]) -> list[str]:
    """Hours, where they come from, and the finish on each size."""
    device = "GPU" if found.kind == "gpu" else "core"
    lines = [f"{device} hours: {found.hours:,.4g}"] if found.sources else []
    lines += [f"  {n} trials {source}" for source, n in found.sources.items()]
    if found.unknown:
        which = ", ".join(sorted({e.trial.backbone.name for e in found.unknown}))
        lines.append(
            f"  {len(found.unknown)} trials unmeasured on a {device} ({which}), in no sum here: see bench/throughput.py"
        )
    for size in sizes:
        end = found.finish(size, share, first)
        name = f"{size} {device}{'s' * (size != 1)}"
        if end:
            lines.append(f"  {name}: one seed of every cell after {_span(end.first_s)}, all after {_span(end.all_s)}")
        elif found.sources:
            lines.append(f"  {name}: no room for a trial, which takes {share:g}")
    return lines


def _span(seconds: float) -> str:
    """`40 min`, `7.3 h`, `12.9 days`."""
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.3g} s"
