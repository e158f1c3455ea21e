"""The one folder, or URL, of results that driver and workers must both see: whether they do."""

import contextlib
import socket
import time
from pathlib import Path

from harness.errors import UserError, redact
from harness.orchestration.schedule import Ended
from harness.store import remote
from harness.store.bucket import Store
from harness.store.folder import owner

LATE_S = 5.0  # what the driver has just written into a shared folder may be seen so much later on another node
WELL = ("done", "diverged")  # ends that leave a result


class NotShared(UserError):
    """This process does not see the results that its driver sees."""


def see(folder: Path, number: int, node: str = "") -> None:
    """Raise NotShared where attempt `number`, which the driver has noted in the trial's folder (at the URL of the
    results, where there is one), can't be seen from here: what is trained here would never be found.

    `node`: what to call this machine beside its name.
    """
    deadline = time.monotonic() + LATE_S
    while (noted := _noted(folder)) is None or noted < number:
        if time.monotonic() > deadline:
            here = f"{socket.gethostname()} {node}".strip()
            found = f"attempt {noted} instead of {number}" if noted else "nothing"
            if remote.url() is not None:
                raise NotShared(
                    f"--results {remote.url()}: on node {here} there is {found} of the driver's "
                    f"trials/{folder.name}; give a URL that means the same on every node"
                )
            raise NotShared(
                f"--results {folder.parents[1]}: node {here} does not share this folder with the driver ({found} "
                f"in its trials/{folder.name}); share it under the same path, or give a URL like s3://bucket/runs"
            )
        time.sleep(0.2)


def has_result(folder: Path) -> bool:
    """Whether the driver finds a result of the trial in `folder`, or at the URL of the results."""
    if remote.url() is not None:
        with contextlib.suppress(Exception):  # whatever fsspec's backends raise: asked again, until the patience ends
            return _at_url(folder, "result.json", tries=3) is not None
        return False
    _look_again(folder)
    return (folder / "result.json").exists()


def unfound(ended: Ended, folder: Path) -> Ended:
    """What becomes of an attempt that ended well but left no result that the driver finds."""
    place = redact(remote.url() or "") or folder.parents[1]
    missing = f"trials/{folder.name}/result.json"
    return Ended("failed", f"its process said {ended.word}, but {place} has no {missing}; do all nodes share it?")


def _noted(folder: Path) -> int | None:
    """The number in the trial's `attempt` as it is now."""
    if remote.url() is None:
        _look_again(folder)
        return owner(folder)
    raw = _at_url(folder, "attempt", remote.TRIES)  # no answer for a while is another thing than nothing there
    return int(raw) if raw and raw.isdigit() else None


def _at_url(folder: Path, name: str, tries: int) -> bytes | None:
    return remote.insist(lambda: Store(str(remote.url())).read(f"trials/{folder.name}/{name}"), tries)


def _look_again(folder: Path) -> None:
    """Let a network file system ask its server what is there, rather than its memory."""
    with contextlib.suppress(OSError):
        next(folder.iterdir(), None)
