"""Reports from made-up results: what is averaged, what is left out, and what is said about it."""

import csv
import dataclasses
import io
import json
import math
import re
from html import escape

import numpy as np
import pytest
from scipy import stats

from harness.errors import UserError
from harness.experiment import files
from harness.experiment.spec import Table
from harness.report import latex, page, tables
from harness.report.collect import collect
from harness.report.write import write
from tests import fake_results as fake
from tests import tiny
from tests.fake_results import finish, live, score

TABLE = fake.table(settings={"cifar10_unconditional": {}})


def trials(arm, setting="cifar10_unconditional"):
    return TABLE.cells[setting, arm]


def only_table(results, table=TABLE):
    return collect(fake.experiment(table), results).tables[0]


def test_what_an_arm_sets_besides_is_said(tmp_path):
    changed = dataclasses.replace(TABLE, changes={"align": {"train.g.lr": 2e-4, "train.g.betas": [0.0, 0.9]}})
    notes = only_table(tmp_path, changed).notes
    assert "+ L_align also sets train.g.lr=0.0002, train.g.betas=[0.0, 0.9]" in notes
    assert not any("also sets" in n for n in only_table(tmp_path).notes)


def cell(t, metric, arm, setting="cifar10_unconditional"):
    return next(m for m in t.metrics if m.name == metric).cells[setting, arm]


def fill(results, values, metric="fid50k_full"):
    """{arm: values by seed} -> result files."""
    for arm, numbers in values.items():
        for t, value in zip(trials(arm), numbers, strict=False):
            if value is not None:
                finish(results, t, {metric: value})


def test_nothing_finished(tmp_path):
    rep = collect(fake.experiment(TABLE), tmp_path)
    assert rep.tables[0].metrics == ()
    assert tables.status(rep) == "0 of 9 trials done, 9 missing"
    assert all(path.stat().st_size for path in write(rep, tmp_path))
    assert "0 of 3: 3 missing" in tables.markdown(rep.tables[0])


def test_files_written_and_again_the_same(tmp_path):
    exp = fake.matrix(seeds=(0, 1))
    fake.fill(tmp_path, exp, images=False)
    paths = write(collect(exp, tmp_path), tmp_path)
    names = {str(p.relative_to(tmp_path / exp.name)) for p in paths}
    kinds = {f"tables/table{i}.{kind}" for i in (1, 2, 3) for kind in ("md", "csv", "tex")}
    kinds |= {f"tables/table1.methods.{kind}" for kind in ("md", "tex")}  # two data sets, three arms
    assert names == {"results.csv", "report.html"} | kinds
    first = {p: p.read_bytes() for p in paths}
    write(collect(exp, tmp_path), tmp_path)
    assert {p: p.read_bytes() for p in paths} == first


def test_means_pairs_and_paper(tmp_path):
    fill(tmp_path, {"baseline": [24.0, 23.0, 25.0], "align": [17.1, 16.3, 18.2]})
    t = only_table(tmp_path)
    align, base = cell(t, "fid50k_full", "align"), cell(t, "fid50k_full", "baseline")
    assert align.summary.mean == pytest.approx(17.2)
    assert align.paired.differences == pytest.approx((-6.9, -6.7, -6.8))
    assert align.paper_difference == pytest.approx(16.93 - 23.72)
    assert align.verdict.word == "replicated"
    assert base.paper == 23.72
    assert base.paired is base.verdict is None
    assert cell(t, "fid50k_full", "sel").waiting == ("missing",) * 3
    assert cell(t, "fid50k_full", "sel").verdict is None  # the paper has no such arm on CIFAR-10


def test_states_are_shown_never_as_numbers(tmp_path):
    a, b, c = trials("align")
    fill(tmp_path, {"baseline": [24.0, 23.0, 25.0]})
    finish(tmp_path, a, {"fid50k_full": 98765.5}, status="diverged", reason="loss/d is not finite")
    live(tmp_path, b, "running", nimg=100_000)
    live(tmp_path, c, "failed", message="disk full")
    rep = collect(fake.experiment(TABLE), tmp_path)
    t = rep.tables[0]
    assert cell(t, "fid50k_full", "align").summary is None
    assert cell(t, "fid50k_full", "align").waiting == ("diverged", "running 25%", "failed")
    align = cell(t, "fid50k_full", "align")
    assert align.counts == align.pairs == (3, 0, 1, 1) and align.counts.missing == 1
    assert tables.verdict(align) == "inconclusive (0 of 3 pairs: 1 diverged, 1 failed, 1 missing)"
    for text in (tables.markdown(t), latex.latex(t), tables.cells_csv(t), tables.results_csv(rep)):
        assert "98765" not in text
    assert "disk full" in tables.results_csv(rep)


def test_fewer_seeds_than_planned_say_so(tmp_path):
    fill(tmp_path, {"baseline": [24.0, 23.0], "align": [17.0]})
    t = only_table(tmp_path)
    rows = {row[0]: row for row in tables.grid(t).rows}
    assert rows["Baseline"][1:3] == ("2 of 3: missing", "23.50 ± 6.35 (2 of 3: missing)")
    assert rows["+ L_align"][1:3] == ("1 of 3: 2 missing", "17.00 (1 of 3: 2 missing)")  # one seed has no interval
    assert rows["+ L_align"][3] == "−7.00 (1 of 3: 2 missing)"


def test_not_finite_is_no_number_and_is_named(tmp_path):
    fill(tmp_path, {"baseline": [24.0, math.nan, 25.0]})
    t = only_table(tmp_path)
    assert cell(t, "fid50k_full", "baseline").summary.n == 2
    assert cell(t, "fid50k_full", "baseline").waiting == ("not finite",)
    assert any("fid50k_full: not finite" in n for n in t.notes)


def test_result_of_another_eval_is_not_used(tmp_path):
    one = trials("baseline")[0]
    finish(tmp_path, one, {"fid50k_full": 24.0})
    other = fake.table(settings={"cifar10_unconditional": {}}, fakes=10_000)
    assert other.cells["cifar10_unconditional", "baseline"][0].id == one.id
    t = only_table(tmp_path, other)
    assert t.metrics == ()
    assert t.outcomes["cifar10_unconditional", "baseline"][0].state == "scored otherwise"


@pytest.mark.parametrize(
    ("metric", "fakes", "reason"),
    [
        ("fid10k_full", 10_000, "not comparable"),
        ("fid50k_train10k", 50_000, "not comparable"),
        ("fd_efficientnet_lite0_50k_full", 50_000, "not comparable with an FID"),
    ],
)
def test_paper_stands_only_beside_its_own_protocol(tmp_path, metric, fakes, reason):
    table = fake.table(settings={"cifar10_unconditional": {}}, fakes=fakes)
    for arm in ("baseline", "align"):
        for t in table.cells["cifar10_unconditional", arm]:
            finish(tmp_path, t, {metric: 20.0 + t.seed})
    t = only_table(tmp_path, table)
    assert t.metrics[0].apart is not None
    assert any(reason in n for n in t.notes)
    assert cell(t, metric, "align").paper is None
    assert cell(t, metric, "align").verdict is None


def test_paper_needs_the_table_to_ask_for_it(tmp_path):
    table = fake.table(settings={"cifar10_unconditional": {}}, paper=None)
    fill(tmp_path, {"baseline": [24.0, 23.0, 25.0], "align": [17.1, 16.3, 18.2]})
    t = only_table(tmp_path, table)
    assert cell(t, "fid50k_full", "align").paper is None
    assert not any("paper" in n for n in t.notes)


def test_the_arm_whose_maps_were_mostly_empty_is_told_by_its_curves(tmp_path):
    seeds = [tiny.trial("sn_dcgan", "align", seed=s) for s in range(3)]
    cells = {("s", "baseline"): tuple(tiny.trial(seed=s) for s in range(3)), ("s", "align"): tuple(seeds)}
    table = Table("t", "t", None, {"align": "+ L_align"}, ("baseline", "align"), ("s",), cells)
    for t, first, last in zip(seeds, (0.9, 0.2, 0.1), (0.3, 0.84, 0.84), strict=True):
        curve = {"loss/align_empty/4": [[100, first], [2000, last]], "loss/align_empty/8": [[100, 0.4], [2000, 0.1]]}
        finish(tmp_path, t, {"fid50k_full": 20.0}, series=curve)
    for t in table.cells["s", "baseline"]:
        finish(tmp_path, t, {"fid50k_full": 20.0}, series={"loss/align_empty/4": [[200, 1.0]]})
    told = [n for n in only_table(tmp_path, table).notes if "0 everywhere" in n]
    assert len(told) == 2
    assert told[1].startswith("+ L_align (s s1, s s2): D's attention is 0")
    assert "(84% at 4x4)" in told[1] and told[1].endswith("`align: {profile: coherent}` no map is empty")
    # Its log said so, at its first tick: the page can't be silent about it.
    assert told[0].startswith("+ L_align (s s0): D's attention is 0") and "(90% at 4x4)" in told[0]
    assert told[0].endswith("no map is empty; in 1 of 2 ticks, last after 100 images")
    assert all(escape(line) in page.html(collect(fake.experiment(table), tmp_path)) for line in told)


def test_di_needs_the_papers_draws(tmp_path):
    for arm in ("baseline", "align"):
        for t in trials(arm):
            finish(tmp_path, t, {"di": score(1.5, n=32, repeats=200)})
    t = only_table(tmp_path)
    assert cell(t, "di", "baseline").paper is None
    assert any("64 + 64" in n for n in t.notes)


def test_mixed_commits_are_named_and_marked(tmp_path):
    fill(tmp_path, {"baseline": [24.0, 23.0, 25.0], "align": [17.1, 16.3, 18.2]})
    finish(tmp_path, trials("align")[1], {"fid50k_full": 16.3}, commit="fedcba987654")
    t = only_table(tmp_path)
    note = next(n for n in t.notes if "mixed commit" in n)
    assert "fedcba987654 (align s1)" in note
    assert "0123abcd4567 (baseline s0, baseline s1, baseline s2, align s0, align s2)" in note
    assert cell(t, "fid50k_full", "align").mixed
    assert not cell(t, "fid50k_full", "baseline").mixed
    assert "†" in tables.markdown(t)


def test_mixed_numbers_of_processes_are_named_and_marked(tmp_path):
    for arm, world in (("baseline", [1]), ("align", [2])):
        for t in trials(arm):
            finish(tmp_path, t, {"fid50k_full": 20.0}, world=[1, 2] if t.seed == 2 and arm == "align" else world)
    t = only_table(tmp_path)
    note = next(n for n in t.notes if "mixed world" in n)
    assert "1 (baseline s0, baseline s1, baseline s2)" in note and "2 (align s0, align s1)" in note
    assert "1, 2 (align s2)" in note, "begun by one process and gone on with by two"
    assert cell(t, "fid50k_full", "align").mixed
    for k in trials("align"):
        finish(tmp_path, k, {"fid50k_full": 20.0}, world=[1])
    assert not any("mixed world" in n for n in only_table(tmp_path).notes)


def test_pairs_under_different_protocols_are_not_compared(tmp_path):
    fill(tmp_path, {"baseline": [24.0, 23.0, 25.0], "align": [17.1, 16.3, 18.2]})
    finish(tmp_path, trials("align")[2], {"fid50k_full": score(3.0, num_reals=10_000)})
    t = only_table(tmp_path)
    assert cell(t, "fid50k_full", "align").paired.seeds == (0, 1)
    assert cell(t, "fid50k_full", "align").mixed
    note = next(n for n in t.notes if "mixed protocols" in n)
    assert "num_reals 10000 (align s2)" in note
    assert "extractor" not in note  # only what differs is named


def test_the_seed_in_a_protocol_is_no_mixture(tmp_path):
    for arm in ("baseline", "align"):
        for t in trials(arm):
            finish(tmp_path, t, {"fid50k_full": score(20.0, seed=t.seed)})
    t = only_table(tmp_path)
    assert not cell(t, "fid50k_full", "align").mixed
    assert cell(t, "fid50k_full", "align").paired.summary.n == 3


def test_last_snapshots_beside_the_final_value(tmp_path):
    for k, t in enumerate(trials("baseline")):
        points = [[i, 100.0] for i in range(4)] + [[4 + i, v + k] for i, v in enumerate([1.0, 2.0, 3.0, 4.0, 5.0])]
        finish(tmp_path, t, {"di": score(9.0, n=64, repeats=200)}, series={"eval/di": points})
    last = cell(only_table(tmp_path), "di", "baseline").trailing
    assert last == (5, pytest.approx(4.0), pytest.approx(math.sqrt(2.5)))


def test_the_untrained_networks_are_no_snapshot_of_a_run(tmp_path):
    """Snapshots at 0, 100, 200, 300 images: the last five would take in the networks as they were drawn."""
    for t in trials("baseline"):
        points = [[0, 500.0], [100, 1.0], [200, 2.0], [300, 3.0]]
        finish(tmp_path, t, {"di": score(9.0, n=64, repeats=200)}, series={"eval/di": points})
    for t in trials("align"):
        finish(tmp_path, t, {"di": score(9.0, n=64, repeats=200)}, series={"eval/di": [[0, 500.0], [100, 1.0]]})
    t = only_table(tmp_path)
    assert cell(t, "di", "baseline").trailing == (3, pytest.approx(2.0), pytest.approx(1.0))
    assert cell(t, "di", "align").trailing is None  # one snapshot has no spread


def test_spoilt_lines_of_a_journal_are_said(tmp_path):
    fill(tmp_path, {"baseline": [24.0, 23.0, 25.0]})
    finish(tmp_path, trials("align")[1], {"fid50k_full": 17.0}, spoilt_lines=2)
    finish(tmp_path, trials("align")[2], {"fid50k_full": 17.0}, spoilt_lines=0)
    notes = [n for n in only_table(tmp_path).notes if "spoilt" in n]
    assert len(notes) == 1 and notes[0].endswith("curves: align s1 (2)")


def test_the_best_snapshot_stands_beside_the_last_and_decides_nothing(tmp_path):
    fill(tmp_path, {"baseline": [24.0, 23.0, 25.0]})
    for t, last, best, nimg in zip(
        trials("align"), (17.0, 16.0, 18.0), (15.0, 14.5, 15.5), (320, 360, 400), strict=True
    ):
        kept = {
            "nimg": nimg * 1000,
            "by": "fid5k_full",
            "value": 30.0,
            "among": 9,
            "metrics": {"fid50k_full": score(best)},
        }
        finish(tmp_path, t, {"fid50k_full": last}, best=kept)
    rep = collect(fake.experiment(TABLE), tmp_path)
    t = rep.tables[0]
    align = cell(t, "fid50k_full", "align")
    assert align.summary.mean == align.paired.summary.mean + 24 == pytest.approx(17.0)
    grid = tables.grid(t)
    shown = dict(zip(grid.header, next(r for r in grid.rows if r[0] == "+ L_align"), strict=True))
    assert shown["best (kimg)"] == "15.00 (320 to 400)"
    assert next(r for r in grid.rows if r[0] == "Baseline")[grid.header.index("best (kimg)")] == tables.NOTHING
    assert tables.BEST in grid.notes
    assert "best 15.00 (320 to 400) kimg" in page.html(rep)
    rows = {r["id"]: r for r in csv.DictReader(io.StringIO(tables.results_csv(rep)))}
    row = rows[trials("align")[1].id]
    assert (row["best.nimg"], row["best.by"], row["fid50k_full.best"]) == ("360000", "fid5k_full", "14.5")


def test_trial_that_serves_two_tables_is_one_row(tmp_path):
    exp = fake.matrix(seeds=(0,))
    fake.fill(tmp_path, exp, images=False)
    rep = collect(exp, tmp_path)
    rows = list(csv.DictReader(io.StringIO(tables.results_csv(rep))))
    assert len(rows) == len({r["id"] for r in rows}) == len(rep.outcomes) == 14
    assert sum(len(r["serves"].split()) for r in rows) == 16
    shared = next(r for r in rows if "table3/lsun_cat/hierarchical" in r["serves"])
    assert "table1/lsun_cat/align" in shared["serves"]


def test_reader_can_recompute_verdicts_from_the_csv(tmp_path):
    """docs/verdicts.md followed by hand, with scipy, from results.csv and paper.yaml alone."""
    exp = fake.matrix(seeds=(0, 1, 2, 3))
    fake.fill(tmp_path, exp, images=False)
    rep = collect(exp, tmp_path)
    rows = list(csv.DictReader(io.StringIO(tables.results_csv(rep))))
    paper, seen = files.paper_results(), set()

    def values(place, metric):
        found = [r for r in rows if place in r["serves"].split() and r[metric]]
        return {r["seed"]: (float(r[metric]), r[f"{metric}.protocol"]) for r in found}

    for t in rep.tables:
        for m in t.headline:
            key = {"fid50k_full": "fid", "di": "di"}[m.name]
            for (setting, arm), c in m.cells.items():
                theirs = paper[t.table.name][setting]
                if arm == "baseline" or arm not in theirs:
                    continue
                ours = values(f"{t.table.name}/{setting}/{arm}", m.name)
                base = values(f"{t.table.name}/{setting}/baseline", m.name)
                gap = theirs[arm][key] - theirs["baseline"][key]
                e = [(ours[s][0] - base[s][0]) / gap for s in ours if s in base and ours[s][1] == base[s][1]]
                a, b = stats.t.interval(0.95, len(e) - 1, np.mean(e), stats.sem(e))
                word = ("replicated" if a <= 1 <= b else "direction only") if a > 0 else (
                    "contradicted" if b < 0.5 else "inconclusive")  # fmt: skip
                assert c.verdict is not None and c.verdict.word == word
                seen.add(word)
    assert len(seen) > 1


def test_holm_is_over_the_headline_comparisons_of_a_table(tmp_path):
    exp = fake.matrix()
    fake.fill(tmp_path, exp, images=False)
    t = collect(exp, tmp_path).tables[0]
    pairs = [(c.paired.p_t, c.p_holm) for m in t.headline for c in m.cells.values()
             if c.paired and c.paired.p_t is not None and c.p_holm is not None]  # fmt: skip
    assert len(pairs) == 8  # 2 arms x 2 settings x 2 metrics
    smallest = min(pairs)
    assert smallest[1] == pytest.approx(min(1, 8 * smallest[0]))
    assert all(p <= adjusted for p, adjusted in pairs)


def test_cells_csv_and_latex_are_well_formed(tmp_path):
    exp = fake.matrix()
    fake.fill(tmp_path, exp, images=False)
    t = collect(exp, tmp_path).tables[0]
    rows = list(csv.DictReader(io.StringIO(tables.cells_csv(t))))
    assert len(rows) == 6 * len(t.metrics)
    assert all(None not in r and "" not in r for r in rows)
    text = latex.latex(t)
    body = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert {line.count("&") for line in body} == {4}
    assert not re.search(r"(?<!\\)_(?!\{)", text.split("\\midrule")[1].split("\\bottomrule")[0])
    assert text.isascii()


@pytest.mark.parametrize("label", ["two\nlines", "a\r\nb", "a\tb\x0bc", "a\n\\end{tabular}\n%"])
def test_a_line_break_in_a_name_breaks_no_table(tmp_path, label):
    table = dataclasses.replace(TABLE, title=label, labels={**TABLE.labels, "sel": label})
    fill(tmp_path, {"baseline": [24.0, 23.0, 25.0], "sel": [20.0, 21.0, 22.0]})
    t = only_table(tmp_path, table)
    lines = latex.latex(t).splitlines()
    plain = latex.latex(only_table(tmp_path)).splitlines()
    assert len(lines) == len(plain) and [line.count(" & ") for line in lines] == [line.count(" & ") for line in plain]
    assert sum(r"\end{tabular}" in line and not line.startswith("%") for line in lines) == 1
    rows = [line for line in tables.markdown(t, notes=False).splitlines() if line.startswith("|")]
    assert {line.replace(r"\|", "").count("|") for line in rows} == {rows[0].count("|")}


def test_the_column_names_whom_an_arm_is_compared_with(tmp_path):
    arms = {"none": (), "align": ("sel", "align")}
    table = fake.table(settings={"cifar10_unconditional": {}}, arms=arms, labels={"none": "plain GAN"})
    for arm, value in (("none", 20.0), ("align", 18.0)):
        for t in table.cells["cifar10_unconditional", arm]:
            finish(tmp_path, t, {"fid50k_full": value + t.seed})
    rep = collect(fake.experiment(table), tmp_path)
    assert "vs plain GAN" in tables.grid(rep.tables[0]).header
    html = page.html(rep)
    assert "difference to plain GAN" in html and "the baseline" not in html


def test_note_fits_mlflow(tmp_path):
    exp = fake.matrix()
    fake.fill(tmp_path, exp, images=False)
    rep = collect(exp, tmp_path)
    whole, short = tables.note(rep, 20_000), tables.note(rep, 3000)
    assert len(short) <= 3000 < len(whole)
    assert "shortened" in short and "shortened" not in whole
    assert "FID" in short
    assert len(tables.note(rep, 600)) <= 600


def test_damaged_result_is_one_line_about_what_to_do(tmp_path):
    folder = tmp_path / "trials" / trials("baseline")[0].id
    folder.mkdir(parents=True)
    (folder / "result.json").write_text('{"schema": 1, "id')
    with pytest.raises(UserError, match="result.json: not readable"):
        collect(fake.experiment(TABLE), tmp_path)


def test_unwritable_folder_is_a_user_error(tmp_path):
    (tmp_path / "made_up").write_text("in the way")
    with pytest.raises(UserError, match="needs a folder"):
        write(collect(fake.experiment(TABLE), tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("value", "uncertainty", "text"),
    [
        (7.914, 0.31, "7.91"), (7.914, None, "7.91"), (-0.296, 0.0853, "−0.296"), (137.26, 4.0, "137.3"),
        (1532.4, 20.0, "1532"), (0.005731, 0.0011, "0.0057"), (0.0, 0.0, "0.00"), (23.0, 6.35, "23.00"),
        (0.00001234, None, "0.000012"),
    ],
)  # fmt: skip
def test_numbers_carry_the_decimals_they_deserve(value, uncertainty, text):
    assert tables.number(value, uncertainty) == text


def test_the_papers_figures_are_all_there():
    paper = files.paper_results()
    flat = [
        v for t in paper.values() for column in t.values() for row in column.values() for v in (row["fid"], row["di"])
    ]
    assert len(flat) == 2 * (9 + 4 + 4 + 8)
    assert all(isinstance(v, float) for v in flat)
    assert (
        paper["table1"]["lsun_cat"]["align"] == paper["table3"]["lsun_cat"]["hierarchical"] == {"fid": 6.81, "di": 2.39}
    )
    assert [paper["table1"]["lsun_cat"][a]["di"] for a in ("baseline", "sel", "align")] == [
        3.64,
        3.12,
        2.39,
    ]  # as its text says
    assert json.dumps(paper)  # plain data
