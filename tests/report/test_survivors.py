"""A run that diverged or failed is a result: it is counted in every cell and verdict, and what is left after it is
never read as if it had not been."""

import csv
import io

import pytest

from harness.report import latex, page, statistics, tables
from harness.report.collect import collect
from harness.report.model import Counts, counts
from tests import fake_results as fake
from tests.fake_results import finish, live, score

SETTING = "cifar10_unconditional"
SEEDS = (0, 1, 2, 3, 4)
TABLE = fake.table(settings={SETTING: {}}, seeds=SEEDS)
BASE = [24.0, 23.0, 25.0, 24.5, 23.5]
GAIN = [-6.9, -6.7, -6.8, -6.75, -6.85]  # as the paper's, in every pair


def lose(results, trial, word):
    """Let a trial end without a figure."""
    if word == "diverged":
        finish(results, trial, {}, status="diverged", reason="loss/d is not finite")
    elif word == "not finite":
        finish(results, trial, {"fid50k_full": float("nan")})
    elif word != "missing":
        live(results, trial, word)


def planted(results, arm=(), baseline=()):
    """Five pairs that replicate the paper, but for those sides that end in a word: {seed: word}."""
    for seed, base, gain in zip(SEEDS, BASE, GAIN, strict=True):
        for name, value, lost in (("baseline", base, dict(baseline)), ("align", base + gain, dict(arm))):
            trial = TABLE.cells[SETTING, name][seed]
            if seed in lost:
                lose(results, trial, lost[seed])
            else:
                finish(results, trial, {"fid50k_full": value})
    report = collect(fake.experiment(TABLE), results)
    return report, report.tables[0], report.tables[0].metrics[0].cells[SETTING, "align"]


def test_all_five_replicate_and_say_how_many(tmp_path):
    _, _, cell = planted(tmp_path)
    assert cell.verdict.word == "replicated" and tables.verdict(cell) == "replicated (5 of 5 pairs)"


@pytest.mark.parametrize("word", ["diverged", "not finite", "failed", "oom", "timeout", "hung"])
@pytest.mark.parametrize("side", ["arm", "baseline"])
def test_no_verdict_is_read_off_survivors(tmp_path, word, side):
    """Five planned, two gone for good: the other three alone would read `replicated`."""
    report, table, cell = planted(tmp_path, **{side: {1: word, 3: word}})
    survivors = [g for seed, g in enumerate(GAIN) if seed not in (1, 3)]
    assert statistics.verdict(survivors, cell.paper_difference).word == "replicated"
    assert cell.verdict.word == "inconclusive" and cell.paired is None and cell.p_holm is None
    assert report.verdicts["replicated"] == 0
    kind = "2 diverged" if word in ("diverged", "not finite") else "2 failed"
    assert tables.verdict(cell) == f"inconclusive (3 of 5 pairs: {kind})"
    assert tables.difference(cell) == f"– (3 of 5: {kind})"
    assert any("survivors" in n for n in table.notes)


@pytest.mark.parametrize("word", ["missing", "running", "interrupted"])
def test_what_has_not_ended_is_counted_and_takes_no_word(tmp_path, word):
    _, table, cell = planted(tmp_path, arm={4: word})
    assert tables.verdict(cell) == "replicated (4 of 5 pairs: 1 missing)"
    assert cell.counts == Counts(5, 4) and not any("survivors" in n for n in table.notes)


def test_a_pair_lost_on_both_sides_is_one_pair(tmp_path):
    _, _, cell = planted(tmp_path, arm={0: "diverged", 1: "failed", 2: "missing"}, baseline={0: "oom", 1: "missing"})
    assert cell.pairs == Counts(planned=5, done=2, diverged=1, failed=1) and cell.pairs.missing == 1


def test_counts_stand_in_every_form_of_the_table(tmp_path):
    report, table, cell = planted(tmp_path, arm={0: "diverged", 1: "diverged", 2: "oom", 3: "running"})
    assert cell.counts == Counts(5, 1, 2, 1) and cell.counts.missing == 1
    said = "1 of 5: 2 diverged, oom, running 32%"
    row = next(r for r in tables.grid(table).rows if r[0] == "+ L_align")  # the terminal's
    assert row[1] == said and row[2] == f"16.65 ({said})"
    assert row[3] == "– (1 of 5: 2 diverged, 1 failed, 1 missing)"
    assert row[5] == "inconclusive (1 of 5 pairs: 2 diverged, 1 failed, 1 missing)"
    assert f"16.65 ({said})" in tables.markdown(table) and row[5] in tables.markdown(table)
    html = page.html(report)
    assert f"seeds: {said}" in html and row[5] in html and "seeds: 5 of 5" in html
    assert "$16.65^{n=1/5}$ {\\scriptsize 2 diverged, oom, running 32\\%}" in latex.latex(table)
    assert "^{n=5}" in latex.latex(table)
    by_arm = {r["arm"]: r for r in csv.DictReader(io.StringIO(tables.cells_csv(table)))}
    columns = ("planned", "done", "diverged", "failed", "missing")
    assert [by_arm["align"][c] for c in columns] == ["5", "1", "2", "1", "1"]
    assert [by_arm["align"][f"pairs_{c}"] for c in columns[2:]] == ["2", "1", "1"]
    assert [by_arm["baseline"][c] for c in columns] == ["5", "5", "0", "0", "0"]
    assert by_arm["align"]["difference"] == "" and by_arm["align"]["verdict"] == "inconclusive"
    assert "6 of 15 trials done" in tables.status(report)


def test_an_arm_of_which_nothing_is_left_is_counted_too(tmp_path):
    _, table, cell = planted(tmp_path, arm=dict.fromkeys(SEEDS, "diverged"))
    assert tables.ours(cell) == "0 of 5: 5 diverged" and cell.verdict.word == "inconclusive"
    assert "--$^{n=0/5}$ {\\scriptsize 5 diverged}" in latex.latex(table)


def test_an_arm_that_diverges_where_it_would_have_been_bad_is_not_praised(tmp_path):
    """Survivors are better than the baseline and than what was lost: today's mean is, the table must not be."""
    report, table, cell = planted(tmp_path, arm={0: "diverged", 2: "diverged", 3: "diverged"})
    metric = table.metrics[0]
    assert cell.summary.mean < metric.cells[SETTING, "baseline"].summary.mean
    assert page._best(table, metric, SETTING) is None and 'class="est best"' not in page.html(report)


def test_the_counts_of_a_cell_sum_up():
    made = counts(9, ["diverged", "not finite", "oom", "hung", "running 4%", "scored otherwise"])
    assert made == Counts(9, 3, 2, 2) and made.missing == 2 and made.lost == 4
    assert str(made) == "3 of 9: 2 diverged, 2 failed, 2 missing" and str(counts(3, ())) == "3 of 3"


# ── distances of too few images ──────────────────────────────────────────────


@pytest.mark.parametrize(
    ("metric", "images", "features"),
    [("fd_efficientnet_lite0_200_full", 200, 1280), ("fid2k_full", 2048, 2048), ("fd_dinov2_1k_full", 1000, 1024)],
)
def test_a_distance_whose_covariance_lacks_rank_is_marked_and_never_bold(tmp_path, metric, images, features):
    for arm, value in (("baseline", 300.0), ("align", 200.0)):
        for trial in TABLE.cells[SETTING, arm]:
            finish(tmp_path, trial, {metric: score(value, num_fakes=images)})
    report = collect(fake.experiment(TABLE), tmp_path)
    table = report.tables[0]
    assert any(n.startswith("‡") and f"{images} images for {features} features" in n for n in table.notes)
    assert tables.grid(table).rows[0][2] == "300.0 ± 0.0‡"
    assert 'class="est best"' not in page.html(report)
    assert next(csv.DictReader(io.StringIO(tables.cells_csv(table))))["biased"]


@pytest.mark.parametrize("told", [{}, {"role": "distance", "label": "D", "headline": False}])
@pytest.mark.parametrize(
    ("metric", "about", "says"),
    [
        ("fid2k_trained", {"num_fakes": 2048, "num_reals": 50_000}, "2048 images for 2048 features"),
        ("fd_efficientnet_lite1_3k_trained", {"num_fakes": 3000, "num_reals": 400}, "400 images for 1280 features"),
        ("fd_infinity_inception_10k_full", {"num_fakes": 10_000, "least": 1000}, "1000 images for 2048 features"),
        ("fd_infinity_dinov2_10k_full", {"num_fakes": 10_000, "least": 1000}, "1000 images for 1024 features"),
        ("fd_infinity_efficientnet_lite0_96px_50k_full", {"num_fakes": 50_000, "least": 5000}, None),
    ],
)
def test_so_is_one_that_heads_no_table_by_its_least_sample(tmp_path, metric, about, says, told):
    """To the images trained on, and read from a line through distances of ever fewer fakes; in records that said
    nothing of themselves, or not how many features they have, too."""
    for arm, value in (("baseline", 300.0), ("align", 200.0)):
        for trial in TABLE.cells[SETTING, arm]:
            finish(tmp_path, trial, {"di": score(1.0), metric: {**told, **score(value, **about)}})
    report = collect(fake.experiment(TABLE), tmp_path)
    (table,) = report.tables
    (column,) = (m for m in table.metrics if m.name == metric)
    notes = [n for n in table.notes if "‡" in n]
    assert not column.headline and len(notes) == (says is not None) and all(says in n for n in notes)
    assert page._best(table, column, SETTING) == (None if says else "align")


def test_whatever_sign_a_column_has_is_told_below_it(tmp_path):
    """Also where no headline metric has it: in page, Markdown and LaTeX all columns are printed."""
    few = "fd_efficientnet_lite0_200_full"
    for arm in ("baseline", "align"):
        for trial in TABLE.cells[SETTING, arm]:
            both = {"fid50k_full": score(20.0, num_fakes=50_000), few: score(9.0, num_fakes=200 + trial.seed)}
            finish(tmp_path, trial, both)
    report = collect(fake.experiment(TABLE), tmp_path)
    (table,) = report.tables
    (second,) = (m for m in table.metrics if not m.headline)
    cell = second.cells[SETTING, "align"]
    assert tables.marks(cell) == "†‡" and not any(tables.marks(c) for c in table.metrics[0].cells.values())
    for printed in (page.html(report), tables.markdown(table)):
        assert "†‡" in printed and "† marks cells" in printed and f"‡ {second.label}" in printed


def test_one_image_more_than_features_is_enough(tmp_path):
    for arm, value in (("baseline", 300.0), ("align", 200.0)):
        for trial in TABLE.cells[SETTING, arm]:
            finish(tmp_path, trial, {"fd_efficientnet_lite0_2k_full": score(value, num_fakes=1281, num_reals=5000)})
    report = collect(fake.experiment(TABLE), tmp_path)
    assert not any("‡" in n for n in report.tables[0].notes) and 'class="est best"' in page.html(report)
