"""The journal of a trial: an append-only file of metric events.

The worker makes it durable *before* each checkpoint, and the checkpoint stores the
length it commits, and its digest; a resumed trial cuts the rest off. So the journal and
the weights never tell different stories, whenever the process died.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Journal:
    """Events of one trial. `offset`: bytes that the resumed checkpoint commits (0: start anew).

    They go on in a new file of the same name. A lost worker that lives on has the old one open,
    and may write into it what it likes.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # An event that is computed again keeps its time, so that a tracking store which has
        # it already recognises the same point.
        self._times = {_key(e): e["time_ms"] for e in events(path, offset)}
        committed = _head(path, offset)
        if len(committed) < offset:
            raise ValueError(f"{path}: {len(committed)} bytes, but its checkpoint commits {offset}")
        self._sha = hashlib.sha256(committed)
        part = path.with_name(f".{path.name}.part")
        self._file = part.open("wb")
        self._file.write(committed)
        self.commit()
        part.replace(path)

    def metrics(self, nimg: int, values: dict[str, float]) -> None:
        """Record values after `nimg` images. JSON has no NaN: a non-finite value is kept as its name."""
        self._write(nimg, metrics={k: v if math.isfinite(v) else str(v) for k, v in values.items()})

    def image(self, nimg: int, path: str) -> None:
        """Record that the picture `path` (relative to the trial's folder) shows the state after `nimg` images."""
        self._write(nimg, image=path)

    def commit(self) -> int:
        """Make all events durable; returns the length in bytes that a checkpoint may commit."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def digest(self) -> str:
        """What tells whether the journal is still as it is now: see `holds`."""
        return self._sha.hexdigest()[:16]

    def close(self) -> None:
        self._file.close()

    def _write(self, nimg: int, **event: Any) -> None:
        line = {"nimg": nimg, "time_ms": time.time_ns() // 1_000_000, **event}
        line["time_ms"] = self._times.get(_key(line), line["time_ms"])
        data = json.dumps(line).encode() + b"\n"
        self._file.write(data)
        self._sha.update(data)


def holds(path: Path, offset: int, digest: str | None) -> bool:
    """Whether the first `offset` bytes of a journal are those that a checkpoint committed (None: not noted)."""
    head = _head(path, offset)
    return len(head) == offset and digest in (None, hashlib.sha256(head).hexdigest()[:16])


def _head(path: Path, size: int) -> bytes:
    if not path.exists():
        return b""
    with path.open("rb") as f:
        return f.read(size)


def _key(event: dict[str, Any]) -> tuple[Any, ...]:
    return event["nimg"], event.get("image"), *sorted(event.get("metrics", {}))


def events(path: Path, start: int = 0, end: int | None = None) -> Iterator[dict[str, Any]]:
    """The whole events within bytes [start, end) of a journal; ends at one that a crash left torn or a disk spoilt."""
    if not path.exists():
        return
    with path.open("rb") as f:
        f.seek(start)
        data = f.read() if end is None else f.read(max(0, end - start))
    for line in data.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            return
        if not isinstance(event, dict) or not {"nimg", "time_ms"} <= event.keys():
            return
        yield event


def series(path: Path) -> dict[str, list[list[float]]]:
    """{metric: [[nimg, value], ...]} of a journal, in its order."""
    out: dict[str, list[list[float]]] = {}
    for event in events(path):
        for key, value in event.get("metrics", {}).items():
            out.setdefault(key, []).append([event["nimg"], value])
    return out
