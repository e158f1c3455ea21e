"""A plugin is one file, found by its name."""

import difflib
import importlib
import pkgutil
from types import ModuleType

from harness.errors import UserError


def names(package: str) -> list[str]:
    """Names of the plugins in `package` ("backbones", "harness.datasets", ...), sorted."""
    found = pkgutil.iter_modules(importlib.import_module(package).__path__)
    return sorted(m.name for m in found if not m.name.startswith("_"))


def find(package: str, name: str, place: str = "") -> ModuleType:
    """The module of plugin `name`. Raises UserError naming `place` and the known names."""
    known = names(package)
    if name not in known:
        kind = package.rsplit(".", 1)[-1]
        raise UserError(f"{place or kind}: {name!r} is not one of the {kind}{hint(name, known)}")
    return importlib.import_module(f"{package}.{name}")


def hint(word: str, known: list[str]) -> str:
    """The tail of an error about an unknown word: the nearest known one, or all of them."""
    near = difflib.get_close_matches(str(word), known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known) or 'none'}"
