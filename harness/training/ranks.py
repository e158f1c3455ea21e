"""Several processes that train one trial together: rank 0 is the trial itself, the others follow.

Every rank draws its microbatches of the same global batch, and gradients are summed, so the
step is that of one process with the same microbatches; see `harness.training.train`. The ranks meet in a
store: a file of a folder of our own when rank 0 starts the others itself, a TCP port when Ray has
placed them, perhaps on other nodes (`harness.orchestration.pool`).

The network names nothing that is run: what a rank does comes with the call that starts it (of Ray, or of
multiprocessing to a child), and from the store it takes addresses, one of two words and a message. The port is bound
to one address, and who does not know the meeting's secret finds no key under its name.

`patience_s` is how long a rank waits for the others inside of a step, and to meet. Outside of one they wait as long as
it takes, for a rank that lives: rank 0 sends a beat while it scores or saves, and begins only with ranks that have read
their data.
"""

import os
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from harness import outside
from harness.errors import Diverged, Lost, UserError, one_line
from harness.process import ENDING, end_with_parent

PATIENCE_S = 600.0
LOOPBACK = "127.0.0.1"
_LOOK_S = 0.05  # between looks at whether the others have come
_BACKENDS = ("gloo", "nccl")
_TELLING: dict[str, type[Exception]] = {"Diverged": Diverged, "UserError": UserError}  # what a rank's end may be called

Task = Callable[..., Callable[[], None]]
"""task(rank, *args) prepares (reads data, builds networks) and returns what is left to do once all have met."""


class Meeting(NamedTuple):
    """Where ranks find one another. Whoever has it may join: it travels with Ray's calls, never through the store."""

    ip: str
    port: int
    secret: str


_opened: dist.Store | None = None  # where the ranks that Ray started find this process
_signal: "_Signal | None" = None  # of the team that this process belongs to


# ── meeting ──────────────────────────────────────────────────────────────────


def meet(ips: Sequence[str]) -> Meeting:
    """Make this process rank 0 of the team it will form next; the others `follow` what is returned. `ips`: the
    addresses of all ranks' nodes, this one's first; where all are one node, nothing listens but on loopback."""
    global _opened
    ip = LOOPBACK if len(set(ips)) == 1 else ips[0]
    _use_interface(ip)
    listener = socket.create_server((ip, 0))
    made = Meeting(ip, listener.getsockname()[1], secrets.token_hex(16))
    store = dist.TCPStore(
        ip, made.port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach(),
        timeout=timedelta(seconds=PATIENCE_S),
    )  # fmt: skip
    _opened = dist.PrefixStore(made.secret, store)
    return made


def follow(
    meeting: Meeting | str, rank: int, world: int, ip: str, task: Task, *args: Any, patience_s: float = PATIENCE_S
) -> None:
    """Be rank `rank` of `world` until rank 0's team ends. `meeting`: from `meet`, or a file's path; `ip`: this node's.
    `task` is as in `team`."""
    parent = mp.parent_process()

    def orphaned() -> None:
        if isinstance(meeting, str) and parent is not None and not parent.is_alive():
            raise Lost("rank 0 is gone")

    with _loss():
        if isinstance(meeting, str):
            _use_interface(LOOPBACK)
            store: dist.Store = dist.FileStore(meeting, -1)
        else:
            _use_interface(LOOPBACK if meeting.ip == LOOPBACK else ip)
            timeout = timedelta(seconds=patience_s)
            store = dist.TCPStore(meeting.ip, meeting.port, is_master=False, wait_for_workers=False, timeout=timeout)
            store = dist.PrefixStore(meeting.secret, store)
    _await(store, ["go"], orphaned)  # rank 0 has read its data first: what it decoded is there for all
    backend = store.get("go").decode()
    if backend not in _BACKENDS:
        raise Lost("whoever answers is not rank 0")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if backend == "nccl":
        torch.cuda.set_device(device_index(rank))
    try:
        rest = task(rank, *args)
        with _loss():
            store.set(f"ready/{rank}", "")
        with _joined(backend, store, rank, world, patience_s):
            rest()
    except (Diverged, UserError) as e:
        with _loss():
            store.set("ended", f"{type(e).__name__}:{e}")
        raise


@contextmanager
def team(
    world: int,
    device: torch.device,
    task: Task,
    *args: Any,
    patience_s: float = PATIENCE_S,
    waiting: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Within, this process is rank 0 of `world`; ranks 1 .. world-1 run `task(rank, *args)` and what it returns.

    `task` is a function of a module, `args` can be pickled; ranks that Ray started were given theirs by it. `waiting`
    is called again and again until the others have prepared. With world 1 nothing happens. Raises Lost where
    another rank is gone, and the other's Diverged or UserError where it ended by one.
    """
    if world == 1:
        yield
    elif _opened is not None:
        with _lead(_opened, world, device, patience_s, waiting):
            yield
    else:
        with _beside(world, task, args, patience_s) as (store, alive):

            def look() -> None:
                alive()
                waiting()

            with _lead(store, world, device, patience_s, look):
                yield


@contextmanager
def _lead(
    store: dist.Store, world: int, device: torch.device, patience_s: float, waiting: Callable[[], None]
) -> Iterator[None]:
    backend = "nccl" if device.type == "cuda" else "gloo"

    def look() -> None:
        if told := _told(store):
            raise told
        waiting()

    try:
        with _loss():
            store.set("go", backend)
        _await(store, [f"ready/{rank}" for rank in range(1, world)], look)
        with _joined(backend, store, 0, world, patience_s):
            yield
    except Lost:
        if told := _told(store):
            raise told from None
        raise


def _told(store: dist.Store) -> Exception | None:
    """What another rank says it ended by."""
    with suppress(RuntimeError):
        if store.check(["ended"]):
            name, _, message = store.get("ended").decode().partition(":")
            return _TELLING[name](message) if name in _TELLING else None
    return None


@contextmanager
def _beside(
    world: int, task: Task, args: tuple[Any, ...], patience_s: float
) -> Iterator[tuple[dist.Store, Callable[[], None]]]:
    """The other ranks as processes of our own: the file in which they meet, and what raises Lost once one is gone."""
    with tempfile.TemporaryDirectory() as folder:
        meeting, plugins = str(Path(folder, "store")), outside.packed()
        context = mp.get_context("spawn")
        others = [
            context.Process(target=_child, args=(meeting, r, world, plugins, patience_s, task, args), daemon=True)
            for r in range(1, world)
        ]
        _use_interface(LOOPBACK)
        store = dist.FileStore(meeting, -1)
        for process in others:
            process.start()

        def alive() -> None:
            for rank, process in enumerate(others, 1):
                if process.exitcode is not None:
                    raise Lost(f"rank {rank} ended with {process.exitcode} before it had met the others")

        try:
            yield store, alive
        finally:
            for process in others:
                process.join(10)
                process.kill()


def _child(
    meeting: str, rank: int, world: int, plugins: list[Any], patience_s: float, task: Task, args: tuple[Any, ...]
) -> None:
    end_with_parent(*ENDING)
    outside.unpack(plugins)
    try:
        follow(meeting, rank, world, LOOPBACK, task, *args, patience_s=patience_s)
    except (Lost, Diverged, UserError):
        raise SystemExit(1) from None  # rank 0 tells why


def _await(store: dist.Store, keys: list[str], look: Callable[[], None]) -> None:
    """Until all `keys` are there; `look` is called meanwhile, and may raise."""
    while True:
        with _loss():
            if store.check(keys):
                return
        look()
        time.sleep(_LOOK_S)


@contextmanager
def _joined(backend: str, store: dist.Store, rank: int, world: int, patience_s: float) -> Iterator[None]:
    global _signal
    timeout = timedelta(seconds=patience_s)
    try:
        with _loss():
            own = dist.PrefixStore("ranks", store)
            dist.init_process_group(backend, store=own, rank=rank, world_size=world, timeout=timeout)
            _signal = _Signal(dist.new_group(backend="gloo", timeout=timeout), rank, patience_s / 4)
        yield
    finally:
        if _signal is not None:
            _signal.end()
        _signal = None
        if dist.is_initialized():
            dist.destroy_process_group()


def _use_interface(ip: str) -> None:
    """Let gloo and NCCL talk over the network that has `ip`; left alone they may choose another, or loopback."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(a.family == socket.AF_INET and a.address == ip for a in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


def device_index(rank: int) -> int:
    """Which of the GPUs that this process sees is its own: Ray shows each rank one, ranks of our own see all."""
    return rank % max(1, torch.cuda.device_count())


# ── between steps ────────────────────────────────────────────────────────────


class _Signal:
    """What rank 0 tells the others between two steps, from the host alone: no step waits for a GPU by it.

    While rank 0 decides, a thread of it tells the others every `beat_s` to wait on. A rank 0 that died has closed its
    connections, which they see at once; one that is silent they leave after their patience.
    """

    _NO, _YES, _WAIT = range(3)

    def __init__(self, group: Any, rank: int, beat_s: float) -> None:
        self._group, self._rank, self._beat_s = group, rank, beat_s
        self._deciding, self._sending, self._ended = False, threading.Lock(), threading.Event()
        if rank == 0:
            threading.Thread(target=self._beat, daemon=True).start()

    def agree(self, decide: Callable[[], bool]) -> bool:
        if self._rank:
            decide()
            while (word := self._say()) == self._WAIT:
                pass
            return word == self._YES
        self._deciding = True
        try:
            answer = decide()
        finally:
            with self._sending:
                self._deciding = False
        self._say(self._YES if answer else self._NO)
        return answer

    def gathered(self, counts: Tensor) -> list[Tensor]:
        """The equal-shaped integers of all ranks, by rank."""
        theirs = [torch.empty_like(counts) for _ in range(dist.get_world_size())]
        with _loss():
            dist.all_gather(theirs, counts, group=self._group)
        return theirs

    def end(self) -> None:
        self._ended.set()

    def _say(self, word: int = 0) -> int:
        said = torch.tensor(word)
        with _loss():
            dist.broadcast(said, 0, group=self._group)
        return int(said)

    def _beat(self) -> None:
        with suppress(Lost):  # rank 0 itself meets it as soon as it has decided
            while not self._ended.wait(self._beat_s):
                with self._sending:
                    if self._deciding:
                        self._say(self._WAIT)


def agree(decide: Callable[[], bool]) -> bool:
    """What rank 0 decides, on every rank: each calls its own `decide`, rank 0's answer counts. It may take its time."""
    return decide() if _signal is None else _signal.agree(decide)


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


def summed(values: Tensor) -> Tensor:
    """`values` summed over the ranks, in place."""
    with _loss():
        dist.all_reduce(values)
    return values


def exchanged(flat: Tensor) -> Tensor:
    """[n] of each rank -> this rank's share of what all have, [world, n / world], by rank; zeros fill it up."""
    world = dist.get_world_size()
    mine = torch.cat([flat, flat.new_zeros(-len(flat) % world)])
    theirs = torch.empty_like(mine)
    with _loss():
        dist.all_to_all_single(theirs, mine)
    return theirs.view(world, -1)


def collected(share: Tensor) -> Tensor:
    """The shares of all ranks one after the other, on every rank."""
    whole = share.new_empty(dist.get_world_size() * len(share))
    with _loss():
        dist.all_gather_into_tensor(whole, share)
    return whole


def spread(tensors: list[Tensor], source: int) -> None:
    """Give all ranks the contents of these tensors, of any types, as rank `source` has them."""
    if not tensors:
        return
    flat = torch.cat([t.reshape(-1).view(torch.uint8) for t in tensors])
    with _loss():
        dist.broadcast(flat, source)
    for t, piece in zip(tensors, flat.split([t.nbytes for t in tensors]), strict=True):
        t.copy_(piece.clone().view(t.dtype).view_as(t))


def counts(mine: Tensor) -> list[Tensor]:
    """The equal-shaped integers of all ranks, by rank; on the host, so that no step waits for a GPU."""
    return [mine] if _signal is None else _signal.gathered(mine)


def gathered(value: Tensor) -> list[Tensor]:
    """The value of every rank, by rank; alone, one's own."""
    return interleaved([value])


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
        if len(data):
            dist.broadcast(data, 0)
    return data.cpu().numpy().tobytes()
