import textwrap
from dataclasses import replace

import pytest

from harness.errors import UserError
from harness.experiment import files, loader
from harness.experiment.matrix import entries
from harness.experiment.parse import parse_trial, to_plain

BASE = """
    name: t
    preset: chainer
    seeds: [0, 1]
    dataset: {name: synthetic}
    backbone: {width: 0.25}
    train: {total_kimg: 1}
    arms:
      baseline: {}
      align: {sel: {}, align: {}}
    eval:
      num_fakes: 64
      metrics: [disequilibrium]
"""


@pytest.fixture
def load(tmp_path):
    def load(text=BASE, sets=(), **more):
        path = tmp_path / "t.yaml"
        path.write_text(textwrap.dedent(text) + "".join(f"{k}: {v}\n" for k, v in more.items()))
        return files.load(path, sets)

    return load


def one(experiment, arm="baseline"):
    table = experiment.tables[0]
    return table.cells[table.settings[0], arm][0]


def test_an_experiment_is_settings_by_arms_by_seeds(load):
    e = load(settings="{u: {conditional: false}, c: {conditional: true}}")
    assert e.tables[0].settings == ("u", "c")
    assert e.tables[0].arms == ("baseline", "align")
    assert len(entries(e)) == 8
    assert [t.seed for t in e.tables[0].cells["u", "align"]] == [0, 1]


def test_the_file_lies_on_its_preset(load):
    trial = one(load())
    assert trial.train.batch_size == 64
    assert trial.train.total_kimg == 1
    assert trial.backbone.options.width == 0.25
    assert trial.backbone.options.latent == "uniform"


def test_a_resolved_trial_reads_back_equal(load):
    for arm in ("baseline", "align"):
        trial = one(load(), arm)
        again = parse_trial(to_plain(trial), "trial")
        assert again == trial
        assert again.id == trial.id
    assert parse_trial(__import__("yaml").safe_load(loader.dump_yaml(to_plain(trial))), "t") == trial


def test_the_id_hangs_on_what_decides_the_weights(load):
    base = one(load()).id
    assert one(load(sets=["train.g.lr=1.0e-4"])).id != base
    assert one(load(sets=["seeds=[5]"])).id != base
    assert one(load(), "align").id != base
    assert one(load(sets=["eval.num_fakes=32"])).id == base
    assert one(load(sets=["run.retries=5"])).id == base


def test_no_path_counts_but_what_it_holds(load):
    def trial(path):
        return one(load(sets=["dataset.name=image_zip", f"dataset.path={path}"]))

    x, y = trial("a/x.zip"), trial("elsewhere/y.zip")
    assert x.id != y.id, "where nobody has looked, another place may be other images"
    assert replace(x, data="zip:1").id == replace(y, data="zip:1").id != replace(y, data="zip:2").id


def test_set_overrides_any_key_and_wins_over_settings(load):
    e = load(sets=["train.total_kimg=2", "seeds=[7]"], settings="{s: {train.total_kimg: 9}}")
    assert one(e).train.total_kimg == 2
    assert one(e).seed == 7


def test_an_arm_may_set_more_than_its_variants(load):
    """Between `settings` and --set, for that arm alone; the table remembers what is not overruled."""
    arms = "{baseline: {}, slow: [sel, {set: {train.g.lr: 1.0e-4, train: {d: {eps: 1.0e-6}}, backbone.width: 0.125}}]}"
    e = load(BASE, [f"arms={arms}"], settings="{s: {train.g.lr: 3.0e-4}}")
    slow, base = one(e, "slow"), one(e)
    assert (slow.train.g.lr, slow.train.d.eps, slow.backbone.options.width) == (1e-4, 1e-6, 0.125)
    assert (base.train.g.lr, base.train.d.eps) == (3e-4, 1e-8)
    assert [v.name for v in slow.variants] == ["sel"]
    assert e.tables[0].changes == {"slow": {"train.g.lr": 1e-4, "train.d.eps": 1e-6, "backbone.width": 0.125}}
    e = load(BASE, [f"arms={arms}", "train.g.lr=5.0e-4"], settings="{s: {}}")
    assert one(e, "slow").train.g.lr == one(e).train.g.lr == 5e-4
    assert "train.g.lr" not in e.tables[0].changes["slow"]


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ("{dataset.name: cifar10}", "arms.align.set: dataset.name: must be a key of train or backbone"),
        ("{seed: 3}", "arms.align.set: seed: must be a key of train or backbone"),
        ("{train.g.lrr: 1}", "train.g.lrr: unknown key; did you mean 'lr'"),
        ("{train: 3}", "arm align: train: 3: must be a mapping"),
        ("3", "arms.align.set: 3: must be a mapping"),
    ],
)
def test_what_an_arm_may_not_set(load, own, message):
    with pytest.raises(UserError) as e:
        load(sets=[f"arms={{baseline: {{}}, align: {{sel: {{}}, set: {own}}}}}"])
    assert message in str(e.value) and "\n" not in str(e.value)


def test_another_dataset_keeps_the_options_both_have(load):
    e = load(
        BASE.replace("{name: synthetic}", "{name: synthetic, resolution: 32}"),
        ["dataset.name=image_zip", "dataset.path=x.zip"],
    )
    assert one(e).dataset.name == "image_zip"
    assert one(e).dataset.options.resolution == 32


def test_an_option_of_a_variant_reaches_the_arms_that_have_it(load):
    e = load(sets=["variants.align.tau=0.5"])
    assert one(e, "align").variant("align").tau == 0.5
    assert one(e).variants == ()


def test_a_profile_is_a_set_of_options_that_can_be_overridden(load):
    paper, release = one(load(), "align"), one(load(sets=["profile=release"]), "align")
    assert paper.variant("sel") != release.variant("sel")
    mixed = one(load(sets=["profile=release", "variants.sel.profile=paper"]), "align")
    assert mixed.variant("sel") == paper.variant("sel")
    assert mixed.variant("align") == release.variant("align")


def test_a_trial_that_serves_two_tables_is_trained_once(tmp_path):
    for name, arms in (("a", "{baseline: {}, sel: {sel: {}}}"), ("b", "{baseline: {}, flatten: {flatten: {}}}")):
        text = textwrap.dedent(BASE)
        head, _, tail = text.partition("arms:")
        (tmp_path / f"{name}.yaml").write_text(
            head.replace("name: t", f"name: {name}") + f"arms: {arms}\neval:" + tail.partition("eval:")[2]
        )
    both = tmp_path / "both.yaml"
    both.write_text("name: both\ninclude: [a.yaml, b.yaml]\n")
    e = files.load(both)
    assert [t.name for t in e.tables] == ["a", "b"]
    found = entries(e)
    assert len(found) == 6
    assert {len(x.serves) for x in found if not x.trial.variants} == {2}


def test_one_seed_of_every_cell_comes_first(load):
    e = load(settings="{dear: {train.total_kimg: 5}, cheap: {train.total_kimg: 2}}")
    order = [(x.trial.seed, x.trial.train.total_kimg) for x in entries(e)]
    assert order == sorted(order)
    longest = [x.trial for x in entries(e, lambda t: 1.0 + len(t.variants))]
    key = [(t.seed, t.train.total_kimg, -len(t.variants)) for t in longest]
    assert key == sorted(key) and {t.id for t in longest} == {x.id for x in entries(e)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("train:", "trian:"), "trian: unknown key; did you mean 'train'?"),
        (("total_kimg: 1", "total_kmig: 1"), "train.total_kmig: unknown key; did you mean 'total_kimg'?"),
        (("total_kimg: 1", "total_kimg: 2e-4"), "train.total_kimg: '2e-4' is text in YAML 1.1; write 2.0e-4"),
        (("total_kimg: 1", "total_kimg: -1"), "train.total_kimg: -1: must be > 0"),
        (("synthetic", "sinthetic"), "dataset.name: 'sinthetic' is not one of the datasets; did you mean 'synthetic'?"),
        (("{sel: {}, align: {}}", "{align: {}}"), "variants.align: needs heatmaps; add one of: flatten, sel"),
        (("{sel: {}, align: {}}", "{sel: {}, flatten: {}}"), "heatmaps come from more than one variant"),
        (
            ("{sel: {}, align: {}}", "{sel: {heatmaps: {levels: [4, 8]}}, align: {}}"),
            "variants.align.levels: 16: no such heatmap is drawn; choose among [4, 8]",
        ),
        (
            ("{sel: {}, align: {}}", "{flatten: {}, align: {levels: [4, 32]}}"),
            "variants.align.levels: 32: no such heatmap is drawn; choose among [4, 8, 16]",
        ),
        (("{sel: {}, align: {}}", "{sell: {}}"), "'sell' is not one of the variants; did you mean 'sel'?"),
        (("{sel: {}, align: {}}", "3"), "arms.align: 3: must be a mapping"),
        (("preset: chainer", "preset: chianer"), "'chianer' is not a preset; did you mean 'chainer'?"),
        (("seeds: [0, 1]", "seeds: [0, 0]"), "seeds: [0, 0]: must be distinct"),
        (("seeds: [0, 1]", "seeds: []"), "seeds: []: must be distinct and at least one"),
        (("seeds: [0, 1]", "seeds: 3"), "seeds: 3: must be a list"),
        (("metrics: [disequilibrium]", "metrics: []"), "eval.metrics: missing"),
        (("metrics: [disequilibrium]", "metrics: [fidd]"), "'fidd' is not one of the metrics; did you mean 'fid'?"),
        (("seeds: [0, 1]", "seeds: [0, 1]\nseeds: [2]"), "key 'seeds' is given twice"),
        (("dataset: {name: synthetic}", "dataset: {name: synthetic"), "not readable as YAML"),
        (("dataset: {name: synthetic}", "dataset: {resolution: 32}"), "dataset.name: missing; known: cifar10"),
        (("total_kimg: 1", "r1_gamma: 1"), "train.r1_interval: missing"),
        (("total_kimg: 1", "batch_gpu: 60"), "train.batch_gpu: 60: must divide batch_size 64"),
    ],
)
def test_a_mistake_is_one_line_with_place_and_remedy(load, change, message):
    with pytest.raises(UserError) as e:
        load(textwrap.dedent(BASE).replace(*change))
    assert message in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["train.total_kimg"], "must be key=value"),
        (["tarin.total_kimg=1"], "--set tarin.total_kimg: unknown key; did you mean 'train'?"),
        (["train.total_kimg=many"], "train.total_kimg: 'many': must be a number"),
        (["seeds=[0"], "not readable as YAML"),
    ],
)
def test_overrides_are_checked_like_the_file(load, sets, message):
    with pytest.raises(UserError, match=message.replace("[", "\\[")):
        load(sets=sets)


def test_a_missing_file_names_the_shipped_ones(tmp_path):
    with pytest.raises(UserError, match="did you mean 'smoke'"):
        files.load(tmp_path / "smokee.yaml")


def test_shipped_experiments_load():
    for path in sorted(files.SHIPPED.glob("*.yaml")):
        if path.stem != "paper":
            assert entries(files.load(path)), path
