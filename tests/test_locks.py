"""Locks: who has it is told, what is no lock is not opened, and who came first keeps nobody out once he is gone."""

import errno
import fcntl
import os
import re
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness import locks
from harness.data import pixel_cache
from harness.data.archive import ResumableZip
from harness.disk import write_atomic
from harness.errors import UserError
from harness.evaluation import reals
from harness.store import lock
from tests.two_users import ALICE, BOB, needs_root, run_as, said_as


def hold_folder(folder: Path) -> None:
    with lock.hold(folder):
        pass


def cache_reals(folder: Path) -> None:
    reals.cached(folder, {"a": 1}, lambda: {"x": np.zeros(1)})


def cache_pixels(folder: Path) -> None:
    os.environ["NASHBOARD_CACHE"] = str(folder)
    pixel_cache.store("key", (1, 1, 1, 3), [np.zeros((1, 1, 1, 3), np.uint8)], lambda images: {})


def prepare(folder: Path) -> None:
    with ResumableZip(folder / "x.zip", {}) as out:
        out.add(b"png")


@pytest.fixture(params=[hold_folder, cache_reals, cache_pixels, prepare], ids=lambda f: f.__name__)
def use(request, monkeypatch) -> Callable[[Path], None]:
    """Every place of the tree that holds a file."""
    monkeypatch.setenv("NASHBOARD_CACHE", "")
    return request.param


@pytest.fixture
def path(use, tmp_path) -> Path:
    """The file that `use(tmp_path)` holds."""
    held, flock = [], fcntl.flock

    def note(file, how):
        held.append(Path(f"/proc/self/fd/{file.fileno()}").readlink())
        flock(file, how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", note)
        use(tmp_path)
    shutil.rmtree(tmp_path)
    held[0].parent.mkdir(parents=True)
    return held[0]


@pytest.fixture
def common():
    """A folder that all users may write to, as /tmp is."""
    folder = Path(tempfile.mkdtemp(prefix="nb", dir="/tmp"))
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("put", [os.symlink, os.link], ids=["link", "second name"])
def test_another_file_in_a_locks_place_keeps_its_content(use, path, tmp_path, put):
    """Bug 11."""
    victim = tmp_path.with_name("victim")
    victim.write_text("precious")
    put(victim, path)
    with pytest.raises(UserError, match=f"{re.escape(str(path))}: (is a link|has a second name)"):
        use(tmp_path)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_is_not_waited_for(use, path, tmp_path, make):
    make(path)
    with pytest.raises(UserError, match=re.escape(str(path))) as refused:
        use(tmp_path)
    assert not isinstance(refused.value, lock.Busy)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO, errno.EBADF])
def test_a_lock_that_fails_for_another_reason_is_not_called_taken(use, tmp_path, monkeypatch, number):
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(UserError, match=os.strerror(number)) as refused:
        use(tmp_path)
    assert not isinstance(refused.value, lock.Busy)
    assert "another" not in str(refused.value).replace("name another", "")


def test_a_lock_that_is_taken_says_by_whom(tmp_path):
    me = f"process {os.getpid()} of .+ on {socket.gethostname()}"
    with lock.hold(tmp_path):
        with pytest.raises(lock.Busy, match=me), lock.hold(tmp_path):
            pass
        (tmp_path / ".lock").write_text("process 1 of root on elsewhere")  # what a file says is not believed here
        assert re.fullmatch(me, lock.driver(tmp_path) or "nobody")
    with ResumableZip(tmp_path / "x.zip", {}), pytest.raises(UserError, match=f"another process .{me}"):
        prepare(tmp_path)


def test_one_who_only_looks_is_not_taken_for_a_holder(tmp_path):
    """`status` holds a lock for a moment to see whether it is held."""
    hold_folder(tmp_path)
    file = (tmp_path / ".lock").open()
    fcntl.flock(file, fcntl.LOCK_SH)
    threading.Timer(locks.GLANCE_S, file.close).start()
    hold_folder(tmp_path)


def test_who_waits_for_a_cache_is_heard_and_served(tmp_path):
    path, heard = tmp_path / "x.lock", []
    with locks.held(path, "") as first:
        threading.Timer(0.2, lambda: fcntl.flock(first, fcntl.LOCK_UN)).start()
        with locks.held(path, "", lambda: heard.append(time.monotonic())):
            assert len(heard) > 1


@pytest.mark.parametrize(
    "said", ["process 0 on {}", "process 1 on {}", "process -1 on {}", "process x on {}", "", "{}"]
)
def test_stop_signals_nobody_but_a_process_that_is_named(tmp_path, monkeypatch, said):
    """-1 would be every process of the user, 0 his own group."""
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("somebody was signalled"))
    monkeypatch.setattr(lock, "driver", lambda folder: said.format(socket.gethostname()))
    with pytest.raises(UserError, match="names no process"):
        lock.request_stop(tmp_path)


def test_a_file_is_written_beside_a_link_not_through_it(tmp_path):
    """The name that is written first is known to whoever knows the process's number."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / f".x.json.{os.getpid()}.part").symlink_to(victim)
    write_atomic(tmp_path / "x.json", b"new")
    assert victim.read_text() == "precious" and (tmp_path / "x.json").read_text() == "new"


# ── the machine's lock ───────────────────────────────────────────────────────

HOLD = """
try:
    with lock.hold_machine("this machine: {}"):
        print("held", flush=True)
        input()
except UserError as e:
    print(e.exit_code, e)
except EOFError:
    pass
"""
IMPORTS = "from harness.store import lock\nfrom harness.errors import UserError\nimport encodings.idna"


def test_the_machines_lock_leaves_no_file_and_opens_none(common, monkeypatch):
    """Bug 11: what lies in the temporary folder under any name is not touched."""
    monkeypatch.setattr(tempfile, "tempdir", str(common))
    with lock.hold_machine("{}"):
        assert not list(common.iterdir())
        with pytest.raises(lock.Busy, match=f"^process {os.getpid()} of .+ on "), lock.hold_machine("{}"):
            pass
    with lock.hold_machine("{}"):
        pass


def test_a_part_of_a_machine_with_a_temporary_folder_of_its_own_has_a_lock_of_its_own(tmp_path, monkeypatch):
    with lock.hold_machine("{}"):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with lock.hold_machine("{}"):
            pass
        (tmp_path / "same").symlink_to(tmp_path)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "same"))
        with lock.hold_machine("{}"):
            pass


def test_a_name_that_cannot_be_held_for_another_reason_is_not_called_taken(monkeypatch):
    class Barred(socket.socket):
        def bind(self, address: object) -> None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(locks.socket, "socket", Barred)
    with pytest.raises(UserError, match="Operation not permitted") as refused, lock.hold_machine("{}"):
        pass
    assert not isinstance(refused.value, lock.Busy)


def test_a_name_whose_holder_does_not_answer_is_taken_by_somebody():
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as squatter:
        squatter.bind("\0nashboard-test-squatter")
        with pytest.raises(locks.Taken, match="does not say"), locks.named("nashboard-test-squatter"):
            pass


@needs_root
def test_two_users_have_the_machine_one_after_the_other_and_hear_of_each_other(common):
    """Bug 12."""
    first = run_as(ALICE, IMPORTS, HOLD, TMPDIR=str(common))
    assert first.stdout.readline() == "held\n"
    told = said_as(BOB, IMPORTS, HOLD, TMPDIR=str(common))
    assert told == f"3 this machine: process {first.pid} of user {ALICE} on {socket.gethostname()}"
    first.communicate(timeout=60)
    assert said_as(BOB, IMPORTS, HOLD, TMPDIR=str(common)) == "held"
    assert not list(common.iterdir())


@needs_root
def test_a_folders_lock_of_another_user_can_be_held_once_he_is_gone(common):
    """Bug 12, as a shared folder of results has it."""
    code = HOLD.replace('hold_machine("this machine: {}")', f"hold(lock.Path({str(common / 'run')!r}))")
    first = run_as(ALICE, IMPORTS, code)
    assert first.stdout.readline() == "held\n"
    assert f"another driver (process {first.pid} of user {ALICE} on" in said_as(BOB, IMPORTS, code)
    stop = f"try: lock.request_stop(lock.Path({str(common / 'run')!r}))\nexcept UserError as e: print(e)"
    assert "another user's; ask them to stop it" in said_as(BOB, IMPORTS, stop)
    first.communicate(timeout=60)
    assert said_as(BOB, IMPORTS, code) == "held"


@needs_root
def test_a_lock_that_its_owner_has_shut_says_whose_it_is(common):
    code = HOLD.replace('hold_machine("this machine: {}")', f"hold(lock.Path({str(common / 'run')!r}))")
    said_as(ALICE, IMPORTS, "os.umask(0o077)\n" + code)
    (common / "run").chmod(0o755)
    assert f"belongs to user {ALICE}, who lets nobody else open it" in said_as(BOB, IMPORTS, code)
