"""Modes read through a classifier that errs: the correction against planted shares, and the classifier itself."""

from pathlib import Path

import numpy as np
import pytest
import torch

from harness.data.stacked import Stacked
from harness.datasets import _fashion_files
from harness.errors import UserError
from harness.evaluation import classifier
from harness.evaluation.evidence import Evidence, Setting
from harness.experiment.spec import Eval, Plugin
from harness.metrics import modes
from tests.contract import test_metrics as contract
from tests.contract.test_metrics import image_set


def confusion(right: float = 0.92) -> np.ndarray:
    """Errs towards the next two classes."""
    found = np.eye(10) * right
    for k in range(10):
        found[k, (k + 1) % 10] += (1 - right) * 0.7
        found[k, (k + 2) % 10] += (1 - right) * 0.3
    return found


def read(shares: np.ndarray, matrix: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Counts of what a classifier of that confusion reads in n images of these shares."""
    rng = np.random.default_rng(seed)
    seen = np.einsum("abc,ai,bj,ck->ijk", shares, matrix, matrix, matrix)
    return rng.multinomial(n, seen.ravel() / seen.sum()).reshape(10, 10, 10).astype(float)


def planted(k: int, seed: int) -> np.ndarray:
    shares = np.zeros(1000)
    shares[np.random.default_rng(seed).permutation(1000)[:k]] = 1 / k
    return shares.reshape(10, 10, 10)


@pytest.mark.parametrize("k", [100, 500, 693, 900, 1000])
def test_planted_modes_are_counted_at_fifty_thousand(k: int) -> None:
    counts = read(planted(k, k), confusion(), 50_000, k)
    shares = modes.corrected(counts, confusion(), 400)
    found = (shares > 0.3 / 1000).sum()
    assert abs(found - k) <= 0.12 * k
    assert abs(modes.kl_to_even(shares) - np.log(1000 / k)) <= 0.15
    if k <= 500:
        assert (counts > 0).sum() > 1.5 * k  # what is left out is what the raw count gets wrong


def test_the_correction_is_that_of_the_likelihood() -> None:
    """Each step of EM raises the likelihood, and a perfect classifier leaves the counts as they are."""
    counts = read(planted(300, 1), confusion(), 5_000, 2)

    def likelihood(shares: np.ndarray) -> float:
        seen = np.einsum("abc,ai,bj,ck->ijk", shares, *[confusion()] * 3)
        return float((counts * np.log(np.maximum(seen, 1e-300))).sum())

    found = [likelihood(modes.corrected(counts, confusion(), n)) for n in (1, 2, 5, 20, 100)]
    assert found == sorted(found)
    assert np.allclose(modes.corrected(counts, np.eye(10), 5), counts / counts.sum())


def test_kl_of_even_and_of_one_mode() -> None:
    assert modes.kl_to_even(np.full((10, 10, 10), 1e-3)) == pytest.approx(0, abs=1e-12)
    one = np.zeros((10, 10, 10))
    one[1, 2, 3] = 1
    assert modes.kl_to_even(one) == pytest.approx(np.log(1000))


def test_channels_are_read_in_order() -> None:
    assert modes.table(np.array([[7, 2, 4], [7, 2, 4], [0, 0, 1]]), 10)[[7, 0], [2, 0], [4, 1]].tolist() == [2, 1]


def test_a_reading_is_the_class_and_how_sure_it_is() -> None:
    p = np.full((3, 10), 0.001)
    p[0, 3], p[1, 3], p[2, 9] = 0.4, 0.8, 0.995
    assert classifier.readings(np.log(p)).tolist() == [15, 17, 49]


def test_sure_readings_tell_more_than_classes_alone() -> None:
    """The same classifier with and without knowing how sure it was: with it, the estimate of few modes is closer."""
    rng = np.random.default_rng(0)
    fine = np.zeros((10, 50))
    for a in range(10):
        fine[a, 5 * a + 4], fine[a, 5 * a], fine[a, 5 * ((a + 1) % 10)] = 0.8, 0.1, 0.1  # errors are never sure
    seen = np.einsum("abc,ai,bj,ck->ijk", planted(100, 0), fine, fine, fine)
    counts = rng.multinomial(20_000, seen.ravel() / seen.sum()).reshape(50, 50, 50).astype(float)
    coarse = counts.reshape(10, 5, 10, 5, 10, 5).sum((1, 3, 5))
    true = np.log(10)
    errors = [
        abs(modes.kl_to_even(modes.corrected(c, m, 100)) - true)
        for c, m in ((counts, fine), (coarse, fine.reshape(10, 10, 5).sum(2)))
    ]
    assert errors[0] < errors[1] / 2


def test_mistakes_too_rare_to_be_met_are_not_taken_for_modes() -> None:
    """A confusion from a thousand images a class misses many of its cells; the counts of far more fakes do not."""
    true = np.zeros((10, 50))
    for a in range(10):
        rare = np.random.default_rng(a).exponential(size=50) ** 3
        true[a] = 0.08 * rare / rare.sum()
        true[a, 5 * a : 5 * a + 5] += np.array([0.02, 0.03, 0.06, 0.11, 0.70])
    true /= true.sum(1, keepdims=True)
    errors = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        met = np.concatenate([rng.choice(50, 1000, p=row) for row in true])
        shares = planted(100, seed).ravel()
        classes = rng.choice(1000, 20_000, p=shares)[:, None] // [100, 10, 1] % 10
        read = (rng.random(classes.shape)[..., None] > true.cumsum(1)[classes]).sum(2).clip(max=49)
        known = classifier.confusion_of(np.repeat(np.arange(10), 1000), met)
        found = modes.corrected(modes.table(read, classifier.READINGS), known, 100)
        assert abs((found > 0.3 / 1000).sum() - 100) <= 3
        errors.append(modes.kl_to_even(found) - np.log(10))
    assert abs(np.mean(errors)) < 0.05


def drawn(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey images [n, 8, 8] whose class is their brightness: learnt in a few steps."""
    classes = np.arange(n, dtype=np.int64) % 10
    noise = np.random.default_rng(0).integers(0, 20, (n, 8, 8))
    return (classes[:, None, None] * 23 + noise).astype(np.uint8), classes


def test_a_classifier_is_made_once_and_judged_on_what_it_never_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path))
    monkeypatch.setattr(classifier, "BATCH_SIZE", 32)
    grey, classes = drawn(1200)
    steps: list[None] = []
    name = classifier.named(grey, classes)
    classifier.ready(name, lambda: steps.append(None))
    assert len(steps) == 3 * (1000 // 32)
    found = classifier.load(name)
    assert found.accuracy > 0.5 and np.allclose(found.confusion.sum(1), 1)
    with torch.inference_mode():
        log_p = found.network(torch.from_numpy(grey[1000:, None])).numpy()
    assert found.accuracy == pytest.approx((log_p.argmax(1) == classes[1000:]).mean())
    assert np.allclose(found.confusion, classifier.confusion_of(classes[1000:], classifier.readings(log_p)))

    steps.clear()
    classifier.ready(classifier.named(grey, classes), lambda: steps.append(None))
    assert not steps
    other = classes.copy()
    other[0] = (other[0] + 1) % 10
    assert classifier.named(grey, other) != name != classifier.named(grey[::-1], classes)


def test_a_spoilt_classifier_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path))
    monkeypatch.setattr(classifier, "EPOCHS", 1)
    grey, classes = drawn(600)
    name = classifier.named(grey, classes)
    path: Path = classifier.ready(name)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] + b"123456789")
    classifier.ready(name)
    assert path.read_bytes() == whole  # of one machine the same to the bit


def test_each_channel_is_read_by_itself() -> None:
    network = classifier.Network().eval()
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = network(images)
        parts = [network(images[:, c : c + 1]) for c in range(3)]
    assert torch.allclose(whole, torch.cat(parts, 1), atol=1e-5)


def test_the_records_are_of_fakes_of_reals_and_tell_of_the_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fakes of one mode beside reals of all, read without a mistake: each figure under its own name, and below a table
    what the classifier is right about and what it mistakes."""
    taken = np.zeros((10, 50))
    taken[np.arange(10), 5 * np.arange(10) + 4] = 1
    taken[6] = 0
    taken[6, [34, 4, 20]] = 0.8, 0.15, 0.05  # as itself, as class 0, as class 4
    judge = classifier.Classifier(classifier.Network(), taken, 0.9, "digest")
    monkeypatch.setattr(classifier, "load", lambda name: judge)
    case = contract.setting("modes")
    needs = modes.needs(modes.Options(), case)
    labels = {"fakes": np.full(contract.FAKES, 472), "heldout": np.arange(contract.FAKES) % 1000}
    evidence = Evidence()
    for sample in needs.features:
        of_channels = labels[sample.source][:, None] // [100, 10, 1] % 10
        log_p = np.full((sample.count, 3, 10), -9.0, np.float32)
        np.put_along_axis(log_p, of_channels[..., None], -1e-3, 2)
        evidence.features[sample] = log_p.reshape(sample.count, 30)
    records = modes.compute(evidence, modes.Options(), case)
    found = {name: record["value"] for name, record in records.items()}
    assert (found["modes1k"], found["modes_raw1k"], found["modes_raw_heldout1k"]) == (1, 1, 1000)
    assert found["modes_heldout1k"] >= 999
    assert found["modes_kl1k"] == found["modes_kl_raw1k"] == pytest.approx(np.log(1000))
    assert found["modes_kl_raw_heldout1k"] == pytest.approx(0)
    extra = records["modes1k"]["extra"]
    assert (extra["accuracy"], extra["confusion"]) == (0.9, taken.tolist())
    for words in ("90.0% of the unseen", "all three in 72.9%", "class 6 for 0 (15.0%), 6 for 4 (5.0%)"):
        assert words in extra["told"]


def test_what_it_can_not_count_is_one_line() -> None:
    spec = Eval((Plugin("modes", modes.Options()),), num_fakes=100)
    with pytest.raises(UserError, match="stacked_fashion_mnist"):
        modes.needs(modes.Options(), Setting(spec, image_set(5), image_set(5)))


@pytest.mark.slow
@pytest.mark.skipif(not _fashion_files.DEBIAN.exists(), reason="needs Debian's package dataset-fashion-mnist")
def test_planted_samplers_of_held_out_reals(capsys: pytest.CaptureFixture[str]) -> None:
    """Stacks of the 10,000 images that neither the classifier nor its confusion saw, k modes of them."""
    grey, classes, _ = _fashion_files.read(_fashion_files.FileOptions(), "train")
    judge = classifier.load(classifier.named(_fashion_files.sized(grey, "pad2")[:, 0], classes))
    unseen, true, _ = _fashion_files.read(_fashion_files.FileOptions(), "test")
    with torch.inference_mode():
        images = torch.from_numpy(_fashion_files.sized(unseen, "pad2"))
        log_p = torch.cat([judge.network(x) for x in images.split(500)]).numpy()
    by_class = [np.flatnonzero(true == k) for k in range(10)]
    lines = []
    for n in (50_000, 10_000):
        for k in (100, 500, 693, 900, 1000):
            for draw in range(3):
                rng = np.random.default_rng([k, draw])
                labels = rng.permutation(1000)[:k][rng.integers(0, k, n)]
                triples = Stacked(unseen, true, np.zeros((n, 3), np.int64)).triples
                for channel, digit in enumerate((labels // 100, labels // 10 % 10, labels % 10)):
                    for c in range(10):
                        rows = digit == c
                        triples[rows, channel] = rng.choice(by_class[c], rows.sum())
                read = log_p[triples]  # [n, 3, 10]
                counts = modes.table(read.argmax(2), 10)
                shares = modes.corrected(
                    modes.table(classifier.readings(read), classifier.READINGS), judge.confusion, 400
                )
                found, kl = (shares > modes.THRESHOLD / 1000).sum(), modes.kl_to_even(shares)
                raw = (counts > 0).sum(), modes.kl_to_even(counts / n)
                lines.append(f"{n:6} {k:5} {found:5} {kl:.3f} (true {np.log(1000 / k):.3f}) raw {raw[0]} {raw[1]:.3f}")
                if n == 50_000:
                    assert abs(found - k) <= 0.12 * k, lines[-1]
                    assert abs(kl - np.log(1000 / k)) <= 0.15, lines[-1]
    with capsys.disabled():
        print("\n     n modes found KL", *lines, sep="\n")
