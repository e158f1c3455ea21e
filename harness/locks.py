"""What one process at a time holds, a file or a name; the system lets go of it when the process dies.

Rules. *Taken* is said only where the system says so; a disk without locks, a file of somebody else's, a link in its
place are told as what they are. What stands at a path may have been put there by another user: it is opened only if
it is a plain file with one name, never through a link, and nothing of it is changed before it is held. Who came first
keeps nobody out once he is gone: a file of his that may be read can be held.
"""

import contextlib
import errno
import fcntl
import itertools
import os
import pwd
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

from harness.errors import UserError, legible

GLANCES, GLANCE_S = 3, 0.05  # who looks whether a lock is held, holds it for a moment himself
_PEER = struct.Struct("3i")  # pid, uid, gid: `man 7 unix`, SO_PEERCRED


class Taken(Exception):
    """Another process holds it; the message is who: "process 123 of alice on host"."""


def opened(path: Path, remedy: str) -> BinaryIO:
    """The file `path`, made where it is missing, for reading and writing; for reading alone where it is another user's.

    `remedy` ends the line of the UserError that is raised where it can't be, or must not be opened.
    """
    flags = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # the last: no waiting for a pipe's other end
    mode: Literal["r+b", "rb"] = "r+b"
    try:
        try:
            fd = os.open(path, flags | os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:
            fd, mode = os.open(path, flags | os.O_RDONLY), "rb"
    except OSError as e:
        raise UserError(f"{path}: {_why_not(path, e)}; {remedy}") from None
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(fd)
        what = "has a second name" if stat.S_ISREG(found.st_mode) else "is no plain file"
        raise UserError(f"{path}: {what}, so it is not opened as a file of ours; remove it")
    return os.fdopen(fd, mode)


def take(file: BinaryIO, path: Path, remedy: str, waiting: Callable[[], None] | None = None) -> None:
    """Hold `file`, which is open at `path`, until it is closed. Raises Taken where another process holds it; given
    `waiting`, waits and calls it now and then."""
    for glances in itertools.count(1):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if waiting is not None:
                waiting()
            elif glances == GLANCES:
                raise Taken(_holder(file)) from None
        except OSError as e:
            raise UserError(f"{path}: can't be locked ({e.strerror or e}); {remedy}") from None
        time.sleep(GLANCE_S)


@contextmanager
def held(path: Path, remedy: str, waiting: Callable[[], None] | None = None) -> Iterator[BinaryIO]:
    """Hold the file `path`; raises as `opened` and `take` do."""
    with opened(path, remedy) as file:
        take(file, path, remedy, waiting)
        yield file


def holder(path: Path) -> str | None:
    """Who holds the file `path` now; None where nobody does, or it is not there."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _holder(file)
    except FileNotFoundError:
        return None
    except OSError as e:
        return f"unknown ({path}: {_why_not(path, e)})"
    return None


@contextmanager
def named(name: str) -> Iterator[None]:
    """Hold `name` among the processes of all users of this machine; raises Taken. It lies in no folder (a socket's
    name in the system's own list, Linux only), so nobody can put anything in its place, or leave anything behind."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as own:
        for glances in itertools.count(1):
            try:
                own.bind(f"\0{name}")
                break
            except OSError as e:
                if e.errno != errno.EADDRINUSE:
                    raise UserError(f"{name}: can't be held on this machine ({e.strerror})") from None
                who = _listener(name)
                if who or glances == GLANCES:
                    raise Taken(who or "a process that does not say which") from None
                time.sleep(GLANCE_S)  # it is just beginning, or just gone
        own.listen(socket.SOMAXCONN)
        yield


def process(pid: int, uid: int) -> str:
    return f"process {pid} of {user(uid)} on {socket.gethostname()}"


def user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _listener(name: str) -> str:
    """Who has bound `name`, as the kernel knows it; empty where nobody answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as there, contextlib.suppress(OSError):
        there.setblocking(False)
        there.connect(f"\0{name}")
        pid, uid, _ = _PEER.unpack(there.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        return process(pid, uid)
    return ""


def _holder(file: BinaryIO) -> str:
    """Who holds `file`: as the kernel knows it; of another machine's process, as the file itself says."""
    found = os.fstat(file.fileno())
    here = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text(encoding="utf-8").splitlines():
            words = line.split()
            if words[1] == "FLOCK" and words[5] == here and int(words[4]) > 0:
                return process(int(words[4]), Path("/proc", words[4]).stat().st_uid)
    with contextlib.suppress(OSError):
        file.seek(0)
        return legible(file.read(300).decode(errors="replace")) or "unknown"
    return "unknown"


def _why_not(path: Path, e: OSError) -> str:
    """What is wrong with `path`, which could not be opened."""
    if e.errno == errno.ELOOP:
        return "is a link, and a file of ours is not opened through one"
    with contextlib.suppress(OSError):
        if isinstance(e, PermissionError) and (uid := path.lstat().st_uid) != os.geteuid():
            return f"belongs to {user(uid)}, who lets nobody else open it"
    return e.strerror or str(e)
