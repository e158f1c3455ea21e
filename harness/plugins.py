"""A plugin is one file, found by its name: on its own shelf, or in a folder outside (see `harness.outside`)."""

import difflib
import importlib
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Protocol, overload

from harness.errors import UserError

if TYPE_CHECKING:
    from backbones import Discriminator, Generator, Site
    from harness.data.imageset import ImageSet, Split
    from harness.evaluation.evidence import Evidence, Heading, Needs, Record, Setting
    from harness.method.generator import Encoder
    from harness.method.hooks import Hooks


class Shelved(Protocol):
    """What every plugin's file has."""

    __name__: str
    Options: type[Any]


class Backbone(Shelved, Protocol):
    """A file of backbones/."""

    def check(self, options: Any, resolution: int, num_classes: int) -> None: ...
    def build(
        self, options: Any, resolution: int, num_classes: int, channels: int = 3
    ) -> "tuple[Generator, Discriminator]": ...


class Variant(Shelved, Protocol):
    """A file of harness/variants/. Of the functions it has one or more: ask with `hasattr`."""

    encoder: "Callable[[tuple[Site, ...], int, Any], Encoder]"
    hooks: "Callable[[Any, int], Hooks]"
    check: "Callable[[Any, Mapping[str, Any]], None]"
    told: "Callable[[Any, Mapping[str, Any]], str | None]"


class Dataset(Shelved, Protocol):
    """A file of harness/datasets/."""

    def has_test(self, options: Any) -> bool: ...
    def load(self, options: Any, split: "Split" = "train") -> "ImageSet": ...


class Metric(Shelved, Protocol):
    """A file of harness/metrics/. `heading` is there where the metric has one: ask with `hasattr`."""

    def needs(self, options: Any, setting: "Setting") -> "Needs": ...
    def compute(self, evidence: "Evidence", options: Any, setting: "Setting") -> "dict[str, Record]": ...
    def heading(self, name: str, protocol: Mapping[str, Any]) -> "Heading | None": ...


PARTS = {  # what a file of each shelf must hold
    "backbones": ("Options", "check", "build"),
    "harness.variants": ("Options",),
    "harness.datasets": ("Options", "has_test", "load"),
    "harness.metrics": ("Options", "needs", "compute"),
}


def names(package: str) -> list[str]:
    """Names of the plugins in `package` ("backbones", "harness.datasets", ...), sorted."""
    found = pkgutil.iter_modules(importlib.import_module(package).__path__)
    return sorted(m.name for m in found if not m.name.startswith("_"))


def has(package: str, name: str) -> bool:
    """Whether the shelf holds the plugin. One that is loaded is not looked for on the disk again: this is asked once
    and again for every trial of a matrix."""
    return not name.startswith("_") and (f"{package}.{name}" in sys.modules or name in names(package))


@overload
def find(package: Literal["backbones"], name: str, place: str = "") -> Backbone: ...
@overload
def find(package: Literal["harness.variants"], name: str, place: str = "") -> Variant: ...
@overload
def find(package: Literal["harness.datasets"], name: str, place: str = "") -> Dataset: ...
@overload
def find(package: Literal["harness.metrics"], name: str, place: str = "") -> Metric: ...
@overload
def find(package: str, name: str, place: str = "") -> Any: ...  # of a shelf that only runtime knows
def find(package: str, name: str, place: str = "") -> Any:
    """The module of plugin `name`. Raises UserError naming `place` and the known names, or what is wrong with a
    file from outside."""
    dotted = f"{package}.{name}"
    if dotted in sys.modules and not name.startswith("_"):
        return sys.modules[dotted]
    known = names(package)
    if name not in known:
        kind = package.rsplit(".", 1)[-1]
        raise UserError(f"{place or kind}: {name!r} is not one of the {kind}{hint(name, known)}")
    spec, shelf = importlib.util.find_spec(dotted), importlib.import_module(package).__path__[0]
    if spec is None or spec.origin is None or Path(spec.origin).is_relative_to(shelf):
        return importlib.import_module(dotted)
    return _from_outside(dotted, Path(spec.origin), PARTS[package], place)


def told(variants: Iterable[Any], curves: Mapping[str, Any]) -> list[str]:
    """What an arm's variants say of curves {name: value} of one tick: see `told` in `harness.variants`."""
    found = list[str | None]()
    for v in variants:
        if has("harness.variants", v.name):
            module = find("harness.variants", v.name)
            if hasattr(module, "told") and isinstance(v.options, module.Options):
                found.append(module.told(v.options, curves))
    return [text for text in found if text]


def hint(word: str, known: list[str]) -> str:
    """The tail of an error about an unknown word: the nearest known one, or all of them."""
    near = difflib.get_close_matches(str(word), known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known) or 'none'}"


def _from_outside(dotted: str, file: Path, parts: tuple[str, ...], place: str) -> ModuleType:
    """Import a user's file. No bytecode is left beside it, which would hide an edit within the same second."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        module = importlib.import_module(dotted)
    except UserError:
        raise
    except Exception as e:
        lines = [f.lineno for f in traceback.extract_tb(e.__traceback__) if f.filename == str(file)]
        line = e.lineno if isinstance(e, SyntaxError) and e.filename == str(file) else next(iter(lines[-1:]), None)
        where = f"{file}, line {line}" if line else str(file)
        raise UserError(
            f"{place or dotted}: {where}: {type(e).__name__}: {' '.join(str(e).split())}; mend that file"
        ) from e
    finally:
        sys.dont_write_bytecode = before
    missing = [part for part in parts if not hasattr(module, part)]
    if missing:
        del sys.modules[dotted]
        raise UserError(f"{place or dotted}: {file}: has no {', '.join(missing)}; a file of this shelf needs it")
    return module
