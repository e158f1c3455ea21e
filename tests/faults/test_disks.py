"""Disks that are full or turned read-only, and files that they spoilt."""

import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import Calm
from tests.faults.ground import Ground, Said

pytestmark = pytest.mark.slow


def mount(*words: object) -> None:
    """Mount, or skip the test where this user may not."""
    done = subprocess.run(["mount", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mount: {done.stderr.strip()}")


@pytest.fixture
def small(ground: Ground) -> Iterator[Ground]:
    """A ground whose results are on a small disk of their own."""
    ground.results.mkdir()
    mount("-t", "tmpfs", "-o", "size=160m", "tmpfs", ground.results)
    yield ground
    subprocess.run(["umount", "-l", ground.results], check=True)


def fill(path: Path) -> None:
    """Write until there is no room for a byte."""
    with path.open("wb", buffering=0) as f:
        for size in (2**20, 1):
            try:
                while True:
                    f.write(bytes(size))
            except OSError:
                pass


def test_the_disk_is_full(small: Ground, settle: Callable[..., Said]) -> None:
    driver = small.start()
    assert driver.until(small.training)
    fill(small.results / "filler")
    said = driver.end()
    assert said.code not in (0, 3) and "No space left on device" in said.out + said.err
    assert "Traceback" not in said.err
    (small.results / "filler").unlink()
    settle(small, "disk full", 1)


def test_the_results_turn_read_only(ground: Ground, settle: Callable[..., Said]) -> None:
    driver = ground.start()
    assert driver.until(ground.training)
    mount("--bind", ground.results, ground.results)
    try:
        mount("-o", "remount,ro,bind", ground.results)
        said = driver.end()
    finally:
        subprocess.run(["umount", "-l", ground.results], check=True)
    assert said.code not in (0, 3) and "Read-only file system" in said.out + said.err
    assert "Traceback" not in said.err
    settle(ground, "results folder turned read-only", 1)


# ── spoilt files ─────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def torn(calm: Calm) -> Iterator[Ground]:
    """A ground whose driver and workers died with both trials half trained; `saved` has a copy of its results."""
    ground = Ground()
    driver = ground.start()
    driver.until(lambda: [len(list(p.glob("checkpoints/*.safetensors"))) for p in ground.trials()] == [2, 2])
    ground.sweep()
    driver.end()
    assert not ground.finished() and not ground.processes()
    shutil.copytree(ground.results, ground.folder / "saved")
    yield ground
    ground.leave()


def truncate(data: bytes, dice: random.Random) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes, dice: random.Random) -> bytes:
    """One bit."""
    spoilt = bytearray(data)
    spoilt[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    return bytes(spoilt)


def empty(data: bytes, dice: random.Random) -> bytes:
    return b""


def victims(ground: Ground) -> dict[str, list[Path]]:
    """What may be spoilt: the newest checkpoint of each trial, all of them, journals, cached statistics, all notes."""
    trials = ground.trials()
    notes = ("state.json", "attempt", "config.yaml", "env.json", "checkpoints/latest.json")
    return {
        "checkpoint": [max(p.glob("checkpoints/*.safetensors")) for p in trials],
        "every checkpoint": ground.checkpoints(),
        "journal": [p / "events.jsonl" for p in trials],
        "reference statistics": list((ground.folder / "cache").glob("reals/*.npz")),
        "every note": [*(p / n for p in trials for n in notes), *ground.results.glob("faults/tracking-*.json")],
    }


HOW = {"truncated": truncate, "with a bit flipped": flip, "emptied": empty}
ALL = [(what, how) for what in ("checkpoint", "journal", "reference statistics") for how in HOW]


@pytest.mark.parametrize(("what", "how"), [*ALL, ("every checkpoint", "emptied"), ("every note", "truncated")])
def test_files_are_spoilt(torn: Ground, calm: Calm, settle: Callable[..., Said], what: str, how: str) -> None:
    torn.clear()
    shutil.copytree(torn.folder / "saved", torn.results)
    shutil.copytree(calm.ground.folder / "cache", torn.folder / "cache", dirs_exist_ok=True)
    dice = random.Random(f"{what}/{how}")
    for path in victims(torn)[what]:
        assert path.stat().st_size, path
        path.write_bytes(HOW[how](path.read_bytes(), dice))
    settle(torn, f"{what} {how}", 1, "--local")
