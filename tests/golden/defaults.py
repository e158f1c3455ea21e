"""Every option's default, and the EPOCH it hangs on: defaults.json.

An id holds what differs from the defaults, so a default that changes must change ids by its EPOCH. After a change:

    python -m tests.golden.defaults --why "what changed, and why"
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from harness import plugins
from harness.experiment import ids
from harness.experiment.schema import plain
from harness.experiment.spec import During, Eval, Train

FILE = Path(__file__).with_suffix(".json")
SHELVES = ("backbones", "harness.datasets", "harness.variants", "harness.metrics")
MACHINERY = (
    ("train", Train, ids.LOOP),
    ("eval", Eval, ids.SCORING),
    ("during", During, ids.SCORING),
)


def present() -> dict[str, Any]:
    """{whose options: {epoch, defaults}} of the code as it is."""
    found = {name: _entry(cls, ids.stated(module)) for name, cls, module in MACHINERY}
    for shelf in SHELVES:
        for name in plugins.names(shelf):
            module = plugins.find(shelf, name)
            found[f"{shelf.rpartition('.')[2]}.{name}"] = _entry(module.Options, module.EPOCH)
    return found


def _entry(cls: Any, epoch: int) -> dict[str, Any]:
    usual = {f.name: ids.usual_value(f) for f in dataclasses.fields(cls)}
    return {"epoch": epoch, "defaults": {k: plain(v) for k, v in usual.items() if v is not dataclasses.MISSING}}


def unraised(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """A line for each default that changed while its EPOCH did not rise. New options and new files need nothing."""
    lines = []
    for name in sorted(before.keys() & now.keys()):
        old, new = _flat(before[name]["defaults"]), _flat(now[name]["defaults"])
        changed = [k for k in sorted(old.keys() & new.keys()) if old[k] != new[k]]
        if now[name]["epoch"] < before[name]["epoch"] + bool(changed):
            said = ", ".join(f"{k}: {json.dumps(old[k])} -> {json.dumps(new[k])}" for k in changed) or "went back"
            lines.append(f"{name}: {said}: raise the EPOCH it hangs on above {before[name]['epoch']}")
    return lines


def _flat(defaults: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested options by their dotted names."""
    out: dict[str, Any] = {}
    for key, value in defaults.items():
        out |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return out


def recorded() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text())["defaults"] if FILE.exists() else {}
    return found


def main() -> int:
    asked = argparse.ArgumentParser(description="Record all defaults anew.")
    asked.add_argument("--why", required=True, help="what changed")
    why, now = asked.parse_args().why, present()
    if lines := unraised(recorded(), now):
        print("\n".join(lines), file=sys.stderr)
        return 1
    FILE.write_text(json.dumps({"why": why, "defaults": now}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
