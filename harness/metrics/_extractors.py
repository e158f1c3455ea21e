"""The extractors that a metric lets one choose from, and how they stand in its records' names."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from harness.evaluation.evidence import Protocol
from harness.evaluation.features import DINOV2, EFFICIENTNET_LITE0, EFFICIENTNET_LITE1, INCEPTION, Extractor

EPOCH = 1

_CHOICES = {
    "inception": INCEPTION,
    "efficientnet_lite0": EFFICIENTNET_LITE0,
    "efficientnet_lite1": EFFICIENTNET_LITE1,
    "dinov2": DINOV2,
}
FEATURES = {"inception": 2048, "efficientnet_lite0": 1280, "efficientnet_lite1": 1280, "dinov2": 1024}
_SIZED = ("efficientnet_lite0", "efficientnet_lite1")


@dataclass(frozen=True)
class Features:
    """Options of a metric on any extractor. `size`: the side to which images are resized for EfficientNet-Lite; None:
    the network's own. `weights: any` accepts other Inception weights than the published ones and shows in the name."""

    protocols: tuple[Protocol, ...] = ()
    extractor: Literal["inception", "efficientnet_lite0", "efficientnet_lite1", "dinov2"] = "inception"
    size: Annotated[int, ">= 32"] | None = None
    weights: Literal["published", "any"] = "published"

    def __post_init__(self) -> None:
        if self.size is not None and self.extractor not in _SIZED:
            raise ValueError(f"size: {self.size}: only {' and '.join(_SIZED)} can be given another size; leave it out")
        if self.weights != "published" and self.extractor != "inception":
            raise ValueError(f"weights: {self.weights!r}: only inception's are a choice; leave it out")

    @property
    def chosen(self) -> Extractor:
        found = replace(_CHOICES[self.extractor], weights=self.weights)
        return found if self.size is None else replace(found, size=self.size)

    @property
    def tag(self) -> str:
        """`inception_`, `efficientnet_lite0_96px_` ..."""
        size = "" if self.chosen.size == _CHOICES[self.extractor].size else f"{self.chosen.size}px_"
        return f"{self.extractor}_{'' if self.weights == 'published' else 'any_weights_'}{size}"
