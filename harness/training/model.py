"""A trained model in memory: what pictures and probes look at, whether it was read back or has just been trained."""

from collections.abc import Callable
from dataclasses import dataclass

from backbones import Discriminator
from harness.data.imageset import ImageSet
from harness.evaluation import statistics
from harness.experiment.spec import Trial
from harness.method.generator import SpatialGenerator


@dataclass(frozen=True)
class Trained:
    """`g` (EMA where the trial keeps one) and `d` in eval mode after `nimg` images, with the data they saw."""

    trial: Trial
    g: SpatialGenerator
    d: Discriminator
    weights: str  # "ema" or "raw": which G this is
    data: ImageSet
    heldout: ImageSet | None
    nimg: int


def used(asked: str, kept: bool) -> str:
    """Which G `eval.weights` means: "ema" or "raw". `kept`: whether the trial keeps an average."""
    return "ema" if kept and asked != "raw" else "raw"


def settle(trial: Trial, average: SpatialGenerator, data: ImageSet, beat: Callable[[], None] = lambda: None) -> None:
    """Make the statistics of an averaged G its own: batches as large as those that G saw in training."""
    labels = data.labels if trial.conditional else None
    statistics.settle(average, batch_size=trial.train.microbatch, seed=trial.seed, labels=labels, beat=beat)
