"""The journal of a trial: an append-only file of metric events.

The worker makes it durable *before* each checkpoint, and the checkpoint stores the
length it commits, and its digest; a resumed trial cuts the rest off. So the journal and
the weights never tell different stories, whenever the process died.

All who read it (result.json's curves, MLflow's copy, a resumed trial) read it by `parse`: a line that a
failing disk has spoilt is left out and counted, and the others are taken.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from harness.disk import fresh, read_json

Event = dict[str, Any]
"""{"nimg", "time_ms"} with "metrics", {name: number, or its name where it is not finite}, or "image", a path."""

CHUNK = 1 << 20  # bytes that a follower reads at a time


class Journal:
    """Events of one trial. `offset`: bytes that the resumed checkpoint commits (0: start anew).

    They go on in a new file of the same name. A lost worker that lives on has the old one open,
    and may write into it what it likes.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # An event that is computed again keeps its time, so that a tracking store which has
        # it already recognises the same point.
        self._times = {_key(e): e["time_ms"] for e in read(path, offset).events}
        committed = _head(path, offset)
        if len(committed) < offset:
            raise ValueError(f"{path}: {len(committed)} bytes, but its checkpoint commits {offset}")
        self._sha = hashlib.sha256(committed)
        part = path.with_name(f".{path.name}.part")
        self._file = fresh(part)
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


def _key(event: Event) -> tuple[Any, ...]:
    return event["nimg"], event.get("image"), *sorted(event.get("metrics", {}))


# ── reading ──────────────────────────────────────────────────────────────────


class Lines(NamedTuple):
    """What a stretch of a journal holds: its events in order, and how many of its lines are none."""

    events: list[Event]
    spoilt: int


def parse(data: bytes) -> Lines:
    """The whole lines of `data`; what follows the last line's end is a line that is still being written, or was
    when its process died."""
    found = [_event(line) for line in data.split(b"\n")[:-1]]
    events = [e for e in found if e is not None]
    return Lines(events, len(found) - len(events))


def _event(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    if not isinstance(event, dict) or not all(isinstance(event.get(k), int) for k in ("nimg", "time_ms")):
        return None
    values = event.get("metrics")
    if isinstance(values, dict):
        return event if all(isinstance(v, int | float | str) for v in values.values()) else None
    return event if values is None and isinstance(event.get("image"), str) else None


def read(path: Path, start: int = 0, end: int | None = None) -> Lines:
    """Bytes [start, end) of a journal, which need not exist."""
    if not path.exists():
        return Lines([], 0)
    with path.open("rb") as f:
        f.seek(start)
        return parse(f.read() if end is None else f.read(max(0, end - start)))


def series(events: Iterable[Event]) -> dict[str, list[list[float]]]:
    """{metric: [[nimg, value], ...]} of events, in their order."""
    out: dict[str, list[list[float]]] = {}
    for event in events:
        for key, value in event.get("metrics", {}).items():
            out.setdefault(key, []).append([event["nimg"], value])
    return out


# ── following it from outside, while the trial may be running ────────────────


def committed(folder: Path) -> int:
    """Bytes of the journal in a trial's folder that no resume will take back."""
    journal = folder / "events.jsonl"
    if not journal.exists():
        return 0
    if (folder / "result.json").exists():
        return journal.stat().st_size
    offset = read_json(folder / "checkpoints" / "latest.json").get("journal_offset")
    return min(offset, journal.stat().st_size) if isinstance(offset, int) else 0


def chunk(path: Path, start: int, end: int) -> bytes:
    """Whole lines of [start, end), about CHUNK bytes of them."""
    if end <= start:
        return b""
    with path.open("rb") as f:
        f.seek(start)
        data = f.read(min(end - start, CHUNK))
    return data[: data.rfind(b"\n") + 1]


def mark(path: Path, offset: int) -> str:
    """What tells whether the journal up to `offset` is the one that was sent: a hash of its last bytes."""
    if not offset or not path.exists():
        return ""
    with path.open("rb") as f:
        f.seek(max(0, offset - 512))
        return hashlib.sha256(f.read(min(offset, 512))).hexdigest()[:16]
