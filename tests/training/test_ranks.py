"""Ranks meet, follow nothing that the network says, and wait for one that is at work but not for one that is gone."""

import json
import multiprocessing as mp
import os
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist

from harness.errors import Diverged, Lost, UserError
from harness.training import ranks

CPU = torch.device("cpu")
SPAWN = mp.get_context("spawn")


@pytest.fixture(autouse=True)
def own_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a team sets for its process ends with the test."""
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "lo")
    monkeypatch.setattr(ranks, "_opened", None)


# ── the door ─────────────────────────────────────────────────────────────────


def test_the_store_listens_on_one_address_alone() -> None:
    """On loopback where all ranks are on one node, else on the node's own address, never on every interface."""
    here = psutil.Process()

    def listening() -> set[str]:
        return {c.laddr.ip for c in here.net_connections("tcp") if c.status == psutil.CONN_LISTEN}

    before = listening()
    one = ranks.meet(["10.9.8.7", "10.9.8.7", "10.9.8.7"])
    assert one.ip == "127.0.0.1" and listening() - before <= {"127.0.0.1"}
    there = ranks.meet(["127.0.0.2", "10.9.8.7"])
    assert there.ip == "127.0.0.2" and listening() - before <= {"127.0.0.1", "127.0.0.2"}
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", there.port), timeout=5).close()
    assert one.secret != there.secret and len(one.secret) == 32


def note(rank: int, path: str) -> Callable[[], None]:
    def rest() -> None:
        Path(path).write_text(f"rank {rank}")

    return rest


def write(rank: int, path: str) -> Callable[[], None]:
    """What a stranger would have a rank do."""
    Path(path).write_text("here was a stranger")
    return lambda: None


@pytest.mark.slow
def test_a_stranger_who_reaches_the_port_has_nothing_run(tmp_path: Path) -> None:
    """He writes under every name that he may guess or read there, before rank 0 says a word and after."""
    met = ranks.meet(["127.0.0.1", "127.0.0.1"])
    follower = SPAWN.Process(target=_follow, args=(met, str(tmp_path / "done")))
    follower.start()
    stranger = dist.TCPStore(met.ip, met.port, is_master=False, wait_for_workers=False)
    order = json.dumps(["gloo", __name__, "write", [str(tmp_path / "spoilt")], []])
    for key in ("task", "go", "ready/1", "ended", "ranks/task"):
        stranger.set(key, order)
    time.sleep(1)
    assert follower.is_alive(), "it waits for rank 0"
    read = dist.PrefixStore(met.secret, stranger)  # whoever reads the network sees the secret: still nothing is run
    for key in ("task", "ended", "ranks/task"):
        read.set(key, order)
    with ranks.team(2, CPU, note):
        pass
    follower.join(30)
    assert follower.exitcode == 0 and (tmp_path / "done").read_text() == "rank 1"
    assert not (tmp_path / "spoilt").exists()


def test_a_rank_that_is_told_another_backend_leaves(tmp_path: Path) -> None:
    met = ranks.meet(["127.0.0.1", "127.0.0.1"])
    stranger = dist.TCPStore(met.ip, met.port, is_master=False, wait_for_workers=False)
    dist.PrefixStore(met.secret, stranger).set("go", "os:system")
    with pytest.raises(Lost, match="whoever answers is not rank 0"):
        ranks.follow(met, 1, 2, "127.0.0.1", note, str(tmp_path / "done"))
    assert not (tmp_path / "done").exists()


def _follow(met: ranks.Meeting, path: str) -> None:
    ranks.follow(met, 1, 2, "127.0.0.1", note, path)


# ── patience ─────────────────────────────────────────────────────────────────


def rounds(rank: int, times: int, slow_s: float = 0.0) -> Callable[[], None]:
    """`times` steps of one sum each; another rank than 0 may be slow to begin."""
    time.sleep(slow_s)

    def rest() -> None:
        for _ in range(times):
            ranks.agree(lambda: True)  # rank 0's answer counts
            ranks.summed(torch.ones(1))

    return rest


@pytest.mark.slow
def test_patience_ends_inside_of_a_step_not_beside_it() -> None:
    """Rank 0 takes five times the others' patience between two steps, and the other as much before the first one."""
    waited = []
    with ranks.team(2, CPU, rounds, 2, 5.0, patience_s=1.0, waiting=partial(waited.append, 1)):
        assert ranks.agree(lambda: False) is False
        assert ranks.summed(torch.ones(1)) == 2
        assert ranks.agree(lambda: time.sleep(5) or True) is True
        assert ranks.summed(torch.ones(1)) == 2
    assert len(waited) > 20, "rank 0 gives a sign of life while it waits"


@pytest.mark.slow
def test_a_rank_that_is_late_inside_of_a_step_is_lost() -> None:
    with pytest.raises(Lost), ranks.team(2, CPU, late, patience_s=1.0):
        ranks.agree(lambda: False)
        ranks.summed(torch.ones(1))


def late(rank: int) -> Callable[[], None]:
    def rest() -> None:
        ranks.agree(lambda: False)
        time.sleep(4)

    return rest


def lead(path: str, freeze: bool) -> None:
    """Rank 0, which dies or freezes in its upkeep; who follows writes down how long it then waited."""

    def end() -> bool:
        os.kill(os.getpid(), signal.SIGSTOP if freeze else signal.SIGKILL)
        return False

    with ranks.team(2, CPU, bereft, path, patience_s=2.0):
        ranks.agree(lambda: False)
        ranks.agree(end)


def bereft(rank: int, path: str) -> Callable[[], None]:
    def rest() -> None:
        ranks.agree(lambda: False)
        began = time.monotonic()
        try:
            ranks.agree(lambda: False)
        except Lost:
            Path(path).write_text(str(time.monotonic() - began))

    return rest


@pytest.mark.slow
@pytest.mark.parametrize(("freeze", "soon_s"), [(False, 1.0), (True, 10.0)])
def test_a_rank_0_that_died_or_froze_in_its_upkeep_is_noticed(tmp_path: Path, freeze: bool, soon_s: float) -> None:
    told = tmp_path / "waited"
    leader = SPAWN.Process(target=lead, args=(str(told), freeze))
    leader.start()
    deadline = time.monotonic() + 40
    while not told.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    leader.kill()
    leader.join()
    assert float(told.read_text() or "inf") < soon_s


def unready(rank: int, error: str) -> Callable[[], None]:
    ends = {"UserError": UserError("dataset: other images here"), "Diverged": Diverged("loss/x")}
    raise ends.get(error, SystemExit(7))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "expected", "said"),
    [
        ("UserError", UserError, "dataset: other images here"),
        ("Diverged", Diverged, "loss/x"),
        ("", Lost, "rank 1 ended with 7 before it had met the others"),
    ],
)
def test_rank_0_tells_why_another_did_not_begin(error: str, expected: type[Exception], said: str) -> None:
    began = time.monotonic()
    with pytest.raises(expected, match=said), ranks.team(2, CPU, unready, error):
        pass
    assert time.monotonic() - began < 30
