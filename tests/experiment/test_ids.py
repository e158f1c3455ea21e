"""Ids hang on what differs from the defaults, on EPOCHs and on images: on nothing else."""

import dataclasses
from dataclasses import dataclass, field, replace

import pytest

from backbones import _layers, sn_dcgan, stylegan2
from harness.experiment import files, ids, spec
from harness.experiment.matrix import entries
from harness.experiment.parse import merge, scored_as, scoring_to_plain
from harness.metrics import disequilibrium
from harness.orchestration import speeds
from harness.orchestration.fit import kind
from harness.variants import sel
from tests import tiny

SHIPPED = sorted(p.stem for p in files.SHIPPED.glob("*.yaml") if p.stem != "paper")


@dataclass(frozen=True)
class Inner:
    a: int = 1
    b: int = 2


@dataclass(frozen=True)
class Outer:
    must: int
    inner: Inner = field(default_factory=lambda: Inner(a=5))
    maybe: Inner | None = None
    many: tuple[int, ...] = (1, 2)


def test_only_what_is_not_at_its_default_counts():
    assert ids.differing(Outer(3)) == {"must": 3}
    assert ids.differing(Outer(3, Inner())) == {"must": 3, "inner": {"a": 1}}, "compared with the field's own default"
    assert ids.differing(Outer(3, Inner(5, 9), many=(2,))) == {"must": 3, "inner": {"b": 9}, "many": [2]}
    assert ids.differing(Outer(3, maybe=Inner())) == {"must": 3, "maybe": {}}


def with_novel(cls):
    """A class of options as it would be after a new one was added, with a default."""
    return dataclasses.make_dataclass("Novel", [("novel", float, field(default=0.5))], bases=(cls,), frozen=True)


def every_id():
    return {name: [e.id for e in entries(files.load(name))] for name in SHIPPED}


def test_a_new_option_with_a_default_changes_no_id_of_any_shipped_experiment(monkeypatch):
    before = every_id()
    base, arm = tiny.trial(), tiny.trial("sn_dcgan", "sel")
    scored = {"scoring": ids.of_scoring(arm.eval)}
    for place, name in (
        (spec, "Train"), (spec, "Adam"), (spec, "Eval"), (sel, "Options"), (sn_dcgan, "Options"),
        (stylegan2, "Options"), (disequilibrium, "Options"),
    ):  # fmt: skip
        monkeypatch.setattr(place, name, with_novel(getattr(place, name)))
    assert every_id() == before and len(before) > 10
    after = tiny.trial("sn_dcgan", "sel")
    assert all(o.novel == 0.5 for o in (after.variant("sel"), after.train, after.backbone.options))
    assert after.id == arm.id and tiny.trial().id == base.id and scored_as(scored, after.eval)
    changes = ({"train": {"novel": 1.0}}, {"variants": {"sel": {"novel": 1.0}}}, {"backbone": {"novel": 1.0}})
    assert len({tiny.trial("sn_dcgan", "sel", **change).id for change in changes} | {arm.id}) == 4
    assert not scored_as(scored, tiny.trial(eval={"metrics": {"disequilibrium": {"novel": 1.0}}}).eval)


def test_an_epoch_touches_what_uses_its_file(monkeypatch):
    arms = {(b, a): tiny.trial(b, a).id for b in tiny.BACKBONES for a in tiny.ARMS}

    def touched():
        return {key for key in arms if tiny.trial(*key).id != arms[key]}

    assert not touched()
    with monkeypatch.context() as m:
        m.setattr(sel, "EPOCH", 2)
        assert touched() == {(b, a) for b in tiny.BACKBONES for a in ("sel", "align")}
    with monkeypatch.context() as m:
        m.setattr(sn_dcgan, "EPOCH", 2)
        assert touched() == {("sn_dcgan", a) for a in tiny.ARMS}
    with monkeypatch.context() as m:
        m.setattr(_layers, "EPOCH", 2)
        assert touched() == {("stylegan2", a) for a in tiny.ARMS}, "which alone builds on it"
    with monkeypatch.context() as m:
        m.setattr(ids, "stated", lambda module: 2 if module == ids.LOOP else 1)
        assert touched() == set(arms)
    scoring = tiny.trial().eval
    before = {"scoring": ids.of_scoring(scoring)}
    monkeypatch.setattr(disequilibrium, "EPOCH", 2)
    assert not touched() and not scored_as(before, scoring)


def test_an_epoch_of_a_case_touches_the_trials_of_that_case_alone(monkeypatch):
    """An average with ramp-up counts otherwise since; half precision is another thing on SN-DCGAN, fp16 on both."""

    def epochs(backbone, **train):
        return ids.of_trial(tiny.trial(backbone, train=train))["epochs"]

    plain = {"ema_kimg": 1, "ema_rampup": None}
    assert epochs("sn_dcgan") == epochs("stylegan2", **plain) == {}
    assert epochs("stylegan2", ema_kimg=None) == {} == epochs("sn_dcgan", ema_rampup=0.05)
    assert epochs("stylegan2") == {"loop.rampup": 2}
    assert epochs("stylegan2", **plain, precision="bf16") == {}
    assert epochs("stylegan2", **plain, precision="fp16") == {"loop.fp16": 2}
    assert epochs("sn_dcgan", precision="bf16") == {"backbone.half": 2}
    assert epochs("sn_dcgan", precision="fp16") == {"loop.fp16": 2, "backbone.half": 2}
    monkeypatch.setattr(sn_dcgan, "EPOCH_RAMPUP", 3, raising=False)
    assert epochs("sn_dcgan", **{**plain, "ema_rampup": 1.0}) == {"loop.rampup": 2, "backbone.rampup": 3}
    assert epochs("sn_dcgan", **plain) == {}


def test_results_of_before_are_scored_as_their_config_says():
    scoring = tiny.trial().eval
    old = {"config": {"eval": scoring_to_plain(scoring)}}
    assert scored_as(old, scoring)
    del old["config"]["eval"]["weights"]  # from before that option existed
    assert scored_as(old, scoring) and not scored_as(old, replace(scoring, num_fakes=65))
    old["config"]["eval"]["metrics"] = {"gone": {}}
    assert not scored_as(old, scoring) and not scored_as({}, scoring)


def test_a_profile_is_the_options_it_stands_for():
    arm = tiny.trial("sn_dcgan", "sel", variants={"sel": {"profile": "release"}})
    spelt = merge(sel.PROFILES["release"], {"profile": "paper"}, "test")
    assert tiny.trial("sn_dcgan", "sel", variants={"sel": spelt}).id == arm.id != tiny.trial("sn_dcgan", "sel").id


def test_the_machinery_states_its_epochs():
    assert ids.stated(ids.LOOP) >= 1 and ids.stated(ids.SCORING) >= 1


@pytest.mark.parametrize("profile", ["paper", "release"])
def test_another_option_of_a_variant_is_another_kind_with_a_speed_of_its_own(profile):
    usual, small, large = (
        tiny.trial("sn_dcgan", "sel", variants={"sel": {"profile": profile, **more}})
        for more in ({}, {"hidden": 8}, {"hidden": 4096})
    )
    assert len({kind(t) for t in (usual, small, large)}) == 3
    records = [speeds.Record(speeds._hashable(speeds.shape(small)), "cpu", 1.0, "a test")]
    assert [speeds.speed(t, "cpu", records) is not None for t in (usual, small, large)] == [False, True, False]
    said = speeds.shape(large)["variants"]
    assert said == (["sel (hidden 4096)"] if profile == "paper" else ["sel (release, hidden 4096)"])


def test_variants_count_in_their_order():
    """What D sees, or what is added to a loss first, is another function in another order."""
    one = tiny.trial("sn_dcgan", "align")
    assert replace(one, variants=one.variants[::-1]).id != one.id
