"""docs/study.py: the study's figures from its results.csv."""

import csv
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
study = runpy.run_path(str(ROOT / "docs/study.py"))


@pytest.fixture
def planted(tmp_path):
    """Results in which + SEL is better by 300 +- 10 everywhere, and one run of `release` on emoji diverged."""
    columns = ["seed", "state", "serves", *study["COLUMNS"]]
    with (tmp_path / "results.csv").open("w", newline="") as file:
        rows = csv.DictWriter(file, columns)
        rows.writeheader()
        for place in ((s, a, seed) for s in study["SETTINGS"] for a in study["ARMS"] for seed in range(5)):
            setting, arm, seed = place
            lost = place == ("emoji", "release", 2)
            value = 1000 + 100 * seed - (300 + 10 * (-1) ** seed if arm == "sel" else 0) + (seed if "L" in arm else 0)
            scores = {} if lost else dict.fromkeys(study["COLUMNS"], value)
            rows.writerow({"seed": seed, "state": "diverged" if lost else "done",
                           "serves": f"other/{setting}/{arm} study_small/{setting}/{arm}", **scores})  # fmt: skip
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
    page = f"before\n{study['OPEN']}\nold\n{study['CLOSE']}\nafter"
    made = study["written"](page, "new")
    assert made == f"before\n{study['OPEN']}\n\nnew\n{study['CLOSE']}\nafter" == study["written"](made, "new")


def test_power_is_that_of_the_t_test():
    """Five pairs, an effect of one standard deviation: 40 %; for 80 % it takes 1.68 (field tables of the t-test)."""
    assert study["power"](1.0, 5) == pytest.approx(0.40, abs=0.005)
    assert study["power"](0.0, 5) == pytest.approx(0.025, abs=1e-6)
    assert study["smallest_effect"](5) == pytest.approx(1.68, abs=0.005)
