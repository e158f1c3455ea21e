"""The two ways in which work ends early on purpose."""


def legible(text: str, most: int = 300) -> str:
    """Text out of a foreign file as a part of one line: no control characters, not endless."""
    text = "".join(c if c.isprintable() else " " for c in text[: 4 * most])
    return " ".join(text.split())[:most]


class UserError(Exception):
    """Bad input. The message is one line, whatever it quotes: place, value found, rule, remedy."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(legible(message, 1000))


class Diverged(Exception):
    """A value that must be finite is not. The message names the value; the trial ends as `diverged`."""
