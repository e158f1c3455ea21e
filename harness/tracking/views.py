"""How MLflow's run page shall look: saved views kept as tags of an experiment. Pure data.

The default page of a parent run with children shows no chart at all. The format is MLflow's
own, undocumented (measured with 3.17): losing a view to an upgrade loses no number.
"""

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any

VIEWS = {"by-arm": "by arm", "every-trial": "every trial"}
PALETTE = ("#7f7f7f", "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2", "#bcbd22")
OTHERS = ("cost", "system")  # sections that stay closed
_TAG = "mlflow.sharedViewState."


def colour(arm: str, arms: Sequence[str]) -> str:
    """The colour of an arm's runs: the first arm, a baseline, is grey."""
    return PALETTE[arms.index(arm) % len(PALETTE)]


def tags(
    parent_id: str, curves: Sequence[str], finals: Sequence[str], pair: tuple[str, str] | None, now_ms: int
) -> dict[str, str]:
    """Experiment tags that make the two views. `curves` and `finals`: metric names to draw; `pair`: of the finals a
    distance and a measure of equilibrium, if there are such."""
    bars = [*_bars(finals), *_scatter(pair)]
    states = {
        "by-arm": _by_arm(parent_id, curves, finals, bars), "every-trial": _every_trial(parent_id, curves, finals, bars)
    }  # fmt: skip
    out = {}
    for key, state in states.items():
        packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
        view = {"name": VIEWS[key], "createdAt": now_ms, "updatedAt": now_ms, "state": f"deflate;{packed}"}
        out[_TAG + key] = json.dumps(view)
    return out


def link(base: str, experiment_id: str, view: str = "by-arm") -> str:
    """Address of a view below the server's `base` URL, opened on its charts."""
    query = f"workflowType=machine_learning&viewStateShareKey={view}&compareRunsMode=CHART"
    return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"


def _by_arm(
    parent_id: str, curves: Sequence[str], finals: Sequence[str], bars: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Grouped over seeds: mean curves with a band, bars of final scores, DI against the distance."""
    keys = [{"mode": "param", "groupByData": p} for p in ("arm", "setting")]
    return {
        **_state(parent_id, finals),
        "groupBy": {"aggregateFunction": "average", "groupByKeys": keys},
        "useGroupedValuesInCharts": True,
        **_charts([*bars, *_lines(curves)]),
    }


def _every_trial(
    parent_id: str, curves: Sequence[str], finals: Sequence[str], bars: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """One line a trial, with the sample grids and parallel coordinates, which MLflow can't draw grouped."""
    images = {"type": "IMAGE", "imageKeys": ["samples"], "step": 0, "metricSectionId": "samples"}
    axes = {
        "type": "PARALLEL",
        "selectedParams": ["setting", "arm", "seed"],
        "selectedMetrics": list(finals),
        "showAllRuns": True,
        "metricSectionId": "final",
    }
    charts = [images, *([axes] if finals else []), *bars, *_lines(curves)]
    return {**_state(parent_id, finals), "groupBy": None, **_charts(charts)}


def _state(parent_id: str, finals: Sequence[str]) -> dict[str, Any]:
    columns = [f"params.`{p}`" for p in ("setting", "arm", "seed")] + [f"metrics.`{m}`" for m in finals]
    return {
        "searchFilter": f'tags.`mlflow.parentRunId` = "{parent_id}"',
        "orderByKey": f"metrics.`{finals[0]}`" if finals else "attributes.start_time",
        "orderByAsc": True,
        "selectedColumns": ["attributes.`Source`", *columns],
        "runsHiddenMode": "SHOWALL",
        "hideEmptyCharts": True,
        "isAccordionReordered": False,
    }


def _charts(charts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The charts, and a section for each kind of them."""
    sections = []
    for name in dict.fromkeys(c["metricSectionId"] for c in charts):
        shape = {"columns": 1, "cardHeight": 640} if name == "samples" else {"columns": 2}
        sections.append({"uuid": name, "name": name, "display": True, "isReordered": True, **shape})
    # MLflow adds a section for what else it finds, sorts by name, and would open `cost` on top.
    sections += [{"uuid": s, "name": s, "display": False, "isReordered": False, "columns": 3} for s in OTHERS]
    fixed = {"deleted": False, "isGenerated": False, "runsCountToCompare": 100}
    return {
        "compareRunSections": sections,
        "compareRunCharts": [{**fixed, "uuid": f"chart-{i}", **chart} for i, chart in enumerate(charts)],
    }


def _bars(finals: Sequence[str]) -> list[dict[str, Any]]:
    return [{"type": "BAR", "metricKey": m, "dataAccessKey": m, "metricSectionId": "final"} for m in finals]


def _lines(curves: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "type": "LINE",
            "metricKey": m,
            "selectedMetricKeys": [m],
            "metricSectionId": m.partition("/")[0],
            "xAxisKey": "step",
            "selectedXAxisMetricKey": "",
            "xAxisScaleType": "linear",
            "scaleType": "linear",
            "lineSmoothness": 0,
            "yAxisKey": "metric",
            "yAxisExpressions": [],
            "range": {},
        }
        for m in curves
    ]


def _scatter(pair: tuple[str, str] | None) -> list[dict[str, Any]]:
    """Equilibrium against distance to the data: the paper's question in one chart."""
    if pair is None:
        return []
    y, x = ({"key": key, "type": "METRIC"} for key in pair)
    return [{"type": "SCATTER", "xaxis": x, "yaxis": y, "metricSectionId": "final"}]
