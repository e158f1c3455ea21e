"""The fakes of one evaluation pass: made in batches, rounded to uint8 once, seen by D and by every extractor.

Batch i depends on (seed, i) alone, so several processes can each take a run of batches
(`harness.evaluation.shares`), and a pass of fewer fakes takes the first ones of a longer pass.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from backbones import Discriminator
from harness import rng
from harness.errors import Diverged
from harness.evaluation import scores
from harness.evaluation.collect import Collector
from harness.evaluation.evidence import Evidence, Sample
from harness.method.generator import SpatialGenerator

Device = torch.device | str


@dataclass(frozen=True)
class Job:
    """All that decides what is seen of the fakes. `d`: None where no metric asks for scores. `labels`: those of
    the training set, from which a conditional G's are drawn, else None."""

    g: SpatialGenerator
    d: Discriminator | None
    moments: frozenset[Sample]
    features: frozenset[Sample]
    count: int
    batch_size: int
    seed: int
    labels: NDArray | None

    @property
    def batches(self) -> int:
        return -(-self.count // self.batch_size)


def see(job: Job, batches: range, device: Device, progress: Callable[[int], None] = lambda count: None) -> Evidence:
    """What a run of batches shows: samples as `within` names them, scores of D as "fake".

    The last batch goes past `count`; D sees all of it, since minibatch statistics make its scores
    depend on the batch, and what is too much is dropped. Raises Diverged where a value is not finite.
    """
    start, end = batches.start * job.batch_size, min(batches.stop * job.batch_size, job.count)
    moments, features = ({s for x in asked if (s := within(x, start, end))} for asked in (job.moments, job.features))
    collectors = [
        Collector(
            extractor,
            [s for s in moments if s.extractor == extractor],
            [s for s in features if s.extractor == extractor],
            device,
        )
        for extractor in sorted({s.extractor for s in moments | features})
    ]
    evidence, found = Evidence(), []
    made = fake_batches(
        job.g, end, job.batch_size, seed=job.seed, labels=job.labels, device=device, first=batches.start
    )
    with torch.no_grad():
        for index, (images, chosen) in zip(batches, made, strict=True):
            if job.d is not None:
                found.append(score(job.d, images, chosen))
            kept = images[: end - index * job.batch_size]
            for collector in collectors:
                collector.add(kept)
            progress(len(kept))
    for collector in collectors:
        evidence.update(collector.evidence)
    if found:
        evidence.scores["fake"] = scores.finite(np.concatenate(found)[: end - start], "eval: scores of fakes")
    return evidence


def within(sample: Sample, start: int, end: int) -> Sample | None:
    """The part of `sample` among fakes start .. end, counted from `start`; None where it has none there."""
    return replace(sample, count=min(sample.count, end) - start) if sample.count > start else None


def fake_batches(
    g: SpatialGenerator,
    count: int,
    batch_size: int,
    *,
    seed: int,
    labels: NDArray | None,
    device: Device,
    first: int = 0,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """uint8 images and their labels, in whole batches: from batch `first` to that of the last of `count` images."""
    for index in range(first, -(-count // batch_size)):
        draws = rng.Streams(seed, "eval", index, device)
        z = g.backbone.sample_z(batch_size, draws("z"))
        chosen = None
        if labels is not None:
            rows = torch.randint(len(labels), (batch_size,), generator=rng.stream(seed, "eval/labels", index))
            chosen = torch.from_numpy(labels[rows.numpy()]).to(device)
        yield to_uint8(g(z, chosen, draws=draws).images), chosen


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] -> 0..255: (x + 1) * 127.5 rounded to the nearest integer (ties to even), then clamped."""
    if not torch.isfinite(images).all():
        raise Diverged("eval: generated images are not finite")
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def to_float(images: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1], as D sees images in training."""
    return images.float() / 127.5 - 1


def score(d: Discriminator, images: Tensor, labels: Tensor | None) -> NDArray[np.float64]:
    """D's raw outputs of uint8 images [N, C, R, R], float32 arithmetic, as float64 [N]."""
    with torch.autocast(images.device.type, enabled=False):
        logits, _ = d(to_float(images), labels)
    return logits.double().cpu().numpy()


@contextlib.contextmanager
def scoring(*modules: nn.Module) -> Iterator[None]:
    """Eval mode and true float32 (no TF32) inside, what was before afterwards."""
    training = [(m, m.training) for module in modules for m in module.modules()]
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    for module in modules:
        module.eval()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
        for m, mode in training:
            m.training = mode
