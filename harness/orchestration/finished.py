"""What a finished matrix said, noted so that the same command says it again at once: without torch, without Ray,
without opening a trial. A note holds as long as nothing has changed that decides the answer."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from harness import outside
from harness.data.identity import stamp
from harness.disk import ROOT, write_atomic
from harness.experiment import files

NOTE = ".finished.json"  # in results/<experiment>/


def key(experiment: str, words: Sequence[str], plugins: Iterable[Path] = ()) -> str:
    """Of all that decides the answer but results: the experiment's files, the command's other words, our own code,
    and the files in the folders `plugins`."""
    own = [p for folder in ("harness", "backbones", "experiments") for p in (ROOT / folder).rglob("*")]
    code = sorted(p for p in [ROOT / "cli.py", *own] if p.suffix in (".py", ".yaml"))
    digest = hashlib.sha256(json.dumps([str(Path.cwd()), experiment, *words]).encode())
    for path in (*files.sources(experiment), *code):
        digest.update(f"{path}\0".encode() + path.read_bytes())
    for folder in plugins:
        digest.update(json.dumps([str(folder), outside.digests(outside.read(folder).files)]).encode())
    return digest.hexdigest()


def recall(results: Path, key: str) -> dict[str, Any] | None:
    """What was noted under `key`, if every file that it depends on is still as it was."""
    for path in results.glob(f"*/{NOTE}"):
        try:
            note: dict[str, Any] = json.loads(path.read_text())
            same = note["key"] == key and all(_version(Path(p)) == version for p, version in note["files"].items())
            if same and all(stamp(Path(p)) == found for p, found in note["data"].items()):
                return note
        except (OSError, ValueError, KeyError):
            continue
    return None


def keep(folder: Path, key: str, said: dict[str, Any], depends: Iterable[Path], data: Iterable[Path] = ()) -> None:
    """Note in the experiment's folder what was said, until one of the files `depends` changes, or one of those that
    hold images: at, or in folders at, `data`."""
    note = {**said, "key": key, "files": {str(path): _version(path) for path in depends}}
    note["data"] = {str(path): stamp(path) for path in data}
    write_atomic(folder / NOTE, json.dumps(note).encode())


def _version(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino]
