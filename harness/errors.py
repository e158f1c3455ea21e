"""The ways in which work ends early on purpose, errors as one line, and what of a URI may be shown."""

import re

_URI = re.compile(r"\b([a-z][a-z0-9+.-]*:/+)(\S+)", re.IGNORECASE)  # as a path, too, which knows no `//`
_HOST = r"(?=[^\W\d]|\[|\d+[.a-z-])"  # a mere number is none
_LOGIN = re.compile(rf"(?<![\w/])[\w.%+-]+:(?![/:])(?:(?!://)\S)*@{_HOST}")  # me:password@host, without a scheme
_NO_SCHEME = re.compile(rf"(?<![\w/:])//(?:[^\s/@]+|[^\s/:@]*:(?:(?!://)\S)*)@{_HOST}")  # //me:password@host
# Of a URI, too, a password with blanks: what follows the colon and begins as no port does.
_BLANKS = re.compile(
    rf"\b([a-z][a-z0-9+.-]*:/+)[^\s/@:]*:(?!\d*(?:[/\s]|$))(?=[^\s@]*\s)(?:(?!://)[^@\n\"'])*@{_HOST}", re.IGNORECASE
)


def redact(text: str) -> str:
    """`text` as it may be stored or shown: of every URI in it, and of every `user:password@host`, the user, the
    password and the values of the query and of the fragment are `***`.

    A password that was not quoted may hold any sign: all up to a word's last `@` is taken for user and password, and
    where that could be a part of the query, or the query of them, nothing of either is shown.
    """
    text = _BLANKS.sub(r"\1***@", text)
    text = _URI.sub(lambda found: found[1] + _without_secrets(found[1], found[2]), text)
    return _LOGIN.sub("***@", _NO_SCHEME.sub("//***@", text))


def _without_secrets(scheme: str, rest: str) -> str:
    place, query = (re.split(r"(?=[?;#][^=?&;#\s]+=)", rest, maxsplit=1) + [""])[:2]
    if "@" in query:
        return "***"
    if scheme.endswith("///"):  # of nobody and no machine; another URI may follow
        place = redact(place)
    elif "@" in place:
        place = f"***@{place.rpartition('@')[2]}"
    return place + re.sub(r"([?&;#][^=&;#\s]+=)[^&;\s]*", r"\1***", query)


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
    """Bad input. The message is one line, whatever it quotes, without passwords: place, value found, rule, remedy."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(shortened(legible(redact(message), max(1, len(message))), 1000))


class NotPossible(UserError):
    """Parts that are each well written and can't be one trial: `run.not_possible: mark` marks its cell instead."""


class Diverged(Exception):
    """A value that must be finite is not. The message names the value; the trial ends as `diverged`."""


class Lost(Exception):
    """Another process of the trial is gone. Nothing is wrong with the trial: it can go on from its checkpoint."""
