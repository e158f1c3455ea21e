"""What a finished matrix said, noted so that the same command says it again at once: without torch, without Ray,
without opening a trial. A note holds as long as nothing has changed that decides the answer."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from harness import outside
from harness.data.identity import stamp
from harness.disk import ROOT, write_atomic
from harness.experiment import files

NOTE = ".finished.json"  # in results/<experiment>/


def key(experiment: str, words: Sequence[str], plugins: Iterable[Path] = ()) -> str:
    """Of all that decides the answer but results: the experiment's files, the command's other words, our own code,
    the files in the folders `plugins`, where else Python looks for modules, and which Inception weights are named."""
    own = [p for folder in ("harness", "backbones", "experiments") for p in (ROOT / folder).rglob("*")]
    code = sorted(p for p in [ROOT / "cli.py", *own] if p.suffix in (".py", ".yaml"))
    around = [os.environ.get("PYTHONPATH"), *_named(os.environ.get("NASHBOARD_INCEPTION_WEIGHTS"))]
    digest = hashlib.sha256(json.dumps([str(Path.cwd()), around, experiment, *words]).encode())
    for path in (*files.sources(experiment), *code):
        digest.update(f"{path}\0".encode() + path.read_bytes())
    for folder in plugins:
        digest.update(json.dumps([str(folder), outside.digests(outside.read(folder).files)]).encode())
    return digest.hexdigest()


def recall(results: Path, key: str) -> dict[str, Any] | None:
    """What was noted under `key`, if every file that it depends on is still as it was."""
    for path in results.glob(f"*/{NOTE}"):
        try:
            note: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            same = note["key"] == key and all(_version(Path(p)) == version for p, version in note["files"].items())
            if same and all(stamp(Path(p)) == found for p, found in note["data"].items()):
                return note
        except (OSError, ValueError, KeyError):
            continue
    return None


def stamps(places: Iterable[Path]) -> dict[str, str]:
    """Of the files that hold images: at, or in folders at, `places`."""
    return {str(path): stamp(path) for path in places}


def keep(
    folder: Path,
    key: str,
    said: dict[str, Any],
    depends: Iterable[Path],
    data: Mapping[str, str] = MappingProxyType({}),
    code: Mapping[Path, str] = MappingProxyType({}),
) -> None:
    """Note in the experiment's folder what was said, until one of the files `depends` changes.

    `data`: `stamps` of before the answer was sought; `code`: {file outside the project: sha256 of what ran}. Where one
    of them is no longer that, the answer is of the past, and nothing is noted.
    """
    with contextlib.suppress(FileNotFoundError):  # gone meanwhile: another now, too
        files = {str(path): _version(path) for path in (*depends, *code)}
        ran = all(hashlib.sha256(path.read_bytes()).hexdigest() == sha256 for path, sha256 in code.items())
        if ran and stamps(map(Path, data)) == data:
            write_atomic(folder / NOTE, json.dumps({**said, "key": key, "files": files, "data": dict(data)}).encode())


def _named(path: str | None) -> list[Any]:
    """A file that the environment names, and its version; without one where it is not there."""
    return [path, _version(Path(path)) if path and Path(path).exists() else None]


def _version(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino]
