"""Whatever would fail only after training has begun, tried before anything runs."""

from collections.abc import Callable, Iterable

import torch

from harness import plugins
from harness.data import levels
from harness.data.imageset import ImageSet
from harness.errors import NotPossible, UserError
from harness.evaluation import evaluate
from harness.experiment import ids
from harness.experiment.spec import Trial
from harness.training.arm import build, classes, load_data


def preflight(
    trials: Iterable[Trial],
    place: str,
    *,
    unseen: Callable[[Trial], ImageSet | None] | None = None,
    mark: dict[str, str] | None = None,
) -> tuple[str, ...]:
    """Raise UserError for whatever would fail only after training has begun; each distinct data set,
    network and way of scoring is tried once. Returns a line for each thing that one should know of the data: files that
    are left out or not used, pixels that use hardly any of their range.

    `unseen`: what stands for a trial's images that are not here (None: nothing is known of them), where no data and no
    weights may be fetched: whatever can be found out without them is. `mark`: takes {id: why} of trials whose parts
    can't go together (data and labels, backbone and variants), where there would be an error.
    """
    look = _Look(place, unseen)
    for trial in trials:
        try:
            look.at(trial)
        except NotPossible as e:
            if mark is None:
                raise
            mark[trial.id] = str(e).removeprefix(f"{place}: ")
    return tuple(look.lines)


class _Look:
    """What was looked at of all trials so far: their images, and every distinct way of using them."""

    def __init__(self, place: str, unseen: Callable[[Trial], ImageSet | None] | None) -> None:
        self.place, self.unseen = place, unseen
        self.sets: dict[tuple[str, bool], tuple[ImageSet, ImageSet | None]] = {}
        self.seen: dict[str, NotPossible | None] = {}
        self.lines: dict[str, None] = {}
        self.noted: set[str] = set()

    def at(self, trial: Trial) -> None:
        """Raise UserError, or NotPossible, where the trial can't be; what the same parts were refused for, again."""
        if trial.eval.weights == "ema" and trial.train.ema_kimg is None:
            raise UserError(f"{self.place}: eval.weights: 'ema', but train.ema_kimg is off; set one of them")
        distinct = repr((trial.dataset, trial.backbone, trial.conditional, trial.variants, trial.eval))
        if distinct not in self.seen:
            self.seen[distinct] = None
            try:
                self._first_at(trial)
            except NotPossible as e:
                self.seen[distinct] = e
        if (refused := self.seen[distinct]) is not None:
            raise refused

    def _first_at(self, trial: Trial) -> None:
        key = repr(trial.dataset)
        if self.unseen is not None and not ids.is_here(trial.dataset):
            if (shape := self.unseen(trial)) is not None:
                _fits(trial, shape, self.place)
            return
        data, heldout = self.sets.get((key, trial.conditional)) or self.sets.setdefault(
            (key, trial.conditional), load_data(trial)
        )
        path = getattr(trial.dataset.options, "path", None)
        where = f"dataset.path: {path}" if path else trial.dataset.name
        if key not in self.noted:
            self.noted.add(key)
            self.lines |= {f"{where}: {note}": None for note in _notes(data)}
        if trial.conditional and data.labels is None:
            why = f" ({where}: {reason})" if (reason := data.about.get("unlabelled")) else ""
            raise NotPossible(
                f"{self.place}: conditional: true, but the images of {trial.dataset.name} have no labels{why}; "
                "set conditional: false or use labelled data"
            )
        _fits(trial, data, self.place)
        for asked in (trial.eval, trial.eval.while_training):
            if asked is not None:
                evaluate.check(asked, data, heldout, fetch=self.unseen is None)


def _notes(data: ImageSet) -> list[str]:
    """What its reader notes; the range of the pixels where a reader notes nothing at all."""
    return list(data.about["notes"]) if "notes" in data.about else levels.of_sample(data.images)


def _fits(trial: Trial, data: ImageSet, place: str) -> None:
    """Raise NotPossible where the trial's networks can't be made for images like these."""
    backbone = plugins.find("backbones", trial.backbone.name)
    try:
        backbone.check(trial.backbone.options, data.resolution, classes(trial, data))
    except ValueError as e:
        raise NotPossible(f"{place}: {trial.backbone.name}: {e}") from None
    try:
        with torch.device("meta"):  # shapes without memory: does every variant find its sites?
            build(trial, data, torch.device("meta"))
    except UserError as e:
        raise NotPossible(str(e)) from None
