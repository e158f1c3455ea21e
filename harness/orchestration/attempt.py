"""One attempt at a trial, in whatever process: its line to the driver, its end, and around it the scratch folder
of a URL."""

import contextlib
import importlib
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import outside
from harness.disk import is_full
from harness.errors import Lost, one_line
from harness.orchestration import shared
from harness.orchestration.schedule import Ended
from harness.store import remote
from harness.store.folder import bump, owner
from harness.trial.live import Pulse

Work = Callable[[dict[str, Any], Path, dict[str, Any], Any, int], str]


class Control:
    """What a trial sees of its driver: the `Control` of harness/trial/live.py."""

    def __init__(self) -> None:
        self.reports, self.beats, self.last, self.stopping = 0, 0, dict[str, Any](), False

    @property
    def signs(self) -> int:
        """How often it has shown that it lives."""
        return self.reports + self.beats

    def stop(self) -> bool:
        return self.stopping

    def report(self, progress: dict[str, Any]) -> None:
        self.reports, self.last = self.reports + 1, progress

    def beat(self) -> None:
        self.beats += 1  # of another thread than `reports`


def make(
    worker: str,
    config: dict[str, Any],
    folder: Path,
    run: dict[str, Any],
    control: Control,
    number: int,
    node: str = "",
) -> Ended:
    """Make attempt `number` at a trial; an exception ends it as failed, with its traceback in the folder.

    `worker`: "module:function" with the signature of `trial.run`; the sources of plugins from outside that came with
    `run` are in use before it is looked up. `node`: what else than its name to call the machine. What is done here
    beside the work itself shows signs of life, so that only the work's own silence counts.
    """
    try:
        with Pulse(control) as pulse:
            shared.see(folder, number, node)
            module, _, function = worker.partition(":")
            options = outside.unpacked(run)
            work: Work = getattr(importlib.import_module(module), function)
            if remote.URL in os.environ:
                return Ended(_in_scratch(work, config, folder, options, control, number, pulse))
            with pulse.silent():
                return Ended(work(config, folder, options, control, number))
    except shared.NotShared as e:
        return Ended("interrupted", str(e), fatal=e.exit_code)
    except Exception as e:
        return failure(e, folder, number)


def begin(folder: Path) -> int:
    """Number a new attempt at the trial in `folder`, at the URL of the results too, where there is one."""
    number = bump(folder)
    remote.publish(folder / "attempt", f"trials/{folder.name}/attempt")
    return number


def _in_scratch(
    work: Work, config: dict[str, Any], folder: Path, run: dict[str, Any], control: Control, n: int, pulse: Pulse
) -> str:
    """`work` in a folder of this node that begins as what the URL holds of the trial, and is sent there."""
    store, under = remote.Store(os.environ[remote.URL]), f"trials/{folder.name}"
    with tempfile.TemporaryDirectory(prefix="nashboard-") as scratch:
        home = Path(scratch, folder.name)
        home.mkdir()
        remote.insist(lambda: store.pull(under, home))

        def send() -> None:
            owner = store.read(f"{under}/attempt")
            if owner is not None and owner != str(n).encode():
                (home / "attempt").write_bytes(owner)  # the trial sees it before it commits again
            else:
                store.push(home, under)

        with remote.again_and_again(send):
            try:
                with pulse.silent():
                    return work(config, home, run, control, n)
            except Exception:
                (home / "traceback.txt").write_text(traceback.format_exc())
                store.put(home / "traceback.txt", f"{under}/traceback.txt")
                raise


def failure(e: Exception, folder: Path, number: int) -> Ended:
    """What the exception `e` makes of attempt `number`; its traceback goes into the folder."""
    if owner(folder) not in (None, number):
        return Ended("interrupted", "another driver took this trial over")
    text = one_line(f"{type(e).__name__}: {e}", 500)
    if isinstance(e, Lost):
        return Ended("crashed", f"another of its processes was lost ({text})")
    if is_full(e):  # no fault of the trial, which goes on from its checkpoint when there is room
        return Ended("interrupted", text, fatal=1)
    with contextlib.suppress(OSError):
        (folder / "traceback.txt").write_text("".join(traceback.format_exception(e)))
    return Ended("oom" if out_of_memory(e) else "failed", text)


def out_of_memory(e: Exception) -> bool:
    """Whether memory ran out; torch's CPU allocator, C++ and oneDNN raise a bare RuntimeError then."""
    torch = sys.modules.get("torch")  # where it was never loaded, none of its errors can be here
    if isinstance(e, (MemoryError, getattr(torch, "OutOfMemoryError", MemoryError))):
        return True
    return any(words in str(e) for words in ("allocate memory", "bad_alloc", "could not create a primitive"))
