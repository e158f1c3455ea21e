"""Words of a user's YAML, kept as they stand in the file: YAML 1.1, which is what is read, makes other things of some.

`on` and `no` are true and false there, `010` is eight, `1:30` ninety, `1_000` a thousand, `2024-01-01` a date. What was
meant is known only where the option is: a number may be written 1_000 or 0x10, true and false as on and off; all else
is refused, with the word as it stands and how it must be written.
"""

import re
from datetime import date
from typing import Any

OTHER_BASE = re.compile(r"[-+]?(0[0-9_]|[0-9][0-9_]*:)")  # octal by a mere zero, and sixties
DIGITS = re.compile(r"([-+]?)0*([0-9_]+)")


class Word(str):
    """A plain word of YAML that is not the one way to write its value. `value`: what YAML 1.1 makes of it."""

    value: Any

    def __new__(cls, text: str, value: Any) -> "Word":
        word = super().__new__(cls, text)
        word.value = value
        return word

    @property
    def misread(self) -> bool:
        """Whether its value is another number than the one that a reader sees."""
        return isinstance(self.value, int | float) and bool(OTHER_BASE.match(self)) and "." not in self.split(":")[0]

    def cure(self, number: bool) -> str:
        """What it is read as, and what to write instead where a number, or else text, is asked for."""
        if not number:
            return f'YAML 1.1 reads it as {shown(self.value)}; write "{self}" in quotes'
        if not self.misread:
            return f"YAML 1.1 reads it as {shown(self.value)}"
        digits = DIGITS.fullmatch(self)
        right = digits[1] + digits[2].lstrip("_") if digits else shown(self.value)
        return f"YAML 1.1 reads it as {shown(self.value)}; write {right}"

    def __reduce__(self) -> tuple[type["Word"], tuple[str, Any]]:  # for copies
        return Word, (str(self), self.value)


def meant(value: Any) -> Any:
    """A value as plain data, whatever words it holds."""
    if isinstance(value, list):
        return [meant(v) for v in value]
    return value.value if isinstance(value, Word) else value


def shown(value: Any) -> str:
    """A value as YAML writes it: a word as it stands in the file, text in quotes."""
    if isinstance(value, Word):
        return str.__str__(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, date):
        return f"the date {value.isoformat()}"
    if isinstance(value, float) and value - value != 0:  # infinite, or no number
        return f".{value}" if value == value and value > 0 else "-.inf" if value == value else ".nan"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k if isinstance(k, str) else shown(k)}: {shown(v)}" for k, v in value.items()) + "}"
    return repr(value)
