"""Experiment files: YAML in, `harness.experiment.spec` objects out.

An experiment is a base trial, `settings` (named overrides: the columns of a table; a `preset` in one stands in
place of the file's, below the file's own keys), `arms` (named lists of variants: its rows) and `seeds`; or it
includes other experiments. The word `set` in an arm is no variant but what else that arm changes:
`set: {train.g.lr: 2.0e-4}`, laid between `settings` and `--set`; of `train` and `backbone` alone, since arms that
are compared share data, scoring and seeds. `run: {not_possible: mark}` leaves out cells that can't be.
`plugins` names folders whose files join the shelves.
A trial's keys are those of `Trial`; presets under experiments/presets/ are partial trials.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from harness import outside, plugins
from harness.disk import ROOT
from harness.errors import NotPossible, UserError, legible
from harness.experiment.loader import parse_yaml, read_yaml
from harness.experiment.parse import TRIAL_KEYS, merge, named, parse_trial
from harness.experiment.schema import convert, home, mapping, parse
from harness.experiment.spec import Experiment, Plugin, Run, Table, Trial
from harness.experiment.words import meant, shown

SHIPPED = ROOT / "experiments"
OWN = "set"  # of an arm: what else it changes
PRESET = "preset"  # of a setting: its own
TAKEN = ("trials", "superseded", "mlartifacts")  # what else lies in the folder of results


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
    plugins: tuple[Path, ...] = ()  # folders of plugins from outside, seen from this file's own
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        odd = not self.name.isprintable() or set("/\\") & set(self.name) or self.name.startswith(".")
        if odd or not 0 < len(self.name) <= 100 or self.name in TAKEN:
            raise ValueError(f"name: {self.name!r}: must be a plain name for a folder, none of {', '.join(TAKEN)}")


def load(path: str | Path, overrides: Iterable[str] = ()) -> Experiment:
    """Read and check an experiment file. `overrides` are `key=value` texts, checked like the YAML."""
    texts = list(overrides)
    sets = [_override(text) for text in texts]
    path = _locate(Path(path))
    folders = tuple(plugin_folders(path, texts))
    outside.use_paths(folders, f"{path}: plugins")
    file, _, _ = _read(path, sets)
    tables: dict[str, Table] = {}
    for table in _tables(path, sets):
        if tables.setdefault(table.name, table) is not table:
            raise UserError(f"{path}: include: two tables are named {table.name!r}; give one another name")
    return Experiment(file.name, path, tuple(tables.values()), file.run, folders)


def sources(path: str | Path) -> list[Path]:
    """The experiment file and all that it includes; but for what keeps them from being found, nothing is checked."""
    found: dict[Path, None] = {}
    todo = [_locate(Path(path))]
    while todo:
        path = todo.pop()
        if path in found:
            continue
        found[path] = None
        included = read_yaml(path, words=True).get("include")
        names = [n for n in included if isinstance(n, str)] if isinstance(included, list | dict) else []
        inside = [n for n in names if _inside(n)]
        todo += [_locate(path.parent / name) for name in inside]
    return list(found)


def plugin_folders(path: str | Path, overrides: Iterable[str] = ()) -> list[Path]:
    """The folders of plugins from outside that an experiment names, each once: those of `overrides`, seen from the
    working folder, else of its files and of all they include, each seen from its file. None is opened here."""
    texts = list(overrides)
    if (given := named_folders(texts)) is not None:
        return given
    named: list[Path] = []
    for file in sources(path):
        raw = read_yaml(file, words=True)
        included = raw.get("include")
        laid = included.values() if isinstance(included, dict) else ()
        for keys in (raw, *(changes for changes in laid if isinstance(changes, dict))):
            named += _folders(keys.get(outside.KEY), file.parent)
    return list(dict.fromkeys(named))


def named_folders(overrides: Iterable[str]) -> list[Path] | None:
    """Those of `--set plugins=[...]`, seen from the working folder; None where there is none."""
    given = [value for key, value in map(_override, overrides) if key == outside.KEY]
    if given and not (isinstance(given[-1], list) and all(isinstance(text, str) for text in given[-1])):
        raise UserError(f"--set plugins: {given[-1]!r}: must be a list of folders, like [mine]")
    return _folders(given[-1], Path.cwd()) if given else None


def _folders(listed: Any, seen_from: Path) -> list[Path]:
    """What a list of folders names; what is none is left to the check of the whole file."""
    texts = listed if isinstance(listed, list) else []
    named = [text for text in texts if isinstance(text, str) and text]
    return list(dict.fromkeys((seen_from / home(text, outside.KEY)).resolve() for text in named))


def override(plain: dict[str, Any], texts: Iterable[str], place: str) -> Trial:
    """The trial `plain` with `key=value` texts laid over it, checked like any other."""
    raw = copy.deepcopy(plain)
    for key, value in map(_override, texts):
        if key != outside.KEY:
            _set_trial(raw, key, value)
    return parse_trial(raw, place)


def paper_results() -> dict[str, Any]:
    """The paper's own figures: table -> column -> row -> {fid, di}."""
    return read_yaml(SHIPPED / "paper.yaml")


def _locate(path: Path) -> Path:
    """`path`, or the shipped experiment of that name (`smoke`, `experiments/smoke.yaml`)."""
    for candidate in (path, SHIPPED / path.name, SHIPPED / f"{path.name}.yaml"):
        if candidate.is_file():
            return candidate
    known = sorted(p.stem for p in SHIPPED.glob("*.yaml") if p.stem != "paper")
    raise UserError(f"{path}: no such experiment file{plugins.hint(path.stem, known)}")


def _tables(
    path: Path,
    sets: list[tuple[str, Any]],
    over: dict[str, Any] | None = None,
    above: tuple[Path, ...] = (),
    mark: bool = False,
) -> Iterator[Table]:
    """The file's own table, or those of the files it includes; `over` lies on the file, `above` are its includers.
    `mark`: one of them asks that cells that can't be are marked."""
    file, base, own = _read(path, sets, over, included=bool(above))
    mark = mark or file.run.not_possible == "mark"
    if not file.include:
        yield _table(file, base, own, sets, path, mark)
        return
    if path in above:
        raise UserError(f"{path}: include: leads back to this file; a file can't include itself")
    parts = file.include if isinstance(file.include, dict) else dict.fromkeys(file.include, {})
    for name, changes in parts.items():
        if not _inside(name):
            raise UserError(f"{path}: include: {name!r}: must lie in the folder of the file that includes it")
        changes = mapping({} if changes is None else changes, f"{path}: include.{name}")
        laid = merge(base, changes, f"{path}: include.{name}")
        yield from _tables(_locate(path.parent / name), sets, laid, (*above, path), mark)


def _inside(name: str) -> bool:
    """Whether an included file lies in the folder of the file that includes it, or below."""
    return not (Path(name).is_absolute() or name.startswith("~") or ".." in Path(name).parts)


def _read(
    path: Path, sets: list[tuple[str, Any]], over: dict[str, Any] | None = None, included: bool = False
) -> tuple[_File, dict[str, Any], dict[str, Any]]:
    """The file's own keys, its base trial, and what of that is no preset's: the file's keys with those of `over` laid
    on them."""
    raw = merge(read_yaml(path, words=True), over or {}, str(path))
    known = [f.name for f in fields(_File)] + list(TRIAL_KEYS)
    for key, value in sets:
        head, _, rest = key.partition(".")
        if head not in known:
            raise UserError(f"--set {key}: unknown key{plugins.hint(head, known)}")
        if head not in TRIAL_KEYS and not (included and _concerns_another(raw, head, rest)):
            _assign(raw, key, value)
    for key in raw:
        if key not in known:
            name = key if isinstance(key, str) else shown(key)
            raise UserError(f"{path}: {name}: unknown key{plugins.hint(name, known)}")
    own = {k: v for k, v in raw.items() if k not in TRIAL_KEYS}
    file: _File = parse(_File, {"name": path.stem, **own}, f"{path}: experiment")
    base = preset(file.preset, f"{path}: preset") if file.preset else {}
    keys = {k: v for k, v in raw.items() if k in TRIAL_KEYS}
    return file, merge(base, keys, str(path)), keys


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
    return read_yaml(SHIPPED / "presets" / f"{name}.yaml", words=True)


def _table(
    file: _File, base: dict[str, Any], keys: dict[str, Any], sets: list[tuple[str, Any]], path: Path, mark: bool
) -> Table:
    if not file.seeds or len(set(file.seeds)) < len(file.seeds):
        raise UserError(f"{path}: seeds: {list(file.seeds)}: must be distinct and at least one")
    arms = file.arms or {"trial": base.get("variants", {})}
    dataset = base.get("dataset")
    column = dataset.get("name") if isinstance(dataset, dict) else None
    settings = file.settings or {column if isinstance(column, str) else "trial": {}}
    rows = {arm: named(variants, f"{path}: arms.{arm}") for arm, variants in arms.items()}
    own = {arm: _own_changes(row.pop(OWN, {}), f"{path}: arms.{arm}.{OWN}") for arm, row in rows.items()}
    cells: dict[tuple[str, str], tuple[Trial, ...]] = {}
    unnamed, refused = dict[str, None](), dict[tuple[str, str], UserError]()
    for setting, changes in settings.items():
        place = f"{path}: settings.{setting}"
        start = base
        if PRESET in changes:
            start = merge(preset(convert(str, changes[PRESET], f"{place}.{PRESET}"), f"{place}.{PRESET}"), keys, place)
        column = merge(start, _nested({k: v for k, v in changes.items() if k != PRESET}), place)
        for arm, variants in rows.items():
            place = f"{path}: arm {arm}"
            cells[setting, arm] = ()
            try:
                raw = merge(copy.deepcopy(column), _nested(own[arm]), f"{path}: arms.{arm}.{OWN}")
                raw["variants"] = copy.deepcopy(variants)
                for key, value in sets:
                    if key.split(".")[0] in TRIAL_KEYS:
                        _set_trial(raw, key, value)
                trial = parse_trial(raw, place)
            except UserError as e:
                if not mark:
                    raise
                refused[setting, arm] = e
                continue
            silent = [v for v in trial.variants if _silent(v, raw["variants"][v.name])]
            if file.paper and "profile" not in raw and silent:
                unnamed[arm] = None
            cells[setting, arm] = tuple(replace(trial, seed=s) for s in file.seeds)
    _check_refused(refused, cells)
    why = {place: str(e).removeprefix(f"{path}: arm {place[1]}: ") for place, e in refused.items()}
    told = {arm: {k: meant(v) for k, v in its.items() if not _overruled(k, sets)} for arm, its in own.items()}
    return Table(
        file.name, file.title or file.name, file.paper, file.labels, tuple(arms), tuple(settings), cells,
        {arm: its for arm, its in told.items() if its}, tuple(unnamed), why,
    )  # fmt: skip


def _check_refused(
    refused: Mapping[tuple[str, str], UserError], cells: Mapping[tuple[str, str], tuple[Trial, ...]]
) -> None:
    """Raise what is no matter of a cell. Of a cell whose parts can't go together, any refusal is a mark; any other
    only where the same arm is possible in another setting, and another arm in the same: else the file is mistaken."""
    possible = [place for place, cell in cells.items() if cell]
    for (setting, arm), e in refused.items():
        elsewhere = any(a == arm for _, a in possible) and any(s == setting for s, _ in possible)
        if not possible or not (isinstance(e, NotPossible) or elsewhere):
            raise e


def _silent(variant: Plugin, options: dict[str, Any] | None) -> bool:
    """Whether a variant has profiles and its arm names none."""
    return hasattr(variant.options, "profile") and "profile" not in (options or {})


def _own_changes(raw: dict[str, Any], place: str) -> dict[str, Any]:
    """What an arm's `set` changes, by dotted key."""
    flat = dict(_leaves(raw))
    for key in flat:
        if key.split(".")[0] not in ("train", "backbone"):
            raise UserError(
                f"{place}: {key}: must be a key of train or backbone, like train.g.lr; all arms share the rest"
            )
    return flat


def _leaves(raw: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in raw.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _overruled(key: str, sets: list[tuple[str, Any]]) -> bool:
    """Whether `--set` gives every arm the same there."""
    return any(f"{key}.".startswith(f"{over}.") or f"{over}.".startswith(f"{key}.") for over, _ in sets)


def _override(text: str) -> tuple[str, Any]:
    key, eq, value = text.partition("=")
    place = f"--set {legible(text, 100)}"
    if not eq or not key:
        raise UserError(f"{place}: must be key=value, like train.total_kimg=1")
    return key.strip(), parse_yaml(value, place, words=True)


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
