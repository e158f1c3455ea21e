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

from harness import command, outside
from harness.disk import is_full, write_atomic
from harness.errors import Lost, one_line, redact
from harness.experiment.schema import plain
from harness.experiment.spec import Run
from harness.orchestration import shared
from harness.orchestration.schedule import Ended
from harness.store import lease, remote
from harness.store.folder import Fenced, bump, owner, scorings, take
from harness.trial.live import Pulse

DRIVER = "driver"  # in a run's options on their way to a worker: what else it hears
VARIABLES = "NASHBOARD_"

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
        with Pulse(control):
            options = unpacked(run)
            shared.see(folder, number, node)
            module, _, function = worker.partition(":")
            work: Work = getattr(importlib.import_module(module), function)
        if remote.url() is not None:
            return Ended(_in_scratch(work, config, folder, options, control, number))
        return Ended(work(config, folder, options, control, number))
    except shared.NotShared as e:
        return Ended("interrupted", str(e), fatal=e.exit_code)
    except Exception as e:
        return failure(e, folder, number)


def packed(run: Run) -> dict[str, Any]:
    """A run's options with all that a worker elsewhere must hear of its driver, for `unpacked` there.

    They are the argument of a call, which Ray hands from process to process: what it writes into logs and shows in its
    lists are names, environments and commands, and the results' URL may hold a password.
    """
    variables = {k: v for k, v in os.environ.items() if k.startswith(VARIABLES)}
    told = {"command": command.words(), "results": remote.url(), "variables": variables}
    return {**plain(run), outside.KEY: outside.packed(), DRIVER: told}


def unpacked(run: dict[str, Any]) -> dict[str, Any]:
    """A run's options alone; what came with them is from now on so in this process."""
    options = dict(run)
    if told := options.pop(DRIVER, None):
        os.environ.update(told["variables"])
        command.hear(told["command"])
        remote.use(told["results"])
    return outside.unpacked(options)


def begin(folder: Path) -> int:
    """Number a new attempt at the trial in `folder`; where results are at a URL, as no other driver there does."""
    if remote.url() is None:
        return bump(folder)
    lease.check()
    least = (owner(folder) or 0) + 1
    return take(folder, remote.claim(folder.name, least))


def _in_scratch(work: Work, config: dict[str, Any], folder: Path, run: dict[str, Any], control: Control, n: int) -> str:
    """`work` in a folder of this node that begins as what the URL holds of the trial, and is sent there."""
    under = f"trials/{folder.name}"
    with Pulse(control) as pulse, tempfile.TemporaryDirectory(prefix="nashboard-") as scratch:
        home = Path(scratch, folder.name)
        home.mkdir()
        store = remote.insist(lambda: remote.begin(folder.name, home))
        began = {path.name: path.read_bytes() for path in scorings(home)}

        def ours() -> bool:
            now = store.read(f"{under}/attempt")
            if now == str(n).encode():
                return True
            write_atomic(home / "attempt", now or b"0")  # the trial sees it before it commits again
            return False

        def send() -> None:
            if ours():
                store.push(home, under, ours)
                return
            for path in scorings(home):  # what a scoring found is nobody else's, whose trial it may be now
                if path.read_bytes() != began.get(path.name):
                    remote.give(store, path, under)

        with remote.again_and_again(send):
            try:
                with pulse.silent():
                    return work(config, home, run, control, n)
            except Exception:
                (home / "traceback.txt").write_text(redact(traceback.format_exc()), encoding="utf-8")
                if ours():
                    store.put(home / "traceback.txt", f"{under}/traceback.txt")
                raise


def failure(e: Exception, folder: Path, number: int) -> Ended:
    """What the exception `e` makes of attempt `number`; its traceback goes into the folder."""
    if isinstance(e, Fenced) or owner(folder) not in (None, number):
        return Ended("interrupted", "another driver took this trial over")
    text = one_line(redact(f"{type(e).__name__}: {e}"), 500)
    if isinstance(e, Lost):
        return Ended("crashed", f"another of its processes was lost ({text})")
    if is_full(e):  # no fault of the trial, which goes on from its checkpoint when there is room
        return Ended("interrupted", f"{text}; make room, then give the same command again", fatal=1)
    with contextlib.suppress(OSError):
        (folder / "traceback.txt").write_text(redact("".join(traceback.format_exception(e))), encoding="utf-8")
    return Ended("oom" if out_of_memory(e) else "failed", text)


def out_of_memory(e: Exception) -> bool:
    """Whether memory ran out; torch's CPU allocator, C++ and oneDNN raise a bare RuntimeError then."""
    torch = sys.modules.get("torch")  # where it was never loaded, none of its errors can be here
    if isinstance(e, (MemoryError, getattr(torch, "OutOfMemoryError", MemoryError))):
        return True
    return any(words in str(e) for words in ("allocate memory", "bad_alloc", "could not create a primitive"))
