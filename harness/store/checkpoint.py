"""Checkpoints: safetensors written atomically, checksummed, the last two kept.

A file that fails the checksum in its name falls back to the one before. `latest.json`
tells a reader that doesn't need the weights how much of the journal is committed.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from harness.disk import write_atomic

KEEP = 2


class Checkpoint(NamedTuple):
    """`tensors` by name, on the CPU; `meta`, plain data: nimg, journal_offset, the resolved config; `file`: its name,
    which tells its content."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    file: str = ""


def encode(tensors: dict[str, Tensor], meta: dict[str, Any]) -> bytes:
    """The content of a checkpoint file."""
    return to_bytes({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata={"meta": json.dumps(meta)})


def decode(data: bytes) -> Checkpoint:
    """The inverse of `encode`."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return Checkpoint(from_bytes(data), json.loads(header["__metadata__"]["meta"]))


def save(folder: Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> Path:
    """Write the checkpoint of `meta["nimg"]` images into `folder` and drop all but the last two,
    and what a process that died had half written.

    `meta` must hold `nimg` and `journal_offset`.
    """
    path = write(folder, tensors, meta)
    latest = {"file": path.name, "nimg": meta["nimg"], "journal_offset": meta["journal_offset"]}
    write_atomic(folder / "latest.json", json.dumps(latest).encode())
    for stale in [*[p for p in _newest_first(folder) if p != path][KEEP - 1 :], *folder.glob(".*.part")]:
        stale.unlink(missing_ok=True)
    return path


def write(folder: Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> Path:
    """Write one checkpoint of `meta["nimg"]` images into `folder`. The file's name carries its checksum."""
    data = encode(tensors, meta)
    path = folder / f"{meta['nimg']:09d}.{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
    write_atomic(path, data)
    return path


def load_latest(folder: Path, usable: Callable[[dict[str, Any]], bool] = lambda meta: True) -> Checkpoint | None:
    """The newest whole checkpoint of `folder`, or None. A broken one, or one whose `meta` is not
    `usable`, falls back to the one before."""
    whole = (saved for path in _newest_first(folder) if (saved := read_whole(path)) is not None)
    return next((saved for saved in whole if usable(saved.meta)), None)


def read_whole(path: Path) -> Checkpoint | None:
    """The checkpoint in `path`, or None where its bytes are gone or not those that its name tells."""
    if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest()[:16] != path.name.split(".")[1]:
        return None
    return read(path)


def read(path: Path) -> Checkpoint:
    """Read one file. Nothing in it is executed. Raises ValueError where it is no checkpoint, or not what the
    checksum in its name stands for."""
    named = re.fullmatch(r"\d+\.([0-9a-f]{16})\.safetensors", path.name)
    try:
        if named and hashlib.sha256(path.read_bytes()).hexdigest()[:16] != named[1]:
            raise ValueError("its content has another checksum than its name tells")
        with safe_open(path, "pt") as f:
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 - not a dict
            meta = json.loads((f.metadata() or {})["meta"])
        if not isinstance(meta, dict) or type(meta.get("nimg")) is not int:
            raise ValueError("it does not tell its nimg")
    except _MALFORMED as e:
        raise ValueError(f"{path}: not a Nashboard checkpoint: {e}") from None
    return Checkpoint(tensors, meta, path.name)


def meta(folder: Path) -> dict[str, Any]:
    """What the newest readable checkpoint of `folder` says of itself, its tensors left alone; empty where none does."""
    for path in _newest_first(folder):
        with contextlib.suppress(*_MALFORMED), safe_open(path, "pt") as f:
            found = json.loads((f.metadata() or {})["meta"])
            if isinstance(found, dict):
                return found
    return {}


_MALFORMED = (
    SafetensorError, OSError, LookupError, ValueError, TypeError, AttributeError, OverflowError, RecursionError
)  # fmt: skip


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.*.safetensors"), reverse=True)


def pack_optimizer(name: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state as tensors `<name>/<parameter index>/<key>`."""
    return {
        f"{name}/{i}/{key}": torch.as_tensor(value)
        for i, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }


def unpack_optimizer(name: str, tensors: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    """The inverse of `pack_optimizer`, into an optimizer over the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        head, _, rest = key.partition("/")
        if head == name:
            index, field = rest.split("/")
            state.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
