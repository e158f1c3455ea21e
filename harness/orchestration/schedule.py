"""Which trial starts when, and what becomes of one that ends badly. Knows no Ray, file or torch.

A `Pool` runs trials somewhere; `drive` decides. Tests and simulations give it a pool and a
clock of their own, and so exercise the very code that runs a cluster.
"""

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from harness.experiment.spec import Run

GRACE_S = 60.0  # a trial that was asked to stop has this long for its checkpoint
BACKOFF_S = 1.0, 30.0  # pause before the first retry; it doubles up to the second


class Share(NamedTuple):
    """What one trial reserves. `gpus`: a fraction below 1, or whole, shared by its processes; `cpus`: for each
    process."""

    gpus: float
    cpus: int
    processes: int = 1


class Ended(NamedTuple):
    """How one attempt ended: a state word of a trial, or `crashed` (its process or node was lost, or hung)."""

    word: str
    message: str | None = None
    fatal: int = 0  # the same would befall every other trial: start no more, and end with this exit code


@dataclass
class Job:
    """A trial on its way."""

    id: str
    config: dict[str, Any]
    folder: Path
    share: Share
    crashes: int = 0
    larger: bool = False  # has had its second chance after an out-of-memory
    not_before: float = 0.0


class Pool(Protocol):
    """Where trials run. All calls return at once, except `wait`."""

    def room(self, share: Share) -> bool:
        """Whether one more trial of this share fits beside those that run."""

    def start(self, job: Job) -> None: ...

    def wait(self, timeout_s: float) -> list[tuple[str, Ended]]:
        """Attempts that ended, by trial id; returns early when there is one."""

    def progress(self) -> dict[str, tuple[int, dict[str, Any]]]:
        """{id: (number of reports so far, last report)} of the trials that have begun to run."""

    def stop(self, id: str) -> None:
        """Ask for a checkpoint and an end."""

    def kill(self, id: str) -> None:
        """End the process; `wait` reports the attempt as `crashed`."""

    def grown(self, share: Share) -> Share | None:
        """A share with more memory to itself, or None where no node has more to give."""


class Stop:
    """How often the user asked to stop: once, every trial checkpoints first; twice, now. `fatal`: the end of an attempt
    that asked for it, if one did."""

    def __init__(self) -> None:
        self.asked = 0
        self.fatal: Ended | None = None

    def __call__(self, number: int = signal.SIGINT, _: object = None) -> None:
        """Be a signal's handler. Whoever sends another than Ctrl-C's may do so several times, and mean one."""
        self.asked = self.asked + 1 if number == signal.SIGINT else max(self.asked, 1)


@dataclass
class _Watch:
    """A running attempt as `drive` sees it."""

    job: Job
    reports: int = -1
    hung: str | None = None  # why it was taken for lost though its process lived
    begun: float | None = None  # a trial may wait for its resources first
    heard: float = 0.0
    verdict: str | None = None  # what it shall be called when it ends, decided here
    why: str | None = None
    kill_at: float = float("inf")


def drive(
    jobs: Iterable[Job],
    pool: Pool,
    run: Run,
    stop: Stop,
    tell: Callable[[Job, str, dict[str, Any]], None],
    clock: Callable[[], float] = time.monotonic,
    tick_s: float = 0.25,
) -> dict[str, str]:
    """Run `jobs` in their order through `pool`; returns {id: state word}.

    Retries only what a crash, a lost node or a hanging process took (`run.retries` times, with backoff), and an
    out-of-memory once with a larger share; all else is final. `tell(job, word, report)` is called
    for every start, report and end; after an end the word is final unless it is `waiting`.
    A job that never started because the user stopped is `interrupted`.
    """
    waiting, active, words = list(jobs), dict[str, _Watch](), dict[str, str]()
    asked = 0
    while active or (waiting and not stop.asked):
        for job in [] if stop.asked else _startable(waiting, pool, clock()):
            waiting.remove(job)
            active[job.id] = _Watch(job)
            tell(job, "running", {})
            pool.start(job)
        for id, ended in pool.wait(tick_s):
            watch = active.pop(id)
            if ended.fatal:
                stop.asked, stop.fatal = stop.asked or 1, stop.fatal or ended
            if watch.hung and ended.word == "crashed":
                ended = ended._replace(message=watch.hung)
            again = None if stop.asked or watch.verdict else _again(watch.job, ended, pool, run, clock())
            if again:
                waiting.insert(0, watch.job)
                tell(watch.job, "waiting", {"message": again})
            else:
                words[id], message = _final(watch, ended)
                tell(watch.job, words[id], {"message": message})
        _listen(active, pool, run, clock(), tell)
        if stop.asked > asked:
            asked = stop.asked
            for id, watch in active.items():
                watch.verdict = watch.verdict or "interrupted"
                watch.kill_at = clock() + GRACE_S
                (pool.stop if asked == 1 else pool.kill)(id)
    return {**{job.id: "interrupted" for job in waiting}, **words}


def _startable(waiting: list[Job], pool: Pool, now: float) -> Iterator[Job]:
    """The waiting jobs that fit, in order. Only one that has outgrown the others may be overtaken."""
    for job in list(waiting):
        if job.not_before > now:
            continue
        if pool.room(job.share):
            yield job
        elif not job.larger:
            return


def _again(job: Job, ended: Ended, pool: Pool, run: Run, now: float) -> str | None:
    """Prepare `job` for another attempt and say why, or None where its end is final."""
    if ended.word == "crashed" and job.crashes < run.retries:
        pause_s = min(BACKOFF_S[0] * 2**job.crashes, BACKOFF_S[1])
        job.crashes += 1
        job.not_before = now + pause_s
        return f"{ended.message}; retry {job.crashes} of {run.retries} in {pause_s:g} s"
    if ended.word == "oom" and not job.larger and (share := pool.grown(job.share)):
        job.larger, job.share = True, share
        return f"{ended.message}; once more with {share.gpus:g} GPUs and {share.cpus} cores"
    return None


def _final(watch: _Watch, ended: Ended) -> tuple[str, str | None]:
    """The state word of a trial whose last attempt ended, and why. A result that came first counts."""
    if watch.verdict and ended.word in ("crashed", "interrupted"):
        return watch.verdict, watch.why
    if ended.word == "crashed":
        return "hung" if watch.hung else "failed", f"{ended.message}; lost {watch.job.crashes + 1} times"
    return ended.word, ended.message


def _listen(
    active: dict[str, _Watch],
    pool: Pool,
    run: Run,
    now: float,
    tell: Callable[[Job, str, dict[str, Any]], None],
) -> None:
    """Pass reports on, and end what hangs, has used up its time, or ignores a stop."""
    for id, (reports, report) in pool.progress().items():
        watch = active.get(id)
        if watch is None:
            continue
        if reports > watch.reports:
            watch.begun = now if watch.begun is None else watch.begun
            watch.reports, watch.heard = reports, now
            if report:
                tell(watch.job, "running", report)
        elif now - watch.heard > run.hang_s and watch.verdict is watch.hung is None:
            watch.hung = f"no sign of life for {run.hang_s:g} s"
            pool.kill(id)
    for id, watch in active.items():
        late = run.timeout_s is not None and watch.begun is not None and now - watch.begun > run.timeout_s
        if late and watch.verdict is None:
            watch.verdict, watch.why = "timeout", f"ran longer than {run.timeout_s:g} s"
            watch.kill_at = now + GRACE_S
            pool.stop(id)
        if now > watch.kill_at:
            watch.kill_at = float("inf")
            pool.kill(id)
