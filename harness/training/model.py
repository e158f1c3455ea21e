"""A trained model in memory: what pictures and probes look at, whether it was read back or has just been trained."""

from dataclasses import dataclass

from backbones import Discriminator
from harness.data.imageset import ImageSet
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
