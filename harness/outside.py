"""Plugins from outside: folders of one's own whose files join the shelves.

    mine/backbones/x.py   mine/variants/y.py   mine/datasets/z.py   mine/metrics/w.py

An experiment names such folders (`plugins: [../mine]`). Each of their shelves is appended to the `__path__` of ours, so
that a file there is found by its name like any other, and may import what stands beside it
(`from harness.variants._part import f`, or `from ._part import f`). Only *.py files count, and they go wherever the
experiment goes: to other processes and nodes as text, and into the folder of each trial that uses them.

One set of folders is in use at a time in a process; using another takes the modules of the one before away.
"""

import ast
import hashlib
import importlib
import os
import platform
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness import locks
from harness.disk import cache_folder, write_atomic
from harness.errors import UserError
from harness.plugins import PARTS

SHELVES = {package.rsplit(".", 1)[-1]: package for package in PARTS}  # folder -> package
MAX_FILES, MAX_BYTES = 256, 2**20  # of the *.py files of one folder
KEY = "plugins"  # of a worker's options, where the sources travel


class Folder(NamedTuple):
    """A folder of plugins as it was read: {"variants/y.py": text}."""

    path: Path
    files: Mapping[str, str]


_used: tuple[Folder, ...] = ()


# ── reading ──────────────────────────────────────────────────────────────────


def read(path: Path, place: str = KEY) -> Folder:
    """The *.py files on the shelves of `path`. UserError where there are none, or more than a few small ones."""
    if not path.is_dir():
        raise UserError(f"{place}: {path}: is no folder; name one that holds {', '.join(SHELVES)}")
    found = [p for shelf in SHELVES for p in sorted((path / shelf).rglob("*.py"))]
    found = [p for p in found if not any(part.startswith(".") for part in p.relative_to(path).parts)]
    if not found:
        shelves = ", ".join(f"{shelf}/" for shelf in SHELVES)
        raise UserError(f"{place}: {path}: holds no plugin; put its files into {shelves} there")
    try:
        size = sum(p.stat().st_size for p in found)
        if len(found) > MAX_FILES or size > MAX_BYTES:
            raise UserError(
                f"{place}: {path}: {len(found)} files of {size} bytes: must be at most {MAX_FILES} of {MAX_BYTES} in "
                "all; keep nothing but plugins there"
            )
        return Folder(path.resolve(), {p.relative_to(path).as_posix(): p.read_bytes().decode() for p in found})
    except OSError as e:
        raise UserError(f"{place}: {e.filename}: {e.strerror}; check its permissions") from None
    except UnicodeDecodeError:
        raise UserError(f"{place}: {path}: a file in it is no UTF-8 text; save it as UTF-8") from None


def digests(files: Mapping[str, str]) -> dict[str, str]:
    """{file: sha256 of its bytes}."""
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}


# ── in this process ──────────────────────────────────────────────────────────


def use(folders: Iterable[Folder]) -> None:
    """Have exactly the plugins of `folders` beside our own. UserError where a name would be on a shelf twice; then
    nothing has changed."""
    global _used
    wanted = tuple(folders)
    if wanted == _used:
        return
    _check_names(wanted)
    for folder in _used:
        _take_away(folder)
    for folder in wanted:
        for shelf, package in SHELVES.items():
            if (folder.path / shelf).is_dir():
                importlib.import_module(package).__path__.append(str(folder.path / shelf))
    importlib.invalidate_caches()
    _used = wanted


def use_paths(paths: Iterable[Path], place: str = KEY) -> None:
    """Have exactly the plugins in the folders `paths` beside our own, as they are now."""
    use([read(path, place) for path in paths])


def used_by(plugins: Iterable[tuple[str, str]]) -> dict[str, str]:
    """{file: text} of the files from outside behind `plugins` (package, name), with all that these import."""
    sources = {name: text for folder in _used for name, text in folder.files.items()}
    files = {_dotted(name): name for name in sources}
    todo, found = [f"{package}.{name}" for package, name in plugins], dict[str, str]()
    while todo:
        name = files.get(todo.pop())
        if name is not None and name not in found:
            found[name] = sources[name]
            todo += [_dotted(name).rpartition(".")[0], *_imports(name, sources[name])]
    return dict(sorted(found.items()))


def _check_names(folders: Sequence[Folder]) -> None:
    seen: dict[tuple[str, str], Path] = {}
    for shelf, package in SHELVES.items() if folders else ():
        own = Path(importlib.import_module(package).__path__[0])
        seen |= {(shelf, p.stem): p for p in own.glob("*.py")}
    for folder in folders:
        mine: dict[tuple[str, str], Path] = {}
        for name in folder.files:
            shelf, inside, *deeper = Path(name).parts
            if deeper or inside != "__init__.py":  # a shelf is ours: an __init__.py outside is never run
                mine[shelf, inside.removesuffix(".py")] = folder.path / shelf / inside
        for key, path in mine.items():
            if key in seen:
                raise UserError(
                    f"plugins: {key[1]!r} is on the shelf {key[0]} twice: {seen[key]} and {path}; rename one of them"
                )
        seen |= mine


def _take_away(folder: Folder) -> None:
    """The folder's shelves, and every module that was imported from them."""
    for shelf, package in SHELVES.items():
        home = importlib.import_module(package)
        gone = str(folder.path / shelf)
        home.__path__[:] = [path for path in home.__path__ if path != gone]
        for name, module in list(sys.modules.items()):
            if name.startswith(f"{package}.") and Path(getattr(module, "__file__", None) or "/").is_relative_to(gone):
                del sys.modules[name]
                parent, _, last = name.rpartition(".")
                if parent in sys.modules and getattr(sys.modules[parent], last, None) is module:
                    delattr(sys.modules[parent], last)


def _dotted(name: str) -> str:
    """ "variants/y.py" -> "harness.variants.y"."""
    shelf, *rest = Path(name).with_suffix("").parts
    return ".".join([SHELVES[shelf], *(part for part in rest if part != "__init__")])


def _imports(name: str, text: str) -> Iterator[str]:
    """Dotted names of all that a file imports, anywhere in it; of a text that is no Python, none."""
    package = _dotted(name) if name.endswith("/__init__.py") else _dotted(name).rpartition(".")[0]
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(
                    [*package.split(".")[: len(package.split(".")) - node.level + 1], *filter(None, [base])]
                )
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))


# ── to other processes ───────────────────────────────────────────────────────


def packed() -> list[dict[str, Any]]:
    """The folders in use as plain data, for `unpack` in another process, there or on another node."""
    return [{"path": str(folder.path), "files": dict(folder.files)} for folder in _used]


def unpack(sent: Sequence[Mapping[str, Any]]) -> None:
    """Use what `packed` gave elsewhere: the folder itself where it is here with the same files, else a copy."""
    use([_here(Path(s["path"]), s["files"]) for s in sent])


def unpacked(options: Mapping[str, Any]) -> dict[str, Any]:
    """A worker's options without the sources that came with them, which are now in use."""
    rest = dict(options)
    if KEY in rest:
        unpack(rest.pop(KEY))
    return rest


def _here(path: Path, files: Mapping[str, str]) -> Folder:
    known = next((f for f in _used if f == (path, files)), None)
    if known is not None:
        return known
    try:
        if (here := read(path)).files == files:
            return here
    except UserError:
        pass
    named = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:16]
    copy = cache_folder() / "plugins" / f"{named}-{platform.node()}"  # the cache may be shared with other nodes
    write(copy, files)
    return Folder(copy.resolve(), files)


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Make `folder` hold these files, each whole at any moment, and no other *.py file."""
    for stale in set(folder.rglob("*.py")) - {folder / name for name in files}:
        stale.unlink(missing_ok=True)
    for name, text in files.items():
        target, data = folder / name, text.encode()
        if target.is_file() and target.read_bytes() == data:
            continue
        write_atomic(target, data)


def keep(folder: Path, files: Mapping[str, str]) -> None:
    """What a trial used, in its folder, for a later `restore`; no folder where it used nothing from outside."""
    if files:
        write(folder, files)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def restore(copy: Path, named: Iterable[Folder] = ()) -> None:
    """Use the plugins `named` and, of those that a trial kept in the folder `copy`, what `named` lacks: a model is
    built by the code that made it. Where the folders in use hold the same, they stay. A file runs when the trial names
    its plugin, not before; one that belongs to another user only if he who calls has named its folder."""
    chosen = list(named)
    kept = dict(read(copy).files) if copy.is_dir() else {}
    in_use = {name: text for folder in _used for name, text in folder.files.items()}
    if not chosen and kept.items() <= in_use.items():
        return
    for folder in chosen:
        kept = {name: text for name, text in kept.items() if name not in folder.files}
    for name in kept:
        if (uid := (copy / name).stat().st_uid) not in (os.geteuid(), 0):
            raise UserError(
                f"{copy / name}: belongs to {locks.user(uid)}, and this trial would have it run as you; read it, and "
                f"if you trust it, add --set plugins=[{copy}]"
            )
    use([*chosen, *([_here(copy, kept)] if kept else [])])
