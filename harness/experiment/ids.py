"""What makes two trials the same one, whichever version of the program asks: that which differs from the defaults,
the EPOCHs of the code that decides numbers, and the images.

An option at its default is as if it did not exist, and so is an EPOCH of 1: new options and new files change no id.
Who changes a default, or code so that numbers move, raises the `EPOCH` of that file (tests/golden/defaults.json), or
one that only trials of a case hang on (CASES).
"""

import dataclasses
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from harness import plugins
from harness.experiment.schema import plain, spelt

# Whose EPOCH stands for training, for scoring, and for scoring averaged networks that keep statistics.
LOOP, SCORING, STATISTICS = "harness.training.train", "harness.evaluation.evaluate", "harness.evaluation.statistics"
# EPOCHs that only some trials hang on: a file that states EPOCH_<CASE> moved the numbers of trials of that case alone.
CASES: dict[str, Callable[[Any], bool]] = {
    "RAMPUP": lambda train: train.ema_kimg is not None and train.ema_rampup is not None,
    "FP16": lambda train: train.precision == "fp16",
    "HALF": lambda train: train.precision != "fp32",
}
FILE = "identity.json"  # in a trial's folder: what its id is the digest of


def digest(identity: Mapping[str, Any]) -> str:
    """12 hex digits of an identity as `of_trial` gives it: the id."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def of_trial(trial: Any) -> dict[str, Any]:
    """All that decides the trained weights: `options`, `epochs` and `data`, as plain data. Not how they are scored.

    Where nobody has looked at the images, the place where they should lie tells two trials apart.
    """
    parts = {
        "dataset": _shelf("harness.datasets", trial.dataset),
        "backbone": _shelf("backbones", trial.backbone),
        **{f"variant.{v.name}": _shelf("harness.variants", v) for v in trial.variants},
    }
    options = {
        "dataset": dataset_options(trial.dataset),
        "backbone": _named(trial.backbone),
        "conditional": trial.conditional,
        # In their order, in which they act; a profile is its options.
        "variants": [[v.name, _without(differing(v.options), "profile")] for v in trial.variants],
        "train": differing(trial.train),
        "seed": trial.seed,
    }
    cases = [case for case, holds in CASES.items() if holds(trial.train)]
    found = epochs(parts, cases, loop=LOOP)
    return {"options": options, "epochs": found, "data": trial.data or _place(trial.dataset)}


def reals(trial: Any) -> str:
    """The identity of the images that a distance to the whole split takes, where training sees a part of them; else
    empty: they are the trial's own."""
    module, asked = _shelf("harness.datasets", trial.dataset), differing(trial.dataset.options)
    part = any(name in asked for name in getattr(module, "PART", ()))
    return trial.data or _place(trial.dataset) if part and trial.eval.distances else ""


def of_scoring(spec: Any, own_statistics: bool = False, *, reals: str = "") -> dict[str, Any]:
    """All that decides how trained weights are scored: `options`, `epochs` and, where there are such, `reals`.
    `own_statistics`: see there."""
    options = {**differing(spec), "metrics": {m.name: differing(m.options) for m in spec.metrics}}
    parts = {f"metric.{m.name}": _shelf("harness.metrics", m) for m in spec.metrics}
    machinery = {"scoring": SCORING} | ({"statistics": STATISTICS} if own_statistics else {})
    return {"options": options, "epochs": epochs(parts, **machinery), **({"reals": reals} if reals else {})}


def own_statistics(trial: Any) -> bool:
    """Whether `trial` is scored by an averaged G with layers that keep statistics of what passes them: MOMENTS of its
    backbone's file, which counts as true where that says nothing, or of a variant's, where it is false."""
    if trial.train.ema_kimg is None or trial.eval.weights == "raw":
        return False
    variants = [_shelf("harness.variants", v) for v in trial.variants]
    return getattr(_shelf("backbones", trial.backbone), "MOMENTS", True) or any(
        getattr(module, "MOMENTS", False) for module in variants
    )


def data_of(dataset: Any) -> str | None:
    """The identity of a dataset's images; None where they are not here. One that can't tell is known by its pixels."""
    module = plugins.find("harness.datasets", dataset.name)
    if hasattr(module, "identity"):
        found: str | None = module.identity(dataset.options)
        return found
    return f"pixels:{module.load(dataset.options).fingerprint}"


def dataset_options(dataset: Any) -> dict[str, Any]:
    """The dataset's name and options but for where its files lie: what they hold is `Trial.data`."""
    return _without(_named(dataset), *paths(dataset))


def paths(dataset: Any) -> dict[str, Path]:
    """Those of its options that say where its files lie."""
    values = {f.name: getattr(dataset.options, f.name) for f in dataclasses.fields(dataset.options)}
    return {name: value for name, value in values.items() if isinstance(value, Path)}


def lie_at(dataset: Any) -> tuple[Path, ...]:
    """Where its files lie, or would lie once they were fetched."""
    module = plugins.find("harness.datasets", dataset.name)
    if hasattr(module, "lie_at"):
        found: tuple[Path, ...] = module.lie_at(dataset.options)
        return found
    return tuple(paths(dataset).values())


def is_here(dataset: Any) -> bool:
    """Whether all of them are on this machine: `load` fetches nothing."""
    return all(path.exists() for path in lie_at(dataset))


def differing(value: Any, default: Any = dataclasses.MISSING) -> Any:
    """Of a dataclass the fields that are not at their defaults, nested ones likewise, as plain data.

    `default`: the value of the same class to compare with, where that is not what the class itself gives.
    """
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return plain(value)
    out = {}
    for f in dataclasses.fields(value):
        own = getattr(value, f.name)
        usual = getattr(default, f.name) if type(default) is type(value) else usual_value(f)
        if usual is dataclasses.MISSING or own != usual:
            out[spelt(f)] = differing(own, usual)
    return out


def usual_value(field: dataclasses.Field[Any]) -> Any:
    """A field's default, or MISSING."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def epochs(parts: Mapping[str, ModuleType | None], cases: Iterable[str] = (), **machinery: str) -> dict[str, int]:
    """The EPOCHs above 1 of shelf files, {what it is: module}, of the files with an EPOCH that they build on, and of
    machinery, by the names of its modules; with those of `cases`, which bear the case in their names."""
    found = {name: stated(module) for name, module in machinery.items()}
    for name, module in parts.items():
        if module is not None:
            found |= {name: getattr(module, "EPOCH", 1), **_below(module)}
    for case in cases:
        found |= {f"{name}.{case.lower()}": _of_case(module, case) for name, module in machinery.items()}
        found |= {f"{name}.{case.lower()}": getattr(module, f"EPOCH_{case}", 1) for name, module in parts.items()}
    return {name: epoch for name, epoch in found.items() if epoch > 1}


@cache
def stated(module: str) -> int:
    """The EPOCH that a module's file states, read without loading it."""
    spec = find_spec(module)
    assert spec and spec.origin
    found = re.search(r"^EPOCH = (\d+)\b", Path(spec.origin).read_text(encoding="utf-8"), re.MULTILINE)
    assert found, f"{module} states no EPOCH"
    return int(found[1])


@cache
def _of_case(module: str, case: str) -> int:
    """The EPOCH_<CASE> that a module's file states, 1 where it states none, read without loading it."""
    spec = find_spec(module)
    assert spec and spec.origin
    found = re.search(rf"^EPOCH_{case} = (\d+)\b", Path(spec.origin).read_text(encoding="utf-8"), re.MULTILINE)
    return int(found[1]) if found else 1


def _below(module: ModuleType) -> dict[str, int]:
    """EPOCHs of the files that a shelf file shares with others: {name: EPOCH}."""
    found, todo = dict[str, int](), [module]
    while todo:
        for value in list(vars(todo.pop()).values()):
            name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            below = sys.modules.get(name) if isinstance(name, str) else None
            known = below is None or below is module or str(name).rpartition(".")[2].strip("_") in found
            if not known and isinstance(getattr(below, "EPOCH", None), int):
                found[str(name).rpartition(".")[2].strip("_")] = below.EPOCH  # type: ignore[union-attr]
                todo.append(below)  # type: ignore[arg-type]
    return found


def _shelf(package: str, plugin: Any) -> ModuleType | None:
    return plugins.find(package, plugin.name) if plugins.has(package, plugin.name) else None


def _place(dataset: Any) -> str:
    return " ".join(f"{name}={path}" for name, path in paths(dataset).items())


def _named(plugin: Any) -> dict[str, Any]:
    return {"name": plugin.name, **differing(plugin.options)}


def _without(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {k: v for k, v in options.items() if k not in names}
