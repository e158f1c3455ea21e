"""Where words go: streams that take every text and never fail.

Printing never changes the outcome of what was done. Whatever the terminal can't show is shown by what it can;
whoever listens may go away, or his disk be full: the work goes on, and its exit code is the work's.
"""

import contextlib
import io
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO, cast

PLAIN = {
    "−": "-", "–": "-", "—": "-", "─": "-", "━": "-", "±": "+-", "×": "x", "·": ".", "•": "*", "↓": "v", "↑": "^",
    "→": "->", "≤": "<=", "≥": ">=", "†": "*", "‡": "**", "Δ": "d", "’": "'", "‘": "'", "“": '"', "”": '"',
}  # fmt: skip
"""What stands for our signs where an encoding has no such sign: a minus must not become a question mark."""


def fitting(text: str, encoding: str | None) -> str:
    """`text` in characters that `encoding` has: those it lacks are spelled out, or become a question mark."""
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return "".join(_spelled(c, encoding or "utf-8") for c in text)
    return text


def _spelled(c: str, encoding: str) -> str:
    for candidate in (c, PLAIN.get(c, c), unicodedata.normalize("NFKD", c)):
        if kept := candidate.encode(encoding, "ignore").decode(encoding):
            return kept
    return "?"


class Nowhere(io.StringIO):
    """Takes everything and keeps nothing."""

    def write(self, text: str) -> int:
        return len(text)


class Stream:
    """A text stream in front of another. Once that fails it takes everything and shows nothing."""

    def __init__(self, under: TextIO, name: str = "output") -> None:
        self._under, self._name, self._gone = under, name, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._under, name)

    def write(self, text: str) -> int:
        self._do(lambda: self._under.write(fitting(text, self._under.encoding)))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._do(self._under.flush)

    def _do(self, act: Callable[[], object]) -> None:
        if self._gone:
            return
        try:
            act()
        except BlockingIOError:  # somebody else who has the terminal made it so
            os.set_blocking(self._under.fileno(), True)
        except (OSError, ValueError) as e:  # ValueError: closed
            self._give_up(e)

    def _give_up(self, e: Exception) -> None:
        self._gone = True
        with contextlib.suppress(OSError, ValueError):  # what is still in its buffer must not fail at the end either
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._under.fileno())
            os.close(null)
        if not isinstance(e, BrokenPipeError) and self._name == "standard output":  # who closed a pipe meant it
            reason = getattr(e, "strerror", None) or e
            print(f"nashboard: {self._name}: {reason}; what is still to say is not shown", file=sys.stderr)


def safe(stream: TextIO | None) -> TextIO:
    """`stream` so that it never fails; one that is not there takes everything."""
    if isinstance(stream, Stream):
        return cast(TextIO, stream)
    return cast(TextIO, Stream(stream if stream is not None else Nowhere()))


@contextlib.contextmanager
def unfailing() -> Iterator[None]:
    """Meanwhile whatever is printed, by whomever, can't fail."""
    for _ in range(3):  # else the next file that is opened takes the place of the output, and is written into
        with contextlib.suppress(OSError):
            fd = os.open(os.devnull, os.O_RDWR)
            if fd > 2:
                os.close(fd)
                break
    before = sys.stdout, sys.stderr
    sys.stderr = cast(TextIO, Stream(before[1] or Nowhere(), "standard error"))
    sys.stdout = cast(TextIO, Stream(before[0] or Nowhere(), "standard output"))
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before
