"""What of a trial's journal is final, seen from outside while the trial may be running."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHUNK = 1 << 20  # bytes per read


def size(folder: Path) -> int:
    """Bytes of the journal that no resume will take back."""
    journal = folder / "events.jsonl"
    if not journal.exists():
        return 0
    if (folder / "result.json").exists():
        return journal.stat().st_size
    return min(_offset(folder / "checkpoints" / "latest.json"), journal.stat().st_size)


def lines(journal: Path, start: int, end: int) -> bytes:
    """Whole lines of [start, end), about CHUNK bytes of them."""
    if end <= start:
        return b""
    with journal.open("rb") as f:
        f.seek(start)
        data = f.read(min(end - start, CHUNK))
    return data[: data.rfind(b"\n") + 1]


def events(chunk: bytes) -> Iterator[dict[str, Any]]:
    """The events of whole lines; a line that a failing disk has spoilt is left out."""
    for line in chunk.splitlines():
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and {"nimg", "time_ms"} <= event.keys():
                yield event


def tail(journal: Path, offset: int) -> str:
    """What tells whether the journal up to `offset` is the one that was sent: a hash of its last bytes."""
    if not offset or not journal.exists():
        return ""
    with journal.open("rb") as f:
        f.seek(max(0, offset - 512))
        return hashlib.sha256(f.read(min(offset, 512))).hexdigest()[:16]


def _offset(latest: Path) -> int:
    try:
        return int(json.loads(latest.read_text())["journal_offset"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
