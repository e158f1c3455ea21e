"""The command that began it all, as it may be stored: in the driver its own, in a worker its driver's. And its end."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from harness import disk
from harness.errors import Diverged, UserError, redact

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


def ended(run: Callable[[], int], results: str) -> int:
    """The exit code of `run`: its own, and where it ends early, after a line that says why, 1 (diverged, no room), 2
    (bad input), 3 (busy) or 130 (interrupted). `results`: what is full where the system does not say."""
    try:
        return run()
    except OSError as e:
        if not disk.is_full(e):
            raise
        why, code = f"{e.filename or redact(results)}: {e.strerror}; make room, then give the same command again", 1
    except UserError as e:
        why, code = str(e), e.exit_code
    except Diverged as e:
        why, code = str(e), 1
    except KeyboardInterrupt:
        return 130
    print(f"nashboard: {why}", file=sys.stderr)
    return code
