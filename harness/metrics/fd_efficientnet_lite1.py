"""The Fréchet distance on EfficientNet-Lite1's 1280 pooled ImageNet features: offline, never called FID."""

from dataclasses import dataclass
from typing import Annotated

from harness.evaluation.features import EFFICIENTNET_LITE1
from harness.metrics._efficientnet import Frechet, FrechetOptions

EPOCH = 1


@dataclass(frozen=True)
class Options(FrechetOptions):
    size: Annotated[int, ">= 32"] = 240


_of = Frechet(EFFICIENTNET_LITE1, "FD-Lite1")
needs, compute, heading = _of.needs, _of.compute, _of.heading
