"""The readings of L_align on a trained model, and the table that lays them side by side."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness import plugins
from harness.evaluation import readings
from harness.method.heatmaps import HeatmapOptions
from harness.method.hooks import ArmHooks, per_logit
from harness.method.losses import ADVERSARIAL
from harness.report.tables import Grid
from harness.training.arm import settled
from harness.training.model import Trained

Found = Mapping[str, Mapping[str, Any]]
NOTES = (
    "a reading: the scalar that GradCAM differentiates and what makes a map of the weighted channels, the rest as in "
    "the profile paper; release: the released code whole. All on the same images and heatmaps, with weight 1",
    "signs: correlation of the maps of D and of -D, over the maps that have contrast: the paper finds them alike",
    "empty: the share of fakes whose map is 0 everywhere; peaks: local maxima of a fake's map",
    "ratio: |dL_align/dx| to |dL_G/dx| of a fake x, the median; batch: of the norms over a whole batch, which "
    "max_ratio bounds; cosine: of the two, the mean over fakes, negative where L_align pulls against G's own loss",
)


def of_model(
    model: Trained, sampler: HeatmapOptions | None, levels: tuple[int, ...], *, count: int, device: str
) -> dict[str, dict[str, dict[str, Any]]]:
    """`harness.evaluation.readings.compare` of one model, with the GAN loss that it was trained with."""
    trial = settled(model.trial, model.d)
    shelf = {v.name: (plugins.find("harness.variants", v.name), v.options) for v in trial.variants}
    hooks = ArmHooks(
        {name: m.hooks(options, model.data.resolution) for name, (m, options) in shelf.items() if hasattr(m, "hooks")}
    )
    return readings.compare(
        model.g, model.d, model.data, hooks, hooks.adversarial or per_logit(ADVERSARIAL[trial.train.loss]),
        levels=levels, sampler=sampler, count=count, batch_size=min(count, trial.eval.batch_size), seed=trial.seed,
        conditional=trial.conditional, device=device,
    )  # fmt: skip


def _levels(records: Mapping[str, Any]) -> list[int]:
    """Those at which a reading was measured, coarsest first."""
    return sorted(int(name.rpartition("/")[2]) for name in records if name.startswith("empty/fakes/"))


def grid(measured: Sequence[tuple[str, Found]]) -> Grid:
    """A row per model and reading."""
    at = " or ".join(dict.fromkeys("/".join(map(str, _levels(r))) for _, found in measured for r in found.values()))
    header = ("Arm", "reading", f"signs, reals {at}", f"signs, fakes {at}", f"empty {at}", f"peaks {at}",
              "ratio", "batch", "cosine")  # fmt: skip
    rows = []
    for label, found in measured:
        for i, (name, r) in enumerate(found.items()):
            by_level = [
                " ".join(_number(r[f"{key}/{level}"], digits) for level in _levels(r))
                for key, digits in (("signs/reals", 2), ("signs/fakes", 2), ("empty/fakes", 2), ("peaks/fakes", 1))
            ]
            rows.append(
                (label if not i else "", name, *by_level, *(_figure(r[k]) for k in ("ratio", "batch", "cosine")))
            )
    return Grid("Readings of L_align, side by side", header, tuple(rows), NOTES, 2)


def _number(record: Mapping[str, Any], digits: int) -> str:
    """`+0.31` of a correlation; `flat` where no map has contrast."""
    if record["value"] is None:
        return "flat"
    return f"{record['value']:.{digits}f}".replace("-", "−")


def _figure(record: Mapping[str, Any]) -> str:
    """Three significant digits; `none` where no gradient is left to compare."""
    value = record["value"]
    if value is None:
        return "none"
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 2
    return f"{value:.{min(digits, 4)}f}".replace("-", "−")
