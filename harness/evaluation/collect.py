"""Streams images through one extractor, keeping moments, and features only where asked."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor

from harness.evaluation.evidence import Evidence, Sample
from harness.evaluation.features import Extractor, load
from harness.evaluation.frechet import Moments


class Collector:
    """Add uint8 batches one after the other; `evidence` fills as counts are reached.

    All samples are of one extractor and one source. A sample of `count` holds the first
    `count` images, so several protocols come from one stream.
    """

    def __init__(
        self, extractor: Extractor, moments: Iterable[Sample], features: Iterable[Sample], device: torch.device | str
    ) -> None:
        self._asked_moments = sorted(set(moments), key=lambda s: s.count)
        self._asked_features = sorted(set(features), key=lambda s: s.count)
        layers = tuple(sorted({s.layer for s in (*self._asked_moments, *self._asked_features)}))
        self.network = load(extractor, layers, str(device))
        self.evidence = Evidence(about={extractor: self.network.about})
        self._running: dict[str, Moments] = {}
        self._kept: dict[str, list[Tensor]] = {}
        self._seen = 0

    @property
    def count(self) -> int:
        """How many images are needed in all."""
        return max(s.count for s in (*self._asked_moments, *self._asked_features))

    def add(self, images: Tensor) -> None:
        """images: uint8 [N, C, H, W]."""
        if self._seen >= self.count:
            return
        first, self._seen = self._seen, self._seen + len(images)
        for layer, values in self.network.layers(images).items():
            self._add_moments(layer, values, first)
            self._add_features(layer, values, first)

    def _add_moments(self, layer: str, values: Tensor, first: int) -> None:
        done = 0
        for sample in [s for s in self._asked_moments if s.layer == layer and s.count > first]:
            running = self._running.setdefault(layer, Moments.empty(values.shape[1], values.device))
            upto = min(sample.count - first, len(values))
            if upto > done:
                running.add(values[done:upto])
                done = upto
            if first + done == sample.count:
                self.evidence.moments[sample] = copy.deepcopy(running)

    def _add_features(self, layer: str, values: Tensor, first: int) -> None:
        asked = [s for s in self._asked_features if s.layer == layer and s.count > first]
        if not asked:
            return
        kept = self._kept.setdefault(layer, [])
        kept.append(values[: asked[-1].count - first].cpu())
        if self._seen >= asked[-1].count:
            whole = torch.cat(kept).numpy()
            for sample in [s for s in self._asked_features if s.layer == layer]:
                self.evidence.features[sample] = whole[: sample.count]
            kept.clear()
