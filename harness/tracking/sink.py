"""The thread that feeds MLflow while trials run, and the same done once, afterwards."""

import logging
import math
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.errors import UserError, one_line, redact
from harness.experiment.matrix import Entry
from harness.store import lease
from harness.store.folder import read_state
from harness.tracking.mirror import Mirror

EVERY_S = 2.0
BACKOFF_S = 0.5, 30.0
LAST_TRIES_S = 20.0  # how long `close` goes on against a store that fails


class Sink:
    """A thread that keeps MLflow up to date while trials run; trouble only makes it late.

    `start` it before the trials and `close` it after them, which waits for the rest; `with` does both.
    `note()` is then the Markdown for the parent run.
    """

    def __init__(
        self,
        results: Path,
        experiment: str,
        entries: Sequence[Entry],
        uri: str | None = None,
        note: Callable[[], str] = str,
    ) -> None:
        self._mirror, self._note = Mirror(results, experiment, entries, uri), note
        self.settled = self._mirror.settled()  # nothing is left to send: before it starts, and after its end
        self.behind = 0  # bytes that were still unsent at the end
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow sink", daemon=True)
        self.problem: str | None = None  # why the last try failed, or None

    def start(self) -> None:
        self._thread.start()

    def __enter__(self) -> "Sink":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.behind = self.close(self._note())

    def close(self, note: str = "", timeout_s: float = 60.0) -> int:
        """Ship what is left, put the Markdown `note` on the parent run; returns bytes still unsent."""
        self._mirror.note, self._mirror.closed = note, True
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        if self._thread.is_alive():
            self.problem = self.problem or f"not done after {timeout_s:g} s"
        self.settled = self._mirror.settled()
        return self._mirror.behind()

    def _wait_for_a_step(self) -> None:
        """Loading MLflow and making its database take cores that a trial's start needs more."""
        while not any(read_state(folder).get("nimg") for folder in self._mirror.folders()):
            if self._closing.wait(0.5):
                return

    def _work(self) -> None:
        self._wait_for_a_step()
        pause_s, deadline = BACKOFF_S[0], math.inf
        while True:
            last = self._closing.is_set()
            try:
                self._mirror.update()
                self.problem, pause_s = None, BACKOFF_S[0]
                if last:
                    return
                self._closing.wait(EVERY_S)
            except Exception as e:  # whatever MLflow or its store raises, trials go on
                if self.problem is None:  # once an outage
                    logging.getLogger(__name__).warning("mlflow: %s", _told(e))
                self.problem = _told(e)
                if last and isinstance(e, UserError):
                    return  # it does not go by itself
                if last and deadline == math.inf:
                    deadline = time.monotonic() + LAST_TRIES_S
                if time.monotonic() > deadline:
                    return
                if last:
                    time.sleep(BACKOFF_S[0])
                else:
                    self._closing.wait(pause_s)
                pause_s = min(2 * pause_s, BACKOFF_S[1])


def sync(results: Path, experiment: str, entries: Sequence[Entry], uri: str | None = None, note: str = "") -> str:
    """Bring MLflow up to date from `results` alone, whatever it holds; returns its URI, redacted.

    A deleted database is made anew. UserError where MLflow or its store fails, Busy where a driver does it already.
    """
    mirror = Mirror(results, experiment, entries, uri)
    mirror.note, mirror.closed = note, True
    new = [folder for folder in (results / experiment, results) if not folder.exists()]
    with lease.drive(results / experiment):
        try:
            mirror.update()
        except Exception as e:  # whatever MLflow or its store raises
            for folder in new:
                shutil.rmtree(folder, ignore_errors=True)
            if isinstance(e, UserError):
                raise
            raise UserError(f"--tracking-uri {redact(mirror.uri)}: {_told(e)}; results are whole, try again") from e
    return redact(mirror.uri)


def _told(e: Exception) -> str:
    """What went wrong; whole where it says what to do."""
    return redact(one_line(e, None if isinstance(e, UserError) else 400))
