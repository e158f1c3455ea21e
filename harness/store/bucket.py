"""The files below a URL, through fsspec: sent, fetched, created once, moved."""

import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from harness.disk import write_atomic
from harness.errors import UserError

POINTERS = ("checkpoints/latest.json", "state.json", "result.json")  # in the order of committing
FILES = ".files"  # in a trial's folder at a URL: the names of what was there when it was sent last
SETTLE_S = 2.0  # whoever else would write a file that was not there has done so by then
EXACT = ("s3", "s3a", "gs", "gcs")  # of these some let only one of many create a file; each server is tried

_exact: dict[str, bool] = {}  # by URL


class Store:
    """The files below a URL, through fsspec. Paths are relative to it. Whoever has sent a file, or taken it over with
    a trial, may remove it; nobody else does."""

    def __init__(self, url: str, memory: Path | None = None) -> None:
        import fsspec

        try:
            self._fs, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as e:
            raise UserError(
                f"--results {url}: {e}; s3:// needs s3fs (the extra `s3`), gs:// gcsfs, abfs:// adlfs"
            ) from None
        self._url, self._root = url, root.rstrip("/")
        self._protocols = self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,)
        self._local = "file" in self._protocols
        self._memory = memory  # a file that keeps `seen`
        self.seen: dict[str, Any] = {}  # what was pulled or sent, in the version that it had
        self._brought: dict[str, Any] = {}  # what was pulled, as it then lay here; of a pointer, its digest
        if memory is not None and memory.exists():
            self.seen = json.loads(memory.read_text(encoding="utf-8"))

    def pull(self, under: str, into: Path, leave: tuple[str, ...] = (), sure: Iterable[str] = ()) -> None:
        """Bring `into` up to date with everything below `under` whose name does not end as in `leave`. Pointers are
        read first and placed last. `sure`: paths that are looked up by name, be they listed or not."""
        found = self._find(under, sure)
        changed = []
        for path, version in found.items():
            hidden = any(part.startswith(".") for part in PurePosixPath(path).parts)
            target = into / PurePosixPath(path).relative_to(under)
            known = self.seen.get(path) == version and target.exists()
            if not hidden and not known and not path.endswith(leave):
                changed.append((path, target, version))
        pointers = [c for c in changed if c[0].endswith(POINTERS)]
        for path, target, version in [*pointers, *(c for c in changed if c not in pointers)]:
            part = target.with_name(f".{target.name}.part")
            part.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # an older checkpoint may go meanwhile
                self._fs.get_file(f"{self._root}/{path}", str(part))
                if (path, target, version) not in pointers:
                    part.replace(target)
                    self.seen[path], self._brought[path] = version, _here(target)
        for path, target, version in sorted(pointers, key=lambda c: c[0].endswith("result.json")):
            part = target.with_name(f".{target.name}.part")
            self._brought[path] = digest(part.read_bytes())
            part.replace(target)
            self.seen[path] = version
        gone = [path for path in self.seen if path.startswith(f"{under}/") and path not in found]
        for path in gone:
            if not path.endswith(leave) and self.version(path) is None:
                (into / PurePosixPath(path).relative_to(under)).unlink(missing_ok=True)
                del self.seen[path]
        if self._memory is not None and (changed or gone):
            write_atomic(self._memory, json.dumps(self.seen).encode())

    def _find(self, under: str, sure: Iterable[str]) -> dict[str, list[Any]]:
        """{path: version} of what is below `under`."""
        self._fs.invalidate_cache()
        found = {}
        with suppress(FileNotFoundError):
            listed = self._fs.find(f"{self._root}/{under}", detail=True)
            found = {full[len(self._root) + 1 :]: _version(info) for full, info in listed.items()}
        for path in sure:
            if (version := self.version(path)) is not None:
                found[path] = version
        return found

    def version(self, path: str) -> list[Any] | None:
        """What tells one content of a file from another, asked of the file itself and no listing; None: not there."""
        self._fs.invalidate_cache()
        try:
            return _version(self._fs.info(f"{self._root}/{path}"))
        except FileNotFoundError:
            return None

    def push(self, folder: Path, under: str, ours: Callable[[], bool] = lambda: True) -> None:
        """Send what changed in the trial's `folder`, pointers last, and those only if it is still `ours`; data go when
        a pointer that names them changed."""
        pointers = {}
        for name in POINTERS:
            with suppress(FileNotFoundError):
                pointers[name] = (folder / name).read_bytes()
        fresh = {name: data for name, data in pointers.items() if self._is_news(f"{under}/{name}", digest(data))}
        if fresh.keys() - {"state.json"}:
            # Listed now and sent last: the journal, read after a checkpoint was there, holds what it commits. The best
            # snapshot, in a folder below, goes before the checkpoint that names it.
            listed = [p for p in folder.rglob("*") if p.is_file()]
            for path in sorted(listed, key=lambda p: (p.suffix == ".safetensors", p.parent.name != "best", p)):
                name = path.relative_to(folder).as_posix()
                if name not in (*POINTERS, "attempt") and not path.name.startswith("."):
                    with suppress(FileNotFoundError):  # an older checkpoint that went meanwhile
                        self.put(path, f"{under}/{name}")
            names = [path.relative_to(folder).as_posix() for path in listed]
            self.write(f"{under}/{FILES}", json.dumps(names).encode())
            if not ours():
                return
        for name, data in fresh.items():
            self.write(f"{under}/{name}", data)
            self._sent(f"{under}/{name}", digest(data))
        if fresh.keys() - {"state.json"}:
            self._drop_stale(folder, under)

    def put(self, path: Path, to: str) -> None:
        """Send one file, if it is another than last time."""
        version = _here(path)
        if self._is_news(to, version):
            self.write(to, path.read_bytes())
            self._sent(to, version)

    def _sent(self, to: str, version: Any) -> None:
        self.seen[to] = version
        self._brought.pop(to, None)

    def _is_news(self, to: str, version: Any) -> bool:
        """Whether a file was neither sent nor brought as it is. What was only brought may be older by now than what is
        there, and is sent back by nobody, be it a pointer or not."""
        return version not in (self.seen.get(to), self._brought.get(to))

    def create(self, to: str, data: bytes) -> bool:
        """Write a file that is not there; False where it is, or another's came first. `data` are like nobody else's."""
        if self._local:
            part = Path(f"{self._root}/{to}").with_name(f".{uuid.uuid4().hex}.part")
            write_atomic(part, data)
            try:
                os.link(part, f"{self._root}/{to}")
            except FileExistsError:
                return self.read(to) == data
            finally:
                part.unlink()
            return True
        try:
            self._fs.pipe_file(f"{self._root}/{to}", data, mode="create")
        except Exception:  # that it is there is told in many ways; that of us, where the answer to it was lost, too
            now = self.read(to)
            if now is None:
                raise
            return now == data
        if not self._creates_once():
            time.sleep(SETTLE_S)
            return self.read(to) == data
        return True

    def _creates_once(self) -> bool:
        """Whether this server lets nobody create a file twice: not all do that speak S3."""
        if self._url not in _exact:
            _exact[self._url] = False
            if set(EXACT) & set(self._protocols):
                full = f"{self._root}/.probe-{uuid.uuid4().hex}"
                self._fs.pipe_file(full, b"1")
                try:
                    self._fs.pipe_file(full, b"2", mode="create")
                except Exception as e:  # whatever the backend raises for it, if the content is still the first
                    _exact[self._url] = not isinstance(e, NotImplementedError) and self._fs.cat_file(full) == b"1"
                self._fs.rm_file(full)
        return _exact[self._url]

    def move(self, under: str, to: str, stays: tuple[str, ...] = (), sure: Iterable[str] = ()) -> None:
        """Give all that is below `under`, but the files named `stays`, another place, where nothing may be yet. It is
        whole in one of both places whenever the network goes: copied first, and taken away beginning with what names
        the rest. `sure` as in `pull`."""
        found = [path for path in self._find(under, sure) if path.removeprefix(f"{under}/").split("/")[0] not in stays]
        for path in found:
            target = f"{self._root}/{to}/{path.removeprefix(under + '/')}"
            if not set(EXACT) & set(self._protocols):  # those know no folders
                self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            self._fs.cp_file(f"{self._root}/{path}", target)
        for path in sorted(found, key=lambda p: (not p.endswith(POINTERS), p)):
            with suppress(FileNotFoundError):
                self._fs.rm_file(f"{self._root}/{path}")

    def paths(self, under: str) -> list[str]:
        """Of all that is listed below `under`."""
        return list(self._find(under, ()))

    def is_free(self, under: str) -> bool:
        """Whether nothing lies below `under`."""
        return not self._find(under, ())

    def probe(self) -> None:
        """Write a file, and take it away again."""
        name = f".probe-{uuid.uuid4().hex}"
        self.write(name, b"")
        self._fs.rm_file(f"{self._root}/{name}")

    def write(self, to: str, data: bytes) -> None:
        """All of it or nothing: object stores do so by themselves."""
        full = f"{self._root}/{to}"
        if self._local:
            write_atomic(Path(full), data)
        else:
            self._fs.pipe_file(full, data)

    def _drop_stale(self, folder: Path, under: str) -> None:
        """Take away the checkpoints that are gone from `folder`: of those sent from here or begun with."""
        for path in [p for p in self.seen if p.startswith(f"{under}/checkpoints/") and p.endswith(".safetensors")]:
            if not (folder / path.removeprefix(f"{under}/")).exists():
                with suppress(FileNotFoundError):
                    self._fs.rm_file(f"{self._root}/{path}")
                del self.seen[path]

    def read(self, path: str) -> bytes | None:
        try:
            data: bytes = self._fs.cat_file(f"{self._root}/{path}")
        except FileNotFoundError:
            return None
        return data


def _here(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _version(info: dict[str, Any]) -> list[Any]:
    """Of a file, from a listing or of its own: the tag of its content, else what else tells."""
    tag = info.get("ETag") or info.get("etag")
    version = [info.get("size"), tag] if tag else [info.get(k) for k in ("size", "mtime", "LastModified", "updated")]
    plain: list[Any] = json.loads(json.dumps(version, default=str))
    return plain


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
