"""KID's kernel distance on EfficientNet-Lite0's 1280 pooled ImageNet features: offline, never called KID."""

from dataclasses import dataclass
from typing import Annotated

from harness.evaluation.features import EFFICIENTNET_LITE0
from harness.metrics._efficientnet import Kernel, KernelOptions

EPOCH = 1


@dataclass(frozen=True)
class Options(KernelOptions):
    size: Annotated[int, ">= 32"] = 224


_of = Kernel(EFFICIENTNET_LITE0)
needs, compute, heading = _of.needs, _of.compute, _of.heading
