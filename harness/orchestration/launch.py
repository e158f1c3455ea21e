"""Trials onto processes: in this one, on a Ray of our own, or on a cluster."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from harness import process
from harness.errors import UserError
from harness.experiment.matrix import Entry
from harness.experiment.parse import to_plain
from harness.experiment.schema import plain
from harness.experiment.spec import Run
from harness.orchestration import attempt, cluster, fit, shared
from harness.orchestration.attempt import Control
from harness.orchestration.pool import RayPool
from harness.orchestration.schedule import Ended, Job, Share, Stop, drive
from harness.store import lease
from harness.store.folder import ENDED_BADLY, LIVELY, ended_badly, forget_end, note_end, read_state
from harness.store.folder import finished as of_disk

WORKER = "harness.trial.run:run"
PROBE = "harness.orchestration.fit:measure"
Tell = Callable[[str, str, dict[str, Any]], None]


def launch(
    entries: Sequence[Entry],
    results: Path,
    run: Run,
    *,
    experiment: str,
    finished: Callable[[Entry], str | None],
    on_progress: Tell = lambda id, word, report: None,
    local: bool = False,
    address: str | None = None,
    ship_code: bool = True,
    retry_failed: bool = False,
    worker: str = WORKER,
    probe: str = PROBE,
    during: contextlib.AbstractContextManager[object] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, str]:
    """Run what is not finished, in order; returns {trial id: state word} for all `entries`.

    `finished(entry)` is the word of a stored result, or None. `on_progress(id, word, report)`
    hears of starts, reports (the content of state.json), retries (`waiting`) and ends.
    `address`: an existing cluster, host:port; else a Ray of our own, or none when `local`.
    `worker`: "module:function" with the signature of `trial.run`; `probe`: of `fit.measure`.
    `during` is held as long as the lock. `say` hears that one waits for it.

    Ctrl-C, SIGTERM or SIGHUP asks every trial to save and stop (all unfinished are `interrupted`), a second Ctrl-C
    ends them.
    While Ray runs, sys.stdout and sys.stderr point to results/<experiment>/driver.log, so a
    display must have bound its stream before. Raises Busy where another driver works on this
    experiment, UserError where the cluster can never hold one trial, Halted for an end that every trial would come to.
    """
    folder = results.absolute() / experiment
    words: dict[str, str] = {}
    trials = {e.id: e.trial for e in entries}
    stop = Stop()
    with lease.drive(folder, say, stop), during or contextlib.nullcontext():
        jobs = []
        for entry in entries:
            home = results.absolute() / "trials" / entry.id
            if retry_failed:
                forget_end(home, entry.trial)
            word = finished(entry) or (None if retry_failed else ended_badly(home, entry.trial))
            if word:
                words[entry.id] = word
            else:
                if read_state(home).get("state") in LIVELY:  # what a driver that was killed left behind
                    note_end(home, entry.trial, "interrupted", None)
                jobs.append(Job(entry.id, to_plain(entry.trial), home, Share(0, run.resources.cpus)))

        def tell(job: Job, word: str, report: dict[str, Any]) -> None:
            if word in (*ENDED_BADLY, "interrupted"):
                note_end(job.folder, trials[job.id], word, report.get("message"))
            if word == "done":  # the figures of tables, not those of the last snapshot
                report = {**report, "latest": _headlines(of_disk(job.folder, trials[job.id]))}
            on_progress(job.id, word, report)

        if jobs and local:
            words |= _here(jobs, run, worker, stop, tell)
        elif jobs:
            with _quiet(folder / "driver.log"), cluster.connect(address, ship_code) as ray:
                pool = RayPool(ray, run, worker)
                with process.on_ending(stop):  # entered after ray.init, which takes SIGTERM for itself
                    todo = {id: trial for id, trial in trials.items() if id not in words}
                    shares = fit.shares(todo, run, pool.gpus, partial(pool.measure, probe, lambda: stop.asked > 0))
                    for share in dict.fromkeys(shares.values()):
                        pool.check(share)
                    words |= drive([replace(job, share=shares[job.id]) for job in jobs], pool, run, stop, tell)
                    if stop.fatal:  # all else is saved
                        raise Halted(stop.fatal)
    return {entry.id: words[entry.id] for entry in entries}


class Halted(UserError):
    """What ended one trial would end all of them; those that ran are saved."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(ended.message or ended.word)
        self.exit_code = int(ended.fatal)


def _headlines(result: dict[str, Any] | None) -> dict[str, Any]:
    """The figures of a result that may head a table."""
    return {name: m["value"] for name, m in (result or {}).get("metrics", {}).items() if m.get("headline")}


# ── without Ray ─────────────────────────────────────────────────────────────


def _here(
    jobs: list[Job], run: Run, worker: str, stop: Stop, tell: Callable[[Job, str, dict[str, Any]], None]
) -> dict[str, str]:
    """One trial after another in this process: no Ray, no retries, no time limits."""
    words = dict.fromkeys((job.id for job in jobs), "interrupted")

    def stop_or_break(number: int, _: object) -> None:
        stop(number)
        if stop.asked > 1:
            raise KeyboardInterrupt

    with process.on_ending(stop_or_break):
        for job in jobs:
            if stop.asked:
                break
            tell(job, "running", {})
            control = _Direct(stop, partial(tell, job, "running"))
            ended = attempt.make(worker, job.config, job.folder, plain(run), control, attempt.begin(job.folder))
            if ended.word in shared.WELL and not shared.has_result(job.folder):
                ended = shared.unfound(ended, job.folder)
            words[job.id] = "failed" if ended.word == "crashed" else ended.word
            tell(job, words[job.id], {"message": ended.message})
            if ended.fatal:
                raise Halted(ended)
    return words


class _Direct(Control):
    """The line between a trial and a driver that share a process."""

    def __init__(self, stop: Stop, tell: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self._stop, self._tell = stop, tell

    def stop(self) -> bool:
        return self._stop.asked > 0

    def report(self, progress: dict[str, Any]) -> None:
        self._tell(progress)


# ── streams ─────────────────────────────────────────────────────────────────


@contextmanager
def _quiet(log: Path) -> Iterator[None]:
    """Ray prints about every lost process whatever one asks: let it do so into `log`."""
    with (
        log.open("a", buffering=1, encoding="utf-8", errors="backslashreplace") as f,
        contextlib.redirect_stdout(f),
        contextlib.redirect_stderr(f),
    ):
        yield
    sys.stdout.flush()
