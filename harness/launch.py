"""Trials onto processes: in this one, on a Ray of our own, or on a cluster. The only ray import.

One actor per trial: Ray places and isolates, `schedule.drive` decides. Ray restarts and
retries nothing by itself, for it would start from scratch, unseen.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from harness import attempt, lock
from harness.attempt import Control
from harness.config import Run, to_plain
from harness.errors import UserError
from harness.matrix import Entry
from harness.schedule import Ended, Job, Share, Stop, drive
from harness.schema import plain

WORKER = "harness.trial:run"
ENDED_BADLY = ("failed", "oom", "timeout", "hung")  # tried again only when asked
REUSE_S = 60.0  # a process that trained for longer is replaced: nothing of it reaches the next trial
POLL_S = 1.0
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
) -> dict[str, str]:
    """Run what is not finished, in order; returns {trial id: state word} for all `entries`.

    `finished(entry)` is the word of a stored result, or None. `on_progress(id, word, report)`
    hears of starts, reports (the content of state.json), retries (`waiting`) and ends.
    `address`: an existing cluster, host:port; else a Ray of our own, or none when `local`.
    `worker`: "module:function" with the signature of `trial.run`.

    Ctrl-C once asks every trial to save and stop (all unfinished are `interrupted`), twice ends them.
    While Ray runs, sys.stdout and sys.stderr point to results/<experiment>/driver.log, so a
    display must have bound its stream before. Raises Busy where another driver works on this
    experiment, UserError where no node can ever hold one trial.
    """
    folder = results.absolute() / experiment
    words: dict[str, str] = {}
    with lock.hold(folder):
        jobs = []
        for entry in entries:
            home = results.absolute() / "trials" / entry.id
            word = finished(entry) or (None if retry_failed else _ended_badly(home))
            if word:
                words[entry.id] = word
            else:
                jobs.append(Job(entry.id, to_plain(entry.trial), home, Share(0, run.resources.cpus)))

        def tell(job: Job, word: str, report: dict[str, Any]) -> None:
            if word in (*ENDED_BADLY, "interrupted"):
                attempt.note_end(job.folder, word, report.get("message"))
            on_progress(job.id, word, report)

        if jobs and local:
            words |= _here(jobs, run, worker, tell)
        elif jobs:
            with _quiet(folder / "driver.log"), _ray(address, ship_code) as ray:
                pool = _RayPool(ray, run, worker)
                share, stop = pool.share(), Stop()
                with _signals(stop):
                    words |= drive([replace(job, share=share) for job in jobs], pool, run, stop, tell)
    return {entry.id: words[entry.id] for entry in entries}


# ── without Ray ─────────────────────────────────────────────────────────────


def _here(jobs: list[Job], run: Run, worker: str, tell: Callable[[Job, str, dict[str, Any]], None]) -> dict[str, str]:
    """One trial after another in this process: no Ray, no retries, no time limits."""
    words, stop = dict.fromkeys((job.id for job in jobs), "interrupted"), Stop()

    def stop_or_break(*_: object) -> None:
        stop()
        if stop.asked > 1:
            raise KeyboardInterrupt

    with _signals(stop_or_break):
        for job in jobs:
            if stop.asked:
                break
            tell(job, "running", {})
            control = _Direct(stop, partial(tell, job, "running"))
            ended = attempt.make(worker, job.config, job.folder, plain(run), control, attempt.bump(job.folder))
            words[job.id] = ended.word
            tell(job, ended.word, {"message": ended.message})
            if ended.fatal:
                break
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


def _ended_badly(folder: Path) -> str | None:
    word = attempt.read_state(folder).get("state")
    return word if word in ENDED_BADLY else None


# ── Ray ──────────────────────────────────────────────────────────────────────


class _Worker:
    """The actor: `run` in one thread, `poll` and `stop` in another."""

    def __init__(self, threads: int, gpus: float) -> None:
        # Before torch is imported. Ray leaves every GPU visible to an actor that asked for none.
        os.environ.update(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
        if not gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._control, self._ticket, self._stopped = Control(), "", set[str]()

    def run(self, ticket: str, worker: str, config: dict[str, Any], folder: Path, run: Any, number: int) -> Ended:
        """Make an attempt. `ticket` names it to `poll` and `stop`, for the process may see others."""
        control = Control()
        self._control, self._ticket = control, ticket
        control.stopping = ticket in self._stopped
        return attempt.make(worker, config, folder, run, control, number)

    def poll(self) -> tuple[str, int, dict[str, Any]]:
        """(ticket, number of reports, last report)"""
        return self._ticket, self._control.reports, self._control.last

    def stop(self, ticket: str) -> None:
        self._stopped.add(ticket)
        if self._ticket == ticket:
            self._control.stopping = True


class _Running:
    """An attempt on its actor."""

    def __init__(self, actor: Any, share: Share, ticket: str, ref: Any) -> None:
        self.actor, self.share, self.ticket, self.ref = actor, share, ticket, ref
        self.begun, self.polled = time.monotonic(), 0.0
        self.poll: Any = None
        self.heard: tuple[int, dict[str, Any]] | None = None


class _RayPool:
    """A `schedule.Pool` on Ray actors. A process that ended well soon is used again."""

    def __init__(self, ray: Any, run: Run, worker: str) -> None:
        self._ray, self._run, self._worker = ray, run, worker
        self._plain = plain(run)
        self._running: dict[str, _Running] = {}
        self._idle: list[tuple[Share, Any]] = []
        self._nodes: tuple[float, list[dict[str, float]]] = (-1e9, [])

    def share(self) -> Share:
        """What each trial reserves. Raises UserError where no node can ever give it."""
        want = self._run.resources
        have = max((n.get("GPU", 0.0) for n in self._alive()), default=0.0)
        if want.gpus == "auto":
            gpus = 1.0 if have and self._run.device != "cpu" else 0.0
        else:
            gpus = want.gpus
        if gpus > 1 and gpus % 1:
            raise UserError(f"run.resources.gpus: {gpus:g}: must be whole, or a fraction below 1")
        share = Share(gpus, want.cpus)
        if not self._slots(share):
            nodes = "; ".join(f"{n.get('GPU', 0):g} GPUs and {n.get('CPU', 0):g} cores" for n in self._alive())
            raise UserError(
                f"run.resources: {gpus:g} GPUs and {want.cpus} cores for one trial: no node has as much "
                f"(nodes: {nodes or 'none'}); ask for less or add a node"
            )
        return share

    def room(self, share: Share) -> bool:
        # Exact for equal shares. For mixed ones Ray has the last word: what doesn't fit yet waits there.
        used = sum(1 / max(1, self._slots(r.share)) for r in self._running.values())
        slots = self._slots(share)
        return slots > 0 and used + 1 / slots <= 1 + 1e-9

    def start(self, job: Job) -> None:
        number = attempt.bump(job.folder)
        actor = next((a for share, a in self._idle if share == job.share), None)
        if actor is None:
            while self._idle:  # processes of another share only hold what this one needs
                self._ray.kill(self._idle.pop()[1])
            options = {"num_cpus": job.share.cpus, "num_gpus": job.share.gpus, "max_concurrency": 2}
            cls = self._ray.remote(max_restarts=0, max_task_retries=0)(_Worker)
            actor = cls.options(**options).remote(self._run.resources.cpus, job.share.gpus)
        else:
            self._idle.remove((job.share, actor))
        ticket = f"{job.id}/{number}"
        ref = actor.run.remote(ticket, self._worker, job.config, job.folder, self._plain, number)
        self._running[job.id] = _Running(actor, job.share, ticket, ref)

    def wait(self, timeout_s: float) -> list[tuple[str, Ended]]:
        if not self._running:
            time.sleep(timeout_s)
            return []
        refs = {r.ref: id for id, r in self._running.items()}
        ready, _ = self._ray.wait(list(refs), timeout=timeout_s)
        if ready:
            ready, _ = self._ray.wait(list(refs), num_returns=len(refs), timeout=0)
        return [(refs[ref], self._end(refs[ref])) for ref in ready]

    def _end(self, id: str) -> Ended:
        running, errors = self._running.pop(id), self._ray.exceptions
        try:
            ended: Ended = self._ray.get(running.ref)
        except errors.OutOfMemoryError:
            return Ended("oom", "the node ran out of memory")
        except (errors.RayActorError, errors.WorkerCrashedError, errors.NodeDiedError) as e:
            with contextlib.suppress(Exception):
                self._ray.kill(running.actor)  # an unreachable one may come back
            print(e)
            return Ended("crashed", "its process died" if "node" not in str(e).lower() else "its process or node died")
        except errors.RayError as e:
            return Ended("failed", _first_line(e))
        short = time.monotonic() - running.begun < REUSE_S
        if short and ended.word in ("done", "diverged"):
            self._idle.append((running.share, running.actor))
        else:
            self._ray.kill(running.actor)
        return ended

    def progress(self) -> dict[str, tuple[int, dict[str, Any]]]:
        now = time.monotonic()
        for running in self._running.values():
            if running.poll is None and now - running.polled > POLL_S:
                running.poll, running.polled = running.actor.poll.remote(), now
        polls = {r.poll: r for r in self._running.values() if r.poll is not None}
        if polls:
            for ref in self._ray.wait(list(polls), num_returns=len(polls), timeout=0)[0]:
                running, polls[ref].poll = polls[ref], None
                with contextlib.suppress(self._ray.exceptions.RayError):  # the run's own end tells it
                    ticket, reports, last = self._ray.get(ref)
                    if ticket == running.ticket:
                        running.heard = reports, last
        return {id: r.heard for id, r in self._running.items() if r.heard is not None}

    def stop(self, id: str) -> None:
        running = self._running[id]
        running.actor.stop.remote(running.ticket)

    def kill(self, id: str) -> None:
        self._ray.kill(self._running[id].actor)

    def grown(self, share: Share) -> Share | None:
        if share.gpus >= 1:
            return None
        larger = Share(min(1.0, 2 * share.gpus), 2 * share.cpus)
        return next((s for s in (larger, larger._replace(cpus=share.cpus)) if s != share and self._slots(s)), None)

    def _slots(self, share: Share) -> int:
        """How many trials of this share the cluster holds."""
        return sum(
            min(
                [
                    int(n.get("CPU", 0) // share.cpus),
                    *([int(n.get("GPU", 0) / share.gpus + 1e-9)] if share.gpus else []),
                ]
            )
            for n in self._alive()
        )

    def _alive(self) -> list[dict[str, float]]:
        """Resources of the nodes that are alive, looked up every few seconds: nodes come and go."""
        if time.monotonic() - self._nodes[0] > 5:
            alive = [n["Resources"] for n in self._ray.nodes() if n["Alive"]]
            self._nodes = time.monotonic(), alive
        return self._nodes[1]


def _first_line(e: Exception) -> str:
    return (str(e).strip().splitlines() or [type(e).__name__])[0][:300]


@contextmanager
def _ray(address: str | None, ship_code: bool) -> Iterator[Any]:
    """A running Ray, ours or the cluster at `address`; shut down or left on exit."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    root = Path(__file__).parent.parent
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    with contextlib.ExitStack() as stack:
        if address is None:
            # Two Rays on one machine would each give away all of its GPUs.
            machine = Path(tempfile.gettempdir()) / "nashboard-ray"
            machine.mkdir(exist_ok=True)
            remedy = "wait for it, or give both drivers one Ray: `ray start --head` and --ray-address"
            stack.enter_context(
                lock.hold(machine, f"this machine: another driver ({{}}) runs its own Ray here; {remedy}")
            )
            os.environ.setdefault("RAY_AUTH_MODE", "token")
            path = os.environ.get("PYTHONPATH", "")
            if str(root) not in path.split(os.pathsep):
                os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), path]))
            options |= {"address": "local", "include_dashboard": False, "object_store_memory": 100 * 2**20}
        else:
            _reach(address)
            options["address"] = address
            if ship_code:
                options["runtime_env"] = {"py_modules": [str(root / "harness"), str(root / "backbones")]}
        import ray

        try:
            ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError) as e:
            where = address or "a local Ray"
            raise UserError(f"--ray-address {where}: did not answer as Ray: {_first_line(e)}") from e
        try:
            yield ray
        finally:
            ray.shutdown()


def _reach(address: str) -> None:
    """Fail in seconds where Ray itself would try for minutes, and say whether it shall offer its token."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--ray-address {address}: must be host:port, like head-node:6379")
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
    except OSError as e:
        raise UserError(f"--ray-address {address}: no answer ({e}); is `ray start --head` running there?") from None
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token" if _asks_for_token(address) else "disabled"


def _asks_for_token(address: str) -> bool:
    """Whether the cluster wants a token. One must know before importing Ray: it never offers the token by
    itself, and with one offered to a cluster that wants none, every actor dies before it starts."""
    code = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1]).get_all_node_info(timeout=5)"
    command = [sys.executable, "-c", code, address]
    env = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30)
    except subprocess.TimeoutExpired:
        raise UserError(f"--ray-address {address}: something answers there, but not as Ray does") from None
    if "InvalidAuthToken" not in done.stderr:
        return False
    given = any(v in os.environ for v in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if not given and not (Path.home() / ".ray" / "auth_token").exists():
        raise UserError(f"--ray-address {address}: wants a token; copy its ~/.ray/auth_token here")
    return True


# ── signals and streams ─────────────────────────────────────────────────────


@contextmanager
def _signals(handler: Callable[..., None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM go to `handler`. Entered after ray.init, which takes SIGTERM for itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for s, old in before.items():
            signal.signal(s, old)


@contextmanager
def _quiet(log: Path) -> Iterator[None]:
    """Ray prints about every lost process whatever one asks: let it do so into `log`."""
    with log.open("a", buffering=1) as f, contextlib.redirect_stdout(f), contextlib.redirect_stderr(f):
        yield
    sys.stdout.flush()
