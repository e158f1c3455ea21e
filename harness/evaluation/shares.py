"""The fakes of one evaluation pass, shared among processes, each with a GPU of its own.

Each process takes a run of whole batches, and what it saw is put together in their order: scores and
features are those of one process, moments are merged in float64.
"""

import copy
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing import connection
from typing import Any, TypeVar

import numpy as np
import torch
import torch.multiprocessing as mp
from torch import nn
from torch.nn.utils import parametrize

from harness import outside, process
from harness.errors import Diverged, UserError
from harness.evaluation.evidence import Evidence
from harness.evaluation.fakes import Device, Job, scoring, see, within
from harness.evaluation.frechet import Moments

Network = TypeVar("Network", bound=nn.Module)


def devices(device: Device, workers: int) -> list[str]:
    """One device a worker: so many GPUs, or the CPU as often. UserError where there are fewer GPUs."""
    if workers < 1:
        raise UserError(f"--workers {workers}: must be 1 or more")
    if workers == 1 or torch.device(device).type == "cpu":
        return [str(device)] * workers
    if workers > torch.cuda.device_count():
        raise UserError(
            f"--workers {workers}: this machine has {torch.cuda.device_count()} GPUs; one process takes one"
        )
    return [f"cuda:{i}" for i in range(workers)]


def see_shared(job: Job, on: Sequence[Device], progress: Callable[[int], None]) -> Evidence:
    """What `see` finds in all batches, with one process for each device of `on`."""
    workers = min(len(on), job.batches)
    if workers == 1:
        return see(job, range(job.batches), on[0], progress)
    cuts = [i * job.batches // workers for i in range(workers + 1)]
    runs = [range(*pair) for pair in zip(cuts, cuts[1:], strict=False)]
    return _put_together(job, runs, _run(job, runs, on, progress))


def _run(job: Job, runs: list[range], on: Sequence[Device], progress: Callable[[int], None]) -> list[Evidence]:
    """One process a run; a failure in any ends all. Everything passes as bytes, so no shared memory is needed."""
    packed = pickle.dumps(replace(job, g=_plain(job.g), d=job.d and _plain(job.d)))
    threads = max(1, torch.get_num_threads() // len(runs))
    context = mp.get_context("spawn")
    children: list[Any] = []
    waiting: dict[connection.Connection, int] = {}
    found: dict[int, Evidence] = {}
    try:
        for i, (run, device) in enumerate(zip(runs, on, strict=False)):
            ours, theirs = context.Pipe(duplex=False)
            children.append(
                context.Process(
                    target=_work, args=(theirs, outside.packed(), packed, run, str(device), threads), daemon=True
                )
            )
            children[-1].start()
            theirs.close()
            waiting[ours] = i
        while waiting:
            for pipe in [p for p in connection.wait(list(waiting)) if isinstance(p, connection.Connection)]:
                try:
                    word, said = pipe.recv()
                except EOFError:
                    raise RuntimeError("a process that shared the scoring died; its own words are above") from None
                if word == "failed":
                    raise said
                if word == "seen":
                    progress(said)
                else:
                    found[waiting.pop(pipe)] = pickle.loads(said)
    finally:
        for child in children:
            child.kill()
            child.join()
    return [found[i] for i in range(len(runs))]


def _plain(network: Network) -> Network:
    """A copy on the CPU that can be pickled: spectral norm and the like as the weights that they give in eval mode."""
    copied = copy.deepcopy(network).eval()
    for module in filter(parametrize.is_parametrized, list(copied.modules())):
        weights = {name: getattr(module, name).detach() for name in module.parametrizations}  # type: ignore[union-attr]
        # By hand: torch's own way of removing them changes a class that the copy shares with the original.
        module.__class__ = parametrize.type_before_parametrizations(module)
        del module.parametrizations
        for name, weight in weights.items():
            module.register_parameter(name, nn.Parameter(weight))
    return copied.cpu()


def _work(pipe: Any, plugins: Any, packed: bytes, run: range, device: str, threads: int) -> None:
    """What one process does: its run of batches, saying how far it is."""
    process.end_with_parent(*process.ENDING)
    torch.set_num_threads(threads)
    outside.unpack(plugins)  # before the networks: their classes may come from there
    job: Job = pickle.loads(packed)
    networks = [m.to(device) for m in (job.g, job.d) if m is not None]
    try:
        with scoring(*networks):
            evidence = see(job, run, device, lambda count: pipe.send(("seen", count)))
    except (Diverged, UserError) as e:
        pipe.send(("failed", e))
        return
    for seen in evidence.moments.values():
        seen.mean, seen.scatter = seen.mean.cpu(), seen.scatter.cpu()
    pipe.send(("done", pickle.dumps(evidence)))


def _put_together(job: Job, runs: list[range], parts: list[Evidence]) -> Evidence:
    """The evidence of all runs as if it had been gathered in one."""
    spans = [(r.start * job.batch_size, min(r.stop * job.batch_size, job.count)) for r in runs]
    whole = Evidence(about={k: v for part in parts for k, v in part.about.items()})
    for sample in job.moments:
        mine = [p.moments[s] for p, span in zip(parts, spans, strict=True) if (s := within(sample, *span))]
        whole.moments[sample] = Moments.empty(len(mine[0].mean))
        for moments in mine:
            whole.moments[sample].merge(moments)
    for sample in job.features:
        rows = [p.features[s] for p, span in zip(parts, spans, strict=True) if (s := within(sample, *span))]
        whole.features[sample] = np.concatenate(rows)
    if job.d is not None:
        whole.scores["fake"] = np.concatenate([p.scores["fake"] for p in parts])
    return whole
