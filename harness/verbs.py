"""A command line as a table: its verbs, each with what it does, the options it takes and examples; and the parser that
is made of it."""

import argparse
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from harness.errors import redact

Run = Callable[[argparse.Namespace], int]
"""What a verb does with its options: returns the exit code."""


class Option(NamedTuple):
    """One option, as `add_argument` takes it."""

    names: tuple[str, ...]
    how: dict[str, Any]


class Verb(NamedTuple):
    """What a word of the command line does, and the options it takes. `examples`: words behind it, `# why` at their
    end."""

    run: Run
    what: str
    options: tuple[Option, ...]
    examples: tuple[str, ...]


class Verbs(dict[str, Verb]):
    """{word: verb} of a program. Each verb takes the options `common`, too; those of its options that have one `dest`
    exclude each other."""

    def __init__(self, program: str, what: str, *common: Option) -> None:
        super().__init__()
        self.program, self.what, self.common = program, what, common

    def enter(self, what: str, *options: Option, examples: tuple[str, ...]) -> Callable[[Run], Run]:
        """Enter the function below under its name."""

        def enter(run: Run) -> Run:
            self[run.__name__.replace("_", "-")] = Verb(run, what, options, examples)
            return run

        return enter

    def parser(self) -> argparse.ArgumentParser:
        """Reads the words into a namespace whose `verb` is a key of this."""
        top = _Parser(self.program, description=self.what)
        words = top.add_subparsers(dest="verb", required=True, metavar="VERB")
        for name, verb in self.items():
            shown = "".join(f"\n  {self.program} {name} {rest}".rstrip() for rest in verb.examples)
            p = words.add_parser(
                name, help=verb.what, description=verb.what, epilog=f"examples:{shown}",
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )  # fmt: skip
            options = (*verb.options, *self.common)
            several = Counter(o.how.get("dest") for o in options)
            groups = {d: p.add_mutually_exclusive_group() for d, n in several.items() if d is not None and n > 1}
            for o in options:
                groups.get(o.how.get("dest"), p).add_argument(*o.names, **o.how)
        return top


def option(*names: str, **how: Any) -> Option:
    """One option, as `add_argument` takes it."""
    return Option(names, how)


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, as everything here does."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {redact(' '.join(message.split()))}; see {self.prog} --help\n")
