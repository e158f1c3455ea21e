"""What a distance compares with: the whole split whatever was trained on, or by name what was trained on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from backbones import sn_dcgan
from harness import plugins
from harness.datasets import cifar10, image_zip
from harness.evaluation import evaluate, fakes, features, reals
from harness.evaluation.evidence import Comparison
from harness.evaluation.frechet import Moments, distance
from harness.experiment import ids
from harness.experiment.parse import scored_as, scoring_to_plain
from harness.experiment.schema import parse
from harness.experiment.spec import Eval, Plugin
from harness.method.generator import SpatialGenerator
from harness.report import names
from tests import tiny
from tests.cifar_files import write_archive
from tests.image_files import noise, png, write_zip

COUNT, HOLDOUT, TRAINED, FAKES = 40, 8, 12, 24
NAME = "fd_efficientnet_lite0_32px_24_"
ASKED = ({}, {"split": "trained"}, {"split": "heldout"}, {"num_reals": 20}, {"split": "trained", "num_reals": 9})


def metric(*protocols):
    options = {"size": 32, "protocols": list(protocols)}
    module = plugins.find("harness.metrics", "fd_efficientnet_lite0")
    return Plugin("fd_efficientnet_lite0", parse(module.Options, options, "test"))


@pytest.fixture
def zipped(tmp_path):
    path = write_zip(tmp_path / "set.zip", {f"{i:03d}.png": png(noise(i, 32) // (1 + i % 3)) for i in range(COUNT)})
    return image_zip.Options(path or tmp_path / "set.zip", holdout=HOLDOUT, max_images=TRAINED)


@pytest.fixture
def score(tmp_path):
    def run(options, *protocols):
        torch.manual_seed(0)
        g, d = sn_dcgan.build(sn_dcgan.Options(width=0.0625, z_dim=8), 32, 0)
        heldout = image_zip.load(options, "test") if options.holdout else None
        return evaluate.evaluate(
            SpatialGenerator(g), d, image_zip.load(options), heldout, Eval((metric(*protocols),), FAKES, batch_size=8),
            seed=0, conditional=False, device="cpu", cache=tmp_path / "cache", weights_used="raw",
        )  # fmt: skip

    return run


def moments(images):
    network = features.load(replace(features.EFFICIENTNET_LITE0, size=32), ("pooled",), "cpu")
    return Moments.of(network.layers(torch.from_numpy(np.ascontiguousarray(images)))["pooled"])


def test_what_was_trained_on_is_not_what_full_compares_with(zipped, score):
    """The bare bone of the next test, for the fast set."""
    found = score(zipped, {}, {"split": "trained"})
    whole = score(replace(zipped, max_images=None), {})
    full, trained = (found[NAME + tail] for tail in ("full_less_heldout", "trained"))
    assert full["value"] == whole[NAME + "full_less_heldout"]["value"] != trained["value"]
    assert (full["protocol"]["num_reals"], trained["protocol"]["num_reals"]) == (COUNT - HOLDOUT, TRAINED)


@pytest.mark.slow
def test_full_is_the_whole_split_and_trained_what_was_trained_on(zipped, score):
    found = score(zipped, *ASKED)
    tails = ("full_less_heldout", "trained", "heldout", "train20", "trained9")
    assert list(found) == [NAME + tail for tail in tails]
    values = {tail: found[NAME + tail]["value"] for tail in tails}
    part, whole = image_zip.load(zipped), image_zip.load(replace(zipped, max_images=None))
    assert part.whole.fingerprint == whole.fingerprint and (len(part), len(whole)) == (TRAINED, COUNT - HOLDOUT)
    for tail, images in (("full_less_heldout", whole), ("trained", part)):
        protocol = found[NAME + tail]["protocol"]
        assert (protocol["num_reals"], protocol["dataset"]) == (len(images), images.fingerprint), tail
    seen = score(replace(zipped, max_images=None))[NAME + "full_less_heldout"]["value"]
    assert values["full_less_heldout"] == seen != values["trained"], (
        "as one that was trained on all of them measures it"
    )
    made = moments_of_fakes()
    assert values["trained"] == pytest.approx(distance(made, moments(part.images)), rel=1e-4)
    chosen = whole.images[reals.chosen(len(whole), 20)]
    assert values["train20"] == pytest.approx(distance(made, moments(chosen)), rel=1e-4)


def moments_of_fakes():
    torch.manual_seed(0)
    g, _ = sn_dcgan.build(sn_dcgan.Options(width=0.0625, z_dim=8), 32, 0)
    batches = fakes.fake_batches(SpatialGenerator(g).eval(), FAKES, 8, seed=0, labels=None, device="cpu")
    with torch.no_grad():
        return moments(torch.cat([images for images, _ in batches]).numpy())


def test_a_split_that_is_trained_on_whole_is_full_by_its_old_name(zipped, score):
    everything = replace(zipped, holdout=0, max_images=None)
    assert list(score(everything, *ASKED[:2])) == [NAME + "full", NAME + "trained"]
    assert list(score(replace(everything, max_images=TRAINED))) == [NAME + "full"], "held-out images alone shorten it"
    data = image_zip.load(replace(everything, max_images=COUNT))
    assert data.part_of is None and data.whole is data


def test_cifar10_knows_its_whole_splits(tmp_path):
    path = tmp_path / "cifar-10-python.tar.gz"
    write_archive(path, 6)
    options = cifar10.Options(path, expect_full=False, max_images=4)
    for split in ("train", "test"):
        part, whole = cifar10.load(options, split), cifar10.load(replace(options, max_images=None), split)
        assert len(part) == 4 < len(whole) and part.whole.fingerprint == whole.fingerprint


@pytest.mark.parametrize("name", ["fid", "fid_any_weights_", "fd_dinov2_", "fd_efficientnet_lite0_96px_", "kid"])
def test_a_distance_to_what_was_trained_on_heads_no_table_and_meets_no_paper(name):
    for tail in ("50k_trained", "5k_trained10k", "1500_trained"):
        found = names.of(name + tail, {"protocol": {}})
        assert (found.role, found.headline, found.paper) == ("distance", False, None)
    assert names.of("fid50k_full", {}).paper == "fid"
    less = names.of("fid50k_full_less_heldout", {})
    assert (less.headline, less.paper) == (True, None) and "not comparable" in less.apart


def test_names_say_which_reals():
    assert Comparison(50_000, 49_000, "train", True, 1_000).suffix == "50k_full_less_heldout"
    assert Comparison(50_000, 10_000, "trained", True).suffix == "50k_trained"
    assert Comparison(5_000, 1_000, "trained", False).suffix == "5k_trained1k"


def trial(metric="fd_efficientnet_lite0", data="zip:one", **options):
    made = tiny.trial(eval={"metrics": {metric: {}}} if metric != "disequilibrium" else {})
    dataset = Plugin("image_zip", image_zip.Options(Path("x.zip"), **options))
    scored = tuple(m for m in made.eval.metrics if m.name == metric)
    return replace(made, dataset=dataset, data=data, eval=replace(made.eval, metrics=scored))


def test_what_the_reference_holds_decides_the_scoring_where_it_is_not_the_trained_images():
    whole, part = trial(), trial(max_images=5)
    assert "reals" not in whole.scoring and part.scoring["reals"] == trial(holdout=5).scoring["reals"] == "zip:one"
    assert "reals" not in trial("disequilibrium", max_images=5).scoring, "D scores what it was trained on"
    assert trial(data="zip:other", max_images=5).scoring != part.scoring
    of_before = {"scoring": ids.of_scoring(part.eval)}  # a distance to the part, by the name of one to the whole
    for result in (of_before, {"config": {"eval": scoring_to_plain(part.eval)}}):
        assert scored_as(result, whole.eval, reals=ids.reals(whole))
        assert not scored_as(result, part.eval, reals=ids.reals(part))
