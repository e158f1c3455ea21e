"""state.json: what a trial is doing, for `status` and the driver, and the driver's wish to stop it."""

import json
import time
from pathlib import Path
from typing import Any, Protocol

from harness.disk import write_atomic
from harness.experiment.spec import Trial
from harness.store.folder import fence, owner


class Control(Protocol):
    """The worker's line to whoever runs it."""

    def stop(self) -> bool:
        """True when the trial should save and end at its next step."""

    def report(self, progress: dict[str, Any]) -> None:
        """Take the content of state.json, about once a second."""


class Interrupted(Exception):
    """The trial was asked to stop; what it had is saved."""


class Live:
    """state.json: what the trial is doing, for `status` and the driver."""

    def __init__(self, folder: Path, trial: Trial, control: Control, attempt: int) -> None:
        self.folder, self.control, self.attempt = folder, control, attempt
        self.now: dict[str, Any] = {
            "nimg": 0, "total_nimg": round(trial.train.total_kimg * 1000), "images_per_s": 0.0, "latest": {}
        }  # fmt: skip
        self._written = 0.0
        self._networks: Path | None = None

    def share(self, networks: Path) -> None:
        """From now on another attempt may own the folder, to score the same `networks` (a checkpoint's file) otherwise:
        what this one still writes has names of its own. It stops where they were put away."""
        self._networks = networks

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
            if self.now["state"] in ("running", "scoring"):
                self.control.report(dict(self.now))

    def check(self) -> None:
        """Raise Interrupted when asked to stop, Fenced when another attempt owns what this one would write."""
        self.fence()
        if self.control.stop():
            raise Interrupted

    def fence(self) -> None:
        if self._networks is None or not self._networks.exists():
            fence(self.folder, self.attempt)
