"""Methods over backbones and data: closed forms on planted results, and what chance alone colours."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from harness.experiment.spec import Table
from harness.report import comparison_page, comparison_text, effects
from harness.report.collect import collect
from harness.report.comparison import NO_CURVES, compare
from tests import fake_results as fake

SEEDS = (0, 1, 2)
SETTINGS = {"small": {"backbone": "sn_dcgan"}, "large": {"backbone": "stylegan2"}}
ARMS = {"baseline": (), "sel": ("sel",), "align": ("sel", "align")}
BASE = {0: 10.0, 1: 12.0, 2: 9.0}


def made(folder, value, seeds=SEEDS, skip=lambda s, a, seed: False, settings=SETTINGS, extra=lambda s, a, seed: {}):
    """The comparison of planted results: `value(setting, arm, seed)` are the metrics of a trial."""
    table = fake.table("grid", None, seeds, settings, ARMS)
    for (s, a), trials in table.cells.items():
        for t in trials:
            if not skip(s, a, t.seed):
                fake.finish(folder, t, value(s, a, t.seed), **extra(s, a, t.seed))
    return collect(fake.experiment(table), folder), table


def planted(s, a, seed):
    factor = {"baseline": 1.0, "sel": 0.8 + 0.05 * seed, "align": 1.5}[a]
    di = {"baseline": 1.0 + seed, "sel": 0.5 + seed, "align": 1.0 + 2.0 * seed}[a]
    return {"fid50k_full": BASE[seed] * factor, "di": di}


def test_a_distance_is_the_mean_ratio_of_pairs_and_di_is_in_sds_of_the_baseline(tmp_path):
    (c,) = compare(made(tmp_path, planted)[0])
    sel = c.cells["fid50k_full", "small", "sel"].effect
    logs = np.log([0.8, 0.85, 0.9])
    half = 4.302652729911275 * logs.std(ddof=1) / math.sqrt(3)
    assert sel.mean == pytest.approx(100 * (math.exp(logs.mean()) - 1))
    assert (sel.low, sel.high) == pytest.approx([100 * math.expm1(logs.mean() + k * half) for k in (-1, 1)])
    assert sel.n == 3
    assert sel.p == pytest.approx(ttest_1samp(logs, 0).pvalue)
    di = c.cells["di", "small", "sel"].effect
    assert di.mean == pytest.approx(-0.5)  # the baseline's 1, 2, 3 have an sd of 1
    assert c.cells["di", "small", "align"].effect.mean == pytest.approx(1.0)
    assert c.cells["fid50k_full", "small", "sel"].better
    assert not c.cells["fid50k_full", "small", "align"].better


def test_at_3_pairs_and_16_cells_holm_asks_17_8():
    assert round(effects.needed_t(3, 16), 1) == 17.8
    for n, cells in ((3, 16), (7, 120)):
        t = effects.needed_t(n, cells)
        assert effects.pairs_for(t / math.sqrt(n) * 1.0001, cells) == n
        assert effects.pairs_for(t / math.sqrt(n) * 0.9999, cells) == n + 1


@pytest.mark.parametrize(("t", "look"), [(18.0, effects.FILLED), (17.7, effects.HOLLOW), (4.2, effects.PLAIN)])
def test_certain_within_the_page_is_filled_alone_hollow(t, look):
    p = [float(2 * effects.statistics.stdtr(2, -t))] + [1.0] * 15
    assert effects.looks(p, [True] * 16) == [look] + [effects.PLAIN] * 15
    assert effects.looks(p, [False] + [True] * 15)[0] == (effects.PLAIN if look == effects.PLAIN else effects.HOLLOW)
    assert effects.looks([*p[:1], *[None] * 15], [True] * 16)[0] == look  # a cell to come counts already


@pytest.mark.parametrize("pairs", [3, 12])
def test_of_2000_pages_of_120_cells_without_effect_at_most_one_in_20_is_coloured(pairs):
    """Cells of one column share their baseline, as on a page they do: 8 methods, 5 backbones, 3 sets."""
    rng = np.random.default_rng(7)
    draws = rng.normal(size=(2000, 15, 9, pairs))
    logs = draws[:, :, 1:] - draws[:, :, :1]
    p = ttest_1samp(logs, 0, axis=-1).pvalue.reshape(2000, 120)
    drawn = [effects.looks(page, [True] * 120) for page in p.tolist()]
    coloured = sum(effects.FILLED in page for page in drawn)
    assert 0 < coloured <= 100
    hollow = sum(page.count(effects.HOLLOW) + page.count(effects.FILLED) for page in drawn) / 2000
    assert hollow == pytest.approx(120 * effects.ALPHA, rel=0.05)  # as many as the page says


def test_the_page_says_what_chance_alone_would_do_and_from_which_n_a_cell_is_coloured(tmp_path):
    (c,) = compare(made(tmp_path, planted)[0])
    text = " ".join(c.notes)
    assert "8 cells on this page: without any effect about 0.4 of them would be hollow" in text
    assert f"at 3 pairs a cell is filled from |t| > {effects.needed_t(3, 8):.3g} on" in text
    assert f"is filled from {effects.pairs_for(2, 8)} pairs on" in text
    assert "no cell is expected to be filled" in text


def test_a_lost_run_leaves_no_number_and_says_so(tmp_path):
    rep, table = made(tmp_path, planted, skip=lambda s, a, seed: (s, a, seed) == ("large", "sel", 1))
    fake.finish(tmp_path, table.cells["large", "sel"][1], {}, status="diverged", reason="loss/d")
    (c,) = compare(collect(rep.experiment, tmp_path))
    lost = c.cells["fid50k_full", "large", "sel"]
    assert lost.effect is None
    assert "2 of 3 pairs: 1 diverged" in lost.why
    assert "2 of 3 pairs: 1 diverged" in comparison_page.section(c)
    assert c.cells["fid50k_full", "small", "sel"].effect is not None


def test_a_cell_that_misses_a_pair_shows_its_n_and_is_never_filled(tmp_path):
    def clear(s, a, seed):
        return {"fid50k_full": (10.0 + seed) * (1 if a == "baseline" else 0.5 + 1e-6 * seed)}

    every = range(6)
    rep, _ = made(tmp_path, clear, seeds=tuple(every), skip=lambda s, a, seed: (s, a, seed) == ("large", "sel", 5))
    (c,) = compare(rep)
    assert c.cells["fid50k_full", "small", "sel"].look == effects.FILLED
    short = c.cells["fid50k_full", "large", "sel"]
    assert short.look == effects.HOLLOW
    assert "n 5 of 6" in comparison_text.about(short, True)


def test_one_backbone_and_one_data_set_are_no_comparison(tmp_path):
    settings = {"unconditional": {}, "conditional": {"conditional": True}}
    assert compare(made(tmp_path, planted, settings=settings)[0]) == ()


def test_cost_is_the_mean_ratio_of_pairs_on_one_device(tmp_path):
    def cost(s, a, seed):
        rate, memory = (1000.0, 900.0) if a == "baseline" else (500.0 * (1 + seed), 990.0)
        return {"cost": {"images_per_s": rate, "peak_memory_mib": memory, "train_s": 1.0}}

    (c,) = compare(made(tmp_path, planted, extra=cost)[0])
    found = c.cost["small", "sel"]
    assert found.time == pytest.approx(100 * ((2 * 1 * 2 / 3) ** (1 / 3) - 1))
    assert found.memory == pytest.approx(10)
    assert comparison_text.cost(found) == "time +10 %, memory +10 %"


def test_equal_seconds_read_the_slower_arm_where_the_baseline_ended(tmp_path):
    """Twice the cost a step: at the baseline's 400 s the arm has seen half of the images, where its curve is at 20."""

    def curves(s, a, seed):
        rate = 1000.0 if a == "baseline" else 500.0
        values = [(100_000, 40.0), (200_000, 20.0), (400_000, 8.0)]
        return {
            "cost": {"images_per_s": rate, "peak_memory_mib": 900.0},
            "series": {"eval/fid5k_full": [[0, 90.0], *map(list, values)]},
            "best": {"nimg": 400_000, "by": "fid5k_full", "metrics": {}},
        }

    (c,) = compare(made(tmp_path, planted, extra=curves)[0])
    assert c.equal["small", "sel"].effect.mean == pytest.approx(100 * (20 / 8 - 1))
    assert c.equal["small", "sel"].look != effects.FILLED
    assert c.cells["fid50k_full", "small", "sel"].effect.mean < 0  # never mixed with the first
    assert NO_CURVES not in c.notes


def test_without_curves_one_line_says_why_there_is_no_second_table(tmp_path):
    (c,) = compare(made(tmp_path, planted)[0])
    assert c.equal == {}
    assert NO_CURVES in c.notes
    assert comparison_text.EQUAL not in comparison_text.markdown(c)


@pytest.mark.parametrize(
    ("nimg", "value"), [(100, 4.0), (200, 2.0), (400, 1.0), (400.0000001, 1.0), (50, None), (500, None)]
)
def test_a_curve_is_geometric_between_its_points_and_nothing_outside(nimg, value):
    assert effects.at([(100, 4.0), (300, 1.0), (400, 1.0)], nimg) == (value and pytest.approx(value))


def test_no_ratio_of_what_is_not_above_0():
    assert effects.ratio([1.0, 2.0], [0.0, 1.0]) is None
    assert effects.in_sds([1.0, 2.0], [1.0, 1.0], [1.0, 1.0]) is None


def test_a_cell_that_cannot_be_counts_for_nothing_and_stands_with_its_reason(tmp_path):
    rep, table = made(tmp_path, planted)
    cells = {**table.cells, ("large", "align"): ()}
    marked = Table(**{**vars(table), "cells": cells, "not_possible": {("large", "align"): "refuses <batch> norm"}})
    (c,) = compare(collect(fake.experiment(marked), tmp_path))
    assert "not possible: refuses <batch> norm" in comparison_text.markdown(c).replace("&lt;", "<")
    assert "refuses &lt;batch> norm" in comparison_page.section(c).replace("&gt;", ">")
    assert any(n.startswith("6 cells on this page") for n in c.notes)
    assert "not possible" in comparison_text.latex(c)
