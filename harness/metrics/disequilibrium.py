"""The disequilibrium indicator DI (Sec. 3.3 of the paper) and what it hides; maths in `harness.evaluation.scores`.

`di` is the paper's estimator. `di_exact` is its expectation without resampling, and
`di_calibrated` is 0 at equilibrium whatever the scale of D's logits. Names ending in
`_heldout` use reals that D never saw: a gap to those of the training set is an overfitted D.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from harness import rng
from harness.errors import UserError
from harness.evaluation import scores
from harness.evaluation.evidence import Evidence, Heading, Needs, Record, Setting, record

LABELS = {"di": "DI", "di_calibrated": "calibrated DI", "di_exact": "exact DI"}
OF_SCORES = {"score_auc": "AUC of D", "score_gap": "score gap", "score_wasserstein": "W1 of scores"}
PAPER_DRAWS = (64, 200)  # images of either kind a draw, draws

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


def heading(name: str, protocol: Mapping[str, Any]) -> Heading | None:
    known = name.removesuffix("_heldout")
    label = {**LABELS, **OF_SCORES}.get(known)
    if label is None:
        return None
    label += ", held out" * (name != known)
    if name != "di":
        return Heading(role="equilibrium" if known in LABELS else "other", label=label)
    if (protocol.get("n"), protocol.get("repeats")) == PAPER_DRAWS:
        return Heading(role="equilibrium", label=label, headline=True, rank=0, paper="di")
    apart = "the paper's DI is a mean over 200 draws of 64 + 64 images: di is not comparable"
    return Heading(role="equilibrium", label=label, headline=True, rank=0, apart=apart)
