"""What a metric is to a report stands in its own file and in its record: nothing is guessed from how it is called."""

import functools
import importlib
import json
import sys
import textwrap

import pytest
import torch

import harness.metrics
from backbones import sn_dcgan
from harness import plugins
from harness.datasets import synthetic
from harness.evaluation import evaluate
from harness.experiment.schema import parse
from harness.experiment.spec import Eval, Plugin
from harness.method.generator import SpatialGenerator
from harness.report import latex, names, page, tables
from harness.report.collect import collect
from harness.report.names import Name
from harness.tracking.mirror import Mirror
from tests import fake_results as fake
from tests.fake_results import finish, score

PAPER_DRAWS = {"n": 64, "repeats": 200}
OLD = [  # records as they were before they said what they are: {name: label, role, may head a table, the paper's}
    ("fid50k_full", "FID", "distance", True, "fid"),
    ("fid10k_full", "fid10k_full", "distance", True, None),
    ("fid_any_weights_50k_full", "fid_any_weights_50k_full", "distance", True, None),
    ("fd_efficientnet_lite0_96px_5k_full", "FD-Lite0 96px_5k_full", "distance", True, None),
    ("fd_dinov2_50k_heldout", "FD-DINOv2 50k_heldout", "distance", True, None),
    ("kid50k_full", "kid50k_full", "distance", False, None),
    ("kd_efficientnet_lite0_5k_full", "kd_efficientnet_lite0_5k_full", "distance", False, None),
    ("di", "DI", "equilibrium", True, "di"),
    ("di_heldout", "DI, held out", "equilibrium", False, None),
    ("di_calibrated", "calibrated DI", "equilibrium", False, None),
    ("di_exact_heldout", "exact DI, held out", "equilibrium", False, None),
    ("score_auc", "AUC of D", "other", False, None),
    ("precision50k_full", "precision50k_full", "other", False, None),
    ("inception_score50k", "inception_score50k", "other", False, None),
    ("of_nobody", "of_nobody", "other", False, None),
]


@pytest.mark.parametrize(("key", "label", "role", "headline", "paper"), OLD)
def test_an_old_record_is_introduced_by_its_metrics_file(key, label, role, headline, paper):
    n = names.of(key, score(1.0, **PAPER_DRAWS))
    assert (n.key, n.label, n.role, n.headline, n.paper) == (key, label, role, headline, paper)
    assert n.apart is None or "comparable" in n.apart


def test_the_record_is_believed_before_any_file():
    told = {"role": "other", "label": "A", "headline": True, "rank": 3, "paper": "di"}
    assert names.of("fid50k_full", told) == Name("fid50k_full", "A", "other", True, 3, "di")


def keys(found):
    return [n.key for n in found]


def test_headline_order():
    old = [names.of(key, score(1.0)) for key, *_ in OLD]
    assert keys(names.heads(old)) == ["fid50k_full", "di"]
    assert keys(names.order(old)) == [
        "fid50k_full", "di",
        "di_calibrated", "di_exact_heldout", "di_heldout",
        "fd_dinov2_50k_heldout", "fd_efficientnet_lite0_96px_5k_full", "fid10k_full", "fid_any_weights_50k_full",
        "inception_score50k", "kd_efficientnet_lite0_5k_full", "kid50k_full", "of_nobody", "precision50k_full",
        "score_auc",
    ]  # fmt: skip
    assert keys(names.order(old[::-1])) == keys(names.order(old))
    without = [n for n in old if n.rank != 0 or n.role != "distance"]
    assert keys(names.heads(without)) == ["fid10k_full", "di"]
    assert keys(names.heads([n for n in without if not n.key.startswith("fid")]))[0] == "fd_dinov2_50k_heldout"
    assert names.heads([names.of("kid50k_full", score(1.0))]) == []
    assert names.pair([names.of("di", score(1.0))]) is None


def test_each_role_has_one_head_and_rank_decides():
    found = [Name("b", "b", "distance", True, 1), Name("a", "a", "distance", True, 1), Name("c", "c", "other", True)]
    assert keys(names.order([*found, Name("d", "d", "distance", True, 0), Name("e", "e")])) == ["d", "c", "a", "b", "e"]


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A metric of one's own, in a folder of one's own."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mean_gap.py").write_text(
        textwrap.dedent('''
        """How far D's mean scores of fakes and reals are apart, as a stand-in for a distance."""
        from dataclasses import dataclass

        from harness.evaluation.evidence import Heading, Needs, record


        @dataclass(frozen=True)
        class Options:
            pass


        def needs(options, setting):
            return Needs(scores=True)


        def compute(evidence, options, setting):
            value = abs(evidence.scores["fake"].mean() - evidence.scores["train"].mean())
            return {"mean_gap": record(value, "lower", setting.protocol()), "mean": record(value, "zero", {})}


        def heading(name, protocol):
            return Heading(role="distance", label="Mean gap", headline=True, rank=-1) if name == "mean_gap" else None
        ''')
    )
    monkeypatch.setattr(harness.metrics, "__path__", [*harness.metrics.__path__, str(tmp_path / "mine")])
    importlib.invalidate_caches()
    names._by_file.cache_clear()
    yield "mean_gap"
    sys.modules.pop("harness.evaluation.evidence.mean_gap", None)
    vars(harness.metrics).pop("mean_gap", None)
    names._by_file.cache_clear()


def scored(*metrics):
    """The records of a pass over networks that were never trained."""
    chosen = [Plugin(m, parse(plugins.find("harness.metrics", m).Options, {}, m)) for m in metrics]
    torch.manual_seed(0)
    g, d = sn_dcgan.build(sn_dcgan.Options(width=0.0625, z_dim=8), 32, 0)
    data = synthetic.load(synthetic.Options(num_images=64))
    spec = Eval(tuple(chosen), num_fakes=64, batch_size=16)
    return functools.partial(
        evaluate.evaluate, SpatialGenerator(g), d, data, None, spec, conditional=False, device="cpu",
        weights_used="raw",
    )  # fmt: skip


def test_a_metric_from_outside_heads_a_table_and_everything_drawn_from_it(tmp_path, outside):
    records = scored(outside, "disequilibrium")(seed=0, cache=tmp_path)
    assert all({"role", "label", "headline"} <= r.keys() for r in json.loads(json.dumps(records)).values())
    assert (records["mean_gap"]["role"], records["mean_gap"]["label"]) == ("distance", "Mean gap")
    assert (records["mean"]["role"], records["mean"]["headline"], records["di"]["paper"]) == ("other", False, "di")
    table = fake.table(settings={"cifar10_unconditional": {}})
    for arm in ("baseline", "align"):
        for t in table.cells["cifar10_unconditional", arm]:
            finish(tmp_path, t, {**records, "fid50k_full": 20.0 + t.seed})
    exp = fake.experiment(table)
    rep = collect(exp, tmp_path)
    t = rep.tables[0]
    assert [m.name for m in t.headline] == ["mean_gap", "di"]
    assert "Mean gap ↓" in tables.grid(t).header and "Mean gap" in latex.latex(t)
    assert t.headline[0].cells["cifar10_unconditional", "align"].paper is None  # it does not say that it is the paper's
    assert t.headline[1].cells["cifar10_unconditional", "align"].paper is not None
    assert "DI against Mean gap" in page.html(rep)
    mirror = Mirror(tmp_path, "x", (), None)
    mirror.folders = lambda: [o.folder for o in rep.outcomes]
    found = [f"final/{key}" for key in sorted(["fid50k_full", "unknown", *records])]
    ordered, pair = mirror._finals(found)
    assert ordered[:2] == ["final/mean_gap", "final/di"] and sorted(ordered) == found
    assert pair == ("final/mean_gap", "final/di")


def test_the_papers_figures_stand_beside_whoever_says_so(tmp_path):
    table = fake.table(settings={"cifar10_unconditional": {}})
    record = score(17.0) | {"role": "distance", "label": "my FID", "headline": True, "paper": "fid"}
    for t in table.cells["cifar10_unconditional", "align"]:
        finish(tmp_path, t, {"mine": record})
    m = collect(fake.experiment(table), tmp_path).tables[0].headline[0]
    assert (m.label, m.cells["cifar10_unconditional", "align"].paper, m.apart) == ("my FID", 16.93, None)
    one = table.cells["cifar10_unconditional", "align"][0]
    finish(tmp_path, one, {"mine": record | {"paper": None, "apart": "mine is measured otherwise"}})
    t = collect(fake.experiment(table), tmp_path).tables[0]
    assert t.headline[0].cells["cifar10_unconditional", "align"].paper is None  # one trial is not as the paper's
    assert "mine is measured otherwise" in t.notes
