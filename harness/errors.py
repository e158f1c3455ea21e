"""The ways in which work ends early on purpose, and errors as one line."""


def legible(text: str, most: int = 300) -> str:
    """Text out of a foreign file as a part of one line: no control characters, not endless."""
    text = "".join(c if c.isprintable() else " " for c in text[: 4 * most])
    return " ".join(text.split())[:most]


def one_line(e: object, most: int | None = None) -> str:
    """What an exception says, on one line of at most `most` characters; its type's name where it says nothing."""
    return " ".join(str(e).split())[:most] or type(e).__name__


class UserError(Exception):
    """Bad input. The message is one line, whatever it quotes: place, value found, rule, remedy."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(legible(message, 1000))


class Diverged(Exception):
    """A value that must be finite is not. The message names the value; the trial ends as `diverged`."""


class Lost(Exception):
    """Another process of the trial is gone. Nothing is wrong with the trial: it can go on from its checkpoint."""
