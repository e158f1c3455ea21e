"""docs/study.py: the study's figures from its results.csv."""

import csv
import runpy
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.experiment import files
from harness.experiment.matrix import entries
from harness.variants import align

ROOT = Path(__file__).resolve().parents[2]
study = runpy.run_path(str(ROOT / "docs/study.py"))
PRIMARY = study["PRIMARY"]


def rewritten(path, change):
    """The same results, each row as `change(row)` leaves it; without those of which it makes None."""
    with path.open(newline="") as file:
        rows = [kept for row in csv.DictReader(file) if (kept := change(row)) is not None]
    with path.open("w", newline="") as file:
        out = csv.DictWriter(file, list(rows[0]))
        out.writeheader()
        out.writerows(rows)
    return path


@pytest.fixture
def planted(tmp_path):
    """Results in which + SEL is better by 300 +- 10 everywhere, and one run of `release` on emoji diverged."""
    columns = ["seed", "state", "serves", "commit", "device", "torch", *study["COLUMNS"]]
    with (tmp_path / "results.csv").open("w", newline="") as file:
        rows = csv.DictWriter(file, columns)
        rows.writeheader()
        for place in ((s, a, seed) for s in study["SETTINGS"] for a in study["ARMS"] for seed in range(5)):
            setting, arm, seed = place
            lost = place == ("emoji", "release", 2)
            value = 1000 + 100 * seed - (300 + 10 * (-1) ** seed if arm == "sel" else 0) + (seed if "L" in arm else 0)
            scores = {} if lost else dict.fromkeys(study["COLUMNS"], value)
            serves = f"other/{setting}/{arm} study_small/{setting}/{arm}"
            made_by = {"commit": "abc", "device": "cpu", "torch": "2"}
            rows.writerow({"seed": seed, "state": "diverged" if lost else "done", "serves": serves} | made_by | scores)
    return tmp_path / "results.csv"


def test_a_planted_effect_is_found_and_a_lost_run_takes_the_word(planted):
    made = study["figures"](study["read"](planted)).splitlines()
    of_sel = [line for line in made if line.startswith("| + SEL |") and "better" in line]
    assert len(of_sel) == 2 and all(line.endswith("| better |") and "| −302 [−3" in line for line in of_sel)
    lost = [line for line in made if line.startswith("| + L_align, release |")]
    assert [line.endswith("| inconclusive |") for line in lost] == [False, False, False, True, False, True]
    assert "| 4 of 5 |" in lost[1] and "| 5 of 5 |" in lost[0]
    flat = [line for line in made if line.startswith("| + L_align, paper |") and line.endswith("| open |")]
    assert len(flat) == 2, "against the baseline there is nothing to be seen"


def test_the_figures_stand_between_their_marks_and_nothing_else_moves(planted):
    marks = study["FIGURES"]
    page = f"before\n{marks[0]}\nold\n{marks[1]}\nafter"
    made = study["written"](page, "new", marks)
    assert made == f"before\n{marks[0]}\n\nnew\n{marks[1]}\nafter" == study["written"](made, "new", marks)


def test_the_page_is_that_of_the_kept_figures():
    """Of those of the study once they are kept, until then that it has not ended; and of those of its defaults."""
    assert study["main"](["--check"]) == 0


def test_the_figures_say_what_they_are_made_of(planted):
    first = study["figures"](study["read"](planted)).splitlines()[0]
    assert first == "`python cli.py matrix experiments/study_small.yaml`: 69 of 70 runs done; commit abc, cpu, torch 2."


@pytest.mark.parametrize("state", ["running", "missing", "interrupted", "scored otherwise"])
def test_there_is_one_look_when_all_have_ended(planted, state):
    rewritten(planted, lambda row: row | {"state": state} if row["seed"] == "3" else row)
    with pytest.raises(UserError, match="14 runs have not ended; the plan allows one look"):
        study["read"](planted)


@pytest.mark.parametrize("change", [
    lambda row: row if row["seed"] != "4" else None,
    lambda row: row if "/sel_constant" not in row["serves"] else None,
    lambda row: row if row["seed"] != "4" else row | {"seed": "5"},
])  # fmt: skip
def test_results_of_another_plan_are_refused(planted, change):
    with pytest.raises(UserError, match="not the runs of the plan"):
        study["read"](rewritten(planted, change))


def test_a_run_without_a_finite_value_is_lost_as_a_diverged_one_is(planted):
    def spoil(row):
        return row | {PRIMARY: ""} if (row["seed"], "/emoji/paper" in row["serves"]) == ("1", True) else row

    made = study["figures"](study["read"](rewritten(planted, spoil))).splitlines()
    of_paper = [line for line in made if line.startswith("| + L_align, paper |")]
    assert [line.endswith("| inconclusive |") for line in of_paper] == [False, False, False, True, False, True]


@pytest.mark.parametrize(("sign", "word"), [(1, "worse"), (-1, "better")])
def test_what_only_the_uncorrected_interval_says_is_said_so(planted, sign, word):
    """Differences of 2 to 18: t(4) = 3.54, p = 0.024, and one of twelve comparisons."""

    def shift(row):
        if "study_small/fashion/paper" not in row["serves"]:
            return row
        seed = int(row["seed"])
        return row | {PRIMARY: str(1000 + 100 * seed + sign * (2 + 4 * seed))}

    made = study["figures"](study["read"](rewritten(planted, shift))).splitlines()
    line = next(line for line in made if line.startswith("| + L_align, paper |") and "Holm" in line)
    assert "| 0.024 |" in line and line.endswith(f"| {word}, not after Holm |")


def test_a_setting_whose_baseline_is_lost_has_no_comparison(planted):
    def lose(row):
        gone = dict.fromkeys(study["COLUMNS"], "") | {"state": "failed"}
        return row | gone if "study_small/emoji/baseline" in row["serves"] else row

    made = study["figures"](study["read"](rewritten(planted, lose)))
    assert made.count("inconclusive") == 6 + 1, "all six against it, and the lost run against + SEL"


def test_each_arm_of_the_defaults_is_another_and_the_chosen_bound_is_the_profiles():
    experiment = files.load(ROOT / "experiments/align_defaults.yaml")
    trials = {e.serves[0].arm: e.trial for e in entries(experiment)}
    assert len(entries(experiment)) == 6 * 2 * 2
    bounds = {arm: o.max_ratio for arm, t in trials.items() if (o := t.variant("align")) is not None}
    assert bounds == {"weight_1": None, "ratio_1": 1, "ratio_03": 0.3, "ratio_01": 0.1}
    assert bounds["ratio_01"] == align.PROFILES["coherent"]["max_ratio"]


def test_power_is_that_of_the_t_test():
    """Five pairs, an effect of one standard deviation: 40 %; for 80 % it takes 1.68 (field tables of the t-test)."""
    assert study["power"](1.0, 5) == pytest.approx(0.40, abs=0.005)
    assert study["power"](0.0, 5) == pytest.approx(0.025, abs=1e-6)
    assert study["smallest_effect"](5) == pytest.approx(1.68, abs=0.005)
    assert study["smallest_effect"](5, level=1 - 0.05 / 12) == pytest.approx(3.31, abs=0.005)
