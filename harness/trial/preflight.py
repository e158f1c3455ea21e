"""Whatever would fail only after training has begun, tried before anything runs."""

from collections.abc import Callable, Iterable

import torch

from harness import plugins
from harness.data import levels
from harness.data.imageset import ImageSet
from harness.errors import UserError
from harness.evaluation import evaluate
from harness.experiment import ids
from harness.experiment.spec import Trial
from harness.training.arm import build, classes, load_data


def preflight(
    trials: Iterable[Trial], place: str, *, unseen: Callable[[Trial], ImageSet | None] | None = None
) -> tuple[str, ...]:
    """Raise UserError for whatever would fail only after training has begun; each distinct data set,
    network and way of scoring is tried once. Returns a line for each thing that one should know of the data: files that
    are left out or not used, pixels that use hardly any of their range.

    `unseen`: what stands for a trial's images that are not here (None: nothing is known of them), where no data and no
    weights may be fetched: whatever can be found out without them is.
    """
    sets: dict[tuple[str, bool], tuple[ImageSet, ImageSet | None]] = {}
    seen, noted = set(), set()
    lines: dict[str, None] = {}
    for trial in trials:
        if trial.eval.weights == "ema" and trial.train.ema_kimg is None:
            raise UserError(f"{place}: eval.weights: 'ema', but train.ema_kimg is off; set one of them")
        key = repr(trial.dataset)
        if unseen is not None and not ids.is_here(trial.dataset):
            if (shape := unseen(trial)) is not None:
                _fits(trial, shape, place)
            continue
        data, heldout = sets.get((key, trial.conditional)) or sets.setdefault(
            (key, trial.conditional), load_data(trial)
        )
        path = getattr(trial.dataset.options, "path", None)
        where = f"dataset.path: {path}" if path else trial.dataset.name
        if key not in noted:
            noted.add(key)
            lines |= {f"{where}: {note}": None for note in _notes(data)}
        if trial.conditional and data.labels is None:
            why = f" ({where}: {reason})" if (reason := data.about.get("unlabelled")) else ""
            raise UserError(
                f"{place}: conditional: true, but the images of {trial.dataset.name} have no labels{why}; "
                "set conditional: false or use labelled data"
            )
        distinct = repr((trial.dataset, trial.backbone, trial.conditional, trial.variants, trial.eval))
        if distinct in seen:
            continue
        seen.add(distinct)
        _fits(trial, data, place)
        for asked in (trial.eval, trial.eval.while_training):
            if asked is not None:
                evaluate.check(asked, data, heldout, fetch=unseen is None)
    return tuple(lines)


def _notes(data: ImageSet) -> list[str]:
    """What its reader notes; the range of the pixels where a reader notes nothing at all."""
    return list(data.about["notes"]) if "notes" in data.about else levels.of_sample(data.images)


def _fits(trial: Trial, data: ImageSet, place: str) -> None:
    """Raise UserError where the trial's networks can't be made for images like these."""
    backbone = plugins.find("backbones", trial.backbone.name)
    try:
        backbone.check(trial.backbone.options, data.resolution, classes(trial, data))
    except ValueError as e:
        raise UserError(f"{place}: {trial.backbone.name}: {e}") from None
    with torch.device("meta"):  # shapes without memory: does every variant find its sites?
        build(trial, data, torch.device("meta"))
