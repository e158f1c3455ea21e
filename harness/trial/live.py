"""What a trial is doing (state.json), for `status` and the driver; its signs of life; the driver's wish to stop it."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from harness.disk import read_json, write_atomic
from harness.experiment.spec import Trial
from harness.store.folder import LIVELY, fence, owner

T = TypeVar("T")
BEAT_S = 1.0
OUTSIDE_S = 6 * 3600.0  # whatever takes longer outside of the loop, and reports nothing, hangs there


class Control(Protocol):
    """The worker's line to whoever runs it. One that takes silence for hanging has `beat()`, a sign of life without
    news, too: ask with `hasattr`."""

    def stop(self) -> bool:
        """True when the trial should save and end at its next step."""

    def report(self, progress: dict[str, Any]) -> None:
        """Take the content of state.json, about once a second."""


class Pulse:
    """Signs of life while it is entered, about every second, whatever the trial's own thread does meanwhile: load
    libraries and weights, decode images, wait for another process, score, draw, save, send.

    Silence means something only where steps are due, in the training loop: there, and only there, it counts.
    """

    def __init__(self, control: Control) -> None:
        self._beat: Callable[[], None] | None = getattr(control, "beat", None)
        self._silent, self._since = False, time.monotonic()
        self._done = threading.Event()

    def __enter__(self) -> "Pulse":
        if self._beat is not None:
            threading.Thread(target=self._work, args=(self._beat,), name="pulse", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def _work(self, beat: Callable[[], None]) -> None:
        while not self._done.wait(BEAT_S):
            if not self._silent and time.monotonic() - self._since < OUTSIDE_S:
                beat()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Within, no beat: what runs there speaks for itself."""
        self._silent = True
        try:
            yield
        finally:
            self._silent, self._since = False, time.monotonic()

    def outside(self, upkeep: Callable[[T], bool]) -> Callable[[T], bool]:
        """`upkeep`, which a silent loop calls between its steps, with beats."""

        def kept(state: T) -> bool:
            self._silent, self._since = False, time.monotonic()
            try:
                return upkeep(state)
            finally:
                self._silent = True

        return kept


class Interrupted(Exception):
    """The trial was asked to stop; what it had is saved."""


class Live:
    """state.json: what the trial is doing, for `status` and the driver."""

    def __init__(self, folder: Path, trial: Trial, control: Control, attempt: int) -> None:
        self.folder, self.control, self.attempt = folder, control, attempt
        begun = read_json(folder / "checkpoints" / "latest.json")
        self.now: dict[str, Any] = {
            "nimg": begun.get("nimg", 0), "total_nimg": round(trial.train.total_kimg * 1000),
            "images_per_s": 0.0, "latest": {},
        }  # fmt: skip
        if warning := read_json(folder / "state.json").get("warning"):
            self.now["warning"] = warning
        self.pulse = Pulse(control)  # to be entered by whoever runs the trial
        self._written = 0.0
        self._networks: Path | None = None

    def share(self, networks: Path) -> None:
        """From now on another attempt may own the folder, to score the same `networks` (a checkpoint's file) otherwise:
        what this one still writes has names of its own. It stops where they were put away."""
        self._networks = networks

    def warn(self, text: str) -> None:
        """Let the driver say what one must know of this trial: the first time only, whatever resumes it."""
        if "warning" not in self.now:
            self.update(force=True, warning=text)

    def say(self, state: str, message: str | None = None) -> str:
        """Write `state` now; returns it."""
        self.update(force=True, state=state, message=message)
        return state

    def update(self, *, force: bool = False, **values: Any) -> None:
        """Note `values`; write them, and tell the driver, at most once a second. Raises Fenced as `check` does."""
        self.now |= {**values, "time": time.time(), "attempt": self.attempt}
        if force or time.monotonic() - self._written > 1:
            self.fence()
            self._written = time.monotonic()
            if owner(self.folder) in (None, self.attempt):
                write_atomic(self.folder / "state.json", json.dumps(self.now).encode())
            if self.now["state"] in LIVELY:
                self.control.report(dict(self.now))

    def check(self) -> None:
        """Raise Interrupted when asked to stop, Fenced when another attempt owns what this one would write."""
        self.fence()
        if self.control.stop():
            raise Interrupted

    def fence(self) -> None:
        if self._networks is None or not self._networks.exists():
            fence(self.folder, self.attempt)
