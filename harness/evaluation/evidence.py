"""What a metric asks of the one pass and what it is given; the protocol and record of each number.

Several metrics and several protocols share one pass (`harness.evaluation.evaluate`): every image is
made, read and passed through an extractor once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from harness.errors import Diverged, UserError
from harness.evaluation.frechet import Moments

if TYPE_CHECKING:
    from harness.data.imageset import ImageSet
    from harness.evaluation.features import Extractor
    from harness.experiment.spec import Eval

Record = dict[str, Any]
"""{"value", "se", "better": "lower|higher|zero", "protocol": {...}, "extra": {...}}, plain JSON; after the pass with
its `Heading` beside these, and its "measure" (`harness.evaluation.measures`)."""


class Heading(TypedDict, total=False):
    """How a table presents a record. A metric's file says it, every record of a result carries it.

    role: a distance to the data, a state of the game between G and D, or something else. label: what a person calls
    it (its name, where none is given). headline: whether it may stand in the first columns of a table, to which each
    role gives the one of least `rank`, by name where ranks are equal. paper: the paper's name for a figure measured
    in just this way, "fid" or "di"; apart: why the paper's figures do not stand beside it. features: how many
    features a distance takes the covariance of; of no more images than that the covariance lacks rank, and a
    distance is biased.
    """

    role: Literal["distance", "equilibrium", "other"]
    label: str
    headline: bool
    rank: int
    paper: str
    apart: str
    features: int


def headed(name: str, record: Record, heading: Heading | None) -> Record:
    """`record` with what the metric's file says of it; where that says nothing it is a figure among others."""
    return {"role": "other", "label": name, "headline": False, **(heading or {}), **record}


@dataclass(frozen=True)
class Protocol:
    """How many fakes meet how many reals. None: `eval.num_fakes` and `eval.num_reals`.

    split: "train" is the whole training split, whatever was trained on; "trained" the images that training saw.
    """

    num_fakes: int | None = None
    num_reals: int | None = None
    split: Literal["train", "trained", "heldout"] = "train"


class Comparison(NamedTuple):
    """A protocol with its counts known; `whole`: all reals of the split, `held_out` of which are left out of it."""

    num_fakes: int
    num_reals: int
    split: str
    whole: bool
    held_out: int = 0

    @property
    def suffix(self) -> str:
        """The tail of a record's name: "50k_full", "50k_full_less_heldout", "50k_trained", "10k_heldout",
        "5k_train10k"."""
        if not self.whole:
            return f"{short(self.num_fakes)}_{self.split}{short(self.num_reals)}"
        full = "full_less_heldout" if self.held_out else "full"
        return f"{short(self.num_fakes)}_{full if self.split == 'train' else self.split}"


@dataclass(frozen=True, order=True)
class Sample:
    """The first `count` images of a source, seen through one layer of an extractor.

    source: "fakes", or a protocol's split; layer: "pooled", or "logits" where the extractor has them.
    """

    source: str
    count: int
    extractor: "Extractor"
    layer: str = "pooled"


class Needs(NamedTuple):
    """What a metric asks of the pass: running moments, kept features, D's raw scores."""

    moments: tuple[Sample, ...] = ()
    features: tuple[Sample, ...] = ()
    scores: bool = False


@dataclass
class Evidence:
    """What the pass gathered. Features are float32 [count, D]; scores float64 [N] by the names
    "fake", "train" and, where the data has held-out images, "heldout". `about` describes each
    extractor: name, checksum of its weights, resize."""

    moments: dict[Sample, Moments] = field(default_factory=dict)
    features: dict[Sample, NDArray[np.float32]] = field(default_factory=dict)
    scores: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    about: dict["Extractor", dict[str, Any]] = field(default_factory=dict)

    def update(self, other: "Evidence") -> None:
        """Take in what another part of the pass gathered."""
        for name in ("moments", "features", "scores", "about"):
            getattr(self, name).update(getattr(other, name))


@dataclass(frozen=True)
class Setting:
    """What is being scored, and how: the same for all metrics of one pass."""

    spec: "Eval"
    data: "ImageSet"
    heldout: "ImageSet | None"
    seed: int = 0
    conditional: bool = False
    weights_used: str = "raw"

    def comparisons(self, protocols: tuple[Protocol, ...]) -> list[Comparison]:
        """The protocols (none given: the one of `eval`) with their counts, checked against the data."""
        return [self._comparison(p) for p in protocols or (Protocol(),)]

    def reals(self, split: str) -> "ImageSet | None":
        """The images that a protocol's split stands for. What was trained on is no limit but to "trained"."""
        if split == "trained":
            return self.data
        images = self.heldout if split == "heldout" else self.data
        return None if images is None else images.whole

    def _comparison(self, protocol: Protocol) -> Comparison:
        images = self.reals(protocol.split)
        if images is None:
            raise UserError("eval: split: 'heldout': this dataset has no held-out images; use split: train")
        available = len(images.images)
        fakes = protocol.num_fakes or self.spec.num_fakes
        reals = protocol.num_reals or (self.spec.num_reals if protocol.split == "train" else None) or available
        if fakes > self.spec.num_fakes:
            raise UserError(
                f"eval: num_fakes: a protocol compares {fakes} fakes, but {self.spec.num_fakes} are made; "
                f"raise eval.num_fakes to {fakes}"
            )
        if reals > available:
            raise UserError(
                f"eval: num_reals: {reals} are asked, the {protocol.split} split has {available}; "
                "lower the number, or leave it out to use all"
            )
        if min(fakes, reals) < 2:
            raise UserError(f"eval: {fakes} fakes against {reals} reals: both must be at least 2")
        held_out = images.held_out if protocol.split == "train" else 0
        return Comparison(fakes, reals, protocol.split, reals == available, held_out)

    def protocol(self, split: str = "train", images: "ImageSet | None" = None) -> dict[str, Any]:
        """The part of a record's protocol that all metrics share; `split` is the one compared with, `images` are its
        (None: those that D was trained on, or of the held-out ones those at hand)."""
        if images is None:
            images = self.heldout if split == "heldout" and self.heldout is not None else self.data
        return {
            "weights": self.weights_used,
            "seed": self.seed,
            "conditional": self.conditional,
            "batch_size": self.spec.batch_size,
            "images": "uint8" if images.channels == 3 else "uint8 grey, for extractors repeated to three channels",
            "precision": "float32",
            "split": split,
            "dataset": images.fingerprint,
        }


def record(
    value: float,
    better: Literal["lower", "higher", "zero"],
    protocol: Mapping[str, Any],
    *,
    se: float | None = None,
    **extra: Any,
) -> Record:
    """One scored number. Raises Diverged if it is not finite."""
    if not np.isfinite(value):
        raise Diverged(f"metric: a value is {value}; protocol {dict(protocol)}")
    return {
        "value": float(value),
        "se": None if se is None else float(se),
        "better": better,
        "protocol": dict(protocol),
        "extra": extra,
    }


def short(count: int) -> str:
    """50000 -> "50k", 1500 -> "1500"."""
    return f"{count // 1000}k" if count % 1000 == 0 else str(count)
