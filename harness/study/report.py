"""Attention and control of an experiment's trained models: one table, records and figures.

`harness/evaluation/probes.py` measures. This file asks it for every finished trial with the same ruler (one set of
alignment options), and lays the answers side by side.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.disk import write_atomic
from harness.errors import UserError
from harness.evaluation import probes
from harness.experiment.matrix import Entry, entries
from harness.experiment.schema import plain
from harness.experiment.spec import Experiment
from harness.method.heatmaps import HeatmapOptions
from harness.pictures import of_model as pictures
from harness.report.tables import Grid, pipes
from harness.store import claim
from harness.store.folder import finished
from harness.study import figures as attention_figures
from harness.study import readings
from harness.training import trained
from harness.training.model import Trained
from harness.trial.environment import commit
from harness.variants import align

Record = Mapping[str, Any]
NOTHING = "n/a"
BY_LEVEL = (  # column, record
    ("L1 as trained", "agreement/loss/{}"),
    ("correlation", "agreement/correlation/{}"),
    ("with others'", "agreement/others/{}"),
    ("empty", "agreement/empty/{}"),
    *((f"noise {a:g}", f"robustness/{a}/{{}}") for a in probes.AMPLITUDES),
    ("earlier D", "consistency/earlier/{}"),
    ("inside box", "inside_box/{}"),
    ("box", "inside_box/chance"),
)


@dataclass(frozen=True)
class Probed:
    """What was measured on one trained model. `apart`: images between its D and the earlier one that
    `consistency` compares it with, None where no earlier checkpoint is left."""

    entry: Entry
    label: str
    nimg: int
    weights: str
    apart: int | None
    records: Mapping[str, Record]
    readings: Mapping[str, Mapping[str, Record]] = field(default_factory=dict)  # where asked for


@dataclass(frozen=True)
class AttentionReport:
    experiment: Experiment
    ruler: align.Options
    probed: tuple[Probed, ...]
    left_out: Mapping[str, str]  # trials by name, and their state
    figures: tuple[Path, ...]
    folder: Path


def make(
    experiment: Experiment,
    results: Path,
    *,
    count: int,
    device: str,
    say: Callable[[str], None],
    every_reading: bool = False,
) -> AttentionReport:
    """Probe every finished trial of `experiment` on `count` images and write `results/<experiment>/attention.md`,
    `attention.json` and PNGs in `attention_figures/`. `every_reading`: each model with a table of the readings of the
    method as well. UserError where no trial is done."""
    if count < 2:
        raise UserError(f"--images: {count}: must be 2 or more; a standard error needs two images")
    claim.check(experiment, results)
    todo, folder = entries(experiment), results / experiment.name
    states = {e.id: (finished(results / "trials" / e.id, e.trial) or {}).get("status", "missing") for e in todo}
    ready = [e for e in todo if states[e.id] == "done"]
    if not ready:
        raise UserError(f"{experiment.path}: no finished trial in {results}; run: nashboard matrix {experiment.path}")
    ruler = next((o for e in todo if (o := e.trial.variant("align")) is not None), align.Options())
    probed: list[Probed] = []
    paths: list[Path] = []
    shown: dict[tuple[str, int], list[pictures.Row]] = {}  # models that were shown the same reals
    drawn = folder / "attention_figures"
    for entry in ready:
        say(f"{entry.name}: {count} images")
        model = trained.load(results / "trials" / entry.id, device)
        probed.append(probe(entry, label(experiment, entry), model, results, ruler, count, device))
        if every_reading:
            found = readings.of_model(
                model, _sampler(todo), probes.ruler(ruler, model.d).compared, count=count, device=device
            )
            probed[-1] = replace(probed[-1], readings=found)
        model.g.to("cpu"), model.d.to("cpu")  # where pictures are drawn
        paths += attention_figures.of_model(model, drawn / entry.name.replace("/", "-"))
        rows = shown.setdefault((model.data.fingerprint, model.trial.seed), [])
        rows += attention_figures.looks(model, probed[-1].label)[1 if rows else 0 :]
    for i, rows in enumerate(shown.values()):
        paths.append(attention_figures.side_by_side(rows, drawn / ("real.png" if not i else f"real_{i + 1}.png")))
    measured = [(p.label, p.records) for p in probed]
    paths.append(attention_figures.robustness(measured, drawn / "robustness.png"))
    paths += attention_figures.control(measured, drawn / "control.png")
    left_out = {e.name: states[e.id] for e in todo if e not in ready}
    made = AttentionReport(experiment, ruler, tuple(probed), left_out, tuple(paths), folder)
    write_atomic(folder / "attention.json", json.dumps(as_plain(made), indent=1).encode())
    write_atomic(folder / "attention.md", as_markdown(made).encode())
    return made


def probe(
    entry: Entry, label: str, model: Trained, results: Path, ruler: align.Options, count: int, device: str
) -> Probed:
    """All measures of one model; D's earlier state is the oldest checkpoint that is left, be it the best one's."""
    files = sorted((results / "trials" / entry.id / "checkpoints").rglob("*.*.safetensors"), key=lambda p: p.name)
    earlier = trained.load(files[0], device) if files and int(files[0].name.split(".")[0]) < model.nimg else None
    records = probes.probe(
        model.g, model.d, model.data, align=ruler, snapshots={"earlier": earlier.d} if earlier else None, count=count,
        batch_size=min(count, model.trial.eval.batch_size), seed=model.trial.seed, conditional=model.trial.conditional,
        device=device,
    )  # fmt: skip
    apart = model.nimg - earlier.nimg if earlier else None
    return Probed(entry, label, model.nimg, model.weights, apart, records)


def _sampler(todo: Sequence[Entry]) -> HeatmapOptions | None:
    """The heatmaps of the first arm that aligns: those that the others, which draw none, are measured with."""
    aligned = (e.trial for e in todo if e.trial.variant("align") is not None)
    drawn = (o.heatmaps for t in aligned for v in t.variants if hasattr(o := v.options, "heatmaps"))
    return next(drawn, None)


def label(experiment: Experiment, entry: Entry) -> str:
    """What a row is called: the arm, with setting and seed where there are several."""
    cell = entry.serves[0]
    table = next(t for t in experiment.tables if t.name == cell.table)
    several = len({s for t in experiment.tables for s in t.settings}) > 1
    seeds = len({e.trial.seed for e in entries(experiment)}) > 1
    words = [table.labels.get(cell.setting, cell.setting)] * several + [table.labels.get(cell.arm, cell.arm)]
    return ", ".join(words + [f"seed {cell.seed}"] * seeds)


# ── table ────────────────────────────────────────────────────────────────────


def grid(report: AttentionReport) -> Grid:
    """A row per arm and level; what has no level stands in the arm's first row."""
    header = ("Arm", "level", *(name for name, _ in BY_LEVEL), "flat maps", "control slope", "control R²")
    rows = []
    for p in report.probed:
        slope = p.records.get("control/slope")
        control = (number(slope), number(slope and {"value": slope["r_squared"], "se": slope["r_squared_se"]}))
        for i, level in enumerate(attention_figures.levels(p.records)):
            at = [p.records.get(key.format(level)) for _, key in BY_LEVEL]
            flat = max(r["num_flat"] / (r["num"] + r["num_flat"]) for r in at if r)
            head, tail = ("", ("", "")) if i else (p.label, control)
            rows.append((head, f"{level}x{level}", *map(number, at), f"{flat:.0%}", *tail))
    return Grid(f"{report.experiment.name}: attention, measured", header, tuple(rows), tuple(notes(report)), 2)


def number(record: Record | None) -> str:
    """`0.931(4)`: 0.931 with a standard error of 0.004."""
    if record is None or record["value"] is None:
        return NOTHING if record is None else "flat"
    se = record["se"]
    digits = min(5, max(2, math.ceil(-math.log10(se)))) if se else 2
    text = f"{record['value']:.{digits}f}" + (f"({se * 10**digits:.0f})" if se else "")
    return text.replace("-", "−")


def notes(report: AttentionReport) -> list[str]:
    """How to read the table: what it says about itself."""
    first = report.probed[0].records
    count = max(r["num"] + r["num_flat"] for r in first.values())
    found = [
        f"in brackets: standard error in units of the last digit, over {count} images of one trained model, not over "
        "seeds; flat: no map has contrast",
        "correlation: D's attention on fakes with G's heatmap, and with the heatmap of another sample; noise: D's "
        "attention on reals before and after noise of that std (images span 2)",
        "empty: the share of fakes on which D's attention is 0 everywhere, so that L_align has no gradient",
        "flat maps: the largest part of maps without contrast behind a row's figures; they have no correlation and no "
        "share, but do count in L1, as in training",
    ]
    apart = "; ".join(f"{p.label}: {f'{p.apart:,} images before' if p.apart else NOTHING}" for p in report.probed)
    found.append(f"earlier D, on the same reals: {apart}")
    if "control/estimator_error" in first:
        found.append("inside box: the share of D's attention on reals; box: its share of the image, what chance gives")
        error = number(first["control/estimator_error"])
        found.append(f"places of objects are estimated to within {error} of the side (mean, on reals with known boxes)")
    o = report.ruler
    how = f"GradCAM of {o.objective}, ReLU {o.rectify}, tau {o.tau:g} ({o.truncate}), {o.compare_at} resolution"
    found.append(f"one ruler for all arms: {how}")
    found += [f"left out: {name} ({state})" for name, state in report.left_out.items()]
    return found


# ── files ────────────────────────────────────────────────────────────────────


def as_markdown(report: AttentionReport) -> str:
    """The table, its notes and the figures."""
    g = grid(report)
    links = [p.relative_to(report.folder).as_posix() for p in report.figures]
    shown = "\n".join(f"![{link}]({link})\n" for link in links)
    text = f"# {g.title}\n\n{pipes(g)}\n" + "".join(f"- {n}\n" for n in g.notes)
    if beside := readings_grid(report):
        text += f"\n## {beside.title}\n\n{pipes(beside)}\n" + "".join(f"- {n}\n" for n in beside.notes)
    return f"{text}\n{shown}"


def readings_grid(report: AttentionReport) -> Grid | None:
    """The readings of the method on every model; None where they were not asked for."""
    measured = [(p.label, p.readings) for p in report.probed if p.readings]
    return readings.grid(measured) if measured else None


def as_plain(report: AttentionReport) -> dict[str, Any]:
    """All records, with what they were measured on and how."""
    return {
        "experiment": report.experiment.name,
        "commit": commit(),
        "ruler": plain(report.ruler),
        "trials": [
            {
                "id": p.entry.id, "name": p.entry.name, "label": p.label, "nimg": p.nimg, "weights": p.weights,
                "earlier_d_images_apart": p.apart, "records": dict(p.records),
                **({"readings": {name: dict(records) for name, records in p.readings.items()}} if p.readings else {}),
            }
            for p in report.probed
        ],
        "left_out": dict(report.left_out),
    }  # fmt: skip
