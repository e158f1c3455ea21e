"""One driver for an experiment, also where its results lie behind a URL: a lease there, with a heartbeat.

Leases are numbered, and the one with the highest number is the one that counts. To take it is to create the next one,
which a store lets one of many do; its holder alone writes into it from then on, and nobody removes one. A lease is free
when its holder has said so, or is known to be dead, or has given no sign for `LEASE_S` by the watch of who looks: no
clocks are compared. A holder that finds a higher number stops.
"""

import json
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.store import lock, remote
from harness.store.bucket import Store

BEAT_S, LEASE_S, LOOK_S = 5.0, 30.0, 1.0

_held: "list[_Lease]" = []


@contextmanager
def drive(
    folder: Path, say: Callable[[str], None] = lambda line: None, on_lost: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Be the one driver of the experiment whose results are in `folder`; raises Busy where another is.

    At a URL one waits for a sign of the last holder, which `say` is told. `on_lost` is called once, by another thread,
    when another driver has taken this one for dead; Busy is raised then at the end.
    """
    with lock.hold(folder):
        url = remote.url()
        if url is None:
            yield
            return
        lease = _Lease(Store(url), folder, on_lost)
        lease.take(say)
        _held.append(lease)
        try:
            with lease.beating():
                yield
        finally:
            _held.remove(lease)
        lease.check()


def check() -> None:
    """Raise Busy where another driver has taken over what this process drives at a URL."""
    for lease in _held:
        remote.reach(lease.look)
        lease.check()


def driver(folder: Path) -> str | None:
    """Who drives the experiment in `folder` now ("process 123 on host"), here or at the URL of the results."""
    here, url = lock.driver(folder), remote.url()
    if here or url is None:
        return here
    with suppress(Exception):  # whatever a network and fsspec's backends raise
        lease = _Lease(Store(url), folder)
        found = lease.read(lease.last())
        if not found.get("released") and abs(time.time() - found["time"]) < LEASE_S:  # two clocks, but only to show
            return str(found["who"])
    return None


def request_stop(folder: Path) -> str:
    """`lock.request_stop`, which knows where a driver at the URL of the results is."""
    if lock.driver(folder) is None and (who := driver(folder)):
        raise UserError(f"{folder.name}: its driver is {who}; run `stop` there")
    return lock.request_stop(folder)


class _Lease:
    """A driver's right to an experiment at a URL."""

    def __init__(self, store: Store, folder: Path, on_lost: Callable[[], None] = lambda: None) -> None:
        self._store, self._under, self._on_lost = store, f"{folder.name}/.lease", on_lost
        self._folder, self._number, self._lost = folder, 0, ""
        self._mine: dict[str, Any] = {"nonce": uuid.uuid4().hex, "beat": 0, "released": False}

    def last(self) -> int:
        """The highest number, 0 where there is none. Beyond what is listed one looks by name: listings may be late."""
        names = [path.rpartition("/")[2] for path in self._store.paths(self._under)]
        number = max((int(n) for n in names if n.isdigit()), default=0)
        while self._store.read(self._path(number + 1)) is not None:
            number += 1
        return number

    def read(self, number: int) -> dict[str, Any]:
        """What a lease says; empty where it is none."""
        try:
            found = json.loads(self._store.read(self._path(number)) or b"")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def take(self, say: Callable[[str], None]) -> None:
        """Hold the experiment, or raise Busy."""
        who = lock.driver(self._folder) or f"a process on {socket.gethostname()}"
        self._mine |= {"who": who, "home": _home(self._folder)}
        number = remote.reach(self.last)
        while True:
            if number:
                self._wait(number, say)
            if remote.reach(lambda: self._store.create(self._path(number + 1), self._text())):  # noqa: B023 - at once
                self._number = number + 1
                return
            number += 1  # another came first

    def _wait(self, number: int, say: Callable[[str], None]) -> None:
        """Until lease `number` is free, or Busy. Only time in which the store answers counts."""
        first = remote.reach(lambda: self.read(number))
        if first.get("released") or first.get("home") == self._mine["home"]:  # whose lock we hold: that one is dead
            return
        who = first.get("who", "unknown")
        say(f"{self._folder.name}: {who} drove it last, without an end: waiting {LEASE_S:g} s for a sign of it")
        quiet, before = 0.0, time.monotonic()
        while quiet < LEASE_S:
            time.sleep(LOOK_S)
            now = first
            with suppress(Exception):  # whatever a network and fsspec's backends raise
                now = self.read(number + 1) or self.read(number)
                quiet += min(time.monotonic() - before, 2 * LOOK_S)
            before = time.monotonic()
            if now.get("released") and now.get("nonce") == first.get("nonce"):
                return
            if now != first:
                raise lock.Busy(
                    f"{self._folder.name}: another driver ({now.get('who', who)}) works on it at {remote.url()}; "
                    "wait for it or stop it"
                )

    def beating(self) -> AbstractContextManager[None]:
        """While within, show that its holder lives; then say that it is free."""
        return remote.again_and_again(self._beat, self._free, BEAT_S)

    def look(self) -> None:
        """Find out whether it still counts."""
        now = self.read(self._number + 1) or self.read(self._number)
        if now and now.get("nonce") != self._mine["nonce"]:
            first, self._lost = not self._lost, str(now.get("who", "unknown"))
            if first:
                self._on_lost()

    def check(self) -> None:
        if self._lost:
            raise lock.Busy(
                f"{self._folder.name}: another driver ({self._lost}) took it over at {remote.url()}, for this one gave "
                f"no sign for {LEASE_S:g} s; what it has is there"
            )

    def _beat(self) -> None:
        self.look()
        if not self._lost:
            self._say()

    def _free(self) -> None:
        self._mine["released"] = True
        with suppress(Exception):  # the next one waits, then
            self._beat()

    def _say(self) -> None:
        self._mine |= {"beat": self._mine["beat"] + 1, "time": time.time()}
        self._store.write(self._path(self._number), self._text())

    def _text(self) -> bytes:
        return json.dumps({"time": time.time(), **self._mine}).encode()

    def _path(self, number: int) -> str:
        return f"{self._under}/{number:06d}"


def _home(folder: Path) -> str:
    """What only those say who use the same lock as we."""
    path = folder / ".home"
    with suppress(FileExistsError), path.open("x", encoding="utf-8") as f:
        f.write(uuid.uuid4().hex)
    return f"{socket.gethostname()} {path.read_text(encoding='utf-8')}"
