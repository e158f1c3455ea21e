"""KID's kernel distance on EfficientNet-Lite1's 1280 pooled ImageNet features: offline, never called KID."""

from dataclasses import dataclass
from typing import Annotated

from harness.evaluation.features import EFFICIENTNET_LITE1
from harness.metrics._efficientnet import Kernel, KernelOptions

EPOCH = 1


@dataclass(frozen=True)
class Options(KernelOptions):
    size: Annotated[int, ">= 32"] = 240


_of = Kernel(EFFICIENTNET_LITE1)
needs, compute, heading = _of.needs, _of.compute, _of.heading
