"""L_align (eq. 4): G is trained to be attended to by D where its heatmap says.

Defaults are the paper's text, `PROFILES["coherent"]` is the reading under which the paper's sentences hold together,
`PROFILES["release"]` the released code; docs/method.md compares them choice by choice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from harness.errors import UserError
from harness.method import attention, gradients, heatmaps
from harness.method.generator import Fakes
from harness.method.hooks import GStep, Hooks, Memory, Term

EPOCH = 1


@dataclass(frozen=True)
class Options:
    profile: Literal["paper", "coherent", "release"] = "paper"
    weight: Annotated[float, ">= 0"] = 1.0  # of L_align beside the GAN loss
    warmup_kimg: Annotated[float, ">= 0"] = 0.0  # over which it rises linearly from 0
    max_ratio: Annotated[float, "> 0"] | None = None  # it is lowered so that |dL_align/dx| <= max_ratio |dL_G/dx|
    ratio_every: Annotated[int, ">= 1"] = 8  # steps from one measurement of these gradients to the next
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
    # Maps that are alike when D is minimised instead, and none of them empty; a gradient along G's own loss.
    # The bound was chosen by measurement (docs/study.md, "The defaults").
    "coherent": {"objective": "softplus", "rectify": "per_channel", "max_ratio": 0.1},
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


def told(options: Options, curves: Mapping[str, Any]) -> str | None:
    """What one must know of an arm whose last tick had these `curves`, {name: value}: that at some level most of the
    fakes have an empty map, so that L_align asks nothing of them there."""
    shares = {name.rpartition("/")[2]: v for name, v in curves.items() if name.startswith("loss/align_empty/")}
    empty = [f"{share:.0%} at {k}x{k}" for k, share in shares.items() if isinstance(share, float) and share > 0.5]
    if not empty:
        return None
    cure = "; with `align: {profile: coherent}` no map is empty" if options.rectify == "after_sum" else ""
    return f"D's attention is 0 everywhere on most fakes ({', '.join(empty)}), where L_align has no gradient{cure}"


def hooks(options: Options, resolution: int) -> "Alignment":
    """The alignment term for images of `resolution`. UserError where a level is not below it."""
    if options.compared[-1] >= resolution:
        raise UserError(
            f"variants.align.levels: {options.compared[-1]}: must be below the image resolution {resolution}"
        )
    return Alignment(options, resolution)


_RAW = ("raw/gradient", "raw/gan_gradient", "raw/cosine")  # of a microbatch: gradients.Beside


class Alignment(Hooks):
    """Eq. 4 summed over levels, added to G's loss. Parts: `align`, for each level `align/4`, ..., unweighted, and
    `align_empty/4`, ...: the share of fakes whose attention is 0 everywhere and so gives G no gradient.

    In measured steps (every `ratio_every` with `max_ratio`, else before ticks) `ratio`: |dL_align/dx| at weight 1 over
    |dL_G/dx|, x all fakes of the step, and `cosine` between the two. Where the weight moves, `weight` as applied: in a
    measured step each microbatch keeps to `max_ratio` itself, and so does the whole, which is made of other images.
    Memory, with `max_ratio`: the ratio measured `last`, and a `smooth` one; 0 before there is one."""

    def __init__(self, options: Options, resolution: int) -> None:
        self.options = options
        self.resolution = resolution
        self.taps = tuple(str(level) for level in options.compared)

    def memory(self) -> Memory:
        return {} if self.options.max_ratio is None else {"last": torch.zeros(()), "smooth": torch.zeros(())}

    def g_term(self, step: GStep, memory: Memory) -> Term:
        o = self.options
        loss, maps, parts = self._loss(step.logits, step.feats, step.fakes)
        full = o.weight * min(1.0, step.nimg / (1000 * o.warmup_kimg)) if o.warmup_kimg else o.weight
        due = step.tick if o.max_ratio is None else step.past % o.ratio_every == 0
        weight = None
        if due:
            found = gradients.beside(loss, maps, step.gan, [step.logits], step.fakes.images)
            parts |= dict(zip(_RAW, found, strict=True))
        if o.max_ratio is not None and due:
            weight = gradients.bounded(full, o.max_ratio, found)
        elif o.max_ratio is not None:
            weight = gradients.reckoned(full, o.max_ratio, memory["last"], memory["smooth"])
        elif o.warmup_kimg:
            weight = loss.new_full((), full)
        return self._weighted(loss, parts if weight is None else {**parts, "weight": weight}, weight)

    def whole(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        if _RAW[0] not in parts:
            return {}
        found = gradients.joined(gradients.Beside(*(parts[name] for name in _RAW)))
        return {"ratio": found.ratio, "cosine": found.cosine}

    def learn(
        self, memory: Memory, real: Tensor, fake: Tensor, parts: dict[str, Tensor], shown: int, nimg: int
    ) -> Memory:
        if self.options.max_ratio is None or not (measured := self.whole(parts)):
            return memory
        last, smooth = gradients.remembered(memory["last"], memory["smooth"], measured["ratio"])
        return {"last": last, "smooth": smooth}

    def term(self, logits: Tensor, feats: dict[str, Tensor], fakes: Fakes) -> Term:
        """The loss of fakes from logits [N] and feats {tap: [N, C, h, h]} of one pass of D, all in the graph, at its
        full weight."""
        loss, _, parts = self._loss(logits, feats, fakes)
        return self._weighted(loss, parts)

    def _weighted(self, loss: Tensor, parts: dict[str, Tensor], lowered: Tensor | None = None) -> Term:
        o = self.options
        total = o.weight * loss if lowered is None else lowered * loss
        return Term(total, {**parts, "align": total.detach()})

    def _loss(
        self, logits: Tensor, feats: dict[str, Tensor], fakes: Fakes
    ) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        """(L_align at weight 1, D's attention by level, its parts)."""
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
            loss = torch.stack([w * x for w, x in zip(o.level_weights, losses, strict=False)]).sum()
        # In the order of their making: the first part that is not finite is the one to blame.
        parts = {f"align_empty/{k}": attention.empty(seen[k]).mean() for k in o.compared}
        parts |= {f"align/{k}": x.detach() for k, x in zip(o.compared, losses, strict=True)}
        return loss, [maps[k] for k in o.compared], parts

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
