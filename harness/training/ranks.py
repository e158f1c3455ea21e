"""Several processes that train one trial together: rank 0 is the trial itself, the others follow.

Every rank draws its microbatches of the same global batch, and gradients are summed, so the
step is that of one process with the same microbatches; see `harness.training.train`. The ranks meet in a
store: a file when rank 0 starts the others itself, a TCP port of rank 0's node when Ray has
placed them, perhaps on other nodes (`harness.orchestration.pool`).
"""

import importlib
import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from harness import outside
from harness.errors import Diverged, Lost, one_line

PATIENCE = timedelta(minutes=10)  # how long a rank waits for the others in one step
LEISURE = timedelta(days=1)  # how long a rank waits to be told what to follow: rank 0 reads its data first

_opened: dist.Store | None = None  # where the ranks that Ray started find this process


# ── meeting ──────────────────────────────────────────────────────────────────


def meet(ip: str) -> tuple[str, int]:
    """Make this process rank 0 of the team it will form next; the others `follow` what is returned."""
    global _opened
    _use_interface(ip)
    store = dist.TCPStore(ip, 0, is_master=True, wait_for_workers=False, timeout=PATIENCE)
    _opened = store
    return ip, store.port


def follow(meeting: tuple[str, int] | str, rank: int, world: int, ip: str = "127.0.0.1") -> None:
    """Be rank `rank` of `world` until rank 0's team ends. `meeting`: from `meet`, or a file's path."""
    _use_interface(ip)
    with _loss():
        if isinstance(meeting, str):
            store: dist.Store = dist.FileStore(meeting, -1)
        else:
            store = dist.TCPStore(*meeting, is_master=False, wait_for_workers=False, timeout=PATIENCE)
        store.set_timeout(LEISURE)
        backend, module, function, args, plugins = json.loads(store.get("task"))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if backend == "nccl":
        torch.cuda.set_device(device_index(rank))
    _join(backend, store, rank, world)
    outside.unpack(plugins)
    try:
        getattr(importlib.import_module(module), function)(rank, *args)
    except Diverged as e:
        store.set("diverged", str(e))
        raise
    finally:
        dist.destroy_process_group()


@contextmanager
def team(world: int, device: torch.device, task: Callable[..., None], *args: Any) -> Iterator[None]:
    """Within, this process is rank 0 of `world`; ranks 1 .. world-1 run `task(rank, *args)`.

    `task` is a function of a module, `args` plain data. With world 1 nothing happens. Raises Lost where
    another rank is gone, Diverged where another rank met a value that is not finite.
    """
    if world == 1:
        yield
    elif _opened is not None:
        with _lead(_opened, world, device, task, args):
            yield
    else:
        with _beside(world) as store, _lead(store, world, device, task, args):
            yield


@contextmanager
def _lead(
    store: dist.Store, world: int, device: torch.device, task: Callable[..., None], args: tuple[Any, ...]
) -> Iterator[None]:
    backend = "nccl" if device.type == "cuda" else "gloo"
    store.set("task", json.dumps([backend, task.__module__, task.__name__, args, outside.packed()]))
    try:
        _join(backend, store, 0, world)
        yield
    except Lost:
        if store.check(["diverged"]):
            raise Diverged(store.get("diverged").decode()) from None
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def _beside(world: int) -> Iterator[dist.Store]:
    """The other ranks as processes of our own, and the file in which they meet."""
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder, "store"))
        context = mp.get_context("spawn")
        others = [context.Process(target=follow, args=(meeting, r, world), daemon=True) for r in range(1, world)]
        _use_interface("127.0.0.1")
        store = dist.FileStore(meeting, -1)
        for process in others:
            process.start()
        try:
            yield store
        finally:
            for process in others:
                process.join(10)
                process.kill()


def _join(backend: str, store: dist.Store, rank: int, world: int) -> None:
    with _loss():
        dist.init_process_group(
            backend, store=dist.PrefixStore("ranks", store), rank=rank, world_size=world, timeout=PATIENCE
        )


def _use_interface(ip: str) -> None:
    """Let gloo and NCCL talk over the network that has `ip`; left alone they may choose another, or loopback."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(a.family == socket.AF_INET and a.address == ip for a in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


def device_index(rank: int) -> int:
    """Which of the GPUs that this process sees is its own: Ray shows each rank one, ranks of our own see all."""
    return rank % max(1, torch.cuda.device_count())


# ── together ─────────────────────────────────────────────────────────────────


@contextmanager
def _loss() -> Iterator[None]:
    """What torch raises when a connection ends, as Lost."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as e:
        raise Lost(one_line(e, 200)) from e


def agree(stop: bool, device: torch.device) -> bool:
    """What rank 0 decided, on every rank."""
    flag = torch.tensor(int(stop), device=device)
    with _loss():
        dist.broadcast(flag, 0)
        return bool(flag.item())


def summed(values: Tensor) -> Tensor:
    """`values` summed over the ranks, in place."""
    with _loss():
        dist.all_reduce(values)
    return values


def interleaved(values: list[Tensor]) -> list[Tensor]:
    """The equal-shaped `values` of all ranks: the first of each rank, then the second of each, ...: the order of
    their microbatches."""
    if not dist.is_initialized():
        return values
    mine = torch.stack(values)
    theirs = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    with _loss():
        dist.all_gather(theirs, mine)
    return list(torch.stack(theirs, 1).flatten(0, 1))


def same(make: Callable[[], bytes] | None, device: torch.device) -> bytes:
    """What rank 0 makes, on every rank; the others give None. Without other ranks nothing is made."""
    if not dist.is_initialized():
        return b""
    with _loss():
        mine = torch.tensor(bytearray(make() if make else b""), dtype=torch.uint8, device=device)
        size = torch.tensor(len(mine), device=device)
        dist.broadcast(size, 0)
        data = mine if make else torch.empty(int(size), dtype=torch.uint8, device=device)
        dist.broadcast(data, 0)
    return data.cpu().numpy().tobytes()
