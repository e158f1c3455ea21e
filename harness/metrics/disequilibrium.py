"""The disequilibrium indicator DI (Sec. 3.3 of the paper) and what it hides; maths in `harness.scores`.

`di` is the paper's estimator. `di_exact` is its expectation without resampling, and
`di_calibrated` is 0 at equilibrium whatever the scale of D's logits. Names ending in
`_heldout` use reals that D never saw: a gap to those of the training set is an overfitted D.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from harness import rng, scores
from harness.errors import UserError
from harness.metrics import Evidence, Needs, Record, Setting, record

EPOCH = 1


@dataclass(frozen=True)
class Options:
    """`n` images of either kind a repeat."""

    n: Annotated[int, ">= 1"] = 64
    repeats: Annotated[int, ">= 2"] = 200


def needs(options: Options, setting: Setting) -> Needs:
    sizes = {"eval.num_fakes": setting.spec.num_fakes, "training images": len(setting.data.images)}
    if setting.heldout is not None:
        sizes["held-out images"] = len(setting.heldout.images)
    for name, size in sizes.items():
        if size < options.n:
            raise UserError(f"eval: metrics.disequilibrium.n: {options.n}: more than the {size} {name}; lower it")
    return Needs(scores=True)


def compute(evidence: Evidence, options: Options, setting: Setting) -> dict[str, Record]:
    fake = evidence.scores["fake"]
    records: dict[str, Record] = {}
    for split, tail in (("train", ""), ("heldout", "_heldout")):
        if split in evidence.scores:
            real = evidence.scores[split]
            protocol = setting.protocol(split) | {
                "num_fakes": len(fake),
                "num_reals": len(real),
                "n": options.n,
            }
            records |= {f"{k}{tail}": v for k, v in _of(real, fake, options, protocol, setting.seed).items()}
    return records


def _of(
    real: scores.Array, fake: scores.Array, options: Options, protocol: dict[str, Any], seed: int
) -> dict[str, Record]:
    n = options.n
    draws = np.random.default_rng(rng.derive(seed, "eval/di", protocol["split"]))
    paper = scores.sampled_di(real, fake, n, options.repeats, draws)
    exact, calibrated = scores.exact_di(real, fake, n), scores.calibrated_di(real, fake, n)
    auc, gap = scores.auc(real, fake), scores.gap(real, fake)
    std = scores.pooled_std(real, fake)
    fresh = min(len(real), len(fake)) >= n * options.repeats
    distance = scores.wasserstein(real, fake)
    return {
        "di": record(
            paper.value,
            "lower",
            protocol | {"repeats": options.repeats, "draws": "fresh" if fresh else "redrawn from the pools"},
            se=paper.se,
            pooled_std=std,
        ),
        "di_exact": record(
            exact.value,
            "lower",
            protocol | {"estimator": "exact expectation over the pools"},
            se=exact.se,
            exchangeable=scores.exchangeable_di(real, fake, n),
            std_of_one_repeat=float(np.sqrt(scores.di_variance(real, fake, n))),
        ),
        "di_calibrated": record(calibrated.value, "zero", protocol, se=calibrated.se),
        "score_auc": record(auc.value, "lower", protocol, se=auc.se, equilibrium=0.5),
        "score_gap": record(gap.value, "zero", protocol, se=gap.se, pooled_std=std),
        "score_wasserstein": record(distance, "lower", protocol, over_pooled_std=distance / std),
    }
