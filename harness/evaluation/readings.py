"""The readings of the paper's L_align, side by side on one trained pair: which of its sentences each one satisfies.

A reading is the scalar that GradCAM differentiates and what makes a map of the weighted channels; the rest is as in the
paper's text, but for `release`, which is the released code whole. All readings see the same images and heatmaps, in one
pass of D. Maps are scaled to [0, 1] as L_align compares them.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from backbones import Discriminator
from harness.data.imageset import ImageSet
from harness.evaluation.fakes import scoring
from harness.evaluation.probes import correlation, record, rounds
from harness.experiment.parse import plugin
from harness.method import attention, heatmaps
from harness.method.generator import Fakes, SpatialGenerator
from harness.method.hooks import Adversarial, ArmHooks, Kind
from harness.variants import align

Array = NDArray[np.float64]
Record = dict[str, Any]
READINGS: dict[str, dict[str, Any]] = {
    "logit, after sum (paper)": {},
    "logit, per channel": {"rectify": "per_channel"},
    "logit, absolute": {"rectify": "absolute"},
    "softplus, after sum": {"objective": "softplus"},
    "softplus, per channel (coherent)": {"profile": "coherent"},
    "release": {"profile": "release"},
}


def readings(levels: tuple[int, ...]) -> dict[str, align.Options]:
    """Every reading of L_align at `levels`, by name."""
    own = {"levels": list(levels), "level_weights": [1.0] * len(levels)}
    asked = {name: {"name": "align", **options, **own} for name, options in READINGS.items()}
    return {name: plugin("harness.variants", options, name).options for name, options in asked.items()}


def compare(
    g: SpatialGenerator,
    d: Discriminator,
    data: ImageSet,
    hooks: ArmHooks,
    gan: Adversarial,
    *,
    levels: tuple[int, ...] = (4, 8, 16),
    sampler: heatmaps.HeatmapOptions | None = None,
    count: int = 256,
    batch_size: int = 64,
    seed: int = 0,
    conditional: bool = False,
    device: torch.device | str = "cpu",
) -> dict[str, dict[str, Record]]:
    """{reading: {name: {"value", "se", "num", ...}}}; R is a reading, A its map of an image, A- that of -D.

    `signs/reals/4`, `signs/fakes/4`: corr(A, A-), over the maps that have contrast. `empty/reals/4`, `empty/fakes/4`:
    the share of images with A = 0 everywhere. `peaks/fakes/4`: local maxima of A. `ratio`: |dR/dx| / |dL_G/dx| of each
    fake x, as median with `quartiles`, and `cosine` of the two: negative where R pulls against G's own loss. `batch`:
    the ratio of the norms over a whole batch, which `max_ratio` bounds. The weight of R is 1.

    `hooks`, `gan`: those of the arm, for G's own loss. `sampler`: of the heatmaps where g draws none, None for the
    paper's. Raises Diverged where a value is not finite.
    """
    aligners = {name: align.Alignment(o, data.resolution) for name, o in readings(levels).items()}
    drawn = sampler or heatmaps.HeatmapOptions()
    if drawn.levels is None or not set(levels) <= set(drawn.levels):
        drawn = replace(drawn, levels=levels)
    found: dict[str, dict[str, list[Array]]] = {name: {} for name in aligners}
    with scoring(g, d):
        for r in rounds(g, data, count=count, batch_size=batch_size, seed=seed, conditional=conditional, device=device):
            given = r.fakes.heatmaps
            if given is None or not set(levels) <= given.keys():
                given = heatmaps.sample(drawn, batch_size, data.resolution, r.draws("heatmaps"))
            reals = _look(hooks, d, r.reals, r.labels, "real", aligners)
            fakes = _look(hooks, d, r.fakes.images, r.labels, "fake", aligners)
            loss = gan.g(fakes.logits, reals.logits.detach() if gan.paired else None)
            (own,) = torch.autograd.grad(loss, fakes.images, retain_graph=True)
            for name, aligner in aligners.items():
                term = aligner.term(fakes.logits, fakes.feats, Fakes(fakes.images, r.fakes.ws, given)).value
                (pull,) = torch.autograd.grad(term, fakes.images, retain_graph=True)
                values = _maps(aligner, reals, "reals") | _maps(aligner, fakes, "fakes") | _pulls(pull, own)
                for key, v in values.items():
                    found[name].setdefault(key, []).append(v)
    return {name: _records({k: np.concatenate(v) for k, v in values.items()}) for name, values in found.items()}


def peaks(maps: Tensor) -> Array:
    """How many pixels of each map [N, 1, h, w] are larger than their eight neighbours [N]; NaN for one without
    contrast."""
    edge = F.pad(maps, (1, 1, 1, 1), value=-torch.inf)
    h, w = maps.shape[2:]
    around = [edge[..., i : i + h, j : j + w] for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    counts = (maps > torch.stack(around).amax(0)).sum((1, 2, 3)).double()
    flat = maps.amax((1, 2, 3)) == maps.amin((1, 2, 3))
    return torch.where(flat, torch.nan, counts).cpu().numpy()


class _Pass(NamedTuple):
    """A pass of D over images [N, C, R, R] with the graph of it: logits [N], {tap: [N, C, h, h]}."""

    images: Tensor
    logits: Tensor
    feats: dict[str, Tensor]


@torch.enable_grad()
def _look(
    hooks: ArmHooks, d: Discriminator, images: Tensor, labels: Tensor | None, kind: Kind, aligners: dict[str, Any]
) -> _Pass:
    images = images.detach().clone().requires_grad_()
    seen = hooks.look(d, images, labels, kind, next(iter(aligners.values())).taps)
    return _Pass(images, seen.g, seen.feats)


def _maps(aligner: align.Alignment, seen: _Pass, kind: str) -> dict[str, Array]:
    """What the maps of one reading are like, of D and of -D: all that differs is the sign of the channels' weights."""
    o, found = aligner.options, dict[str, Array]()
    chosen = {level: seen.feats[str(level)] for level in o.compared}
    weights = attention.gradcam_weights(seen.logits, chosen, o.objective)
    for level, w in weights.items():
        plus, minus = (
            aligner.attended(attention.attention_map(sign * w, chosen[level].detach(), o.rectify)) for sign in (1, -1)
        )
        found[f"signs/{kind}/{level}"] = correlation(plus, minus)
        found[f"empty/{kind}/{level}"] = attention.empty(plus).double().cpu().numpy()
        found[f"peaks/{kind}/{level}"] = peaks(plus)
    return found


def _pulls(pull: Tensor, own: Tensor) -> dict[str, Array]:
    """The gradients of L_align and of G's loss on the images [N, C, R, R], compared image by image and as a whole."""
    a, b = pull.double().flatten(1), own.double().flatten(1)
    long, short = a.norm(dim=1), b.norm(dim=1)
    cosine = torch.where(long * short > 0, (a * b).sum(1) / (long * short), torch.nan)
    whole = a.norm() / b.norm() if b.norm() > 0 else torch.tensor(torch.nan)
    ratio = torch.where(short > 0, long / short, torch.nan)
    values = {"ratio": ratio, "cosine": cosine, "batch": whole.reshape(1)}
    return {name: v.cpu().numpy() for name, v in values.items()}


def _records(found: dict[str, Array]) -> dict[str, Record]:
    records = {name: record(name, values) for name, values in found.items()}
    kept = found["ratio"][~np.isnan(found["ratio"])]
    if len(kept):  # its mean is one outlier's: an almost empty map, scaled to [0, 1]
        low, middle, high = np.quantile(kept, (0.25, 0.5, 0.75)).tolist()
        records["ratio"] |= {"value": middle, "se": None, "quartiles": [low, high]}
    return records
