"""Several processes that train one trial together: rank 0 is the trial itself, the others follow.

Every rank draws its microbatches of the same global batch, and gradients are summed, so the
step is that of one process with the same microbatches; see `harness.train`.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PATIENCE = timedelta(minutes=10)  # how long a rank waits for the others in one step


@contextmanager
def team(world: int, device: torch.device, follow: Callable[..., None], *args: Any) -> Iterator[None]:
    """Within, this process is rank 0 of `world`; ranks 1 .. world-1 run `follow(rank, *args)` beside it.

    `follow` and `args` must survive pickling to a new process of our own. With world 1 nothing happens.
    """
    if world == 1:
        yield
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        meet = Path(folder, "store").as_uri()
        context = mp.get_context("spawn")
        others = [
            context.Process(target=_join, args=(rank, world, backend, meet, follow, args), daemon=True)
            for rank in range(1, world)
        ]
        for process in others:
            process.start()
        try:
            dist.init_process_group(backend, meet, PATIENCE, world, 0)
            yield
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
            for process in others:
                process.join(10)
                process.kill()


def _join(rank: int, world: int, backend: str, meet: str, follow: Callable[..., None], args: tuple[Any, ...]) -> None:
    if backend == "nccl":
        torch.cuda.set_device(rank)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    dist.init_process_group(backend, meet, PATIENCE, world, rank)
    try:
        follow(rank, *args)
    finally:
        dist.destroy_process_group()


def agree(stop: bool, device: torch.device) -> bool:
    """What rank 0 decided, on every rank."""
    flag = torch.tensor(int(stop), device=device)
    dist.broadcast(flag, 0)
    return bool(flag.item())
