"""The Fréchet distance on EfficientNet-Lite0's 1280 pooled ImageNet features: offline, never called FID."""

from dataclasses import dataclass
from typing import Annotated

from harness.evaluation.features import EFFICIENTNET_LITE0
from harness.metrics._efficientnet import Frechet, FrechetOptions

EPOCH = 1


@dataclass(frozen=True)
class Options(FrechetOptions):
    size: Annotated[int, ">= 32"] = 224


_of = Frechet(EFFICIENTNET_LITE0, "FD-Lite0")
needs, compute, heading = _of.needs, _of.compute, _of.heading
