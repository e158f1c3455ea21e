"""Spatial heatmaps (section 3.1, eq. 2): the regions on which G is told to focus.

Coordinates run over [-1, 1], component 0 downwards and component 1 to the right, so a unit
is half a side of the image. A region is a bump exp(-distance^2 / s) about its centre, a
Gaussian of variance s/2. Levels are named by the feature resolution they act on (4, 8, 16);
the first is level 0. Defaults are the paper's text; `RELEASE` holds what the released code does.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.method.generator import Heatmaps

Resize = Literal["corners", "centers"]
"""Bilinear resizing that keeps corner pixels in place, or pixel areas."""


def ascending(levels: tuple[int, ...]) -> None:
    """Raise ValueError where levels are none, or not coarsest first."""
    if not levels or list(levels) != sorted(set(levels)):
        raise ValueError(f"levels: {list(levels)}: must ascend, coarsest first, like [4, 8, 16]")


@dataclass(frozen=True)
class HeatmapOptions:
    """How heatmaps are drawn. Lists hold one entry per level; entries beyond `levels` are unused."""

    sampler: Literal["hierarchical", "non_hierarchical", "gaussian_noise", "constant"] = "hierarchical"
    levels: tuple[Annotated[int, ">= 2, <= 4096"], ...] | None = (4, 8, 16)  # coarsest first; None: the backbone's own
    counts: tuple[Annotated[int, ">= 1, <= 4096"], ...] = (1, 2, 4)  # centres
    center_std: Annotated[float, "> 0"] = 2 / 3  # of level 0: a third of the side
    off_image: Literal["redraw", "clamp", "keep"] = "redraw"  # level-0 centres beyond `center_limit`
    center_limit: Annotated[float, "> 0"] = 1.0
    offsets: Literal["normal", "uniform"] = "normal"  # of the other centres from the level-0 centre
    offset_scales: tuple[Annotated[float, ">= 0"], ...] = (0.0, 1 / 3, 1 / 3)  # std, or half the width
    spreads: tuple[tuple[Annotated[float, "> 0"], Annotated[float, "> 0"]], ...] = (
        (0.5, 0.5),  # s is uniform between the two
        (0.25, 0.25),
        (0.125, 0.125),
    )
    shared_spread: bool = False  # level 0 has one s for the whole batch
    height: Literal["peak", "density"] = "peak"  # bumps of height 1, or of integral 1
    floor: Annotated[float, ">= 0"] = 0.0  # added to every bump
    grid: Resize = "centers"  # -1 and 1 are the borders of the image, or its outermost pixel centres
    render: Literal["feature", "image"] = "feature"  # each level at its own resolution, or all at the image's

    def __post_init__(self) -> None:
        if self.levels is not None:
            ascending(self.levels)
            for name in ("counts", "offset_scales", "spreads"):
                if len(getattr(self, name)) < len(self.levels):
                    raise ValueError(f"{name}: {list(getattr(self, name))}: must have an entry for each level")
        for low, high in self.spreads:
            if low > high:
                raise ValueError(f"spreads: {[low, high]}: must be [low, high]")

    @property
    def drawn(self) -> tuple[int, ...]:
        """`levels` of options that leave none to the backbone any more (`harness.training.arm.settled`)."""
        assert self.levels is not None
        return self.levels


RELEASE: dict[str, Any] = {
    "center_std": 0.33,
    "off_image": "clamp",
    "center_limit": 0.75,
    "offsets": "uniform",
    "offset_scales": [0.0, 0.4, 0.8],
    "spreads": [[0.5, 1.0], [0.1 / 1.4, 1.1 / 1.4], [0.05, 0.55]],
    "shared_spread": True,
    "floor": 0.01,
    "grid": "corners",
    "render": "image",
}


class Units(NamedTuple):
    """Raw draws of one level: `anchor` [N, 2] and `offsets` [N, n, 2] standard normal, or uniform on
    [0, 1) where the options ask for a bounded law; `spread` [N, n] (or [1, 1]: shared) uniform on [0, 1)."""

    anchor: Tensor
    offsets: Tensor
    spread: Tensor


class Regions(NamedTuple):
    """Per level: `centers` [N, n, 2] and `spreads` s, broadcastable to [N, n]."""

    centers: dict[int, Tensor]
    spreads: dict[int, Tensor]


def draw(options: HeatmapOptions, n: int, rng: torch.Generator) -> dict[int, Units]:
    """The raw draws of n heatmaps, level by level. How many there are depends on n and the options only,
    and every level draws an anchor, so the two region samplers see the same numbers."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=rng, device=rng.device, dtype=torch.float32)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, device=rng.device, dtype=torch.float32)

    units = {}
    for i, (level, count) in enumerate(zip(options.drawn, options.counts, strict=False)):
        anchor = (uniform if options.off_image == "redraw" else normal)(n, 2)
        offsets = (uniform if options.offsets == "uniform" else normal)(n, count, 2)
        spread = uniform(1, 1) if i == 0 and options.shared_spread else uniform(n, count)
        units[level] = Units(anchor, offsets, spread)
    return units


def regions(options: HeatmapOptions, units: dict[int, Units]) -> Regions:
    """Centres and spreads from raw draws (section 4.1).

    Hierarchical: every centre is placed about the level-0 centre. Non-hierarchical: each level
    has an anchor of its own with the same law, so each level looks the same as before and only
    their dependence is gone.
    """
    centers, spreads = {}, {}
    common = _anchor(options, units[options.drawn[0]].anchor)
    for i, level in enumerate(options.drawn):
        unit = units[level]
        anchor = common if options.sampler == "hierarchical" else _anchor(options, unit.anchor)
        offsets = 2 * unit.offsets - 1 if options.offsets == "uniform" else unit.offsets
        centers[level] = anchor[:, None] + options.offset_scales[i] * offsets
        low, high = options.spreads[i]
        spreads[level] = low + (high - low) * unit.spread
    return Regions(centers, spreads)


def _anchor(options: HeatmapOptions, unit: Tensor) -> Tensor:
    """Level-0 centres [N, 2] from their raw draws."""
    limit = options.center_limit
    if options.off_image == "redraw":
        # Redrawing until it fits is a truncated normal in each coordinate; its inverse CDF needs
        # one draw whatever the outcome.
        scale = options.center_std * math.sqrt(2)
        return (scale * torch.erfinv((2 * unit - 1) * math.erf(limit / scale))).clamp(-limit, limit)
    center = options.center_std * unit
    return center.clamp(-limit, limit) if options.off_image == "clamp" else center


def sample_regions(options: HeatmapOptions, n: int, rng: torch.Generator) -> Regions:
    """The regions that `sample` renders, for editing. ValueError for a sampler without regions."""
    if options.sampler not in ("hierarchical", "non_hierarchical"):
        raise ValueError(f"sampler: {options.sampler!r}: has no regions to place")
    return regions(options, draw(options, n, rng))


def shift(regions: Regions, by: Tensor, levels: Iterable[int] | None = None) -> Regions:
    """Move the centres of `levels` (None: the level-0 centre, and so all levels with it) by the
    vector(s) `by` [2] or [N, 2]."""
    chosen = set(regions.centers if levels is None else levels)
    step = by.reshape(-1, 1, 2)
    return regions._replace(centers={k: c + step if k in chosen else c for k, c in regions.centers.items()})


def render(options: HeatmapOptions, regions: Regions, resolution: int) -> Heatmaps:
    """Eq. 2: one channel per region, {level: [N, n, r, r]}, r by `options.render` and image `resolution`."""
    maps = {}
    for level, center in regions.centers.items():
        spread = regions.spreads[level]
        axis = _axis(side(options, level, resolution), options.grid, center)
        # exp of a sum of squares is a product: two vectors per region instead of a plane of exponentials.
        rows, columns = torch.exp(-((axis - center[..., None]) ** 2) / spread[..., None, None]).unbind(-2)
        bumps = rows[..., :, None] * columns[..., None, :]
        if options.height == "density":
            bumps = bumps / (math.pi * spread[..., None, None])
        maps[level] = bumps + options.floor
    return maps


def _axis(size: int, grid: Resize, like: Tensor) -> Tensor:
    """Coordinates of `size` pixels along a side."""
    i = torch.arange(size, device=like.device, dtype=like.dtype)
    return 2 * i / (size - 1) - 1 if grid == "corners" else (2 * i + 1) / size - 1


def side(options: HeatmapOptions, level: int, resolution: int) -> int:
    """Pixels along a side of the heatmap of `level` for images of `resolution`."""
    return resolution if options.render == "image" else level


def channels(options: HeatmapOptions) -> dict[int, int]:
    """Channels of the heatmap of each level: its regions; 1 for the samplers without regions."""
    regional = options.sampler in ("hierarchical", "non_hierarchical")
    return {k: n if regional else 1 for k, n in zip(options.drawn, options.counts, strict=False)}


def sample(options: HeatmapOptions, n: int, resolution: int, rng: torch.Generator) -> Heatmaps:
    """n heatmaps for images of `resolution`, on the device of `rng`: {level: [N, channels, r, r]} float32.

    `gaussian_noise`: independent N(0, 1) pixels (Table 3). `constant`: 1, the height of a peak,
    everywhere; no place is told from another, and what is left of SEL is its capacity.
    """
    shapes = {k: (n, 1, s, s) for k in options.drawn for s in [side(options, k, resolution)]}
    if options.sampler == "gaussian_noise":
        return {
            k: torch.randn(shape, generator=rng, device=rng.device, dtype=torch.float32) for k, shape in shapes.items()
        }
    if options.sampler == "constant":
        return {k: torch.ones(shape, device=rng.device, dtype=torch.float32) for k, shape in shapes.items()}
    return render(options, sample_regions(options, n, rng), resolution)


def resize(maps: Tensor, size: int, mode: Resize) -> Tensor:
    """[N, C, h, w] -> [N, C, size, size], bilinear without antialiasing."""
    if maps.shape[-2:] == (size, size):
        return maps
    return F.interpolate(maps, size=(size, size), mode="bilinear", align_corners=mode == "corners")
