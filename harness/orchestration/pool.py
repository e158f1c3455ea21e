"""Trials as Ray actors: a `schedule.Pool`. One actor per trial, or per process of a trial.

Ray places and isolates, `schedule.drive` decides. Ray restarts and retries nothing by itself, for it would
start from scratch, unseen.
"""

import contextlib
import importlib
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import disk
from harness.errors import UserError, redact
from harness.experiment.parse import to_plain
from harness.experiment.spec import Run, Trial
from harness.orchestration import attempt, shared
from harness.orchestration.attempt import Control
from harness.orchestration.cluster import first_line, node_ip, place
from harness.orchestration.fit import Memory
from harness.orchestration.schedule import Ended, Job, Share

REUSE_S = 60.0  # a process that trained for longer is replaced: nothing of it reaches the next trial
POLL_S = 1.0
PENDING_S = 10.0  # an attempt of which nothing is heard for so long waits for room
FOUND_S = 60.0  # a result may be seen so much later than its trial ends, on a network file system
LAST_WORDS_S = 2.0  # when a team falls apart, its other processes have this long to say why
BROKEN = ("crashed", "failed", "oom")


class _Worker:
    """The actor: `run` in one thread, `poll` and `stop` in another."""

    def __init__(self, threads: int, gpus: float) -> None:
        # Before torch is imported. Ray leaves every GPU visible to an actor that asked for none.
        os.environ.update(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
        if not gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        disk.use_own_compiler_folder()
        self._control, self._ticket, self._stopped = Control(), "", set[str]()
        # Ray runs a call in whichever of its threads is free. OpenMP keeps a team for each thread that ever trained,
        # and once the teams outnumber the cores, none waits for work awake: small networks are 40 % slower.
        self._trainer = ThreadPoolExecutor(1)

    def run(
        self, ticket: str, worker: str, config: dict[str, Any], folder: Any, run: Any, number: int, met: Any = None
    ) -> Ended:
        """Make an attempt. `ticket` names it to `poll` and `stop`, for the process may see others. `met`: what
        `meet` returned, if the attempt is one of several processes; passed so that it comes first."""
        control = Control()
        self._control, self._ticket = control, ticket
        control.stopping = ticket in self._stopped
        node = f"({node_ip()})"
        return self._trainer.submit(attempt.make, worker, config, folder, run, control, number, node).result()

    def ip(self) -> str:
        return node_ip()

    def meet(self, *ips: str) -> Any:
        """Be the first of several processes, which are at `ips`; returns where the others find it."""
        from harness.training import ranks

        return ranks.meet(ips)

    def follow(
        self, met: Any, rank: int, world: int, worker: str, config: dict[str, Any], folder: Any, run: Any, number: int
    ) -> Ended:
        """Be another process of the attempt whose first one is found at `met`: `follow` of the worker's module. All
        that it runs, and on what, comes with this call."""
        from harness.errors import Diverged, Lost

        try:
            options = attempt.unpacked(run)
            from harness.training import ranks

            task = importlib.import_module(worker.partition(":")[0]).follow
            ranks.follow(met, rank, world, node_ip(), task, config, options, patience_s=options["patience_s"])
        except (Lost, Diverged):
            return Ended("interrupted", "the first process tells why")
        except Exception as e:
            return attempt.failure(e, folder, number)
        return Ended("done")

    def poll(self) -> tuple[str, int, dict[str, Any], str]:
        """(ticket, number of signs of life, last report, where)"""
        return self._ticket, self._control.signs, self._control.last, place()

    def stop(self, ticket: str) -> None:
        self._stopped.add(ticket)
        if self._ticket == ticket:
            self._control.stopping = True


@dataclass
class _Running:
    """An attempt on its actors."""

    actor: Any
    share: Share
    ticket: str
    folder: Path
    ref: Any
    mates: dict[Any, Any] = field(default_factory=dict)  # of the other processes: result -> actor
    group: Any = None  # the placement group of all of them
    begun: float = field(default_factory=time.monotonic)
    polled: float = 0.0
    poll: Any = None
    heard: tuple[int, dict[str, Any]] | None = None


class RayPool:
    """A `schedule.Pool` on `ray`. A process that ended well soon is used again."""

    def __init__(self, ray: Any, run: Run, worker: str) -> None:
        self._ray, self._run, self._worker = ray, run, worker
        self._plain = attempt.packed(run)
        self._running: dict[str, _Running] = {}
        self._idle: list[tuple[Share, Any]] = []
        self._unseen: dict[str, tuple[Ended, Path, float]] = {}  # ended well, but no result is seen; until when
        self._nodes: tuple[float, list[dict[str, float]]] = (-1e9, [])

    # ── what there is ──

    @property
    def gpus(self) -> float:
        """Of all nodes."""
        return sum(n.get("GPU", 0.0) for n in self._alive())

    def check(self, share: Share) -> None:
        """Raise UserError where the cluster can never give `share`."""
        if self._slots(share):
            return
        nodes = "; ".join(sorted(f"{n.get('GPU', 0):g} GPUs and {n.get('CPU', 0):g} cores" for n in self._alive()))
        n = share.processes
        want = f"{share.gpus:g} GPUs and {n * share.cpus} cores for one trial"
        lack = "no node has as much" if n == 1 else f"they hold no {n} processes of {share.gpus / n:g} GPUs"
        raise UserError(f"run.resources: {want}: {lack} (nodes: {nodes or 'none'}); ask for less or add a node")

    def room(self, share: Share) -> bool:
        # Exact for equal shares. For mixed ones Ray has the last word: what doesn't fit yet waits there.
        used = sum(1 / max(1, self._slots(r.share)) for r in self._running.values())
        slots = self._slots(share)
        return slots > 0 and used + 1 / slots <= 1 + 1e-9

    def grown(self, share: Share) -> Share | None:
        if share.gpus >= 1:
            return None
        larger = share._replace(gpus=min(1.0, 2 * share.gpus), cpus=2 * share.cpus)
        return next((s for s in (larger, larger._replace(cpus=share.cpus)) if s != share and self._slots(s)), None)

    def _slots(self, share: Share) -> int:
        """How many trials of this share the cluster holds. The processes of one may lie on several nodes."""
        gpus, processes = share.gpus / share.processes, 0
        for n in self._alive():
            by_cpu = int(n.get("CPU", 0) // share.cpus)
            processes += min(by_cpu, int(n.get("GPU", 0) / gpus + 1e-9)) if gpus else by_cpu
        return processes // share.processes

    def _alive(self) -> list[dict[str, float]]:
        """Resources of the nodes that are alive, looked up every few seconds: nodes come and go."""
        if time.monotonic() - self._nodes[0] > 5:
            alive = [n["Resources"] for n in self._ray.nodes() if n["Alive"]]
            self._nodes = time.monotonic(), alive
        return self._nodes[1]

    def measure(self, probe: str, stopped: Callable[[], bool], trials: Mapping[str, Trial]) -> dict[str, Memory | None]:
        """`probe` ("module:function", see `fit.measure`) of each trial, in a process of its own with a whole GPU.
        None where it failed: the trial itself will tell why."""
        share = Share(1.0, self._run.resources.cpus)
        self.check(share)
        task = self._ray.remote(max_calls=1, max_retries=0, num_gpus=1, num_cpus=share.cpus)(_call)
        waiting = {task.remote(probe, to_plain(t), self._plain): key for key, t in trials.items()}
        found: dict[str, Memory | None] = {}
        while waiting and not stopped():
            for ref in self._ray.wait(list(waiting), timeout=0.5)[0]:
                key = waiting.pop(ref)
                try:
                    found[key] = self._ray.get(ref)
                except self._ray.exceptions.RayError as e:
                    print(redact(str(e)))
                    found[key] = None
        for ref in waiting:
            self._ray.cancel(ref, force=True)
        return found

    # ── what runs ──

    def start(self, job: Job) -> None:
        number = attempt.begin(job.folder)
        ticket, share = f"{job.id}/{number}", job.share
        resources = {**self._plain["resources"], "gpus": share.gpus, "processes": share.processes}
        call = (ticket, self._worker, job.config, job.folder, {**self._plain, "resources": resources}, number)
        if share.processes > 1:
            self._running[job.id] = self._start_team(share, call)
            return
        actor = next((a for s, a in self._idle if s == share), None)
        if actor is None:
            self._clear()
            actor = self._actor(share)
        else:
            self._idle.remove((share, actor))
        self._running[job.id] = _Running(actor, share, ticket, job.folder, actor.run.remote(*call))

    def _start_team(self, share: Share, call: tuple[Any, ...]) -> _Running:
        """An actor for each process, on as few nodes as hold them; they start together or not at all."""
        self._clear()
        n, util = share.processes, self._ray.util
        one = Share(share.gpus / n, share.cpus)
        group = util.placement_group([{"CPU": one.cpus, **({"GPU": one.gpus} if one.gpus else {})}] * n, "PACK")
        place = util.scheduling_strategies.PlacementGroupSchedulingStrategy
        actors = [self._actor(one, scheduling_strategy=place(group, placement_group_bundle_index=i)) for i in range(n)]
        met = actors[0].meet.remote(*(a.ip.remote() for a in actors))
        mates = {a.follow.remote(met, rank, n, *call[1:]): a for rank, a in enumerate(actors) if rank}
        return _Running(actors[0], share, call[0], call[3], actors[0].run.remote(*call, met), mates, group)

    def _actor(self, share: Share, **options: Any) -> Any:
        cls = self._ray.remote(max_restarts=0, max_task_retries=0)(_Worker)
        placed = cls.options(num_cpus=share.cpus, num_gpus=share.gpus, max_concurrency=2, **options)
        return placed.remote(self._run.resources.cpus, share.gpus)

    def _clear(self) -> None:
        """End the idle processes: they only hold what one of another share needs."""
        while self._idle:
            self._ray.kill(self._idle.pop()[1])

    def wait(self, timeout_s: float) -> list[tuple[str, Ended]]:
        if not self._running:
            time.sleep(timeout_s)
            return self._found([])
        now = time.monotonic()
        if self._idle and any(r.heard is None and now - r.begun > PENDING_S for r in self._running.values()):
            self._clear()  # placed on a node that was lost meanwhile, say: what frees up here is what it waits for
        refs = {ref: id for id, r in self._running.items() for ref in (*r.mates, r.ref)}
        ready, _ = self._ray.wait(list(refs), timeout=timeout_s)
        if ready:
            ready, _ = self._ray.wait(list(refs), num_returns=len(refs), timeout=0)
        ended = []
        for id in dict.fromkeys(refs[ref] for ref in ready):
            folder, end = self._running[id].folder, self._end(id, ready)
            if end is not None:
                ended.append((id, folder, end))
        return self._found(ended)

    def _found(self, ended: list[tuple[str, Path, Ended]]) -> list[tuple[str, Ended]]:
        """Of attempts that ended, now or before, those that are through: one that ended well has a result to show."""
        now = time.monotonic()
        through = [(id, end) for id, _, end in ended if end.word not in shared.WELL]
        self._unseen |= {id: (end, folder, now + FOUND_S) for id, folder, end in ended if end.word in shared.WELL}
        for id, (end, folder, deadline) in list(self._unseen.items()):
            found = shared.has_result(folder)
            if found or now > deadline:
                del self._unseen[id]
                through.append((id, end if found else shared.unfound(end, folder)))
        return through

    def _end(self, id: str, ready: list[Any]) -> Ended | None:
        """How attempt `id` ended, of whose results some are `ready`; None where it goes on."""
        running = self._running[id]
        broken = self._broken_mate(running, [ref for ref in ready if ref in running.mates])
        if broken is None and running.ref not in ready:
            return None
        ended = broken or self._outcome(running.ref)
        if ended.word == "crashed" and running.mates:
            late, _ = self._ray.wait(list(running.mates), num_returns=len(running.mates), timeout=LAST_WORDS_S)
            ended = self._broken_mate(running, late) or ended
        del self._running[id]
        short = time.monotonic() - running.begun < REUSE_S
        if short and ended.word in shared.WELL and running.group is None:
            self._idle.append((running.share, running.actor))
        else:
            self._release(running)
        return ended

    def _broken_mate(self, running: _Running, ready: list[Any]) -> Ended | None:
        """What broke the trial, if one of its other processes did. One that is through is forgotten."""
        ends = [self._outcome(ref) for ref in ready if running.mates.pop(ref, None)]
        broken = [e for e in ends if e.word in BROKEN]
        return max(broken, key=lambda e: BROKEN.index(e.word), default=None)

    def _outcome(self, ref: Any) -> Ended:
        errors = self._ray.exceptions
        try:
            ended: Ended = self._ray.get(ref)
            return ended
        except errors.OutOfMemoryError:
            return Ended("oom", "the node ran out of memory")
        except (errors.RayActorError, errors.WorkerCrashedError, errors.NodeDiedError) as e:
            print(redact(str(e)))
            return Ended("crashed", "its process died" if "node" not in str(e).lower() else "its process or node died")
        except errors.RayError as e:
            return Ended("failed", first_line(e))

    def _release(self, running: _Running) -> None:
        for actor in (running.actor, *running.mates.values()):
            with contextlib.suppress(Exception):
                self._ray.kill(actor)  # an unreachable one may come back
        if running.group is not None:
            self._ray.util.remove_placement_group(running.group)

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
                    ticket, reports, last, where = self._ray.get(ref)
                    if ticket == running.ticket:
                        if running.heard is None:
                            print(f"trial {ticket} on {where}, and {len(running.mates)} processes beside it")
                        running.heard = reports, last
        return {id: r.heard for id, r in self._running.items() if r.heard is not None}

    def stop(self, id: str) -> None:
        if running := self._running.get(id):  # else it has ended, and only its result is waited for
            running.actor.stop.remote(running.ticket)

    def kill(self, id: str) -> None:
        if running := self._running.get(id):
            self._ray.kill(running.actor)


def _call(function: str, config: dict[str, Any], run: dict[str, Any]) -> Any:
    options = attempt.unpacked(run)
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)(config, options)
