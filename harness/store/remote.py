"""Results behind a URL (s3://, gs://, file://, ...): local folders in front of it, and what travels when.

A trial works in a scratch folder of its node. Its files go to the URL in the order in which they commit one
another: data, then the pointer that names them, result.json last. Whoever reads pointers before data so finds at any
moment a state that once was. The driver keeps a folder in front of the URL and refreshes it while trials run, for all
that reads results: sink, status, report.
"""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from harness.disk import cache_folder, write_atomic
from harness.errors import UserError

URL = "NASHBOARD_RESULTS"  # environment variable of driver and workers: the URL, where there is one
POINTERS = ("checkpoints/latest.json", "state.json", "result.json")  # in the order of committing
EVERY_S = 1.0
TRIES, PAUSE_S = 6, 2.0  # for what must arrive: the end of an attempt; the pause doubles


class Store:
    """The files below a URL, through fsspec. Paths are relative to it."""

    def __init__(self, url: str, memory: Path | None = None) -> None:
        import fsspec

        try:
            self._fs, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as e:
            raise UserError(f"--results {url}: {e}; s3:// needs s3fs, gs:// gcsfs, abfs:// adlfs") from None
        self._root = root.rstrip("/")
        self._local = "file" in (self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,))
        self._memory = memory  # a file that keeps `seen`
        self.seen: dict[str, Any] = {}  # what was pulled or sent, in the version that it had
        if memory is not None and memory.exists():
            self.seen = json.loads(memory.read_text())

    def pull(self, under: str, into: Path, leave: tuple[str, ...] = ()) -> None:
        """Bring `into` up to date with everything below `under` whose name does not end as in `leave`. Pointers are
        read first and placed last."""
        self._fs.invalidate_cache()
        try:
            found = self._fs.find(f"{self._root}/{under}", detail=True)
        except FileNotFoundError:
            return
        changed = []
        for full, info in found.items():
            path = full[len(self._root) + 1 :]
            version = [info.get(k) for k in ("size", "ETag", "etag", "mtime", "LastModified", "updated")]
            version = json.loads(json.dumps(version, default=str))
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
                    self.seen[path] = version
        for path, target, version in sorted(pointers, key=lambda c: c[0].endswith("result.json")):
            target.with_name(f".{target.name}.part").replace(target)
            self.seen[path] = version
        if self._memory is not None and changed:
            write_atomic(self._memory, json.dumps(self.seen).encode())

    def push(self, folder: Path, under: str) -> None:
        """Send what changed in the trial's `folder`, pointers last; data go when a pointer that names them changed."""
        pointers = {}
        for name in POINTERS:
            with suppress(FileNotFoundError):
                pointers[name] = (folder / name).read_bytes()
        fresh = {name: data for name, data in pointers.items() if self.seen.get(f"{under}/{name}") != _digest(data)}
        if fresh.keys() - {"state.json"}:
            # Listed now and sent last: the journal, read after a checkpoint was there, holds what it commits. The best
            # snapshot, in a folder below, goes before the checkpoint that names it.
            listed = [p for p in folder.rglob("*") if p.is_file()]
            for path in sorted(listed, key=lambda p: (p.suffix == ".safetensors", p.parent.name != "best", p)):
                name = path.relative_to(folder).as_posix()
                if name not in (*POINTERS, "attempt") and not path.name.startswith("."):
                    with suppress(FileNotFoundError):  # an older checkpoint that went meanwhile
                        self.put(path, f"{under}/{name}")
        for name, data in fresh.items():
            self._write(f"{under}/{name}", data)
            self.seen[f"{under}/{name}"] = _digest(data)
        if fresh.keys() - {"state.json"}:
            self._drop_stale(folder, under)

    def put(self, path: Path, to: str) -> None:
        """Send one file, if it is another than last time."""
        stat = path.stat()
        version = [stat.st_size, stat.st_mtime_ns]
        if self.seen.get(to) != version:
            self._write(to, path.read_bytes())
            self.seen[to] = version

    def move(self, under: str, to: str) -> None:
        """Give all that is below `under` another place, if there is anything."""
        self._fs.invalidate_cache()
        if self._fs.exists(f"{self._root}/{under}"):
            self._fs.makedirs(f"{self._root}/{to}".rpartition("/")[0], exist_ok=True)
            self._fs.mv(f"{self._root}/{under}", f"{self._root}/{to}", recursive=True)

    def probe(self) -> None:
        """Write a file, and take it away again."""
        self._write(".probe", b"")
        self._fs.rm_file(f"{self._root}/.probe")

    def _write(self, to: str, data: bytes) -> None:
        """All of it or nothing: object stores do so by themselves."""
        full = f"{self._root}/{to}"
        if self._local:
            write_atomic(Path(full), data)
        else:
            self._fs.pipe_file(full, data)

    def _drop_stale(self, folder: Path, under: str) -> None:
        self._fs.invalidate_cache()
        for full in self._fs.find(f"{self._root}/{under}/checkpoints"):
            name = full.rsplit(f"/{under}/checkpoints/", 1)[1]
            if name.endswith(".safetensors") and not (folder / "checkpoints" / name).exists():
                self._fs.rm_file(full)

    def read(self, path: str) -> bytes | None:
        try:
            data: bytes = self._fs.cat_file(f"{self._root}/{path}")
        except FileNotFoundError:
            return None
        return data


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# ── the driver ───────────────────────────────────────────────────────────────


def folder(text: str) -> Path:
    """What `--results` names: a folder, or the one in front of a URL, filled with what is there."""
    if "://" not in text:
        return Path(text)
    Store(text)  # a URL of no known kind ends here, before anything is made
    os.environ[URL] = text.rstrip("/")
    front = cache_folder() / "results" / _digest(os.environ[URL].encode())[:12]
    front.mkdir(parents=True, exist_ok=True)
    (front / "url").write_text(text)
    insist(lambda: Store(text, front / ".seen.json").pull("trials", front / "trials", leave=(".safetensors",)))
    return front


def check_writable() -> None:
    """Raise UserError where results go to a URL at which nothing can be written."""
    if URL not in os.environ:
        return
    try:
        Store(os.environ[URL]).probe()
    except Exception as e:  # whatever fsspec's backends raise
        raise UserError(f"--results {os.environ[URL]}: can't be written ({e}); give another") from None


@contextmanager
def refreshed(front: Path) -> Iterator[None]:
    """While within, and once at the end, what trials leave at the URL comes to the folder in front of it."""
    if URL not in os.environ:
        yield
        return
    store = Store(os.environ[URL], front / ".seen.json")

    def pull() -> None:
        store.pull("trials", front / "trials", leave=(".safetensors", "/attempt"))  # this driver counts attempts

    with again_and_again(pull):
        yield


def publish(path: Path, to: str) -> None:
    """Send a file of the driver's, or all of a folder, to the URL, if there is one."""
    if URL not in os.environ:
        return
    store = Store(os.environ[URL])
    for p in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        if not p.name.startswith("."):
            name = to if p == path else f"{to}/{p.relative_to(path).as_posix()}"
            try:
                insist(partial(store.put, p, name))
            except Exception as e:  # whatever fsspec's backends raise
                raise UserError(f"--results: {name} did not arrive: {type(e).__name__}: {e}") from None


def supersede(under: str, to: str) -> None:
    """Move what lies below `under` at the URL, if there is one, to `to`."""
    if URL not in os.environ:
        return
    try:
        Store(os.environ[URL]).move(under, to)
    except Exception as e:  # whatever fsspec's backends raise
        raise UserError(f"--results: {under} could not be moved to {to}: {type(e).__name__}: {e}") from None


@contextmanager
def again_and_again(act: Callable[[], None]) -> Iterator[None]:
    """`act` about every second while within, whether it fails or not, and once more at the end, where it must not."""
    done = threading.Event()

    def work() -> None:
        while not done.wait(EVERY_S):
            with suppress(Exception):  # whatever a network and fsspec's backends raise
                act()

    thread = threading.Thread(target=work, name="results", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        insist(act)


def insist(act: Callable[[], None]) -> None:
    """Try until the network is back, for about a minute."""
    for nth in range(TRIES):
        try:
            act()
            return
        except Exception:
            if nth == TRIES - 1:
                raise
            time.sleep(PAUSE_S * 2**nth)
