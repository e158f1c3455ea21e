"""Two drivers on one results URL: one at a time drives an experiment, and no attempt is ever two drivers'."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.store import lease, lock, remote
from harness.store.bucket import Store


@pytest.fixture
def url(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    monkeypatch.setattr(lease, "LEASE_S", 0.6)
    monkeypatch.setattr(lease, "LOOK_S", 0.05)
    monkeypatch.setattr(remote, "_url", f"file://{tmp_path}/store")
    return tmp_path


def killed(url, name):
    """What a driver in the folder `name` leaves that dies while it drives."""
    folder = url / name / "exp"
    folder.mkdir(parents=True)
    left = lease._Lease(Store(str(remote.url())), folder)
    left.take(lambda line: None)
    left._say()


@pytest.mark.slow
def test_one_of_many_drivers_that_come_at_once_gets_it(url):
    ready, done = threading.Barrier(8), threading.Event()

    def one(nth):
        ready.wait()
        try:
            with lease.drive(url / str(nth) / "exp"):
                done.wait(1.0)
                return True
        except lock.Busy as e:
            assert "exp: another driver (process" in str(e) and "store" in str(e)
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(one, range(8))) == 1
    with lease.drive(url / "later" / "exp"):  # who ended well left it free at once
        assert lease.driver(url / "elsewhere" / "exp")
        with lease.drive(url / "later" / "other"):  # another experiment is free
            pass
    assert lease.driver(url / "elsewhere" / "exp") is None


def test_the_lease_of_a_dead_driver_is_free_after_a_while_or_at_once_where_it_lived(url):
    killed(url, "a")
    begun, said = time.monotonic(), []
    with lease.drive(url / "b" / "exp", said.append):
        assert time.monotonic() - begun >= 0.5
    assert len(said) == 1 and "waiting 0.6 s for a sign" in said[0]
    killed(url, "c")
    begun = time.monotonic()
    with lease.drive(url / "c" / "exp", said.append):
        assert time.monotonic() - begun < 0.3 and len(said) == 1


@pytest.mark.slow
def test_a_store_that_does_not_answer_is_no_death_of_its_driver(url, monkeypatch):
    killed(url, "a")
    fine, read, begun = time.monotonic() + 1.0, Store.read, time.monotonic()

    def frozen(self, path):
        if time.monotonic() < fine and threading.current_thread() is threading.main_thread() and started:
            raise OSError("no answer")
        return read(self, path)

    started: list[str] = []
    monkeypatch.setattr(Store, "read", frozen)
    with lease.drive(url / "b" / "exp", started.append):
        assert time.monotonic() - begun >= 1.5


def test_a_driver_that_was_taken_for_dead_is_told_and_begins_nothing_more(url, monkeypatch):
    monkeypatch.setattr(remote, "PAUSE_S", 0.01)
    lost = threading.Event()
    say = lease._Lease._say
    with pytest.raises(lock.Busy, match="took it over"), lease.drive(url / "a" / "exp", on_lost=lost.set):
        monkeypatch.setattr(lease._Lease, "_say", lambda self: None)  # frozen: no beat arrives
        other = lease._Lease(Store(str(remote.url())), url / "b" / "exp")
        (url / "b" / "exp").mkdir(parents=True)
        other.take(lambda line: None)
        monkeypatch.setattr(lease._Lease, "_say", say)
        with pytest.raises(lock.Busy):
            lease.check()
        assert lost.wait(2)
    assert other.read(2)["nonce"] == other._mine["nonce"]  # the loser wrote nothing into the other's


@pytest.mark.parametrize("exact", [True, False])
def test_no_two_attempts_have_one_number(url, monkeypatch, exact):
    if not exact:  # a store that creates nothing once for all: exists, then written
        monkeypatch.setattr("harness.store.bucket.SETTLE_S", 0.2)

        class Poor(Store):
            def __init__(self, *words):
                super().__init__(*words)
                self._local = False
                self._fs.auto_mkdir = True

        monkeypatch.setattr(remote, "Store", Poor)
    ready = threading.Barrier(6)

    def one(_):
        ready.wait()
        return [remote.claim("t", 1) for _ in range(3 if exact else 1)]

    with ThreadPoolExecutor(6) as pool:
        numbers = [n for some in pool.map(one, range(6)) for n in some]
    assert len(set(numbers)) == len(numbers)
    assert int((url / "store/trials/t/attempt").read_text()) in numbers
    assert remote.claim("t", 1) not in numbers
    assert remote.claim("t", 100) >= 100
