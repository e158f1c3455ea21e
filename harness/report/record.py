"""Whether a result.json holds what a report reads from it. It is written whole, so what does not was spoilt later, by
a hand or a disk: that is one line about one file, never a traceback out of a table."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from harness.errors import UserError

Rule = tuple[Callable[[Any], bool], str]


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, kinds) and (bool in kinds or not isinstance(v, bool))


def _inside(v: Any) -> bool:
    """A path in the trial's folder."""
    return isinstance(v, str) and "\0" not in v and not {"..", "/"} & set(PurePosixPath(v).parts) and v not in ("", ".")


def _finite(v: Any) -> bool:
    return _is(int, float)(v) and abs(v) < 1e300


def _count(v: Any) -> bool:
    return _is(int)(v) and 0 <= v < 2**53


OBJECT: Rule = (_is(dict), "an object")
NUMBER: Rule = (_finite, "a number")
COUNT: Rule = (_count, "a count")
TEXT: Rule = (_is(str), "a text")
MAYBE_NUMBER: Rule = (lambda v: v is None or _finite(v), "a number or null")
MAYBE_TEXT: Rule = (lambda v: v is None or isinstance(v, str), "a text or null")
VALUE: Rule = (lambda v: isinstance(v, int | float | str | None), "a number")  # "nan" and null: none, and said so
POINT: Rule = (
    lambda v: isinstance(v, list) and len(v) == 2 and _count(v[0]) and _figure(v[1]), "[images, value]"
)  # fmt: skip
BETTER: Rule = (lambda v: v in ("lower", "higher", "zero"), "lower, higher or zero")
SAMPLE: Rule = (
    lambda v: _inside(v) and re.fullmatch(r"\d{1,15}", PurePosixPath(v).stem, re.ASCII) is not None,
    "samples/IMAGES.png",
)  # fmt: skip
PICTURE: Rule = (_inside, "a path in the trial's folder")
RANK: Rule = (lambda v: v is None or _is(int)(v) and abs(v) < 2**53, "a whole number or null")
FEATURES: Rule = (lambda v: v is None or _count(v), "a count or null")


def _figure(v: Any) -> bool:
    """A number, or the name of one that is none, as a journal keeps it."""
    try:
        float(v)
    except (TypeError, ValueError):
        return False
    return not isinstance(v, bool)


METRIC: dict[str, Rule] = {
    "": OBJECT, ".value": VALUE, ".se": MAYBE_NUMBER, ".better": BETTER, ".protocol": OBJECT, ".role": MAYBE_TEXT,
    ".label": MAYBE_TEXT, ".headline": (_is(bool), "true or false"), ".rank": RANK, ".paper": MAYBE_TEXT,
    ".apart": MAYBE_TEXT, ".features": FEATURES, ".extra": OBJECT, ".extra.told": MAYBE_TEXT,
}  # fmt: skip
RULES: dict[str, Rule] = {
    "scoring": OBJECT, "identity": OBJECT, "code": OBJECT, "code.scoring": OBJECT,
    "code.scoring.*": TEXT, "code.training": (lambda v: v is None or isinstance(v, dict), "an object or null"),
    "code.training.*": TEXT, "diverged_in": MAYBE_TEXT, "networks": MAYBE_TEXT,
    "snapshots_of": MAYBE_TEXT, "world": (lambda v: v is None or isinstance(v, list), "a list or null"),
    "world.*": COUNT, "status": TEXT, "reason": MAYBE_TEXT, "nimg": COUNT, "config": OBJECT, "config.eval": OBJECT,
    "spoilt_lines": COUNT, "metrics": OBJECT, **{f"metrics.*{k}": rule for k, rule in METRIC.items()},
    "best": OBJECT, "best.nimg": COUNT, "best.by": TEXT, "best.metrics": OBJECT,
    **{f"best.metrics.*{k}": rule for k, rule in METRIC.items()}, "best.metrics.*.value": NUMBER,
    "series": OBJECT, "series.*": (_is(list), "a list"), "series.*.*": POINT,
    "samples": (_is(list), "a list"), "samples.*": SAMPLE, "figures": OBJECT, "figures.*": PICTURE,
    "cost": OBJECT, "cost.*": MAYBE_NUMBER, "dataset": OBJECT, "env": OBJECT, "env.versions": OBJECT,
    "env.plugins": OBJECT, "env.plugins.*": TEXT,
}  # fmt: skip
"""What may stand where, `*` for whatever key or place. What is absent was not there to be written."""
STATE: dict[str, Rule] = {"state": TEXT, "nimg": COUNT, "total_nimg": COUNT, "message": MAYBE_TEXT}
"""Likewise of a state.json."""
NEEDED = {"metrics.*": ("value",), "best": ("nimg", "by"), "best.metrics.*": ("value",)}


def check(result: Mapping[str, Any], path: Path, rules: Mapping[str, Rule] = MappingProxyType(RULES)) -> None:
    """Raise UserError that names the first place in the file at `path` that holds something else."""
    for pattern, (holds, what) in rules.items():
        for place, value in _found(result, pattern.split(".")):
            if not holds(value):
                raise _spoilt(path, place, f"{value!r}: must be {what}")
            for key in NEEDED.get(pattern, ()):
                if key not in value:
                    raise _spoilt(path, f"{place}.{key}", "missing")


def _found(value: Any, pattern: list[str], place: str = "") -> Iterator[tuple[str, Any]]:
    """(place, value) of all that a pattern names and that is there."""
    if not pattern:
        yield place.removeprefix("."), value
        return
    key, *rest = pattern
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for k, v in inside:
        if key in ("*", k):
            yield from _found(v, rest, f"{place}.{k}")


def _spoilt(path: Path, place: str, what: str) -> UserError:
    return UserError(
        f"{path}: {place}: {what[:200]}; the file was spoilt after it was written: restore it, or move the trial's "
        "folder away and run it again"
    )
