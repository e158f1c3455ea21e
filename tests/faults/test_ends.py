"""Processes that are ended at random moments: workers, the driver, by the user, by a second driver."""

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import Calm
from tests.faults.ground import Command, Ground, Said

pytestmark = pytest.mark.slow


def parts(ground: Ground) -> set[str]:
    """Checkpoints that are half written, by whomever."""
    return {str(part.resolve()) for part in ground.results.glob("trials/*/checkpoints/.*.part")}


def opened(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(str(descriptor.readlink()))
    return found


def writer(ground: Ground) -> int | None:
    """The process that is inside the writing of a checkpoint at this very moment, which lasts some milliseconds: who
    might be is asked for but twice a second."""
    pids = [worker.pid for worker in ground.workers()]
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        if begun := parts(ground):
            for pid in pids:
                if begun & opened(pid):
                    return pid
    return None


def victim(ground: Ground, driver: Command, kind: str, dice: random.Random) -> int | None:
    """The worker to kill now: after a random while, while it trains, or inside the writing of a checkpoint."""
    if kind == "writing":
        found: list[int | None] = []
        driver.until(lambda: found.append(writer(ground)) or found[-1], every_s=0)
        return found[-1]
    if kind == "training":
        saved = ground.checkpoints()
        driver.until(lambda: ground.checkpoints() != saved)
    time.sleep(dice.uniform(0, 2))
    alive = driver.until(ground.workers) and ground.workers()
    return dice.choice(alive).pid if alive else None


@pytest.mark.parametrize("seed", range(3))
def test_a_worker_is_killed(ground: Ground, settle: Callable[..., Said], seed: int) -> None:
    dice, kills, inside = random.Random(f"worker/{seed}"), 0, 0
    driver = ground.start()
    driver.until(ground.training)
    for kind in ["writing", "training", "any moment", "writing", "training", "writing", "training"]:
        pid = victim(ground, driver, kind, dice)
        if pid is None:
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            kills += 1
            inside += bool(parts(ground) - {path for worker in ground.workers() for path in opened(worker.pid)})
        print(f"seed {seed}: worker {pid} killed at {driver.age():.2f} s ({kind})")
    said = driver.end()
    assert said.code == 0, said
    settle(ground, "worker SIGKILLed at random moments", kills)
    assert kills >= 6 and inside >= 2
    assert not list(ground.results.glob("trials/*/checkpoints/.*")), "what was half written is cleaned up"


@pytest.mark.parametrize("seed", range(2))
def test_the_driver_is_killed(ground: Ground, calm: Calm, settle: Callable[..., Said], seed: int) -> None:
    dice, kills = random.Random(f"driver/{seed}"), 0
    while kills < 5:
        driver, moment = ground.start(), dice.uniform(0.1, calm.wall_s)
        with contextlib.suppress(subprocess.TimeoutExpired):
            driver.process.wait(moment)
            ground.clear()  # it was faster: all is done, so begin again
            continue
        driver.kill()
        kills += 1
        print(f"seed {seed}: driver killed after {moment:.2f} s")
    settle(ground, "driver SIGKILLed at random moments", kills)


@pytest.mark.parametrize("seed", range(2))
def test_ctrl_c(ground: Ground, calm: Calm, settle: Callable[..., Said], seed: int) -> None:
    dice, stops = random.Random(f"ctrl-c/{seed}"), 0
    while stops < 5:
        driver, moment = ground.start(), dice.uniform(0.5, calm.wall_s)
        with contextlib.suppress(subprocess.TimeoutExpired):
            driver.process.wait(moment)
            ground.clear()
            continue
        driver.interrupt()
        began = driver.age()
        said = driver.end()
        stops += 1
        print(f"seed {seed}: Ctrl-C after {moment:.2f} s, ended {driver.age() - began:.2f} s later with {said.code}")
        assert said.code in (130, 0), said.err
        assert not said.err, said.err
        assert driver.age() - began < 20
    settle(ground, "Ctrl-C at random moments", stops)


def test_two_drivers_at_once(ground: Ground, settle: Callable[..., Said]) -> None:
    both = [ground.start(), ground.start()]  # at the very same time: one of them gets the lock
    first = next(driver for driver in both if driver.until(ground.training))
    with frozen(first):  # which keeps its locks, and so the others come in time
        said = [driver.end() for driver in (*(d for d in both if d is not first), ground.start())]
        said.append(ground.start(results="elsewhere").end())
    for (code, _, err), message in zip(said, ["works on it", "works on it", "this machine"], strict=True):
        assert code == 3 and message in err and len(err.splitlines()) == 1
    assert first.end().code == 0
    settle(ground, "two drivers at once", len(said))


@contextlib.contextmanager
def frozen(driver: Command) -> Iterator[None]:
    driver.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        driver.process.send_signal(signal.SIGCONT)
