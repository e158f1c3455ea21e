"""What moves once per forward pass, moved in the order of the microbatches: as one process alone would have moved it.

Gradients and memories are sums over the microbatches of a step; these are not, for each pass goes on from the one
before it:

- running moments of a norm, and averages that a backbone keeps by `backbones.follow` (w_avg). No pass of training
  reads them: each process notes what moves them, and one microbatch after the other moves them for all;
- spectral norm's power iteration, by which a pass is normalised. It is a function of the weights and of the number of
  passes before, so a process makes up the others' iterations before each of its own microbatches. How many there are is
  known from the last such phase; where it was another number (in the first step, or as a variant sets in), the
  phase is made anew: its draws are functions of their names.

Batch statistics of a pass stay those of its microbatch.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import ParametrizationList

import backbones
from harness.errors import UserError
from harness.training import ranks

Move = Callable[[], object]
_MOST_TRIES = 4  # of a phase


class Order:
    """The turns of one process among the `parts` microbatches of a step: every `world`-th is its own.

    `networks`: {name: module}. What moves in them, and `also`, is as it was when a phase is made anew.
    """

    def __init__(self, rank: int, world: int, parts: int, networks: dict[str, nn.Module], *also: Tensor) -> None:
        self.rank, self.world, self.parts, self._also = rank, world, parts, also
        modules = [(f"{name}.{path}", m) for name, network in networks.items() for path, m in network.named_modules()]
        self._norms = [m for network in networks.values() for m in backbones.moments(network)]
        self._iterates = [m for _, m in modules if _iterates(m)]
        held = [(path, m, own) for path, m in modules for own, b in m._buffers.items() if b is not None]
        self._buffers = {f"{path}.{own}": (m, own) for path, m, own in held}
        self._averages, self._iterated = self._of(self._norms), self._of(self._iterates)  # names of buffers
        self._counts: dict[str, Tensor] = {}  # phase -> accesses of each iterate in each microbatch [parts, iterates]
        self._known: set[str] = set()  # phases of which all that moves is known

    def turns(self, phase: str, module: nn.Module, begin: Callable[[], None]) -> Iterator[int]:
        """The microbatches of this process in a phase of that name, each of which the caller makes before it asks for
        the next. `begin` is called before the first, and again where all are to be made anew. At the end the gradients
        of `module` are those of all microbatches."""
        if self.world == 1:
            begin()
            yield from range(self.parts)
            return
        before, also = self._copies(phase), [t.clone() for t in self._also]
        for _ in range(_MOST_TRIES):
            begin()
            noted, expected = _Noted(self._norms, self._iterates), self._expected(phase)
            gradients = _Gradients(module)
            with noted:
                for m in range(self.rank, self.parts, self.world):
                    self._advance(expected[max(0, m - self.world + 1) : m].sum(0))
                    start = self._copies(phase)
                    noted.begin()
                    yield m
                    self._learn(phase, start, noted.followed)
                    self._move(start, noted.moves, first=m - self.rank)
                    gradients.add()
            found = self._counts[phase] = self._of_all(noted.counts)
            if torch.equal(found[:-1], expected[:-1]):  # nothing comes after the last
                ranks.spread([self._buffer(name) for name in self._iterated], (self.parts - 1) % self.world)
                gradients.write()
                return
            self._restore(before)
            for tensor, was in zip(self._also, also, strict=True):
                tensor.copy_(was)
        raise RuntimeError(f"{phase}: the number of its passes changes whenever it is made; train in one process")

    # ── power iterations ──

    def _expected(self, phase: str) -> Tensor:
        return self._counts.get(phase, torch.zeros(self.parts, len(self._iterates), dtype=torch.int64))

    @torch.no_grad()
    def _advance(self, times: Tensor) -> None:
        """Make up the iterations of the others' passes."""
        for iterate, n in zip(self._iterates, times.tolist(), strict=True):
            for _ in range(n):
                iterate.forward()

    def _of_all(self, mine: list[list[int]]) -> Tensor:
        """Counts by microbatch [parts, iterates], from those of every process."""
        if not self._iterates:
            return torch.zeros(self.parts, 0, dtype=torch.int64)
        return torch.stack(ranks.counts(torch.tensor(mine)), 1).flatten(0, 1)

    # ── averages ──

    @torch.no_grad()
    def _move(self, start: dict[str, Tensor], moves: list[list[Move]], first: int) -> None:
        """Of the microbatches from `first` on, one of each process: move the averages from `start` on."""
        self._restore({name: start[name] for name in self._averages})
        averages = [self._buffer(name) for name in self._averages]
        for source in range(self.world if averages else 0):
            if source == self.rank:
                for move in moves[first // self.world]:
                    move()
            ranks.spread(averages, source)

    def _learn(self, phase: str, start: dict[str, Tensor], followed: set[int]) -> None:
        """In the first microbatch of a phase: which buffers move. UserError where one does that nobody can order."""
        if phase in self._known:
            return
        self._averages += [n for n in start if n not in self._averages and id(self._buffer(n)) in followed]
        for name, was in start.items():
            if name not in (*self._averages, *self._iterated) and not torch.equal(self._buffer(name), was):
                raise UserError(
                    f"backbone: {name} moves with each forward pass, in a way that several processes can't follow; "
                    "move it by backbones.follow, or train in one process"
                )
        self._known.add(phase)

    # ── buffers by name ──

    def _of(self, modules: Iterable[nn.Module]) -> list[str]:
        inside = {id(part) for m in modules for part in m.modules()}
        return [name for name, (owner, _) in self._buffers.items() if id(owner) in inside]

    def _buffer(self, name: str) -> Tensor:
        owner, own = self._buffers[name]
        found: Tensor = getattr(owner, own)
        return found

    def _copies(self, phase: str) -> dict[str, Tensor]:
        """Of all that moves in the phase; while that is unknown, of all."""
        names = (*self._averages, *self._iterated) if phase in self._known else self._buffers
        return {name: self._buffer(name).clone() for name in names}

    @torch.no_grad()
    def _restore(self, copies: dict[str, Tensor]) -> None:
        for name, was in copies.items():
            self._buffer(name).copy_(was)


class _Gradients:
    """The sum of a module's gradients over microbatches, in their order: a sum of floats depends on it.

    Each process adds up a share of the numbers, so that no more goes over the network than by an all-reduce (where a
    process has one microbatch; each further one costs half as much).
    """

    def __init__(self, module: nn.Module) -> None:
        self._all = list(module.parameters())
        self._having: list[nn.Parameter] = []  # a phase may leave a parameter without gradient, on every rank
        self._share: Tensor | None = None

    @torch.no_grad()
    def add(self) -> None:
        """The microbatch that each process has just made; its gradients are taken away."""
        self._having = [p for p in self._all if p.grad is not None]
        if not self._having:
            return
        flat = torch.cat([p.grad.reshape(-1) for p in self._having if p.grad is not None])
        for one in ranks.exchanged(flat):
            self._share = one.clone() if self._share is None else self._share.add_(one)
        for p in self._having:
            p.grad = None

    @torch.no_grad()
    def write(self) -> None:
        if self._share is None:
            return
        sizes = [p.numel() for p in self._having]
        flat = ranks.collected(self._share)[: sum(sizes)]
        for p, piece in zip(self._having, flat.split(sizes), strict=True):
            p.grad = torch.empty_like(p).copy_(piece.view_as(p))


class _Noted:
    """What the passes of one process move while it is entered: `moves` and `counts` of iterates, by microbatch."""

    def __init__(self, norms: Iterable[nn.Module], iterates: Iterable[nn.Module]) -> None:
        self._norms, self._iterates = list(norms), list(iterates)
        self.moves: list[list[Move]] = []
        self.counts: list[list[int]] = []
        self.followed: set[int] = set()  # ids of averages
        self._stack = ExitStack()

    def begin(self) -> None:
        """A microbatch."""
        self.moves = [*([] for _ in self.moves), []]  # of those before, all has moved
        self.counts.append([0] * len(self._iterates))

    def __enter__(self) -> None:
        for norm in self._norms:
            self._stack.callback(norm.register_forward_pre_hook(self._passes, with_kwargs=True).remove)
        for i, iterate in enumerate(self._iterates):
            self._stack.callback(iterate.register_forward_pre_hook(partial(self._accesses, i)).remove)
        self._stack.enter_context(backbones.noting(self._follows))

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _passes(self, norm: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        if norm.training:
            args, named = tuple(map(_detached, args)), {k: _detached(v) for k, v in named.items()}
            self.moves[-1].append(lambda: norm.forward(*args, **named))  # the same kernel, input, and so bits

    def _accesses(self, i: int, iterate: nn.Module, args: Any) -> None:
        self.counts[-1][i] += iterate.training

    def _follows(self, average: Tensor, move: Move) -> None:
        self.followed.add(id(average))
        self.moves[-1].append(move)


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _iterates(module: nn.Module) -> bool:
    """A weight that each access normalises anew."""
    return isinstance(module, ParametrizationList) and any(isinstance(m, _SpectralNorm) for m in module)
