"""Experiment files: YAML in, `harness.config` objects out. The only file that reads YAML.

An experiment is a base trial, `settings` (named overrides: the columns of a table),
`arms` (named lists of variants: its rows) and `seeds`; or it includes other experiments.
A trial's keys are those of `Trial`; presets under experiments/presets/ are partial trials.
"""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import yaml

from harness import plugins
from harness.config import TRIAL_KEYS, Experiment, Run, Table, Trial, mapping, merge, named, parse_trial
from harness.errors import UserError, legible
from harness.schema import parse

SHIPPED = Path(__file__).parent.parent / "experiments"
MAX_SIZE = 64 * 2**10  # bytes of a file, and characters it may unfold to where it repeats parts of itself
MAX_DEPTH = 50
TAKEN = ("trials", "mlartifacts")  # what else lies in the folder of results


@dataclass(frozen=True)
class _File:
    """The keys of an experiment file beside those of a trial."""

    name: str
    title: str = ""
    paper: str | None = None
    include: tuple[str, ...] | dict[str, Any] = ()  # files; as a mapping, with keys laid over each
    preset: str | None = None
    seeds: tuple[Annotated[int, ">= 0"], ...] = (0,)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    arms: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        odd = not self.name.isprintable() or set("/\\") & set(self.name) or self.name.startswith(".")
        if odd or not 0 < len(self.name) <= 100 or self.name in TAKEN:
            raise ValueError(f"name: {self.name!r}: must be a plain name for a folder, none of {', '.join(TAKEN)}")


def load(path: str | Path, overrides: Iterable[str] = ()) -> Experiment:
    """Read and check an experiment file. `overrides` are `key=value` texts, checked like the YAML."""
    sets = [_override(text) for text in overrides]
    path = _locate(Path(path))
    file, _ = _read(path, sets)
    tables: dict[str, Table] = {}
    for table in _tables(path, sets):
        if tables.setdefault(table.name, table) is not table:
            raise UserError(f"{path}: include: two tables are named {table.name!r}; give one another name")
    return Experiment(file.name, path, tuple(tables.values()), file.run)


def sources(path: str | Path) -> list[Path]:
    """The experiment file and all that it includes; but for what keeps them from being found, nothing is checked."""
    found: dict[Path, None] = {}
    todo = [_locate(Path(path))]
    while todo:
        path = todo.pop()
        if path in found:
            continue
        found[path] = None
        included = read_yaml(path).get("include")
        names = [n for n in included if isinstance(n, str)] if isinstance(included, list | dict) else []
        inside = [n for n in names if not Path(n).is_absolute() and ".." not in Path(n).parts]
        todo += [_locate(path.parent / name) for name in inside]
    return list(found)


def override(plain: dict[str, Any], texts: Iterable[str], place: str) -> Trial:
    """The trial `plain` with `key=value` texts laid over it, checked like any other."""
    raw = copy.deepcopy(plain)
    for key, value in map(_override, texts):
        _set_trial(raw, key, value)
    return parse_trial(raw, place)


def dump_yaml(value: Any) -> str:
    """Plain data as YAML, keys in their order."""
    return yaml.safe_dump(value, sort_keys=False, default_flow_style=None, width=110)


def paper_results() -> dict[str, Any]:
    """The paper's own figures: table -> column -> row -> {fid, di}."""
    return yaml.safe_load((SHIPPED / "paper.yaml").read_text())


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, which YAML would silently overwrite, and bounds what a
    small text can unfold to."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth, self._sizes = 0, dict[int, int]()  # by node: its characters, with those of its aliases

    def compose_node(self, parent: Any, index: Any) -> Any:
        fresh, mark = not self.check_event(yaml.AliasEvent), self.peek_event().start_mark
        self._depth += 1
        node = super().compose_node(parent, index) if self._depth <= MAX_DEPTH else None
        self._depth -= 1
        if node is None or not fresh and id(node) not in self._sizes:
            raise yaml.composer.ComposerError(None, None, f"nested in more than {MAX_DEPTH} levels, or in itself", mark)
        if fresh:
            parts = chain(*node.value) if isinstance(node, yaml.MappingNode) else node.value
            within = len(parts) if isinstance(parts, str) else sum(self._sizes[id(part)] for part in parts)
            self._sizes[id(node)] = 1 + within
        if self._sizes[id(node)] > MAX_SIZE:
            raise yaml.composer.ComposerError(None, None, f"unfolds to more than {MAX_SIZE} characters", mark)
        return node

    def construct_yaml_int(self, node: Any) -> int:
        value: int = super().construct_yaml_int(node)
        if value.bit_length() > 63:  # of a longer one, even a message may not be made
            raise yaml.constructor.ConstructorError(None, None, "whole number of more than 64 bits", node.start_mark)
        return value

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *other` may be overridden
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float | bool) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key if isinstance(key, str | int | float | bool) else str(key))
        return super().construct_mapping(node, deep)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _parse(text: str, place: str) -> Any:
    """The plain data in `text`; YAML can name no class and call nothing here."""
    try:
        return yaml.load(text, _Loader)
    except Exception as e:  # on odd scalars the library raises what its conversions do: KeyError, AttributeError, ...
        reason = str(e) if isinstance(e, yaml.YAMLError | ValueError) else repr(e)
        raise UserError(f"{place}: not readable as YAML: {reason}") from None


def _locate(path: Path) -> Path:
    """`path`, or the shipped experiment of that name (`smoke`, `experiments/smoke.yaml`)."""
    for candidate in (path, SHIPPED / path.name, SHIPPED / f"{path.name}.yaml"):
        if candidate.is_file():
            return candidate
    known = sorted(p.stem for p in SHIPPED.glob("*.yaml") if p.stem != "paper")
    raise UserError(f"{path}: no such experiment file{plugins.hint(path.stem, known)}")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; UserError where there is none."""
    try:
        if (size := path.stat().st_size) > MAX_SIZE:
            raise UserError(f"{path}: {size} bytes: must be at most {MAX_SIZE}; give an experiment file")
        text = path.read_text(encoding="utf-8")
    except OSError as e:
        raise UserError(f"{path}: {e.strerror}; check the path and its permissions") from None
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: not readable as YAML: {e}; save it as UTF-8") from None
    return mapping(_parse(text, str(path)), str(path))


def _tables(
    path: Path, sets: list[tuple[str, Any]], over: dict[str, Any] | None = None, above: tuple[Path, ...] = ()
) -> Iterator[Table]:
    """The file's own table, or those of the files it includes; `over` lies on the file, `above` are its includers."""
    file, base = _read(path, sets, over, included=bool(above))
    if not file.include:
        yield _table(file, base, sets, path)
        return
    if path in above:
        raise UserError(f"{path}: include: leads back to this file; a file can't include itself")
    parts = file.include if isinstance(file.include, dict) else dict.fromkeys(file.include, {})
    for name, changes in parts.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"{path}: include: {name!r}: must lie in the folder of the file that includes it")
        changes = mapping({} if changes is None else changes, f"{path}: include.{name}")
        laid = merge(base, changes, f"{path}: include.{name}")
        yield from _tables(_locate(path.parent / name), sets, laid, (*above, path))


def _read(
    path: Path, sets: list[tuple[str, Any]], over: dict[str, Any] | None = None, included: bool = False
) -> tuple[_File, dict[str, Any]]:
    """The file's own keys, and its base trial: preset, then the file's keys with those of `over` laid on them."""
    raw = merge(read_yaml(path), over or {}, str(path))
    known = [f.name for f in fields(_File)] + list(TRIAL_KEYS)
    for key, value in sets:
        head, _, rest = key.partition(".")
        if head not in known:
            raise UserError(f"--set {key}: unknown key{plugins.hint(head, known)}")
        if head not in TRIAL_KEYS and not (included and _concerns_another(raw, head, rest)):
            _assign(raw, key, value)
    for key in raw:
        if key not in known:
            raise UserError(f"{path}: {key}: unknown key{plugins.hint(str(key), known)}")
    own = {k: v for k, v in raw.items() if k not in TRIAL_KEYS}
    file: _File = parse(_File, {"name": path.stem, **own}, f"{path}: experiment")
    base = preset(file.preset, f"{path}: preset") if file.preset else {}
    return file, merge(base, {k: v for k, v in raw.items() if k in TRIAL_KEYS}, str(path))


def _concerns_another(raw: dict[str, Any], head: str, rest: str) -> bool:
    """Whether an override of the whole experiment is none of an included file: the includer's own name,
    or a column or row that this table lacks."""
    if head in ("settings", "arms"):
        there = raw.get(head)
        return not isinstance(there, dict) or rest.split(".")[0] not in there
    return head in ("name", "title", "include")


def preset(name: str, place: str) -> dict[str, Any]:
    """A partial trial from experiments/presets/."""
    known = sorted(p.stem for p in (SHIPPED / "presets").glob("*.yaml"))
    if name not in known:
        raise UserError(f"{place}: {name!r} is not a preset{plugins.hint(name, known)}")
    return read_yaml(SHIPPED / "presets" / f"{name}.yaml")


def _table(file: _File, base: dict[str, Any], sets: list[tuple[str, Any]], path: Path) -> Table:
    if not file.seeds or len(set(file.seeds)) < len(file.seeds):
        raise UserError(f"{path}: seeds: {list(file.seeds)}: must be distinct and at least one")
    arms = file.arms or {"trial": base.get("variants", {})}
    dataset = base.get("dataset")
    column = dataset.get("name") if isinstance(dataset, dict) else None
    settings = file.settings or {column if isinstance(column, str) else "trial": {}}
    cells = {}
    for setting, changes in settings.items():
        for arm, variants in arms.items():
            raw = merge(copy.deepcopy(base), _nested(changes), f"{path}: settings.{setting}")
            raw["variants"] = named(variants, f"{path}: arms.{arm}")
            for key, value in sets:
                if key.split(".")[0] in TRIAL_KEYS:
                    _set_trial(raw, key, value)
            place = f"{path}: arm {arm}"
            trial = parse_trial(raw, place)
            cells[setting, arm] = tuple(replace(trial, seed=s) for s in file.seeds)
    return Table(file.name, file.title or file.name, file.paper, file.labels, tuple(arms), tuple(settings), cells)


def _override(text: str) -> tuple[str, Any]:
    key, eq, value = text.partition("=")
    place = f"--set {legible(text, 100)}"
    if not eq or not key:
        raise UserError(f"{place}: must be key=value, like train.total_kimg=1")
    return key.strip(), _parse(value, place)


def _set_trial(raw: dict[str, Any], key: str, value: Any) -> None:
    """Apply one override to a trial; an option of a variant reaches the arms that have that variant."""
    parts = key.split(".")
    if parts[0] == "variants" and len(parts) > 2 and parts[1] not in raw["variants"]:
        return
    raw.update(merge(raw, _nested({key: value}), "--set"))


def _assign(raw: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        child = raw.setdefault(parent, {})
        if not isinstance(child, dict):
            raise UserError(f"--set {key}: {parent!r} is no mapping")
        raw = child
    raw[last] = value


def _nested(changes: dict[str, Any]) -> dict[str, Any]:
    """{"train.total_kimg": 1} -> {"train": {"total_kimg": 1}}."""
    out: dict[str, Any] = {}
    for key, value in changes.items():
        _assign(out, str(key), value)
    return out
