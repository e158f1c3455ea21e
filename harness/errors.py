"""The ways in which work ends early on purpose, and errors as one line."""


def legible(text: str, most: int = 300) -> str:
    """Text out of a foreign file as a part of one line: no control characters, not endless."""
    text = "".join(c if c.isprintable() else " " for c in text[: 4 * most])
    return " ".join(text.split())[:most]


def one_line(e: object, most: int | None = None) -> str:
    """What an exception says, on one line of at most `most` characters; its type's name where it says nothing."""
    return shortened(" ".join(str(e).split()), most) or type(e).__name__


def shortened(text: str, most: int | None) -> str:
    """`text`, or of what is longer than `most` characters its beginning and its end, cut between words where there are
    any: the place stands at the head of a message, and what to do about it at the end."""
    if most is None or len(text) <= most:
        return text
    if most < 60:  # no room for two ends
        return text[:most]
    tail = text[len(text) - most // 2 :]
    tail = tail.partition(" ")[2] if " " in tail[:60] else tail
    head = text[: most - len(tail) - 3]
    head = head.rpartition(" ")[0] if " " in head[-60:] else head
    return f"{head} … {tail}"


class UserError(Exception):
    """Bad input. The message is one line, whatever it quotes: place, value found, rule, remedy."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(shortened(legible(message, max(1, len(message))), 2000))


class Diverged(Exception):
    """A value that must be finite is not. The message names the value; the trial ends as `diverged`."""


class Lost(Exception):
    """Another process of the trial is gone. Nothing is wrong with the trial: it can go on from its checkpoint."""
