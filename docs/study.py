"""Every figure of docs/study.md, from the kept results.csv of the study and the kept figures of its defaults.

    python docs/study.py            write them into docs/study.md again
    python docs/study.py --check    say whether they stand there as they should

One rule for all: differences are paired by training seed, intervals are 95 % t-intervals over seeds, and a comparison
that has lost a run (diverged, failed, or without a finite value) is said to be lost. Holm's correction runs over the
comparisons of the plan. There is one look: before every planned run has ended there are no figures.
"""

import argparse
import csv
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from scipy.optimize import brentq
from scipy.stats import nct, t

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # run as a file, from anywhere

from docs import defaults  # noqa: E402
from harness.errors import UserError  # noqa: E402
from harness.report import statistics as st  # noqa: E402
from harness.report.model import DIVERGED, FAILED, NOT_FINITE  # noqa: E402

RESULTS = HERE.parent / "results/tables/study_small.csv"
PAGE = HERE / "study.md"
FIGURES = "<!-- figures: python docs/study.py -->", "<!-- end of figures -->"
DEFAULTS = "<!-- defaults: python docs/study.py -->", "<!-- end of defaults -->"
NOT_RUN = "The study has not been run to its end.\n"
COMMAND = "python cli.py matrix experiments/study_small.yaml"
SEEDS = (0, 1, 2, 3, 4)
SIZE = "_efficientnet_lite0_96px_2k_train3k"
TABLE, PRIMARY = "study_small", "fd" + SIZE
SETTINGS = {"fashion": "Fashion-MNIST", "emoji": "Emoji"}
ARMS = {
    "baseline": "Baseline",
    "sel": "+ SEL",
    "sel_constant": "+ SEL, constant heatmaps",
    "paper": "+ L_align, paper",
    "coherent": "+ L_align, coherent",
    "coherent_strong": "+ L_align, coherent, strong",
    "release": "+ L_align, release",
}
COLUMNS = {
    PRIMARY: "FD (Lite0)",
    "fd" + SIZE.replace("lite0", "lite1"): "FD (Lite1)",
    "density" + SIZE: "density",
    "coverage" + SIZE: "coverage",
    "di_calibrated": "calibrated DI",
}


class Runs(NamedTuple):
    """One arm in one setting: the values by seed of each column, and what became of every planned run."""

    values: dict[str, dict[int, float]]
    states: dict[int, str]
    facts: set[str]  # commits and machines

    @property
    def done(self) -> int:
        return sum(state == "done" for state in self.states.values())

    @property
    def lost(self) -> int:
        return len(self.states) - self.done


def read(path: Path) -> dict[tuple[str, str], Runs]:
    """{(setting, arm): its runs} of the table TABLE. UserError unless it is the plan's, and every run has ended."""
    runs: dict[tuple[str, str], Runs] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for place in row["serves"].split():
                table, setting, arm = place.strip(",;").split("/")
                if table != TABLE:
                    continue
                found = runs.setdefault((setting, arm), Runs({column: {} for column in COLUMNS}, {}, set()))
                seed, state = int(row["seed"]), row["state"]
                found.states[seed] = NOT_FINITE if state == "done" and not row[PRIMARY] else state
                if state == "done":
                    found.facts.add(f"commit {row['commit']}, {row['device']}, torch {row['torch']}")
                for column in COLUMNS:
                    if row[column]:
                        found.values[column][seed] = float(row[column])
    planned = {(setting, arm) for setting in SETTINGS for arm in ARMS}
    if set(runs) != planned or any(sorted(r.states) != list(SEEDS) for r in runs.values()):
        raise UserError(f"{path}: not the runs of the plan: {len(planned)} cells of seeds {SEEDS}; keep them all")
    ends = {"done", *DIVERGED, *FAILED}
    if open_ := sum(state not in ends for r in runs.values() for state in r.states.values()):
        raise UserError(f"{path}: {open_} runs have not ended; the plan allows one look, when all have: {COMMAND}")
    return runs


def power(effect: float, n: int, level: float = st.LEVEL) -> float:
    """How often a paired t-test of n pairs, two-sided at `level`, says the right direction where the mean difference is
    `effect` standard deviations."""
    return float(nct.sf(t.ppf(0.5 + level / 2, n - 1), n - 1, effect * math.sqrt(n)))


def smallest_effect(n: int, wanted: float = 0.8, level: float = st.LEVEL) -> float:
    """In standard deviations of the paired differences: what n pairs see at `level` with a power of `wanted`."""
    return float(brentq(lambda effect: power(effect, n, level) - wanted, 0.01, 40))


def difference(arm: Runs, base: Runs, column: str) -> st.Paired | None:
    """None where a run of either is lost: what is left are survivors."""
    return None if arm.lost or base.lost else st.paired(arm.values[column], base.values[column])


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    head = list(head)
    lines = [head, ["---", *(["---:"] * (len(head) - 1))], *map(list, rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def number(x: float, unit: float) -> str:
    """With as many digits as the unit calls for."""
    digits = max(0, 2 - math.floor(math.log10(abs(unit)))) if unit else 2
    return f"{x:.{min(digits, 3)}f}".replace("-", "−")


def interval(s: st.Summary) -> str:
    if s.low is None or s.high is None:
        return number(s.mean, s.mean)
    unit = 10 * (s.high - s.low)
    return f"{number(s.mean, unit)} [{number(s.low, unit)}, {number(s.high, unit)}]"


def percent(s: st.Summary, reference: float) -> str:
    assert s.low is not None and s.high is not None
    mean, low, high = (f"{100 * x / reference:+.0f}".replace("-", "−") for x in (s.mean, s.low, s.high))
    return f"{mean} % [{low}, {high}]"


def values(runs: dict[tuple[str, str], Runs], setting: str) -> list[str]:
    rows = []
    for arm, label in ARMS.items():
        one = runs[setting, arm]
        cells = [
            interval(st.summary(list(v.values()))) + (f" of {len(v)}" if len(v) < one.done else "") if v else "n/a"
            for v in one.values.values()
        ]
        rows.append([label, f"{one.done} of {len(one.states)}", *cells])
    return table([f"{SETTINGS[setting]}: arm", "runs", *COLUMNS.values()], rows)


def against(
    runs: dict[tuple[str, str], Runs], setting: str, base: str, arms: Iterable[str], p: list[float]
) -> list[str]:
    """Differences to `base` in the primary column; `p`: their p-values by Holm, in this order."""
    rows = []
    for arm, corrected in zip(arms, p, strict=True):
        found = difference(runs[setting, arm], runs[setting, base], PRIMARY)
        if found is None:
            lost = runs[setting, arm].lost + runs[setting, base].lost
            rows.append([ARMS[arm], f"lost: {lost} runs", "", "", "", "inconclusive"])
            continue
        s = found.summary
        reference = st.summary(list(runs[setting, base].values[PRIMARY].values())).mean
        assert s.low is not None and s.high is not None and s.sd is not None and found.p_t is not None
        says = "better" if s.high < 0 else "worse" if s.low > 0 else "open"
        if says != "open" and corrected > 1 - st.LEVEL:
            says += ", not after Holm"
        rows.append(
            [
                ARMS[arm],
                interval(s),
                percent(s, reference),
                f"{found.p_t:.3f}",
                f"{corrected:.3f}",
                says,
            ]
        )
    head = [
        f"{SETTINGS[setting]}, against {ARMS[base]}",
        "difference of FD (Lite0)",
        "in % of it",
        "p",
        "p (Holm)",
        "says",
    ]
    return table(head, rows)


COMPARISONS = {
    "baseline": [a for a in ARMS if a != "baseline"],
    "sel": [a for a in ARMS if a not in ("baseline", "sel")],
}


def figures(runs: dict[tuple[str, str], Runs]) -> str:
    """All tables, as Markdown, and above them what they are made of."""
    done, planned = sum(r.done for r in runs.values()), sum(len(r.states) for r in runs.values())
    facts = sorted({fact for r in runs.values() for fact in r.facts})
    lines = [f"`{COMMAND}`: {done} of {planned} runs done; {'; '.join(facts)}.", ""]
    for setting in SETTINGS:
        lines += [*values(runs, setting), ""]
    for base, arms in COMPARISONS.items():
        found = {(s, a): difference(runs[s, a], runs[s, base], PRIMARY) for s in SETTINGS for a in arms}
        # A lost comparison was planned, too, and counts in the family.
        raw = {key: 1.0 if d is None or d.p_t is None else d.p_t for key, d in found.items()}
        corrected = dict(zip(raw, st.holm(list(raw.values())), strict=True))
        for setting in SETTINGS:
            p = [corrected[setting, a] for a in arms]
            lines += [*against(runs, setting, base, arms, p), ""]
    lines += [*seen(runs), ""]
    return "\n".join(lines)


def seen(runs: dict[tuple[str, str], Runs]) -> list[str]:
    """What the pairs could have seen, by the spread they turned out to have."""
    rows = []
    for setting in SETTINGS:
        pairs = [
            d
            for a in COMPARISONS["baseline"]
            if (d := difference(runs[setting, a], runs[setting, "baseline"], PRIMARY))
        ]
        spreads = [d.summary.sd for d in pairs if d.summary.sd]
        if not spreads:
            continue
        n = pairs[0].summary.n
        low, high = min(spreads), max(spreads)
        k = smallest_effect(n)
        first = smallest_effect(n, level=1 - (1 - st.LEVEL) / (len(SETTINGS) * len(COMPARISONS["baseline"])))
        base = st.summary(list(runs[setting, "baseline"].values[PRIMARY].values())).mean
        rows.append(
            [
                SETTINGS[setting],
                str(n),
                f"{low:.0f} to {high:.0f}",
                f"{k * low:.0f} to {k * high:.0f}",
                f"{100 * k * low / base:.0f} to {100 * k * high / base:.0f} %",
                f"{100 * first * low / base:.0f} to {100 * first * high / base:.0f} %",
            ]
        )
    return table(
        ["", "pairs", "sd of the differences", "seen with 80 % power", "in % of the baseline", "as the first by Holm"],
        rows,
    )


def written(page: str, made: str, marks: tuple[str, str]) -> str:
    """The page with `made` between its marks."""
    before, rest = page.split(marks[0])
    _, after = rest.split(marks[1])
    return f"{before}{marks[0]}\n\n{made}\n{marks[1]}{after}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where the page says otherwise")
    args = parser.parse_args(argv)
    page = PAGE.read_text(encoding="utf-8")
    try:
        made = written(page, defaults.figures(defaults.read()), DEFAULTS)
        made = written(made, figures(read(RESULTS)) if RESULTS.exists() else NOT_RUN, FIGURES)
    except UserError as e:
        print(e, file=sys.stderr)
        return 2
    if args.check:
        return int(made != page)
    PAGE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
