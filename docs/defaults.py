"""The table "The defaults" of docs/study.md, from the kept figures of its models (results/tables/align_defaults.csv).

    python docs/defaults.py RESULTS...    keep the figures of `align_defaults` in these folders of results
    python docs/study.py                  write the table into docs/study.md, with all others

A row a model. `agreement`: the correlation of D's attention with G's own heatmap less that with another image's, mean
of the levels (attention.json). `ratio`, `cosine`, `weight`, `empty` (the emptiest level's): means over the second half
of training (the trial's curves).
"""

import csv
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

KEPT = Path(__file__).resolve().parent.parent / "results/tables/align_defaults.csv"
NAME = "align_defaults"
COLUMNS = ("setting", "arm", "seed", "commit", "slope", "agreement", "ratio", "cosine", "weight", "empty")
SETTINGS = {"fashion": "Fashion-MNIST", "emoji": "emoji"}
ARMS = {
    "sel": "(+ SEL alone)",
    "weight_1": "weight 1",
    "ratio_1": "`max_ratio: 1`",
    "ratio_03": "`max_ratio: 0.3`",
    "ratio_01": "`max_ratio: 0.1`",
}
Row = Mapping[str, str]


def measured(folder: Path) -> Iterable[dict[str, Any]]:
    """The models of one folder of results, those of ARMS."""
    attention = json.loads((folder / NAME / "attention.json").read_text(encoding="utf-8"))
    for trial in attention["trials"]:
        setting, arm, seed = trial["name"].split("/")
        if arm not in ARMS:
            continue
        result = json.loads((folder / "trials" / trial["id"] / "result.json").read_text(encoding="utf-8"))
        records, curves = trial["records"], result["series"]
        own, others = (at_levels(records, f"agreement/{name}/") for name in ("correlation", "others"))
        row: dict[str, Any] = {"setting": setting, "arm": arm, "seed": seed.removeprefix("s")}
        row |= {"commit": result["env"]["commit"], "slope": records["control/slope"]["value"]}
        row["agreement"] = mean(own) - mean(others)
        for name in ("ratio", "cosine", "weight"):
            row[name] = late(curves.get(f"loss/align/{name}"), result["nimg"])
        empty = [
            late(points, result["nimg"]) for name, points in curves.items() if name.startswith("loss/align_empty/")
        ]
        row["empty"] = max((share for share in empty if share is not None), default=None)
        yield row


def at_levels(records: Mapping[str, Any], head: str) -> list[float]:
    """Values of the records `head`4, `head`8, ..."""
    return [r["value"] for name, r in records.items() if name.startswith(head)]


def late(points: list[list[float]] | None, nimg: int) -> float | None:
    """Mean of a curve [[nimg, value], ...] over the second half of training; None where there is none."""
    return mean(value for at, value in points if 2 * at > nimg) if points else None


def keep(folders: Iterable[Path]) -> None:
    with KEPT.open("w", newline="", encoding="utf-8") as file:
        rows = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        rows.writeheader()
        rows.writerows(row for folder in folders for row in measured(folder))


def read(path: Path = KEPT) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def figures(rows: list[Row]) -> str:
    """The table as Markdown: slopes by seed, all else the mean over models, agreement with its range."""
    head = [f"slope, {label}" for label in SETTINGS.values()]
    columns = ("agreement", "ratio", "cosine", "weight", "empty")
    lines = [["`coherent` with", *head, *columns[:-1], "empty maps"], ["---", *(["--:"] * (len(head) + len(columns)))]]
    for arm, label in ARMS.items():
        own = [row for row in rows if row["arm"] == arm]
        own.sort(key=lambda row: int(row["seed"]))
        slopes = {s: [number(float(row["slope"])) for row in own if row["setting"] == s] for s in SETTINGS}
        cells = [", ".join(of) for of in slopes.values()]
        for column in columns:
            values = [float(row[column]) for row in own if row[column]]
            plain = arm == "weight_1" and column == "weight"  # it never moves, so it is no curve
            cells.append("1" if plain else number(mean(values)) if values else "")
            if column == "agreement":
                cells[-1] += f" ({number(min(values))} to {number(max(values))})"
        lines.append([label, *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def number(x: float) -> str:
    return f"{x:.2f}".replace("-", "−").replace("−0.00", "0.00")


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit((__doc__ or "").strip())
    keep(map(Path, sys.argv[1:]))
