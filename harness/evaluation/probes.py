"""Attention and spatial control, measured: what the paper shows in pictures (Fig. 2, 4 and 5) as numbers.

Maps are GradCAM of D, scaled to [0, 1] and compared as the alignment loss compares them.
Places are in heatmap coordinates: [-1, 1] over the image, first downwards, then to the right.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from backbones import Discriminator
from harness import plugins
from harness.data.imageset import ImageSet
from harness.errors import Diverged
from harness.evaluation.fakes import scoring, to_float, to_uint8
from harness.method import attention, heatmaps
from harness.method.generator import Fakes, SpatialGenerator
from harness.rng import Streams, stream

Array = NDArray[np.float64]
AMPLITUDES = (0.05, 0.1, 0.2, 0.4)  # of the noise, where images span [-1, 1]
SHIFTS = (
    (0.0, 0.0),
    (0.3, 0.0),
    (-0.3, 0.0),
    (0.0, 0.3),
    (0.0, -0.3),
    (0.6, 0.0),
    (-0.6, 0.0),
    (0.0, 0.6),
    (0.0, -0.6),
)


def probe(
    g: SpatialGenerator,
    d: Discriminator,
    data: ImageSet,
    *,
    align: Any = None,
    snapshots: Mapping[str, Discriminator] | None = None,
    count: int = 256,
    batch_size: int = 64,
    seed: int = 0,
    conditional: bool = False,
    device: torch.device | str = "cpu",
) -> dict[str, dict[str, Any]]:
    """{name: {"value", "se", "num", ...}} for a trained pair; what an arm lacks (a baseline has no heatmaps,
    most data no boxes) is absent.

    `align`: the arm's options of that variant, None for its defaults; measured is at D's own levels where it lacks one
    of theirs, and against heatmaps where they are drawn. `snapshots`: D at earlier times by name, compared with `d` on
    the same images. Raises Diverged where a value is not finite.
    """
    module = plugins.find("harness.variants", "align")
    aligner = module.hooks(ruler(align or module.Options(), d), data.resolution)
    found: dict[str, list[Array]] = {}
    with scoring(g, d, *(snapshots or {}).values()):
        for r in rounds(g, data, count=count, batch_size=batch_size, seed=seed, conditional=conditional, device=device):
            reals, labels, fakes, draws = r.reals, r.labels, r.fakes, r.draws
            parts = [_robustness(d, reals, labels, aligner, draws("robustness"))]
            if fakes.heatmaps is not None:
                parts.append(_agreement(d, fakes.images, fakes.heatmaps, labels, aligner))
                parts.append(_control(g, r.z, labels, draws))
            if data.boxes is not None:
                parts.append(_inside(d, reals, labels, aligner, data.boxes[r.rows]))
                parts.append(_estimator(data.images[r.rows], data.boxes[r.rows]))
            for name, other in (snapshots or {}).items():
                parts.append(_consistency(d, other, name, reals, labels, aligner))
            for key, values in ((k, v) for part in parts for k, v in part.items()):
                found.setdefault(key, []).append(values)
    return _summary({k: np.concatenate(v) for k, v in found.items()})


def ruler(align: Any, d: Discriminator) -> Any:
    """The options of `align` at levels that D has: its own where it lacks one of theirs."""
    if align.levels is not None and {str(level) for level in align.levels} <= set(d.taps):
        return align
    return replace(align, levels=d.levels, level_weights=(1.0,) * len(d.levels))


class Round(NamedTuple):
    """A batch of reals, and fakes of the same labels. `draws`: its named streams."""

    rows: NDArray[np.int64]
    reals: Tensor
    labels: Tensor | None
    z: Tensor
    fakes: Fakes
    draws: Streams


def rounds(
    g: SpatialGenerator, data: ImageSet, *, count: int, batch_size: int, seed: int, conditional: bool,
    device: torch.device | str,
) -> Iterator[Round]:  # fmt: skip
    """Whole batches of `count` images (one at least): the same for every measure of one seed."""
    for index in range(max(1, count // batch_size)):
        rows = torch.randint(len(data), (batch_size,), generator=stream(seed, "probe/rows", index)).numpy()
        reals = to_float(torch.from_numpy(np.ascontiguousarray(data.images[rows])).to(device))
        labels = torch.from_numpy(data.labels[rows]).to(device) if conditional and data.labels is not None else None
        draws = Streams(seed, "probe", index, device)
        z = g.backbone.sample_z(batch_size, draws("z"))
        with torch.no_grad():
            fakes = g(z, labels, draws=draws)
        yield Round(rows, reals, labels, z, fakes, draws)


# ── maps ─────────────────────────────────────────────────────────────────────


def maps(d: Discriminator, images: Tensor, labels: Tensor | None, aligner: Any) -> dict[int, Tensor]:
    """D's attention on images [N, C, R, R], as the alignment loss sees it: {level: [N, 1, h, h]} in [0, 1]."""
    options = aligner.options
    with torch.enable_grad():
        # The images take part in the graph so that features have gradients whatever D's parameters do.
        logits, feats = d(images.detach().requires_grad_(), labels, taps=aligner.taps)
        chosen = {level: feats[str(level)] for level in options.compared}
        found = attention.gradcam(logits, chosen, objective=options.objective, rectify=options.rectify)
    if not all(m.isfinite().all() for m in found.values()):
        raise Diverged("probe: D's attention is not finite")
    return {level: aligner.attended(m.detach()) for level, m in found.items()}


def correlation(first: Tensor, second: Tensor) -> Array:
    """Pearson correlation of each pair of maps [N, ...]; NaN where one of them is constant."""
    a, b = (x.double().flatten(1) for x in (first, second))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    scale = (a.square().sum(1) * b.square().sum(1)).sqrt()
    return torch.where(scale > 0, (a * b).sum(1) / scale, torch.nan).cpu().numpy()


def inside_share(attended: Tensor, boxes: Array) -> Array:
    """The share of each map's mass within its box. attended [N, 1, h, h]; boxes [N, 4] as fractions of
    the side (x0, y0, x1, y1). NaN for a map without mass."""
    size = attended.shape[-1]
    edges = np.arange(size) / size

    def cover(low: Array, high: Array) -> Tensor:  # the part of each pixel between low and high
        part = np.minimum(edges + 1 / size, high[:, None]) - np.maximum(edges, low[:, None])
        return torch.from_numpy(part.clip(0) * size)

    weight = cover(boxes[:, 1], boxes[:, 3])[:, :, None] * cover(boxes[:, 0], boxes[:, 2])[:, None, :]
    values = attended[:, 0].double().cpu()
    mass = values.sum((1, 2))
    return torch.where(mass > 0, (values * weight).sum((1, 2)) / mass, torch.nan).numpy()


def _agreement(d: Discriminator, images: Tensor, given: Any, labels: Tensor | None, aligner: Any) -> dict[str, Array]:
    """D's attention on fakes against the heatmaps that G was given; `others`: against the next sample's,
    which is what maps agree on without having read their own heatmap (such as a bright middle); `empty`: the
    share of fakes whose map is 0 everywhere, where the alignment loss has no gradient."""
    options, found = aligner.options, {}
    for level, attended in maps(d, images, labels, aligner).items():
        if level not in given:
            continue
        target = aligner.target(level, given[level], attended)
        found[f"agreement/l1/{level}"] = (attended - target).abs().mean((1, 2, 3)).double().cpu().numpy()
        found[f"agreement/correlation/{level}"] = correlation(attended, target)
        found[f"agreement/others/{level}"] = correlation(attended, target.roll(1, 0))
        found[f"agreement/empty/{level}"] = attention.empty(attended).double().cpu().numpy()
        pairs = zip(attended.split(1), target.split(1), strict=True)
        loss = [float(attention.alignment(a, t, options.tau, options.truncate)) for a, t in pairs]
        found[f"agreement/loss/{level}"] = np.array(loss)
    return found


def _robustness(
    d: Discriminator, images: Tensor, labels: Tensor | None, aligner: Any, rng: torch.Generator
) -> dict[str, Array]:
    """Correlation of the maps of noisy images with those of the clean ones; one noise, scaled."""
    clean = maps(d, images, labels, aligner)
    noise = torch.randn(images.shape, generator=rng, device=images.device)
    found = {}
    for amplitude in AMPLITUDES:
        for level, noisy in maps(d, images + amplitude * noise, labels, aligner).items():
            found[f"robustness/{amplitude}/{level}"] = correlation(clean[level], noisy)
    return found


def _consistency(
    d: Discriminator, other: Discriminator, name: str, images: Tensor, labels: Tensor | None, aligner: Any
) -> dict[str, Array]:
    first, second = maps(d, images, labels, aligner), maps(other, images, labels, aligner)
    return {f"consistency/{name}/{level}": correlation(first[level], second[level]) for level in first}


def _inside(d: Discriminator, images: Tensor, labels: Tensor | None, aligner: Any, boxes: Array) -> dict[str, Array]:
    """Attention on the object of reals, and the box's share of the image: what attention at random would have."""
    boxes = boxes / images.shape[-1]
    found = {f"inside_box/{k}": inside_share(m, boxes) for k, m in maps(d, images, labels, aligner).items()}
    found["inside_box/chance"] = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return found


# ── spatial control ──────────────────────────────────────────────────────────


def centres(images: NDArray[np.uint8]) -> Array:
    """Where the object of each image [N, C, R, R] is: [N, 2] in heatmap coordinates.

    The background's colour is the median along the border. Pixels further from it than half
    the furthest one, after blurring, are weighed by that excess; their centroid is the place.
    """
    x = torch.from_numpy(np.ascontiguousarray(images)).double()
    size = x.shape[-1]
    ring = torch.ones(size, size, dtype=torch.bool)
    ring[2:-2, 2:-2] = False
    background = x[:, :, ring].median(2).values[:, :, None, None]
    away = (x - background).square().sum(1, keepdim=True).sqrt()
    away = F.avg_pool2d(away, 3, 1, 1, count_include_pad=False)[:, 0]
    weight = (away - 0.5 * away.amax((1, 2), keepdim=True)).relu()
    mass = weight.sum((1, 2)).clamp(min=1e-12)
    axis = (2 * torch.arange(size, dtype=torch.float64) + 1) / size - 1
    return torch.stack([(weight.sum(2) * axis).sum(1) / mass, (weight.sum(1) * axis).sum(1) / mass], 1).numpy()


def slope(shifts: Array, moved: Array) -> tuple[Array, float]:
    """Regression of displacements on shifts, both [N, K, 2]: the slope of each of the N (1: full
    control, 0: none) and the share of the displacements' variance that one common slope explains.
    Each sample has its own origin, so the mean over its K is taken out first."""
    x, y = (v - v.mean(1, keepdims=True) for v in (shifts, moved))
    slopes = (x * y).sum((1, 2)) / (x * x).sum((1, 2))
    total = (y * y).sum()
    explained = (x * y).sum() ** 2 / ((x * x).sum() * total) if total > 0 else 0.0
    return slopes, float(explained)


def r_squared_error(shifts: Array, moved: Array) -> float | None:
    """Jackknife standard error of `slope`'s second value over the N samples; None below two."""
    x, y = (v - v.mean(1, keepdims=True) for v in (shifts, moved))
    xy, xx, yy = (total.sum() - total for total in ((a * b).sum((1, 2)) for a, b in ((x, y), (x, x), (y, y))))
    if len(x) < 2:
        return None
    left_out = np.divide(xy**2, xx * yy, out=np.zeros_like(xy), where=yy > 0)
    return float(np.sqrt((len(x) - 1) * left_out.var()))


def _control(g: SpatialGenerator, z: Tensor, labels: Tensor | None, draws: Streams) -> dict[str, Array]:
    """The same latents and noise with the level-0 centre shifted, all levels with it."""
    options = getattr(getattr(g.encoder, "options", None), "heatmaps", None)
    if options is None or options.sampler not in ("hierarchical", "non_hierarchical"):
        return {}
    regions = heatmaps.sample_regions(options, len(z), draws("heatmaps"))
    found = []
    for shift in SHIFTS:
        step = torch.tensor(shift, device=z.device)
        given = heatmaps.render(options, heatmaps.shift(regions, step), g.backbone.resolution)
        with torch.no_grad():
            found.append(centres(to_uint8(g(z, labels, draws=draws, heatmaps=given).images).cpu().numpy()))
    return {"control/places": np.stack(found, 1)}


def _estimator(images: NDArray[np.uint8], boxes: Array) -> dict[str, Array]:
    """`centres` against the known boxes of reals: the distance as a part of the side."""
    size = images.shape[-1]
    known = np.stack([boxes[:, [1, 3]].mean(1), boxes[:, [0, 2]].mean(1)], 1) / size * 2 - 1
    return {"control/estimator_error": np.linalg.norm(centres(images) - known, axis=1) / 2}


# ── records ──────────────────────────────────────────────────────────────────


def _summary(found: dict[str, Array]) -> dict[str, dict[str, Any]]:
    records = {}
    places = found.pop("control/places", None)
    if places is not None:
        shifts = np.broadcast_to(np.array(SHIFTS), places.shape)
        slopes, explained = slope(shifts, places)
        moved = places - places.mean(1, keepdims=True)
        records["control/slope"] = record(
            "control/slope",
            slopes,
            r_squared=explained,
            r_squared_se=r_squared_error(shifts, places),
            shifts=[list(s) for s in SHIFTS],
            moved=moved.mean(0).tolist(),
            moved_sd=moved.std(0).tolist(),
        )
    return records | {name: record(name, values) for name, values in sorted(found.items())}


def record(name: str, values: Iterable[float], **extra: Any) -> dict[str, Any]:
    """Mean over images, its standard error, and how many maps were flat, for which there is no value."""
    values = np.asarray(values, np.float64)
    kept = values[~np.isnan(values)]
    if not np.isfinite(kept).all():
        raise Diverged(f"probe: {name} is not finite")
    mean = float(kept.mean()) if len(kept) else None
    se = float(kept.std(ddof=1) / np.sqrt(len(kept))) if len(kept) > 1 else None
    return {"value": mean, "se": se, "num": len(kept), "num_flat": len(values) - len(kept), **extra}
