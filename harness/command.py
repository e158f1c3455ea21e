"""The command that began it all, as it may be stored: in the driver its own, in a worker its driver's."""

import sys
from collections.abc import Sequence
from pathlib import Path

from harness.errors import redact

_drivers: list[str] = []


def words() -> list[str]:
    """Program and arguments, without passwords."""
    if _drivers:
        return list(_drivers)
    given = (Path(sys.argv[0]).name, *sys.argv[1:])
    return [redact(w.replace(" ", "\0")).replace("\0", " ") for w in given]  # a password may hold blanks


def hear(words: Sequence[str]) -> None:
    """Take `words` of another process for the command: this one only works for it."""
    _drivers[:] = words
