"""`run.not_possible: mark`: what can't be one trial is a cell with a reason; what is a mistake stays refused."""

import csv
import json

import pytest

import cli
from harness.errors import NotPossible, UserError
from harness.experiment import files
from harness.experiment.matrix import entries
from harness.experiment.parse import to_plain
from harness.orchestration import possible
from harness.report import latex, page, tables
from harness.report.collect import collect
from harness.trial.preflight import preflight
from tests.image_files import pngs, write_zip

GRID = """
name: grid
preset: chainer
seeds: [0, 1]
dataset: {name: synthetic, resolution: 32, num_images: 64}
train: {total_kimg: 0.032, batch_size: 8, tick_kimg: 0.032, snapshot_kimg: 0.032}
settings:
  sn_dcgan: {backbone: {width: 0.0625}}
  tiny: {preset: tiny32, backbone: {z_dim: 16, w_dim: 16, mapping_layers: 2, channel_base: 128, channel_max: 8}}
  dcgan: {backbone: {name: dcgan, width: 0.03125}}
arms:
  baseline: {}
  lecam: {lecam: {}}
  relativistic: {relativistic: {}, set: {train.r1_gamma: 0, train.r1_interval: null}}
  moved: {sel: {}, align: {}, diffaugment: {}}
run: {not_possible: mark}
eval: {num_fakes: 64, num_reals: 64, metrics: {disequilibrium: {}}}
"""
MOVED = {("sn_dcgan", "moved"), ("tiny", "moved"), ("dcgan", "moved")}
BATCH_NORM = ("dcgan", "relativistic")


def write(folder, text=GRID):
    (folder / "grid.yaml").write_text(text)
    return folder / "grid.yaml"


def looked_at(experiment):
    refused = possible.asked(experiment)
    preflight([e.trial for e in entries(experiment)], str(experiment.path), mark=refused)
    return possible.marked(experiment, refused), refused


def test_what_clashes_is_marked_as_it_is_read_and_what_the_networks_refuse_before_it_runs(tmp_path):
    experiment = files.load(write(tmp_path))
    assert experiment.tables[0].not_possible.keys() == MOVED
    assert all("with align use [color]" in why for why in experiment.tables[0].not_possible.values())
    made, refused = looked_at(experiment)
    assert made.tables[0].not_possible.keys() == MOVED | {BATCH_NORM}
    assert "refuses batch norm in D" in made.tables[0].not_possible[BATCH_NORM]
    assert len(refused) == 2  # each seed
    assert len(entries(made)) == 2 * (3 * 4 - 4)
    assert made.tables[0].cells[BATCH_NORM] == ()


def test_without_the_word_all_is_refused(tmp_path):
    path = write(tmp_path)
    with pytest.raises(NotPossible, match="with align use"):
        files.load(path, ["run.not_possible=refuse"])
    rest = files.load(write(tmp_path, GRID.replace("  moved: {sel: {}, align: {}, diffaugment: {}}\n", "")))
    with pytest.raises(NotPossible, match="refuses batch norm in D"):
        preflight([e.trial for e in entries(rest)], "grid.yaml")


@pytest.mark.parametrize(
    ("arm", "word"),
    [
        ("lecam: {lecam: {weigth: 1}}", "weigth"),  # a slip of the pen, in every column
        ("lecam: {lecamm: {}}", "lecamm"),
        ("lecam: {lecam: {weight: -1}}", "must be"),
        ("lecam: {lecam: {}, set: {train.d_stepps: 2}}", "d_stepps"),
    ],
)
def test_a_mistake_is_no_cell_that_cannot_be(tmp_path, arm, word):
    with pytest.raises(UserError, match=word):
        files.load(write(tmp_path, GRID.replace("lecam: {lecam: {}}", arm)))


def test_an_option_that_one_backbone_lacks_is_a_matter_of_the_cell(tmp_path):
    arm = "lecam: {lecam: {}, set: {backbone.d_slope: 0.1}}"
    table = files.load(write(tmp_path, GRID.replace("lecam: {lecam: {}}", arm))).tables[0]
    assert "d_slope" in table.not_possible["tiny", "lecam"]
    assert ("sn_dcgan", "lecam") not in table.not_possible


def test_a_conditional_method_on_unlabelled_data_is_marked(tmp_path):
    archive = write_zip(tmp_path / "x.zip", pngs(64, 32))
    column = f"  classes: {{conditional: true, dataset: {{name: image_zip, path: {archive}}}}}\n  dcgan: {{"
    experiment = files.load(write(tmp_path, GRID.replace("  dcgan: {", column)))
    made, _ = looked_at(experiment)
    assert "have no labels" in made.tables[0].not_possible["classes", "baseline"]


def test_where_no_cell_is_possible_the_experiment_is_refused(tmp_path):
    head, tail = GRID.split("arms:\n")
    only = f"{head}arms:\n  moved: {{sel: {{}}, align: {{}}, diffaugment: {{}}}}\n{tail[tail.index('run:') :]}"
    with pytest.raises(NotPossible, match="with align use"):
        files.load(write(tmp_path, only))


def test_a_setting_has_a_preset_of_its_own_below_the_keys_of_the_file(tmp_path):
    table = files.load(write(tmp_path)).tables[0]
    tiny = to_plain(table.cells["tiny", "baseline"][0])
    assert tiny["backbone"]["name"] == "stylegan2"
    assert tiny["train"]["r1_interval"] == 16  # the preset's
    assert tiny["train"]["batch_size"] == 8  # the file's
    assert tiny["train"]["d"]["betas"] == [0.0, 0.99]
    assert to_plain(table.cells["sn_dcgan", "baseline"][0])["train"]["r1_gamma"] == 0
    with pytest.raises(UserError, match=r"settings.tiny.preset: 'tiny3'"):
        files.load(write(tmp_path, GRID.replace("preset: tiny32", "preset: tiny3")))


def test_every_text_of_the_report_says_why(tmp_path):
    made, _ = looked_at(files.load(write(tmp_path)))
    (t,) = (rep := collect(made, tmp_path)).tables
    why = made.tables[0].not_possible[BATCH_NORM]
    assert f"not possible: {why}" in tables.markdown(t)
    assert f"not possible: {why}" in latex.latex(t)
    assert f"not possible: {why}" in page.html(rep)
    assert "0 of 16 trials" in tables.status(rep)


@pytest.mark.slow
def test_a_matrix_with_marks_from_plan_to_table(tmp_path, capsys):
    path, words = write(tmp_path), ["--results", str(tmp_path / "results")]
    small = ["--set", "seeds=[0]"]
    assert cli.main(["plan", str(path), *small, *words]) == 0
    assert capsys.readouterr().out.count("not possible: ") == 4
    assert cli.main(["matrix", str(path), "--local", "--tracking-uri", "off", *small, *words]) == 0
    for verb in ("status", "report"):
        capsys.readouterr()
        assert cli.main([verb, str(path), *small, *words]) == 0
        assert "refuses batch norm in D" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "results/grid/tables/grid.csv").read_text().splitlines()))
    assert {(r["setting"], r["arm"]) for r in rows if r["not_possible"]} == MOVED | {BATCH_NORM}
    noted = json.loads((tmp_path / "results/grid/not_possible.json").read_text())
    assert list(noted.values()) == [next(r["not_possible"] for r in rows if (r["setting"], r["arm"]) == BATCH_NORM)]
