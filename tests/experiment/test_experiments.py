"""The shipped experiments: they load, share trials as they should, and rehearse what they rehearse. And `include`."""

from pathlib import Path

import pytest

from harness.errors import UserError
from harness.evaluation.evidence import short
from harness.experiment import files, loader
from harness.experiment.matrix import entries
from harness.metrics import fid

SHIPPED = sorted(p.stem for p in files.SHIPPED.glob("*.yaml") if p.stem != "paper")
PAPER_TABLES = ("table1", "table2", "table3", "table4")
ARMS = {  # of SN-DCGAN the paper has no "+ SEL" alone
    "table2": {"baseline", "sel", "align"},
}
OWN = "coherent"  # an arm of ours that bears no figure of the paper


def table(experiment, name):
    return next(t for t in experiment.tables if t.name == name)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_file_loads_and_opens_with_its_command(name):
    assert entries(files.load(name))
    head = (files.SHIPPED / f"{name}.yaml").read_text().split("\nname:")[0]
    assert f"python cli.py matrix experiments/{name}.yaml" in head


@pytest.mark.parametrize("name", PAPER_TABLES)
def test_a_table_of_the_paper_has_all_its_cells_and_its_protocol(name):
    (t,) = files.load(name).tables
    theirs = files.paper_results()[name]
    assert t.paper == name
    assert set(t.settings) == set(theirs)
    for setting, rows in theirs.items():
        assert set(rows) <= set(t.arms)
        assert set(t.arms) == ARMS.get(name, set(rows)) | {OWN}, setting
        assert OWN not in rows
    for trials in t.cells.values():
        assert len(trials) >= 2
        assert all(f"fid{short(x.eval.num_fakes)}_full" == fid.PAPER and x.eval.num_reals is None for x in trials)
        assert {"fid", "disequilibrium"} <= {m.name for m in trials[0].eval.metrics}


def readings(t):
    """{arm: the profile of its L_align} of a table, of the arms that have one."""
    found = {arm: t.cells[t.settings[0], arm][0].variant("align") for arm in t.arms}
    return {arm: o.profile for arm, o in found.items() if o is not None}


@pytest.mark.parametrize("name", SHIPPED)
def test_who_quotes_the_paper_names_the_profile(name):
    """And its arms are the paper's text, letter by letter, but for the one that bears no figure."""
    for t in files.load(name).tables:
        assert t.unnamed == ()
        if t.paper or name.startswith("rehearsal"):
            arms = readings(t)
            assert arms.pop(OWN) == "coherent"
            assert set(arms.values()) == {"paper"}


@pytest.mark.parametrize("name", [n for n in SHIPPED if "\narms:" in (files.SHIPPED / f"{n}.yaml").read_text()])
def test_whose_arms_align_says_in_the_file_by_which_reading(name):
    raw = loader.read_yaml(files.SHIPPED / f"{name}.yaml")
    columns = raw.get("settings", {}).values()
    named = "profile" in raw or bool(columns) and all("profile" in column for column in columns)
    silent = [arm for arm, own in raw["arms"].items() if "align" in own and not named and "profile" not in own["align"]]
    assert not silent


@pytest.mark.parametrize("name", ["smoke", "emoji", "emoji64"])
def test_the_reading_of_the_small_experiments(name):
    (t,) = files.load(name).tables
    assert (t.paper, readings(t)) == (None, {"align": "coherent"})


def test_an_arm_that_names_no_profile_beside_the_papers_figures_is_told(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "name: mine\npaper: table2\npreset: chainer\ndataset: {name: synthetic}\n"
        "arms: {baseline: {}, sel: {sel: {profile: paper}}, align: {sel: {}, align: {profile: paper}}}\n"
        "eval: {num_fakes: 64, metrics: {disequilibrium: {}}}\n"
    )
    (t,) = files.load(tmp_path / "mine.yaml").tables
    assert t.unnamed == ("align",)  # its SEL is silent
    (named,) = files.load(tmp_path / "mine.yaml", ["profile=paper"]).tables
    assert named.unnamed == files.load(tmp_path / "mine.yaml", ["paper=null"]).tables[0].unnamed == ()
    for place, trials in t.cells.items():
        assert [x.id for x in trials] == [x.id for x in named.cells[place]], "naming the default changes no trial"


@pytest.mark.parametrize("name", ["full", "rehearsal", "rehearsal_emoji"])
def test_a_trial_that_serves_several_tables_is_trained_once(name):
    e = files.load(name)
    assert [t.name for t in e.tables] == list(PAPER_TABLES)
    t1, t3, t4 = (table(e, n).cells for n in ("table1", "table3", "table4"))

    def ids(cells, arm, setting="lsun_cat"):
        return [t.id for t in cells[setting, arm]]

    assert ids(t1, "align") == ids(t3, "hierarchical") == ids(t4, "sel_norm")
    assert ids(t1, "baseline") == ids(t3, "baseline") == ids(t4, "baseline")
    assert ids(t1, "align", "ffhq") == ids(t4, "sel_norm", "ffhq")
    assert ids(t1, OWN) == ids(t3, OWN) == ids(t4, OWN)
    assert ids(t1, OWN, "ffhq") == ids(t4, OWN, "ffhq")
    assert not {*ids(t1, OWN)} & {*ids(t1, "align")}
    places = sum(len(x.serves) for x in entries(e))
    seeds = len(t1["ffhq", "sel"])
    assert len(entries(e)) == 26 * seeds
    assert places == 35 * seeds


def test_the_rehearsal_is_the_full_matrix_shortened_by_one_factor():
    full, small = files.load("full"), files.load("rehearsal")
    factors = set()
    for name in PAPER_TABLES:
        a, b = table(full, name), table(small, name)
        assert (a.settings, a.arms) == (b.settings, b.arms)
        assert b.paper is None
        for cell, trials in a.cells.items():
            twin = b.cells[cell][0]
            assert len(b.cells[cell]) >= 2
            assert twin.variants == trials[0].variants
            assert twin.backbone.name == trials[0].backbone.name
            assert twin.conditional == trials[0].conditional
            assert twin.dataset.name == "synthetic"
            factors.add(round(trials[0].train.total_kimg / twin.train.total_kimg, 6))
    assert factors == {5000.0}


def test_the_rehearsal_scores_without_a_download():
    for e in entries(files.load("rehearsal_emoji")):
        assert {m.name for m in e.trial.eval.metrics} == {"fd_efficientnet_lite0", "disequilibrium"}


def test_emoji_stand_in_ffhq_alone_and_their_file_can_be_named():
    e = files.load("rehearsal_emoji", ["settings.ffhq.dataset.path=elsewhere/emoji.zip"])
    for t in e.tables:
        for (setting, _), trials in t.cells.items():
            assert trials[0].dataset.name == ("image_zip" if setting == "ffhq" else "synthetic")
            if setting == "ffhq":
                assert trials[0].dataset.options.path == Path("elsewhere/emoji.zip")
    assert table(e, "table3").settings == ("lsun_cat",)  # a column that a table lacks is not made


# ── include ──────────────────────────────────────────────────────────────────

PART = """
name: part
preset: chainer
seeds: [0, 1]
dataset: {name: synthetic}
settings: {a: {conditional: false}, b: {conditional: true}}
arms: {baseline: {}, sel: {sel: {}}}
eval: {num_fakes: 64, metrics: {fid: {}, disequilibrium: {}}}
"""


@pytest.fixture
def load(tmp_path):
    def load(text, sets=()):
        (tmp_path / "part.yaml").write_text(PART)
        (tmp_path / "whole.yaml").write_text(text)
        return files.load(tmp_path / "whole.yaml", sets)

    return load


def test_keys_below_an_included_file_lie_over_its_own(load):
    text = """
name: whole
train: {total_kimg: 2}
include:
  part.yaml:
    name: small
    preset: hinge
    seeds: [5]
    settings: {a: {train.batch_size: 8}}
    eval: {metrics: [disequilibrium]}
"""
    (t,) = load(text).tables
    trial = t.cells["a", "baseline"][0]
    assert (t.name, trial.seed, trial.train.loss, trial.train.total_kimg) == ("small", 5, "hinge", 2)
    assert (trial.train.batch_size, t.cells["b", "sel"][0].train.batch_size) == (8, 64)
    assert [m.name for m in trial.eval.metrics] == ["disequilibrium"]  # a list replaces
    assert trial.eval.num_fakes == 64


def test_an_included_file_may_include(load, tmp_path):
    (tmp_path / "middle.yaml").write_text("name: middle\ntrain: {total_kimg: 3}\ninclude: [part.yaml]\n")
    (t,) = load("name: whole\ninclude: {middle.yaml: {include: {part.yaml: {seeds: [7]}}}}\n").tables
    assert (t.name, t.cells["a", "sel"][0].seed, t.cells["a", "sel"][0].train.total_kimg) == ("part", 7, 3)


def test_overrides_reach_every_table_but_leave_their_names(load):
    e = load("name: whole\ninclude: [part.yaml]\n", ["name=mine", "seeds=[3]", "settings.c.conditional=true"])
    assert e.name == "mine"
    assert (e.tables[0].name, e.tables[0].settings) == ("part", ("a", "b"))
    assert e.tables[0].cells["a", "sel"][0].seed == 3


@pytest.mark.parametrize(
    ("include", "message"),
    [
        ("3", "include: 3: must be a mapping"),
        ("[nowhere.yaml]", "nowhere.yaml: no such experiment file"),
        ("[whole.yaml]", "leads back to this file"),
        ("{part.yaml: 3}", "include.part.yaml: 3: must be a mapping"),
        ("{part.yaml: {sedes: [1]}}", "sedes: unknown key; did you mean 'seeds'?"),
        ("{part.yaml: {dataset: {name: cifar}}}", "'cifar' is not one of the datasets"),
    ],
)
def test_a_bad_include_is_one_line(load, include, message):
    with pytest.raises(UserError) as e:
        load(f"name: whole\ninclude: {include}\n")
    assert message in str(e.value)
    assert "\n" not in str(e.value)
