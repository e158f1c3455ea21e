"""The one evaluation pass: each image is made or read once, and every metric is computed from it.

Fakes are drawn in batches of one fixed size, because minibatch statistics make a score of D
depend on its batch. They are rounded to uint8 once; extractors and D both see these images.
D runs in eval mode and float32, on the same kind of batches for fakes and reals.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from backbones import Discriminator
from harness import config, plugins, rng, scores
from harness.datasets import ImageSet
from harness.errors import Diverged
from harness.generator import SpatialGenerator
from harness.metrics import Evidence, Needs, Record, Sample, Setting
from harness.metrics._collector import Collector
from harness.metrics._features import prepare
from harness.metrics._reference import reference

Device = torch.device | str


def cache_folder() -> Path:
    """NASHBOARD_CACHE, or ~/.cache/nashboard: where statistics of real images are kept."""
    return Path(os.environ.get("NASHBOARD_CACHE") or Path.home() / ".cache" / "nashboard")


def check(spec: config.Eval, data: ImageSet, heldout: ImageSet | None = None) -> None:
    """Everything that could make the scoring impossible, before any training: counts against the
    data, weights of the extractors (fetched here if need be). Raises UserError."""
    plan = _plan(Setting(spec, data, heldout))
    for extractor in sorted({s.extractor for _, _, needs in plan for s in (*needs.moments, *needs.features)}):
        prepare(extractor)


def evaluate(
    g: SpatialGenerator,
    d: Discriminator,
    data: ImageSet,
    heldout: ImageSet | None,
    spec: config.Eval,
    *,
    seed: int,
    conditional: bool,
    device: Device,
    cache: Path,
    weights_used: str,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Record]:
    """All metrics of `spec` for a generator and its discriminator: {name: record}.

    `weights_used` ("ema" or "raw") says which G this is; it is recorded only. `progress` is told
    (images done, images in all). Raises Diverged if an image, a feature or a score is not finite.
    """
    setting = Setting(spec, data, heldout, seed, conditional, weights_used)
    plan = _plan(setting)
    moments = {s for _, _, n in plan for s in n.moments}
    features = {s for _, _, n in plan for s in n.features}
    pools = _score_pools(data, heldout, spec) if any(n.scores for _, _, n in plan) else {}
    of_reals = sum(s.count for s in moments | features if s.source != "fakes")
    tell = _progress(spec.num_fakes + of_reals + sum(count for _, count in pools.values()), progress)

    evidence = Evidence()
    with scoring(g, d):
        for source, images in (("train", data), ("heldout", heldout)):
            asked = [[s for s in sorted(x) if s.source == source] for x in (moments, features)]
            if images is not None and any(asked):
                found = reference(images, *asked, batch_size=spec.batch_size, device=device, cache=cache, progress=tell)
                evidence.update(found)
        critic = d if pools else None
        collectors = _collectors(moments, features, device)
        evidence.scores |= _see_fakes(g, critic, collectors, setting, device, tell)
        for name, (images, count) in pools.items():
            labels = images.labels if conditional else None
            evidence.scores[name] = score_reals(
                d, images.images, labels, count, batch_size=spec.batch_size, seed=seed, device=device, progress=tell
            )
    for collector in collectors:
        evidence.update(collector.evidence)
    return {k: v for options, module, _ in plan for k, v in module.compute(evidence, options, setting).items()}


def fake_batches(
    g: SpatialGenerator, count: int, batch_size: int, *, seed: int, labels: NDArray | None, device: Device
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """uint8 images and their labels, always in whole batches; the last goes past `count`.

    `labels`: those of the training set, from which a conditional G's are drawn. Batch i depends
    on (seed, i) alone.
    """
    for index in range(-(-count // batch_size)):
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
    """D's raw outputs of uint8 images [N, 3, R, R], float32 arithmetic, as float64 [N]."""
    with torch.autocast(images.device.type, enabled=False):
        logits, _ = d(to_float(images), labels)
    return logits.double().cpu().numpy()


@torch.no_grad()
def score_reals(
    d: Discriminator,
    images: NDArray[np.uint8],
    labels: NDArray | None,
    count: int,
    *,
    batch_size: int,
    seed: int,
    device: Device,
    progress: Callable[[int], None] = lambda count: None,
) -> NDArray[np.float64]:
    """Raw scores of `count` reals in random order, so that batches are mixed as in training.

    The last batch is filled up with images already scored; what they score there is dropped.
    """
    order = torch.randperm(len(images), generator=rng.stream(seed, "eval/scored")).numpy()[:count]
    found = []
    for start in range(0, count, batch_size):
        rows = np.take(order, range(start, start + batch_size), mode="wrap")
        batch = torch.from_numpy(np.ascontiguousarray(images[rows])).to(device)
        chosen = None if labels is None else torch.from_numpy(np.ascontiguousarray(labels[rows])).to(device)
        found.append(score(d, batch, chosen))
        progress(min(batch_size, count - start))
    return scores.finite(np.concatenate(found)[:count], "eval: scores of reals")


@torch.no_grad()
def _see_fakes(
    g: SpatialGenerator,
    d: Discriminator | None,
    collectors: list[Collector],
    setting: Setting,
    device: Device,
    progress: Callable[[int], None],
) -> dict[str, NDArray[np.float64]]:
    count, batch_size = setting.spec.num_fakes, setting.spec.batch_size
    labels = setting.data.labels if setting.conditional else None
    found: list[NDArray[np.float64]] = []
    batches = fake_batches(g, count, batch_size, seed=setting.seed, labels=labels, device=device)
    for index, (images, chosen) in enumerate(batches):
        if d is not None:
            found.append(score(d, images, chosen))
        kept = images[: count - index * batch_size]
        for collector in collectors:
            collector.add(kept)
        progress(len(kept))
    return {"fake": scores.finite(np.concatenate(found)[:count], "eval: scores of fakes")} if d is not None else {}


def _plan(setting: Setting) -> list[tuple[Any, ModuleType, Needs]]:
    """Each metric's options, module and needs."""
    found = [(m.options, plugins.find("harness.metrics", m.name)) for m in setting.spec.metrics]
    return [(options, module, module.needs(options, setting)) for options, module in found]


def _score_pools(data: ImageSet, heldout: ImageSet | None, spec: config.Eval) -> dict[str, tuple[ImageSet, int]]:
    """Which reals D scores: at most as many as there are fakes."""
    limit = min(spec.num_fakes, spec.num_reals or len(data.images))
    pools = {"train": (data, min(limit, len(data.images)))}
    if heldout is not None:
        pools["heldout"] = (heldout, min(spec.num_fakes, len(heldout.images)))
    return pools


def _collectors(moments: set[Sample], features: set[Sample], device: Device) -> list[Collector]:
    """One collector for the fakes of every extractor that is asked for."""
    of_fakes = [s for s in moments | features if s.source == "fakes"]
    return [
        Collector(
            extractor,
            [s for s in moments if s in of_fakes and s.extractor == extractor],
            [s for s in features if s in of_fakes and s.extractor == extractor],
            device,
        )
        for extractor in sorted({s.extractor for s in of_fakes})
    ]


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


def _progress(total: int, tell: Callable[[int, int], None] | None) -> Callable[[int], None]:
    done = 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        if tell is not None:
            tell(done, total)

    return step
