"""L_align (eq. 4): G is trained to be attended to by D where its heatmap says.

Defaults are the paper's text, `PROFILES["release"]` is the released code; docs/method.md
compares them choice by choice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from harness.errors import UserError
from harness.method import attention, heatmaps
from harness.method.generator import Fakes
from harness.method.hooks import GStep, Hooks, Memory, Term

EPOCH = 1


@dataclass(frozen=True)
class Options:
    profile: Literal["paper", "release"] = "paper"
    weight: Annotated[float, ">= 0"] = 1.0  # of L_align beside the GAN loss
    levels: tuple[Annotated[int, ">= 2"], ...] | None = (4, 8, 16)  # None: the backbone's own
    level_weights: tuple[Annotated[float, ">= 0"], ...] = (1.0, 1.0, 1.0)
    objective: attention.Objective = "logit"  # what GradCAM differentiates
    rectify: attention.Rectify = "after_sum"  # where its ReLU stands
    differentiate_weights: bool = False  # let G's gradient pass through GradCAM's weights too
    compare_at: Literal["feature", "image"] = "feature"  # resolution of the comparison
    resize: heatmaps.Resize = "centers"  # of maps that have another resolution
    normalize: attention.Normalize = "minmax"  # of D's attention
    regions: Literal["sum", "mean"] = "sum"  # how the regions of a level become one map
    normalize_heatmaps: Literal["all", "finer", "none"] = "all"  # which levels' heatmaps are scaled to [0, 1]
    tau: Annotated[float, ">= 0"] = 0.25
    truncate: attention.Truncate = "zero_below"  # what happens to differences up to tau

    def __post_init__(self) -> None:
        if self.levels is not None:
            heatmaps.ascending(self.levels)
            if len(self.level_weights) < len(self.levels):
                raise ValueError(f"level_weights: {list(self.level_weights)}: must have an entry for each level")

    @property
    def compared(self) -> tuple[int, ...]:
        """`levels` of options that leave none to the backbone any more (`harness.training.arm.settled`)."""
        assert self.levels is not None
        return self.levels


PROFILES = {
    "paper": {},
    "release": {
        "objective": "softplus",
        "rectify": "per_channel",
        "compare_at": "image",
        "resize": "corners",
        "regions": "mean",
        "normalize_heatmaps": "finer",
        "truncate": "mean_above",
    },
}
REQUIRES = ("heatmaps",)
LEVELS = {"levels": None}


def check(options: Options, others: Mapping[str, Any]) -> None:
    """Only levels that another variant draws heatmaps of can be aligned."""
    drawn = next((other.heatmaps.levels for other in others.values() if hasattr(other, "heatmaps")), ())
    for level in options.levels or ():
        if drawn is not None and level not in drawn:
            raise ValueError(f"levels: {level}: no such heatmap is drawn; choose among {list(drawn)}")


def hooks(options: Options, resolution: int) -> "Alignment":
    """The alignment term for images of `resolution`. UserError where a level is not below it."""
    if options.compared[-1] >= resolution:
        raise UserError(
            f"variants.align.levels: {options.compared[-1]}: must be below the image resolution {resolution}"
        )
    return Alignment(options, resolution)


class Alignment(Hooks):
    """Eq. 4 summed over levels, added to G's loss. Parts: `align`, for each level `align/4`, ..., unweighted, and
    `align_empty/4`, ...: the share of fakes whose attention is 0 everywhere and so gives G no gradient."""

    def __init__(self, options: Options, resolution: int) -> None:
        self.options = options
        self.resolution = resolution
        self.taps = tuple(str(level) for level in options.compared)

    def g_term(self, step: GStep, memory: Memory) -> Term:
        return self.term(step.logits, step.feats, step.fakes)

    def term(self, logits: Tensor, feats: dict[str, Tensor], fakes: Fakes) -> Term:
        """The loss of fakes from logits [N] and feats {tap: [N, C, h, h]} of one pass of D, all in the graph."""
        o = self.options
        given = fakes.heatmaps or {}
        for level in o.compared:
            if level not in given:
                raise UserError(f"variants.align.levels: {level}: no such heatmap; drawn: {sorted(given)}")
        with torch.autocast(logits.device.type, enabled=False):
            maps = attention.gradcam(
                logits,
                {level: feats[str(level)] for level in o.compared},
                objective=o.objective,
                rectify=o.rectify,
                differentiate=o.differentiate_weights,
            )
            seen = {k: self.attended(maps[k]) for k in o.compared}
            losses = [
                attention.alignment(seen[k], self.target(k, given[k], maps[k]), o.tau, o.truncate) for k in o.compared
            ]
            total = o.weight * torch.stack([w * x for w, x in zip(o.level_weights, losses, strict=False)]).sum()
        # In the order of their making: the first part that is not finite is the one to blame.
        parts = {f"align_empty/{k}": attention.empty(seen[k]).mean() for k in o.compared}
        parts |= {f"align/{k}": loss.detach() for k, loss in zip(o.compared, losses, strict=True)}
        return Term(total, {**parts, "align": total.detach()})

    def attended(self, attention_map: Tensor) -> Tensor:
        """D's attention [N, 1, h, h] as it is compared."""
        size = self._size(attention_map)
        return attention.normalize(heatmaps.resize(attention_map, size, self.options.resize), self.options.normalize)

    def target(self, level: int, regions: Tensor, attention_map: Tensor) -> Tensor:
        """The heatmap [N, n, r, r] of `level` as it is compared: [N, 1, size, size]."""
        o = self.options
        h = regions.sum(dim=1, keepdim=True) if o.regions == "sum" else regions.mean(dim=1, keepdim=True)
        h = heatmaps.resize(h, self._size(attention_map), o.resize)
        scaled = o.normalize_heatmaps == "all" or o.normalize_heatmaps == "finer" and level != o.compared[0]
        return attention.normalize(h) if scaled else h

    def _size(self, attention_map: Tensor) -> int:
        return self.resolution if self.options.compare_at == "image" else attention_map.shape[-1]
