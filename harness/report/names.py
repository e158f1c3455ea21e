"""What a metric is called, what it is to a table, and in which order a report shows several: as their records say."""

import functools
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from harness import plugins

ROLES = ("distance", "equilibrium", "other")
LAST = 1 << 30  # the rank of a headline metric that names none


class Name(NamedTuple):
    """A metric as its records introduce it: see `Heading` of the metrics. `key`: its name in result.json."""

    key: str
    label: str
    role: str = "other"
    headline: bool = False
    rank: int = LAST
    paper: str | None = None
    apart: str | None = None
    features: int | None = None


def of(key: str, record: Mapping[str, Any]) -> Name:
    """A metric's record, introduced. What records did not say when it was written is asked of the metrics' files."""
    filed = _by_file(key, json.dumps(record.get("protocol", {})))
    told = {**record} if "role" in record else filed
    if told.get("role") == "distance":
        told = {"features": filed.get("features"), **told}
    return Name(key, **{"label": key, **{k: told[k] for k in Name._fields[1:] if told.get(k) is not None}})


@functools.cache
def _by_file(key: str, protocol: str) -> Mapping[str, Any]:
    for name in plugins.names("harness.metrics"):
        module = plugins.find("harness.metrics", name)
        if hasattr(module, "heading") and (told := module.heading(key, json.loads(protocol))) is not None:
            return dict(told)
    return {}


def heads(names: Iterable[Name]) -> list[Name]:
    """Of each role the headline metric of least rank, in the order of the roles."""
    fit = {n.key: n for n in names if n.headline}
    ranked = sorted(fit.values(), key=lambda n: (n.rank, n.key))
    first = {n.role: n for n in reversed(ranked)}
    return [first[role] for role in ROLES if role in first]


def order(names: Iterable[Name]) -> list[Name]:
    """The heads, then other measures of equilibrium, other distances fit to head a table, and the rest."""
    every = {n.key: n for n in names}
    first = heads(every.values())

    def place(n: Name) -> tuple[bool, bool, str]:
        return n.role != "equilibrium", not (n.role == "distance" and n.headline), n.key

    return first + sorted((n for n in every.values() if n not in first), key=place)


def pair(names: Iterable[Name]) -> tuple[Name, Name] | None:
    """The distance and the measure of equilibrium to draw against each other: the paper's question in one chart."""
    by_role = {n.role: n for n in heads(names)}
    return (by_role["distance"], by_role["equilibrium"]) if {"distance", "equilibrium"} <= by_role.keys() else None
