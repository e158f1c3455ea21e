"""One suite over every metric file: whatever a new metric is, this is what the pass and the report rely on."""

import copy
import functools
import json
import math

import numpy as np
import pytest
import torch

from harness import plugins
from harness.data.imageset import ImageSet
from harness.data.stacked import Stacked
from harness.evaluation.evidence import Evidence, Heading, Needs, Setting, headed
from harness.evaluation.frechet import Moments
from harness.experiment.schema import parse
from harness.experiment.spec import Eval, Plugin
from tests.contract import names

NAMES = names("harness.metrics")
FAKES, REALS, HELDOUT = 1000, 1200, 1100


def image_set(count: int) -> ImageSet:
    return ImageSet(np.zeros((count, 3, 8, 8), np.uint8), None, 0, f"fingerprint-{count}", {})


def stacked(count: int) -> ImageSet:
    """A stacked set whose images are dull and few: 10 classes that nothing tells apart."""
    grey = np.random.default_rng(0).integers(0, 256, (120, 8, 8), np.uint8)
    pixels = Stacked(grey, np.arange(120, dtype=np.int64) % 10, np.zeros((count, 3), np.int64))
    return ImageSet(pixels, None, 0, f"fingerprint-{count}", {})


def setting(name: str, seed: int = 0) -> Setting:
    module = plugins.find("harness.metrics", name)
    small = {"subsets": 5} if hasattr(module.Options, "subsets") else {}
    spec = Eval((Plugin(name, parse(module.Options, small, name)),), num_fakes=FAKES)
    made = stacked if name == "modes" else image_set
    return Setting(spec, made(REALS), made(HELDOUT), seed, weights_used="ema")


def evidence(needs: Needs, same: bool = False) -> Evidence:
    """Random features and scores; reals are shifted unless `same`."""
    found = Evidence()
    rng = np.random.default_rng(0)
    for sample in sorted({*needs.moments, *needs.features}):
        shift = 0 if same or sample.source == "fakes" else 0.5
        width = 30 if sample.layer == "log_p" else 16
        values = (rng.normal(size=(sample.count, width)) + shift).astype(np.float32)
        if sample in needs.features:
            found.features[sample] = values
        if sample in needs.moments:
            found.moments[sample] = Moments.of(torch.from_numpy(values))
        found.about[sample.extractor] = {"extractor": sample.extractor.name, "weights_sha256": "0", "resize": 8}
    if needs.scores:
        for source, count, shift in (("fake", FAKES, 0.0), ("train", FAKES, 1.0), ("heldout", FAKES, 0.5)):
            found.scores[source] = rng.normal(0.0 if same else shift, 1, count)
    return found


@pytest.fixture(params=NAMES)
def made(request):
    module, case = plugins.find("harness.metrics", request.param), setting(request.param)
    options = case.spec.metrics[0].options
    return module, options, case, module.needs(options, case)


def test_there_is_something_to_gather(made):
    _, _, case, needs = made
    assert needs.moments or needs.features or needs.scores
    for sample in (*needs.moments, *needs.features):
        assert sample.source in ("fakes", "train", "heldout")
        assert 2 <= sample.count <= {"fakes": FAKES, "train": REALS, "heldout": HELDOUT}[sample.source]


def test_records_are_plain_finite_and_say_how_they_were_made(made):
    module, options, case, needs = made
    records = module.compute(evidence(needs), options, case)
    assert records
    for name, record in json.loads(json.dumps(records)).items():
        assert set(record) == {"value", "se", "better", "protocol", "extra"}, name
        assert math.isfinite(record["value"])
        assert record["se"] is None or record["se"] >= 0
        assert record["better"] in ("lower", "higher", "zero")
        protocol = record["protocol"]
        assert protocol["num_fakes"] == FAKES
        assert protocol["weights"] == "ema"
        assert protocol["dataset"] in (f"fingerprint-{REALS}", f"fingerprint-{HELDOUT}")
        if not needs.scores:
            assert {"extractor", "weights_sha256", "resize"} <= set(protocol) or "classifier" in protocol
            assert "1k" in name


def test_a_heading_is_of_its_own_records_alone(made):
    """Records of old results are asked of every file in turn: two must not answer for one name."""
    module, options, case, needs = made
    others = [m for m in map(functools.partial(plugins.find, "harness.metrics"), NAMES) if m is not module]
    for name, record in module.compute(evidence(needs), options, case).items():
        told = module.heading(name, record["protocol"]) if hasattr(module, "heading") else None
        whole = headed(name, record, told)
        assert whole["role"] in ("distance", "equilibrium", "other") and isinstance(whole["headline"], bool)
        assert whole["label"] and json.loads(json.dumps(whole)) == whole
        assert set(told or ()) <= Heading.__optional_keys__
        assert not any(m.heading(name, record["protocol"]) for m in others if hasattr(m, "heading"))


def test_compute_is_pure(made):
    module, options, case, needs = made
    given = evidence(needs)
    before = copy.deepcopy(given)
    first, second = (module.compute(given, options, case) for _ in range(2))
    assert first == second
    for sample, features in before.features.items():
        np.testing.assert_array_equal(given.features[sample], features)
    for source, scores in before.scores.items():
        np.testing.assert_array_equal(given.scores[source], scores)
    for sample, moments in before.moments.items():
        assert torch.equal(given.moments[sample].scatter, moments.scatter)


def test_names_do_not_depend_on_the_data(made):
    """Trials of one table meet under equal names."""
    module, options, case, needs = made
    assert set(module.compute(evidence(needs), options, case)) == set(
        module.compute(evidence(needs, same=True), options, case)
    )


def test_a_better_model_scores_better(made):
    """Where fakes and reals follow one distribution, every comparison comes out better than where they don't."""
    module, options, case, needs = made
    worse = module.compute(evidence(needs), options, case)
    better = module.compute(evidence(needs, same=True), options, case)
    for name, record in worse.items():
        if "num_reals" not in record["protocol"]:
            continue  # looks at fakes alone
        direction = {"lower": -1, "higher": 1, "zero": 0}[record["better"]]
        change = better[name]["value"] - record["value"]
        if direction:
            assert direction * change > 0, name
        else:
            assert abs(better[name]["value"]) < abs(record["value"]), name
