"""How many of 1,000 equally likely modes a generator makes, on a stacked set (three labelled images as R, G, B).

A classifier that is right about each channel in 92 % of the cases is right about all three in 77 %, and its errors fall
into modes that the generator does not have: 100 modes are read as 562. The headline is therefore corrected: with the
confusion C of the classifier, measured on images that it never saw, the counts O of its readings (of each channel a
class and how sure it is, `harness.evaluation.classifier`) are explained by the shares p of the modes that make them
most likely,

    O[i,j,k] ~ sum over a,b,c of p[a,b,c] C[a,i] C[b,j] C[c,k],

by expectation maximisation (Dempster et al. 1977; Richardson 1972, Lucy 1974 for this very form). A mode counts where
its share exceeds 0.3 of the even one. Raw hits and divergences (Metz et al. 2017, https://arxiv.org/abs/1611.02163)
stand beside it, and so does what held-out reals of all modes give at the same number of images.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from harness.data.stacked import Stacked
from harness.errors import UserError
from harness.evaluation import classifier
from harness.evaluation.evidence import Evidence, Heading, Needs, Record, Sample, Setting, record, short
from harness.evaluation.features import Extractor

EPOCH = 2

THRESHOLD = 0.3  # of the even share
MISTAKES = 3  # of the classifier are named

Shares = NDArray[np.float64]


@dataclass(frozen=True)
class Options:
    em_steps: Annotated[int, ">= 1"] = 400


def needs(options: Options, setting: Setting) -> Needs:
    """What the classifier reads in all fakes and in as many held-out reals."""
    return Needs(features=_samples(setting))


def compute(evidence: Evidence, options: Options, setting: Setting) -> dict[str, Record]:
    """`modes50k`, `modes_kl50k` (corrected), `..._raw50k`, and `..._heldout50k`: the same of reals."""
    fakes, reals = _samples(setting)
    judge = classifier.load(fakes.extractor.weights)
    protocol = {
        **setting.protocol(),
        "num_fakes": fakes.count,
        "classifier": classifier.RECIPE,
        "readings": f"class, sure above {classifier.SURE}",
        "em_steps": options.em_steps,
        "threshold": THRESHOLD,
    }
    about = {"accuracy": judge.accuracy, "confusion": judge.confusion.tolist(), "classifier_sha256": judge.sha256}
    about["told"] = told(judge)
    found: dict[str, Record] = {}
    for whose, sample in (("", fakes), ("_heldout", reals)):
        log_p = evidence.features[sample].reshape(sample.count, 3, classifier.CLASSES)
        raw = table(log_p.argmax(2), classifier.CLASSES) / sample.count
        shares = corrected(table(classifier.readings(log_p), classifier.READINGS), judge.confusion, options.em_steps)
        tail = f"{whose}{short(sample.count)}"
        found |= {
            f"modes{tail}": record(float((shares > THRESHOLD / shares.size).sum()), "higher", protocol, **about),
            f"modes_kl{tail}": record(kl_to_even(shares), "lower", protocol),
            f"modes_raw{tail}": record(float((raw > 0).sum()), "higher", protocol),
            f"modes_kl_raw{tail}": record(kl_to_even(raw), "lower", protocol),
        }
    return found


def heading(name: str, protocol: Mapping[str, Any]) -> Heading | None:
    if not name.startswith("modes"):
        return None
    label = name.replace("modes_kl", "KL of modes").replace("_", " ")
    return Heading(role="other", label=label, headline=name == f"modes{short(protocol['num_fakes'])}", rank=1)


def told(judge: classifier.Classifier) -> str:
    """The line below a table: how often the classifier is right about images that it never saw, and what it mistakes
    most often."""
    taken = judge.confusion.reshape(classifier.CLASSES, classifier.CLASSES, -1).sum(2)
    wrong = taken * (1 - np.eye(classifier.CLASSES))
    worst = [divmod(int(i), classifier.CLASSES) for i in np.argsort(-wrong, axis=None, kind="stable")[:MISTAKES]]
    mistakes = ", ".join(f"{a} for {b} ({wrong[a, b]:.1%})" for a, b in worst)
    return (
        f"modes are read by a classifier that is right about {judge.accuracy:.1%} of the unseen images of one channel, "
        f"and so about all three in {judge.accuracy**3:.1%}; it most often takes class {mistakes}"
    )


def table(read: NDArray[np.int64], kinds: int) -> NDArray[np.float64]:
    """What was read in the three channels of N images, [N, 3] of 0 to kinds - 1 -> how often: [kinds, kinds, kinds]."""
    counts = np.zeros((kinds,) * 3)
    np.add.at(counts, tuple(read.T), 1)
    return counts


def corrected(counts: NDArray[np.float64], confusion: NDArray[np.float64], steps: int) -> Shares:
    """The shares [10, 10, 10] of the true modes behind `counts` [R, R, R], by `steps` steps of EM from even ones.

    `confusion` [10, R]: row, the true class of a channel; column, how often it gives each reading.
    """
    shares = np.full((len(confusion),) * 3, len(confusion) ** -3.0)
    total = counts.sum()
    for _ in range(steps):
        expected = _through(shares, confusion)
        ratio = np.divide(counts, expected * total, out=np.zeros_like(counts), where=counts > 0)
        shares = shares * _through(ratio, confusion.T)
    return shares / shares.sum()


def _through(x: NDArray[np.float64], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """x [A, A, A] with each axis multiplied by `matrix` [A, B]: sum over a,b,c of x[a,b,c] m[a,i] m[b,j] m[c,k]."""
    for axis in range(3):
        x = np.moveaxis(np.tensordot(x, matrix, (axis, 0)), -1, axis)
    return x


def kl_to_even(shares: Shares) -> float:
    """KL(p || uniform) in nats, of shares that sum to 1."""
    p = shares[shares > 0]
    return float((p * np.log(p * shares.size)).sum())


def _samples(setting: Setting) -> tuple[Sample, Sample]:
    """Of the fakes, and of as many held-out reals."""
    images, heldout = setting.data.images, setting.heldout
    if not isinstance(images, Stacked) or heldout is None:
        name = setting.data.about.get("name", "this dataset")
        raise UserError(f"eval: metrics.modes: {name} is no stacked set; use it with stacked_fashion_mnist")
    num_fakes = setting.spec.num_fakes
    if num_fakes > len(heldout):
        raise UserError(
            f"eval: num_fakes: {num_fakes}: metrics.modes compares them with as many held-out images, of which there "
            f"are {len(heldout)}; raise dataset.num_heldout"
        )
    extractor = Extractor("grey-classifier", images.shape[-1], classifier.named(images.grey, images.classes))
    return Sample("fakes", num_fakes, extractor, "log_p"), Sample("heldout", num_fakes, extractor, "log_p")
