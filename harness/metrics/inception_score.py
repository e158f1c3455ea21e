"""Inception Score (Salimans et al. 2016), as torch-fidelity takes it: 10 splits of shuffled fakes."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from harness.errors import UserError
from harness.evaluation.evidence import Evidence, Needs, Record, Sample, Setting, record, short
from harness.evaluation.features import INCEPTION

EPOCH = 1


@dataclass(frozen=True)
class Options:
    splits: Annotated[int, ">= 1"] = 10
    rng_seed: Annotated[int, ">= 0"] = 2020
    weights: Literal["published", "any"] = "published"


def needs(options: Options, setting: Setting) -> Needs:
    sample = _sample(options, setting)
    if sample.count < options.splits:
        raise UserError(f"eval: metrics.inception_score.splits: {options.splits}: more than {sample.count} fakes")
    return Needs(features=(sample,))


def compute(evidence: Evidence, options: Options, setting: Setting) -> dict[str, Record]:
    """`inception_score50k`: mean over the splits; the error is that of this mean."""
    sample = _sample(options, setting)
    values = split_scores(torch.from_numpy(evidence.features[sample]), options.splits, options.rng_seed)
    protocol = (
        setting.protocol() | evidence.about[sample.extractor] | {"num_fakes": sample.count, "splits": options.splits}
    )
    name = "inception_score" + ("" if options.weights == "published" else "_any_weights_") + short(sample.count)
    error = values.std() / np.sqrt(len(values))
    return {name: record(values.mean(), "higher", protocol, se=error, std_over_splits=float(values.std()))}


def split_scores(logits: Tensor, splits: int, seed: int) -> np.ndarray:
    """exp of the mean KL divergence from p(class | image) to its split's mean, of each split.

    logits [N, classes] are shuffled first, by the generator that torch-fidelity uses.
    """
    order = np.random.RandomState(seed).permutation(len(logits))  # noqa: NPY002 (part of the protocol)
    log_p = logits[torch.from_numpy(order)].double().log_softmax(1)
    edges = [i * len(log_p) // splits for i in range(splits + 1)]
    scores = []
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        part = log_p[start:end]
        divergence = (part.exp() * (part - part.exp().mean(0).log())).sum(1)
        scores.append(float(divergence.mean().exp()))
    return np.array(scores)


def _sample(options: Options, setting: Setting) -> Sample:
    return Sample("fakes", setting.spec.num_fakes, replace(INCEPTION, weights=options.weights), "logits")
