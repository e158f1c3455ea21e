"""The report of attention and control: from finished trials to one table, records and figures."""

import json
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image

import cli
from harness.experiment import files
from harness.experiment.matrix import entries
from harness.experiment.parse import to_plain
from harness.study import figures as attention_figures
from harness.study import report as attention_report
from harness.trial import run as trial

pytestmark = pytest.mark.slow  # trains two tiny models first
TINY = """
    name: tiny
    dataset: {name: synthetic, num_images: 64}
    backbone: {name: sn_dcgan, width: 0.0625, z_dim: 8}
    train: {total_kimg: 0.024, batch_size: 8}
    arms: {baseline: {}, sel: {sel: {}}, align: {sel: {zero_init: false}, align: {tau: 0.1}}}
    labels: {sel: + SEL, align: + L_align}
    eval: {num_fakes: 64, batch_size: 8, metrics: {disequilibrium: {}}}
"""


class Control:
    def stop(self):
        return False

    def report(self, progress):
        pass


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An experiment file and results in which baseline and + L_align are done, + SEL is not."""
    folder = tmp_path_factory.mktemp("attention")
    (folder / "tiny.yaml").write_text(textwrap.dedent(TINY))
    threads = torch.get_num_threads()
    for e in entries(files.load(folder / "tiny.yaml")):
        if e.serves[0].arm != "sel":
            options = {"checkpoint_s": 0, "device": "cpu"}
            assert trial.run(to_plain(e.trial), folder / "results" / "trials" / e.id, options, Control()) == "done"
    torch.set_num_threads(threads)
    return folder / "tiny.yaml", folder / "results"


@pytest.fixture(scope="module")
def made(finished):
    path, results = finished
    return attention_report.make(files.load(path), results, count=16, device="cpu", say=lambda text: None)


def run(path, results, *words):
    return cli.main(["attention", str(path), "--results", str(results), "--device", "cpu", *words])


def test_finished_trials_become_records_and_figures(made):
    records = json.loads((made.folder / "attention.json").read_text())
    assert records["ruler"]["tau"] == 0.1
    assert records["left_out"] == {"synthetic/sel/s0": "missing"}
    assert [t["earlier_d_images_apart"] for t in records["trials"]] == [8, 8]
    baseline, aligned = (t["records"] for t in records["trials"])
    spatial = {k for k in aligned if k.startswith("agreement/")} | {"control/slope"}
    assert len(spatial) == 5 * 3 + 1
    assert set(aligned) - set(baseline) == spatial
    assert {"consistency/earlier/4", "robustness/0.4/16", "inside_box/8", "inside_box/chance"} <= set(baseline)
    assert np.isfinite(aligned["control/slope"]["r_squared_se"])
    text = (made.folder / "attention.md").read_text()
    figures = {p.relative_to(made.folder).as_posix() for p in made.folder.rglob("*.png")}
    assert {f.split("/")[-1] for f in figures} == {
        "attention_generated.png", "move_level_0.png", "real.png", "robustness.png", "control.png"
    }  # fmt: skip
    for figure in figures:
        assert f"]({figure})" in text
        with Image.open(made.folder / figure) as image:
            assert min(image.size) > 100


def test_the_verb_prints_the_table_and_finds_the_same_again(finished, made, capsys):
    before = (made.folder / "attention.json").read_bytes()
    assert run(*finished, "--images", "16") == 0
    out = capsys.readouterr().out
    assert "control slope" in out
    assert "left out: synthetic/sel/s0 (missing)" in out
    assert "baseline: 8 images before; + L_align: 8 images before" in out
    assert (made.folder / "attention.json").read_bytes() == before


def test_a_row_per_arm_and_level_says_what_is_missing(made):
    grid = attention_report.grid(made)
    column = {name: [row[i] for row in grid.rows] for i, name in enumerate(grid.header)}
    assert column["Arm"] == ["baseline", "", "", "+ L_align", "", ""]
    assert column["level"] == ["4x4", "8x8", "16x16"] * 2
    assert column["correlation"][:3] == column["L1 as trained"][:3] == ["n/a"] * 3
    assert column["control slope"][0] == "n/a"
    assert "n/a" not in column["control slope"][3:] + column["noise 0.1"] + column["inside box"]
    assert all(len(row) == len(grid.header) for row in grid.rows)


def test_bad_input_is_said(finished, tmp_path, capsys):
    path, results = finished
    assert run(path, tmp_path) == 2
    assert run(path, results, "--images", "1") == 2
    err = capsys.readouterr().err
    assert "no finished trial" in err
    assert "--images: 1" in err


def test_rows_name_setting_and_seed_where_there_are_several(tmp_path):
    path = tmp_path / "two.yaml"
    path.write_text(textwrap.dedent(TINY) + "seeds: [0, 1]\nsettings: {a: {}, b: {train.batch_size: 4}}\n")
    experiment = files.load(path)
    labels = [attention_report.label(experiment, e) for e in entries(experiment)]
    assert labels[0] == "a, baseline, seed 0"
    assert len(set(labels)) == 12


@pytest.mark.parametrize(
    ("value", "se", "text"),
    [(0.9312, 0.0041, "0.931(4)"), (-0.25, 0.021, "−0.25(2)"), (1.0, 0.0, "1.00"), (0.5, None, "0.50")],
)
def test_a_figure_with_its_error(value, se, text):
    assert attention_report.number({"value": value, "se": se}) == text


def test_figures_without_a_value():
    assert attention_report.number(None) == "n/a"
    assert attention_report.number({"value": None, "se": None}) == "flat"


def test_curves_show_the_records():
    shifts: list[list[float]] = [[0, 0], [0.3, 0], [-0.3, 0], [0, 0.6], [0, -0.6]]
    moved = [[0.5 * a, 0.25 * b] for a, b in shifts]
    record = {"value": 0.4, "shifts": shifts, "moved": moved, "moved_sd": [[0.1, 0.2]] * 5}
    down, right = (attention_figures._control("arm", record, axis) for axis in (0, 1))
    assert list(down.x) == [-0.3, 0, 0.3]
    assert list(down.y) == pytest.approx([-0.15, 0, 0.15])
    assert list(right.y) == pytest.approx([-0.15, 0, 0.15])
    assert list(right.error) == [0.2] * 3
    flat = {"value": None, "se": None}
    found = {f"robustness/{a}/4": {"value": 1 - a, "se": a / 10} for a in (0.05, 0.1, 0.2)} | {"robustness/0.4/4": flat}
    curve = attention_figures._robustness("arm", found, 4)
    assert list(curve.x) == [0, 0.05, 0.1, 0.2]
    assert list(curve.y) == pytest.approx([1, 0.95, 0.9, 0.8])
