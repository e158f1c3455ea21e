"""What goes with the table of attention and control: where each D looks, what each heatmap moves, curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.evaluation import probes
from harness.pictures import figures
from harness.pictures import of_model as pictures
from harness.pictures.figures import Curve
from harness.training.model import Trained

Measured = Sequence[tuple[str, Mapping[str, Mapping[str, Any]]]]
"""The label of a trained model and its records of `probes.probe`, in the order of the table."""

NOTE = (
    "GradCAM of D on the first reals of the seed, as each trial aligns it (the paper's where it does not); each map is "
    "scaled to [0, 1]. An image without colour has no positive part at that level."
)


def of_model(model: Trained, folder: Path) -> list[Path]:
    """D's attention on fakes beside G's heatmaps, and rows of images that follow a moved one."""
    paths = [pictures.attention_on_fakes(model, folder)]
    options = pictures.heatmap_options(model)
    if options is not None and options.sampler in pictures.REGIONAL:
        paths.append(pictures.moves(model, options, folder))
    return paths


def looks(model: Trained, label: str) -> list[pictures.Row]:
    """Reals, then overlays of D's attention on them, level by level."""
    images, labels = pictures.reals(model, pictures.COLUMNS)
    pixels = pictures.shown(images)
    rows = [("real", pixels)]
    for level, seen in pictures.gradcam(model, images, labels).items():
        rows.append((f"{label}\n{level}x{level}", figures.overlay(pixels, seen[:, 0].numpy())))
    return rows


def side_by_side(rows: Sequence[pictures.Row], path: Path) -> Path:
    """The rows of several models that were shown the same reals."""
    return pictures.write(path, "Where each D looks on the same real images", rows, NOTE)


def levels(records: Mapping[str, Any]) -> list[int]:
    """Those at which D's attention was measured, coarsest first."""
    return sorted({int(name.rpartition("/")[2]) for name in records if name.startswith("robustness/")})


def robustness(measured: Measured, path: Path) -> Path:
    """Similarity of D's maps on noisy reals to those on clean ones, with standard errors; a panel per level."""
    panels = {
        f"{level}x{level}": [_robustness(label, found, level) for label, found in measured if level in levels(found)]
        for level in sorted({level for _, found in measured for level in levels(found)})
    }
    return figures.curves(panels, path, "std of the noise (images span 2)", "correlation with the clean map")


def _robustness(label: str, found: Mapping[str, Mapping[str, Any]], level: int) -> Curve:
    records = {a: found[f"robustness/{a}/{level}"] for a in probes.AMPLITUDES}
    kept = {a: r for a, r in records.items() if r["value"] is not None}
    errors = [r["se"] or 0.0 for r in kept.values()]
    return Curve(label, [0.0, *kept], [1.0, *(r["value"] for r in kept.values())], [0.0, *errors])


def control(measured: Measured, path: Path) -> list[Path]:
    """How far objects go when heatmaps are shifted, mean and standard deviation over images; a panel per axis.
    Nothing where no model has heatmaps that can be shifted."""
    spatial = [(label, found["control/slope"]) for label, found in measured if "control/slope" in found]
    if not spatial:
        return []
    panels = {name: [_control(*one, axis) for one in spatial] for axis, name in enumerate(("down", "right"))}
    what = "displacement of the object"
    return [figures.curves(panels, path, "shift of the heatmap (half sides)", what, diagonal=True)]


def _control(label: str, record: Mapping[str, Any], axis: int) -> Curve:
    moves = zip(record["shifts"], record["moved"], record["moved_sd"], strict=True)
    points = sorted((s[axis], m[axis], sd[axis]) for s, m, sd in moves if not s[1 - axis])
    x, y, error = zip(*points, strict=True)
    return Curve(f"{label}, slope {record['value']:.2f}", x, y, error)
