"""Pickles read as data: the opcodes are followed, but nothing a file names is looked up or called.

A format that needs more than numbers, text, lists and dicts subclasses `Reader` and says what
stands for the objects it knows. Everything that is built comes out of the file's own bytes,
so nothing grows beyond the file's size.
"""

import pickletools
from dataclasses import dataclass, field
from mmap import mmap
from typing import IO, Any

from harness.errors import legible


class Refused(ValueError):
    """The bytes are no pickle of what its reader knows. The message is part of one line."""

    def __init__(self, message: str) -> None:
        super().__init__(legible(message))


@dataclass(frozen=True)
class Name:
    """A class or function that a file refers to."""

    module: str
    attribute: str

    def __str__(self) -> str:
        return f"{self.module}.{self.attribute}"


@dataclass(eq=False)
class Record:
    """What `name` would have made of `args`, left unmade, with the state and content meant for it."""

    name: Name
    args: tuple[Any, ...]
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    entries: list[Any] = field(default_factory=list)


# fmt: off
_LITERALS = frozenset((
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
))
# fmt: on
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, type] = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MALFORMED = (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


class Reader:
    """Follows one pickle. The methods of the first part refuse; a subclass allows what it knows."""

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps

    # ── what a subclass may allow ────────────────────────────────────────────

    def name(self, name: Name) -> Any:
        """What goes on the stack for a class or function named in the file."""
        raise Refused(f"it names {name}, which is no plain data, so it is not run")

    def call(self, name: Name, args: tuple[Any, ...]) -> Any:
        """What stands for the result of calling `name`."""
        raise Refused(f"it calls {name}, which is no plain data, so it is not run")

    def new(self, name: Name, args: tuple[Any, ...]) -> Any:
        """What stands for a new object of class `name`."""
        raise Refused(f"it holds an object of {name}, which is no plain data, so it is not made")

    def build(self, target: Any, state: Any) -> Any:
        """`target` with its state set."""
        raise Refused(f"it sets the state of {type(target).__name__}")

    def persistent(self, key: Any) -> Any:
        """What stands for an object that is kept outside of the pickle."""
        raise Refused("it refers to objects outside of the file")

    # ── the interpreter ──────────────────────────────────────────────────────

    def read(self, data: bytes | IO[bytes] | mmap) -> Any:
        """The object in `data`; of a stream, one pickle is read. Give files as `mmap`: no length that a
        file claims is then allocated unless its bytes are there.

        Raises Refused for whatever the reader doesn't allow, and for a cut or malformed pickle.
        """
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        stream: Any = data  # an mmap reads like a file, which its type doesn't say
        try:
            for count, (opcode, arg, _) in enumerate(pickletools.genops(stream)):
                if count == self.max_steps:
                    raise Refused(f"it has more than {self.max_steps} steps")
                if opcode.name == "STOP":
                    return self._stack.pop()
                self._step(opcode.name, arg)
        except Refused:
            raise
        except _MALFORMED as e:
            raise Refused(f"it is cut or malformed: {str(e)[:100]}") from None
        raise Refused("it has no end")

    def _step(self, op: str, arg: Any) -> None:
        stack = self._stack
        if op in _LITERALS:
            stack.append(arg)
        elif op == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif op in ("BINPUT", "LONG_BINPUT", "PUT"):
            self._memo[int(arg)] = stack[-1]
        elif op in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self._memo[int(arg)])
        elif op in _CONSTANTS:
            stack.append(_CONSTANTS[op])
        elif op in _EMPTY:
            stack.append(_EMPTY[op]())
        elif op in _TUPLES:
            stack.append(tuple(self._top(_TUPLES[op])))
        elif op == "MARK":
            self._marks.append(len(stack))
        elif op == "TUPLE":
            stack.append(tuple(self._since_mark()))
        elif op == "LIST":
            stack.append(self._since_mark())
        elif op == "DICT":
            stack.append(_pairs(self._since_mark()))
        elif op == "FROZENSET":
            stack.append(frozenset(_keys(self._since_mark())))
        elif op in ("APPEND", "APPENDS"):
            items = self._since_mark() if op == "APPENDS" else self._top(1)
            target = stack[-1]
            expect(target.entries if isinstance(target, Record) else target, list).extend(items)
        elif op in ("SETITEM", "SETITEMS"):
            items = self._since_mark() if op == "SETITEMS" else self._top(2)
            target = stack[-1]
            expect(target.items if isinstance(target, Record) else target, dict).update(_pairs(items))
        elif op == "ADDITEMS":
            items = self._since_mark()
            expect(stack[-1], set).update(_keys(items))
        elif op == "GLOBAL":
            stack.append(self.name(Name(*arg.split(" ", 1))))
        elif op == "STACK_GLOBAL":
            module, attribute = self._top(2)
            stack.append(self.name(Name(expect(module, str), expect(attribute, str))))
        elif op == "REDUCE":
            name, args = self._top(2)
            stack.append(self.call(expect(name, Name), expect(args, tuple)))
        elif op == "NEWOBJ":
            name, args = self._top(2)
            stack.append(self.new(expect(name, Name), expect(args, tuple)))
        elif op == "BUILD":
            target, state = self._top(2)
            stack.append(self.build(target, state))
        elif op in ("PERSID", "BINPERSID"):
            stack.append(self.persistent(arg if op == "PERSID" else self._top(1)[0]))
        elif op == "POP":  # this and the next undo what a pickler wrote before it met a cycle
            self._top(1)
        elif op == "POP_MARK":
            self._since_mark()
        elif op not in ("PROTO", "FRAME"):
            raise Refused(f"it uses the opcode {op}, which plain data doesn't need")

    def _since_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _top(self, n: int) -> list[Any]:
        if n > len(self._stack):
            raise Refused("its stack runs empty")
        items = self._stack[-n:]
        del self._stack[-n:]
        return items


def expect(value: Any, kind: type) -> Any:
    """`value` if it is just of that type."""
    if type(value) is not kind:
        raise Refused(f"it has {type(value).__name__.lower()} where {kind.__name__.lower()} belongs")
    return value


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(_keys(items[::2]), items[1::2], strict=True))


def _keys(keys: list[Any]) -> list[Any]:
    """Values that may be hashed: a deeply nested tuple would overflow the interpreter's own stack."""
    plain = (str, bytes, int, float, Name, Record, type(None))
    for key in keys:
        if not (isinstance(key, plain) or isinstance(key, tuple) and all(isinstance(k, plain) for k in key)):
            raise Refused(f"it has {type(key).__name__} as a key where text belongs")
    return keys
