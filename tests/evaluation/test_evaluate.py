"""The one pass: what it draws, what D and the extractors see, what it keeps, what it refuses."""

import functools
import hashlib
import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from backbones import sn_dcgan, stylegan2
from harness import plugins
from harness.data.imageset import ImageSet
from harness.datasets import synthetic
from harness.errors import Diverged, UserError
from harness.evaluation import collect, evaluate, fakes, frechet, scores, shares
from harness.evaluation import features as _features
from harness.evaluation import reals as _reference
from harness.evaluation.evidence import Sample
from harness.evaluation.frechet import Moments, distance
from harness.experiment.schema import parse
from harness.experiment.spec import Eval, Plugin
from harness.method.generator import SpatialGenerator

SIZE = 32  # of the extractor's input: fast


def metric(name, **options):
    return Plugin(name, parse(plugins.find("harness.metrics", name).Options, options, name))


def spec(*metrics, **fields):
    default = (metric("fd_efficientnet_lite0", size=SIZE), metric("disequilibrium", n=16, repeats=20))
    return Eval(metrics or default, **{"num_fakes": 40, "batch_size": 16, **fields})


@pytest.fixture(scope="module")
def data():
    return synthetic.load(synthetic.Options(num_images=100))


@pytest.fixture(scope="module")
def heldout():
    return synthetic.load(synthetic.Options(num_images=50), "test")


@pytest.fixture
def model():
    torch.manual_seed(0)
    g, d = sn_dcgan.build(sn_dcgan.Options(width=0.125, z_dim=16), 32, 0)
    return SpatialGenerator(g), d


@pytest.fixture
def score(model, data, heldout, tmp_path):
    def run(scored, **over):
        defaults = {"seed": 3, "conditional": False, "device": "cpu", "cache": tmp_path, "weights_used": "raw"}
        kept = {"data": data, "heldout": heldout, "model": model, **over}
        g, d = kept.pop("model")
        return evaluate.evaluate(g, d, kept.pop("data"), kept.pop("heldout"), scored, **{**defaults, **kept})

    return run


def test_records_of_a_pass(score):
    told = []
    records = score(spec(), progress=lambda done, total: told.append((done, total)))
    json.dumps(records)
    assert {"fd_efficientnet_lite0_32px_40_full", "di", "di_exact", "di_calibrated", "di_heldout"} <= set(records)
    assert (
        records["di"]["protocol"] | {"weights": "raw", "batch_size": 16, "n": 16, "repeats": 20}
        == (records["di"]["protocol"])
    )
    assert records["di"]["se"] > 0
    # 40 fakes, 100 reals through the extractor, 40 reals and 40 held-out reals through D
    assert told[-1] == (220, 220)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_same_seed_same_numbers_other_seed_other_numbers(score):
    assert score(spec()) == score(spec())
    assert score(spec())["di_exact"]["value"] != score(spec(), seed=4)["di_exact"]["value"]


def test_a_batch_depends_on_seed_and_index_alone(model):
    g, _ = model
    g.eval()
    few, many = (list(fakes.fake_batches(g, count, 16, seed=0, labels=None, device="cpu")) for count in (20, 60))
    assert [len(images) for images, _ in many] == [16] * 4  # whole batches only
    assert torch.equal(few[1][0], many[1][0])
    assert not torch.equal(many[0][0], many[1][0])


def test_several_protocols_from_one_pass(score, data, model):
    asked = [{}, {"num_fakes": 30, "num_reals": 50}, {"num_fakes": 20, "split": "heldout"}]
    records = score(spec(metric("fd_efficientnet_lite0", size=SIZE, protocols=asked)))
    names = [f"fd_efficientnet_lite0_32px_{x}" for x in ("40_full", "30_train50", "20_heldout")]
    assert list(records) == names
    # Each equals the distance computed from the images themselves.
    g, _ = model
    g.eval()
    with torch.no_grad():
        batches = [images for images, _ in fakes.fake_batches(g, 40, 16, seed=3, labels=None, device="cpu")]
    made = torch.cat(batches)[:30]
    reals = torch.from_numpy(data.images[_reference.chosen(100, 50)])
    network = _features.load(replace(_features.EFFICIENTNET_LITE0, size=SIZE), ("pooled",), "cpu")
    first, second = (Moments.of(network.layers(x)["pooled"]) for x in (made, reals))
    assert records[names[1]]["value"] == pytest.approx(distance(first, second), rel=1e-4)


def test_d_and_extractors_see_the_same_quantised_images(score, model, monkeypatch):
    _, d = model
    seen = []
    d.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    extracted = []
    add = fakes.Collector.add

    def noting(self, images):
        extracted.append(images)
        add(self, images)

    monkeypatch.setattr(fakes.Collector, "add", noting)
    score(spec())
    for images in seen:
        levels = (images + 1) * 127.5
        assert torch.allclose(levels, levels.round(), atol=1e-4)
    given = torch.cat([fakes.to_uint8(x) for x in seen[:3]])[:40]  # fakes come first
    assert torch.equal(given, torch.cat(extracted[-3:]))


def test_quantisation_rounds_and_inverts():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(fakes.to_uint8(fakes.to_float(levels)), levels)
    assert fakes.to_uint8(torch.tensor([-1.5, 1.5, -1 + 0.4 / 127.5])).tolist() == [0, 255, 0]


def test_scoring_changes_no_state(score, model):
    g, d = model
    g.train(), d.train()
    before = {k: v.clone() for m in model for k, v in m.state_dict().items()}
    score(spec())
    assert all(m.training for module in model for m in module.modules())
    after = {k: v for m in model for k, v in m.state_dict().items()}
    assert all(torch.equal(v, after[k]) for k, v in before.items())


def test_scores_come_from_whole_batches_of_one_size(data):
    """StyleGAN2's D compares the images of a batch: the last, partial one must not be smaller."""
    torch.manual_seed(0)
    _, d = stylegan2.build(
        stylegan2.Options(z_dim=8, w_dim=8, mapping_layers=2, channel_base=128, channel_max=8), 32, 0
    )
    sizes = []
    d.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    found = evaluate.score_reals(d, data.images, None, 40, batch_size=16, seed=0, device="cpu")
    assert (len(found), sizes) == (40, [16, 16, 16])


def test_a_share_is_a_run_of_batches_of_the_whole(model):
    """Cut between batches wherever one likes, also where a protocol ends within or before a share."""
    g, d = model
    extractor = replace(_features.EFFICIENTNET_LITE0, size=SIZE)
    moments, features = (frozenset(Sample("fakes", n, extractor) for n in counts) for counts in ((10, 40), (20, 40)))
    job = fakes.Job(g, d, moments, features, 40, 8, 0, None)
    with fakes.scoring(g, d):
        whole = fakes.see(job, range(job.batches), "cpu")
        runs = [range(0, 1), range(1, 3), range(3, 5)]
        found = shares._put_together(job, runs, [fakes.see(job, run, "cpu") for run in runs])
    assert found.about == whole.about
    assert np.array_equal(found.scores["fake"], whole.scores["fake"])
    for sample in features:
        assert np.array_equal(found.features[sample], whole.features[sample])
    for sample in moments:
        assert found.moments[sample].count == whole.moments[sample].count == sample.count
        for name in ("mean", "scatter"):
            a, b = getattr(found.moments[sample], name), getattr(whole.moments[sample], name)
            assert torch.allclose(a, b, rtol=1e-10, atol=1e-10 * float(b.abs().max()))


@pytest.mark.slow
def test_two_processes_score_as_one(score, model, data):
    asked = spec(
        metric("fd_efficientnet_lite0", size=SIZE, protocols=[{}, {"num_fakes": 10}]),
        metric("kd_efficientnet_lite0", subsets=3, subset_size=20),
        metric("disequilibrium", n=16),
    )
    told = []
    one, two = score(asked), score(asked, workers=2, progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1]
    assert list(one) == list(two)
    for name, record in one.items():
        if name.startswith("fd_"):
            assert two[name]["value"] == pytest.approx(record["value"], rel=1e-9)
        else:
            assert two[name] == record
    with torch.no_grad():
        next(model[0].parameters()).fill_(float("nan"))
    with pytest.raises(Diverged, match="generated images"):
        score(asked, workers=2)


def test_conditional_scores_use_labels(data, heldout, tmp_path):
    torch.manual_seed(0)
    g, d = sn_dcgan.build(sn_dcgan.Options(width=0.125, z_dim=16), 32, 10)
    labels = []
    d.register_forward_pre_hook(lambda module, args: labels.append(args[1]))
    evaluate.evaluate(
        SpatialGenerator(g), d, data, heldout, spec(), seed=0, conditional=True, device="cpu", cache=tmp_path,
        weights_used="raw",
    )  # fmt: skip
    assert all(x is not None and x.shape == (16,) for x in labels)
    assert len(torch.cat(labels).unique()) == 10


def test_an_image_that_is_not_finite_ends_the_trial(score, model):
    g, _ = model
    with torch.no_grad():
        next(g.parameters()).fill_(float("nan"))
    with pytest.raises(Diverged, match="generated images"):
        score(spec())


def test_a_score_that_is_not_finite_ends_the_trial(score, model):
    _, d = model
    d.register_forward_hook(lambda module, args, out: (out[0] * float("inf"), out[1]))
    with pytest.raises(Diverged, match="scores of fakes"):
        score(spec())


# ── the cache of the reals ───────────────────────────────────────────────────


def test_reals_are_seen_once(score, monkeypatch, tmp_path):
    first = score(spec())
    monkeypatch.setattr(_reference, "_batches", lambda *_: pytest.fail("the reals were read again"))
    assert score(spec()) == first
    assert not list(tmp_path.rglob("*.part"))


def test_reals_of_other_code_are_not_those_of_this(score, monkeypatch, tmp_path):
    files = [str(module.__file__) for module in (_features, collect, frechet, _reference)]
    digests = [hashlib.sha256(Path(file).read_bytes()).digest() for file in files]
    assert hashlib.sha256(b"".join(digests)).hexdigest() == _reference._CODE
    score(spec())
    before = set(tmp_path.rglob("*.npz"))
    monkeypatch.setattr(_reference, "_CODE", "of an edited file")
    score(spec())
    assert len(set(tmp_path.rglob("*.npz"))) == 2 * len(before) > 0


def test_a_broken_cache_file_is_computed_again(score, tmp_path):
    first = score(spec())
    (path,) = tmp_path.rglob("*.npz")
    raw = bytearray(path.read_bytes())
    raw[-100] ^= 1
    path.write_bytes(raw)
    assert score(spec()) == first
    path.write_bytes(raw[:1000])
    assert score(spec()) == first


def test_trials_that_start_together_compute_once(tmp_path):
    calls = []
    started = threading.Barrier(4)

    def compute():
        calls.append(1)
        return {"mean": np.arange(3.0)}

    def trial():
        started.wait()
        np.testing.assert_array_equal(_reference.cached(tmp_path, {"a": 1}, compute)["mean"], np.arange(3.0))

    threads = [threading.Thread(target=trial) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(calls) == 1


def test_another_key_is_another_entry(tmp_path):
    found = [_reference.cached(tmp_path, {"count": v}, functools.partial(dict, mean=np.array([v]))) for v in (1.0, 2.0)]
    assert [f["mean"] for f in found] == [1.0, 2.0]


def test_an_unusable_cache_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="NASHBOARD_CACHE"):
        _reference.cached(tmp_path / "file", {}, dict)


def test_features_take_memory_only_where_they_are_kept(data):
    """Of moments, the running sums remain; whatever the number of images."""
    extractor = replace(_features.EFFICIENTNET_LITE0, size=SIZE)
    collector = fakes.Collector(extractor, [Sample("fakes", 64, extractor)], [], "cpu")
    for batch in torch.from_numpy(data.images[:64]).split(16):
        collector.add(batch)
    assert not collector.evidence.features
    assert not collector._kept


# ── what is refused before training ──────────────────────────────────────────


@pytest.mark.parametrize(
    ("scored", "message"),
    [
        (spec(num_reals=101), "num_reals: 101 are asked, the train split has 100"),
        (spec(metric("fid", protocols=[{"num_fakes": 41}])), "a protocol compares 41 fakes, but 40 are made"),
        (spec(metric("fid", protocols=[{"split": "heldout"}])), "has no held-out images"),
        (spec(metric("kid")), "metrics.kid.subset_size: 1000: larger than the sample of 40"),
        (spec(metric("disequilibrium")), "disequilibrium.n: 64: more than the 40 eval.num_fakes"),
        (spec(metric("inception_score", splits=41)), "splits: 41: more than 40 fakes"),
    ],
)
def test_check(scored, message, data):
    with pytest.raises(UserError, match=message):
        evaluate.check(scored, data)


def test_check_asks_for_weights(data, monkeypatch):
    monkeypatch.setenv(_features.INCEPTION_VARIABLE, "/nowhere/weights.pth")
    with pytest.raises(UserError, match="no such file"):
        evaluate.check(spec(metric("fid")), data)
    evaluate.check(spec(), data)


def test_wide_pools_are_scored_up_to_the_number_of_fakes(score, data):
    images = ImageSet(data.images, data.labels, 10, "x", {})
    records = score(spec(metric("disequilibrium", n=8)), data=images, heldout=None)
    assert records["di"]["protocol"]["num_reals"] == 40
    assert not [name for name in records if "heldout" in name]
    assert scores.Estimate(records["di"]["value"], records["di"]["se"]).se is not None
