"""Which files decide the numbers of a trial, whether they are still the same code, and a copy of them beside it.

Deciding is a module that a root reaches by imports (read, never run) and that stands in a room of numbers (TRAINING,
SCORING), on a shelf, or outside the project; not the standard library, nothing installed. What only carries is left
out: look-up of plugins, checkpoints, journal, errors, pictures.
"""

import ast
import hashlib
import importlib.util
import io
import json
import sys
import sysconfig
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any, NamedTuple

from harness import disk, outside, plugins
from harness.disk import ROOT
from harness.errors import UserError
from harness.experiment.spec import Trial
from harness.store.folder import was_scored

OWN = ("harness", "backbones")
LOOP, PASS = "harness.training.train", "harness.evaluation.evaluate"
TRAIN_ROOTS = (LOOP, "harness.trial.run")
SCORE_ROOTS = (PASS, "harness.trial.scoring")
SHELVES = ("backbones", "harness.variants", "harness.datasets", "harness.metrics")
SPEC = ("harness.experiment.spec", "harness.experiment.parse")  # defaults, and what they mean
TRAINING = (*TRAIN_ROOTS, *SPEC, "harness.training", "harness.method", "harness.data", "harness.rng", *SHELVES[:3])
SCORING = (*SCORE_ROOTS, "harness.evaluation", "harness.metrics")
KNOWN = Path(__file__).with_name("known_code.json")
RECORD, COPIES = "code.json", "code.zip"  # in a trial's folder

Digests = dict[str, str]  # {dotted module: sha256 of its file}


class Source(NamedTuple):
    """One file as it was when this process first looked: what it then runs is that, whatever is edited later."""

    path: Path
    data: bytes
    sha256: str


class Code(NamedTuple):
    """What decides a trial's weights, and what besides decides its scores: {dotted module: its file}."""

    training: Mapping[str, Source]
    scoring: Mapping[str, Source]


def deciding(trial: Trial) -> Code:
    """The files at hand that decide the numbers of `trial`."""
    return _deciding(_training(trial), tuple(f"harness.metrics.{m.name}" for m in trial.eval.metrics), _outside())


def _training(trial: Trial) -> tuple[str, ...]:
    variants = [f"harness.variants.{v.name}" for v in trial.variants]
    return (f"backbones.{trial.backbone.name}", f"harness.datasets.{trial.dataset.name}", *variants)


@lru_cache(maxsize=256)
def _deciding(training: tuple[str, ...], scoring: tuple[str, ...], more: tuple[tuple[str, str], ...]) -> Code:
    """`more`: what else is on the shelves now."""
    trains = _reached((*TRAIN_ROOTS, *training), TRAINING)
    scores = _reached((*SCORE_ROOTS, *scoring), TRAINING + SCORING)
    return Code(trains, {name: source for name, source in scores.items() if name not in trains})


def own() -> dict[str, Source]:
    """Every file of the project that decides a number of some trial."""
    shelves = [f"{shelf}.{name}" for shelf in SHELVES for name in plugins.names(shelf)]
    found = _reached((*TRAIN_ROOTS, *SCORE_ROOTS, *shelves), TRAINING + SCORING)
    return {name: source for name, source in found.items() if source.path.is_relative_to(ROOT)}


# ── what imports what ────────────────────────────────────────────────────────


def _reached(roots: Iterable[str], rooms: tuple[str, ...]) -> dict[str, Source]:
    """The modules of `rooms`, and those outside the project, that `roots` reach by imports, themselves included."""
    found: dict[str, Source] = {}
    todo = list(roots)
    while todo:
        name = todo.pop()
        if name in found or not _counts(name, rooms):
            continue
        source = _source(name)
        if source is not None:
            found[name] = source
            todo += _imports(name, source)
        if parent := name.rpartition(".")[0]:
            todo.append(parent)  # importing a module runs the packages around it
    return dict(sorted(found.items()))


def _counts(name: str, rooms: tuple[str, ...]) -> bool:
    if name.split(".")[0] not in OWN:
        return _is_local(name.split(".")[0])
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


@cache
def _is_local(top: str) -> bool:
    """Whether the top-level module is neither of the standard library nor installed."""
    if top in sys.stdlib_module_names or top in sys.builtin_module_names:
        return False
    spec = _spec(top)
    places = [spec.origin] if spec and spec.origin else list(spec.submodule_search_locations or ()) if spec else []
    installed = [Path(p) for key, p in sysconfig.get_paths().items() if key in ("stdlib", "purelib", "platlib")]
    return bool(places) and not any(
        Path(place).is_relative_to(there) or {"site-packages", "dist-packages"} & set(Path(place).parts)
        for place in places
        for there in installed
    )


def _spec(name: str) -> ModuleSpec | None:
    """Where the module is, found without running it or the packages around it."""
    package, _, _ = name.rpartition(".")
    try:
        if not package:
            return importlib.util.find_spec(name)
        around = _spec(package)
        path = around.submodule_search_locations if around else None
        if package in sys.modules:  # a shelf's path may have grown by folders from outside
            path = getattr(sys.modules[package], "__path__", path)
        return PathFinder.find_spec(name, path) if path else None
    except (ImportError, ValueError):
        return None


def _source(name: str) -> Source | None:
    spec = _spec(name)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    text = dict(_outside()).get(spec.origin)  # folders from outside can be read anew, and their modules are then
    return _read_once(spec.origin) if text is None else _of(Path(spec.origin), text.encode())


def _outside() -> tuple[tuple[str, str], ...]:
    """(path, text) of each file of the plugins from outside that are in use."""
    return tuple((str(Path(f["path"], name)), text) for f in outside.packed() for name, text in f["files"].items())


@cache
def _read_once(path: str) -> Source:
    return _of(Path(path), Path(path).read_bytes())


def _of(path: Path, data: bytes) -> Source:
    return Source(path, data, hashlib.sha256(data).hexdigest())


@lru_cache(maxsize=1024)
def _imports(name: str, source: Source) -> tuple[str, ...]:
    """All that the module names in its imports, anywhere in it: what is no module finds no file."""
    package = name if source.path.name == "__init__.py" else name.rpartition(".")[0]
    names: dict[str, None] = {}
    for node in ast.walk(ast.parse(source.data)):
        if isinstance(node, ast.Import):
            names |= dict.fromkeys(a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            names |= dict.fromkeys([module, *(f"{module}.{a.name}" for a in node.names)])
    return tuple(names)


# ── the same code ────────────────────────────────────────────────────────────


def compare(
    recorded: Mapping[str, str],
    copies: Mapping[str, bytes],
    present: Mapping[str, Source],
    accepted: Mapping[str, Iterable[str | None]] | None = None,
) -> tuple[str, ...]:
    """The modules whose code is another now than recorded; none: the same code.

    Same are equal bytes; two digests that the package knows (`known`); and files that differ in comments and docstrings
    only. `copies` holds what was recorded by its sha256. A module that came or went is another unless the package knows
    it. `accepted`: digests that a person took for as good as the recorded one, None for a module that is gone.
    """
    other = []
    for name in sorted(recorded.keys() | present.keys()):
        now = present.get(name)
        before = [recorded.get(name), *((accepted or {}).get(name) or ())]
        if not any(_same(name, was, now, copies) for was in before):
            other.append(name)
    return tuple(other)


def _same(name: str, was: str | None, now: Source | None, copies: Mapping[str, bytes]) -> bool:
    sha256 = now.sha256 if now else None
    if was == sha256 or all(side is None or side in known(name) for side in (was, sha256)):
        return True
    copy = copies.get(was or "")
    if copy is None or now is None or hashlib.sha256(copy).hexdigest() != was:
        return False
    tree = _tree(copy)
    return tree is not None and tree == _tree(now.data)


@lru_cache(maxsize=512)
def _tree(data: bytes) -> str | None:
    """The code without comments, docstrings and places; None where this Python can't parse it."""
    try:
        tree = ast.parse(data)
    except (SyntaxError, ValueError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and type(first.value.value) is str:
                del node.body[0]
    return ast.dump(tree)


def known(name: str) -> frozenset[str]:
    """Every digest that a file of the project has had under its present EPOCH."""
    return _known().get(name, frozenset())


@cache
def _known() -> dict[str, frozenset[str]]:
    return {name: frozenset(kept["sha256"]) for name, kept in json.loads(KNOWN.read_text(encoding="utf-8")).items()}


def with_present(before: Mapping[str, Any]) -> dict[str, Any]:
    """The content of known_code.json, {module: {"epoch", "sha256": [...]}}, with the files at hand added: a raised
    EPOCH forgets what was before it, a module that is gone stays as it was."""
    after = dict(before)
    for name, source in own().items():
        now, kept = epoch(name), before.get(name, {})
        digests = kept.get("sha256", []) if kept.get("epoch") == now else []
        after[name] = {"epoch": now, "sha256": list(dict.fromkeys([*digests, source.sha256]))}
    return dict(sorted(after.items()))


def epoch(name: str) -> int:
    """EPOCH of the module's file; where it has none, of the loop or of the pass that scores; 1 where that has none."""
    room = any(name == r or name.startswith(f"{r}.") for r in TRAINING)
    for module in (name, LOOP if room else PASS):
        source = _source(module)
        for node in ast.parse(source.data).body if source else ():
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "EPOCH":
                return int(ast.literal_eval(node.value))
    return 1


# ── in a trial's folder ──────────────────────────────────────────────────────


class Other(NamedTuple):
    """The modules that trained, and those that scored, a trial and are others here."""

    training: tuple[str, ...] = ()
    scoring: tuple[str, ...] = ()


def other(folder: Path, trial: Trial, result: Mapping[str, Any], *, accepted: bool = True) -> Other:
    """What is other code here than that of a trial with a `result`, or with a checkpoint. Where a version that kept no
    record made it, nothing. Without `accepted` also what a person took for as good."""
    record = read(folder)
    made = {**record, **_of_result(result)}
    if not made or not (result or (folder / "checkpoints" / "latest.json").exists()):
        return Other()
    now, fine = deciding(trial), record.get("accepted") if accepted else None

    def changed(was: Mapping[str, str] | None, present: Mapping[str, Source]) -> tuple[str, ...]:
        if was is None or was == _digests(present):
            return ()
        return compare(was, copies(folder), present, fine)

    scored = changed(made["scoring"], now.scoring) if was_scored(result) else ()
    return Other(changed(made["training"], now.training), scored)


def scores_alike(folder: Path, trial: Trial, result: Mapping[str, Any], metric: str) -> bool:
    """Whether the code here would give the records of `metric` that a result of the same networks holds."""
    now = _deciding(_training(trial), (f"harness.metrics.{metric}",), _outside()).scoring
    made = _of_result(result).get("scoring")
    was = {name: sha256 for name, sha256 in (made or {}).items() if name in now}
    return made is not None and not compare(was, copies(folder), now, read(folder).get("accepted"))


def told(others: Sequence[tuple[str, Other]]) -> str | None:
    """One line about trials, (name, what is other code), that names them and the files; None where all is as here."""
    trained = {name: o.training for name, o in others if o.training}
    scored = {name: o.scoring for name, o in others if o.scoring}
    parts = [
        f"{verb} by other code than is here ({files(sorted({m for of in named.values() for m in of}))}): "
        f"{', '.join(named)}"
        for verb, named in (("trained", trained), ("scored", scored))
        if named
    ]
    return "; ".join(parts) or None


def note(folder: Path, trial: Trial, *, resumed: bool) -> dict[str, Any]:
    """Write code.json and code.zip of a trial that begins, or goes on; returns what result.json tells of it.

    A trial that goes on keeps the record of what trained it so far (None: an older version kept none), and UserError
    says where that is another. Scores are always those of the code at hand.
    """
    now, before = deciding(trial), read(folder) if resumed else dict[str, Any]()
    record: dict[str, Any] = {
        "training": before.get("training") if resumed else _digests(now.training),
        "scoring": _digests(now.scoring),
        "accepted": before.get("accepted", {}),
    }
    if record["training"] is not None:
        other = compare(record["training"], copies(folder), now.training, record["accepted"])
        if other:
            raise UserError(f"{folder}: began under other code: {files(other)}; --retrain or --accept-code")
    keep(folder, record, [*now.training.values(), *now.scoring.values()])
    return {"training": record["training"], "scoring": record["scoring"]}


def adopt(folder: Path, trial: Trial) -> tuple[str, ...]:
    """Let a result of an older version, which kept no record, hang on the code at hand from now on; where that is not
    as the package knows it, nothing is noted and the modules are returned."""
    now = deciding(trial)
    sources = {**now.training, **now.scoring}
    own = {name: source for name, source in sources.items() if source.path.is_relative_to(ROOT)}
    if edited := tuple(name for name, source in own.items() if source.sha256 not in known(name)):
        return edited
    record = {"training": _digests(now.training), "scoring": _digests(now.scoring), "accepted": {}}
    keep(folder, record, sources.values())
    return ()


def accept(folder: Path, now: Code, modules: Iterable[str]) -> None:
    """Take `modules` as they are now for as good as what the trial was made by."""
    record, present = read(folder), {**now.training, **now.scoring}
    accepted: dict[str, list[str | None]] = record.get("accepted", {})
    for name in modules:
        source = present.get(name)
        accepted[name] = [*accepted.get(name, []), source.sha256 if source else None]
    keep(folder, {**record, "accepted": accepted}, [present[n] for n in modules if n in present])


def keep(folder: Path, record: Mapping[str, Any], sources: Iterable[Source]) -> None:
    """Write the record, after copies of `sources` have joined those that are there."""
    before = copies(folder)
    every = before | {source.sha256: source.data for source in sources}
    if every.keys() != before.keys():
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for sha256, data in sorted(every.items()):  # the same copies are the same bytes, at any time
                info = zipfile.ZipInfo(f"{sha256}.py", (1980, 1, 1, 0, 0, 0))
                archive.writestr(info, data, zipfile.ZIP_DEFLATED)
        disk.write_atomic(folder / COPIES, buffer.getvalue())
    disk.write_atomic(folder / RECORD, json.dumps(record, indent=1, sort_keys=True).encode())


def read(folder: Path) -> dict[str, Any]:
    """The content of code.json; empty where there is none that can be read."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if _is_whole(record) else {}


def _of_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a result tells of its code; empty where that was spoilt."""
    made: Any = result.get("code")
    return dict(made) if _is_whole(made) else {}


def _is_whole(record: Any) -> bool:
    def is_files(found: Any) -> bool:
        return isinstance(found, dict) and all(isinstance(digest, str) for digest in found.values())

    if not isinstance(record, dict) or not is_files(record.get("scoring")) or "training" not in record:
        return False
    taken = record.get("accepted", {})
    if not isinstance(taken, dict) or not all(isinstance(digests, list) for digests in taken.values()):
        return False
    return record["training"] is None or is_files(record["training"])


def copies(folder: Path) -> dict[str, bytes]:
    """The sources kept in code.zip by their sha256; empty where there is none that can be read."""
    try:
        with zipfile.ZipFile(folder / COPIES) as archive:
            return {Path(name).stem: archive.read(name) for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile, ValueError):
        return {}


def files(modules: Iterable[str]) -> str:
    """The files of modules as a person looks for them; a module that is gone by its name."""
    return ", ".join(_shown(name) for name in modules)


def _shown(name: str) -> str:
    source = _source(name)
    if source is None:
        return name
    return str(source.path.relative_to(ROOT) if source.path.is_relative_to(ROOT) else source.path)


def _digests(sources: Mapping[str, Source]) -> Digests:
    return {name: source.sha256 for name, source in sources.items()}
