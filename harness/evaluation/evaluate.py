"""The one evaluation pass: each image is made or read once, and every metric is computed from it.

Fakes are drawn in batches of one fixed size, because minibatch statistics make a score of D
depend on its batch. They are rounded to uint8 once; extractors and D both see these images.
D runs in eval mode and float32, on the same kind of batches for fakes and reals.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from backbones import Discriminator
from harness import plugins, rng
from harness.data.imageset import ImageSet, Pixels
from harness.evaluation import measures, scores
from harness.evaluation.evidence import Evidence, Needs, Record, Setting, headed
from harness.evaluation.fakes import Device, Job, score, scoring
from harness.evaluation.features import is_here, prepare
from harness.evaluation.reals import reference
from harness.evaluation.shares import devices, see_shared
from harness.experiment.spec import Eval
from harness.method.generator import SpatialGenerator

EPOCH = 1  # raised when the same networks score otherwise than before


def check(spec: Eval, data: ImageSet, heldout: ImageSet | None = None, *, fetch: bool = True) -> None:
    """Everything that could make the scoring impossible, before any training: counts against the
    data, weights of the extractors (if need be fetched here, or passed over). Raises UserError."""
    plan = _plan(Setting(spec, data, heldout))
    for extractor in sorted({s.extractor for *_, needs in plan for s in (*needs.moments, *needs.features)}):
        if fetch or is_here(extractor):
            prepare(extractor)


def evaluate(
    g: SpatialGenerator,
    d: Discriminator,
    data: ImageSet,
    heldout: ImageSet | None,
    spec: Eval,
    *,
    seed: int,
    conditional: bool,
    device: Device,
    cache: Path,
    weights_used: str,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Record]:
    """All metrics of `spec` for a generator and its discriminator: {name: record}.

    `weights_used` ("ema" or "raw") says which G this is; it is recorded only. `workers` processes share
    the fakes, with a GPU each; the values are those of one. `progress` is told (images done, images in
    all). Raises Diverged if an image, a feature or a score is not finite, UserError for too many workers.
    """
    setting = Setting(spec, data, heldout, seed, conditional, weights_used)
    plan = _plan(setting)
    moments = {s for *_, n in plan for s in n.moments}
    features = {s for *_, n in plan for s in n.features}
    pools = _score_pools(data, heldout, spec) if any(n.scores for *_, n in plan) else {}
    of_reals = sum(s.count for s in moments | features if s.source != "fakes")
    most = max((s.count for s in moments | features if s.source == "fakes"), default=0)
    num_fakes = spec.num_fakes if pools else most
    tell = _progress(num_fakes + of_reals + sum(count for _, count in pools.values()), progress)

    evidence = Evidence()
    with scoring(g, d):
        for source in ("train", "trained", "heldout"):
            asked = [[s for s in sorted(x) if s.source == source] for x in (moments, features)]
            images = setting.reals(source) if any(asked) else None
            if images is not None:
                found = reference(images, *asked, batch_size=spec.batch_size, device=device, cache=cache, progress=tell)
                evidence.update(found)
        job = Job(
            g,
            d if pools else None,
            frozenset(s for s in moments if s.source == "fakes"),
            frozenset(s for s in features if s.source == "fakes"),
            num_fakes,
            spec.batch_size,
            seed,
            data.labels if conditional else None,
        )
        evidence.update(see_shared(job, devices(device, workers), tell))
        for name, (images, count) in pools.items():
            labels = images.labels if conditional else None
            evidence.scores[name] = score_reals(
                d, images.images, labels, count, batch_size=spec.batch_size, seed=seed, device=device, progress=tell
            )
    return {
        name: headed(name, record, module.heading(name, record["protocol"]) if hasattr(module, "heading") else None)
        | {"measure": measure}
        for measure, options, module, _ in plan
        for name, record in module.compute(evidence, options, setting).items()
    }


@torch.no_grad()
def score_reals(
    d: Discriminator,
    images: Pixels,
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


def _plan(setting: Setting) -> list[tuple[str, Any, plugins.Metric, Needs]]:
    """Each measure with its metric's options, module and needs."""
    found = [(k, m.options, plugins.find("harness.metrics", m.name)) for k, m in measures.split(setting).items()]
    return [(measure, options, module, module.needs(options, setting)) for measure, options, module in found]


def _score_pools(data: ImageSet, heldout: ImageSet | None, spec: Eval) -> dict[str, tuple[ImageSet, int]]:
    """Which reals D scores: at most as many as there are fakes."""
    limit = min(spec.num_fakes, spec.num_reals or len(data.images))
    pools = {"train": (data, min(limit, len(data.images)))}
    if heldout is not None:
        pools["heldout"] = (heldout, min(spec.num_fakes, len(heldout.images)))
    return pools


def _progress(total: int, tell: Callable[[int, int], None] | None) -> Callable[[int], None]:
    done = 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        if tell is not None:
            tell(done, total)

    return step
