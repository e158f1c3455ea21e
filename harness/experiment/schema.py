"""Strict, typed parsing: plain mappings in, frozen dataclasses out.

The fields of a dataclass are the schema. A bound is part of the type and reads as one:
`width: Annotated[float, "> 0"] = 1.0`. Rules across fields are a ValueError raised in
`__post_init__`. Every complaint is one line: place, value found, rule, remedy.
"""

import dataclasses
import math
import operator
import re
import types
import typing
from pathlib import Path
from typing import Any, Literal

from harness.errors import UserError
from harness.plugins import hint

_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}


def parse(cls: Any, raw: object, place: str) -> Any:
    """`raw` as an instance of dataclass `cls`; unknown, missing and ill-typed keys are UserErrors."""
    if not isinstance(raw, dict):
        raise UserError(f"{place}: {raw!r}: must be a mapping of options")
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in raw:
        if key not in fields:
            raise UserError(f"{place}.{key}: unknown key{hint(str(key), sorted(fields))}")
    values = {}
    for name, field in fields.items():
        if name in raw:
            values[name] = convert(hints[name], raw[name], f"{place}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UserError(f"{place}.{name}: missing; give {_words(hints[name])}")
    try:
        return cls(**values)
    except ValueError as e:
        raise UserError(f"{place}.{e}") from None


def convert(hint_: Any, value: object, place: str) -> Any:
    """`value` as the annotated type `hint_`."""
    origin, args = typing.get_origin(hint_), typing.get_args(hint_)
    if origin is typing.Annotated:
        return _bounded(convert(args[0], value, place), args[1:], place)
    if origin is Literal:
        # YAML 1.1 reads a bare `off` as False; a choice that is spelt off is meant so.
        value = "off" if value is False and "off" in args else value
        if value not in args or isinstance(value, bool) and value not in [a for a in args if isinstance(a, bool)]:
            raise UserError(f"{place}: {value!r} is not a choice{hint(str(value), [str(a) for a in args])}")
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        rest = [a for a in args if a is not type(None)]
        for i, arg in enumerate(rest):
            try:
                return convert(arg, value, place)
            except UserError:
                if i == len(rest) - 1:
                    raise
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{place}: {value!r}: must be a list, like [4, 8, 16]")
        if args[-1] is not Ellipsis and len(value) != len(args):
            raise UserError(f"{place}: {value!r}: must have {len(args)} entries")
        each = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        return tuple(convert(a, v, f"{place}[{i}]") for i, (a, v) in enumerate(zip(each, value, strict=True)))
    if origin is dict:
        if not isinstance(value, dict):
            raise UserError(f"{place}: {value!r}: must be a mapping")
        return {convert(args[0], k, place): convert(args[1], v, f"{place}.{k}") for k, v in value.items()}
    if dataclasses.is_dataclass(hint_):
        return parse(hint_, value, place)
    return _scalar(hint_, value, place)


def _scalar(kind: Any, value: object, place: str) -> Any:
    if kind is Any or kind is object:
        return value
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    if type(value) is int and not -(2**63) <= value < 2**63 or type(value) is float and not math.isfinite(value):
        raise UserError(f"{place}: {value!r}: must be finite, and of at most 64 bits")
    if kind is float and type(value) is int:
        return float(value)
    if kind in (int, float, bool, str) and type(value) is kind:
        return value
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind in (int, float) and isinstance(value, str) and _NUMBER.fullmatch(value):
        mantissa, _, exponent = value.partition("e")
        fixed = f"{float(mantissa)}e{exponent}" if exponent else value
        raise UserError(f"{place}: {value!r} is text in YAML 1.1; write {fixed} without quotes")
    raise UserError(f"{place}: {value!r}: must be {_words(kind)}")


def _bounded(value: Any, bounds: tuple[str, ...], place: str) -> Any:
    for bound in bounds:
        for rule in bound.split(","):
            op, limit = rule.split()
            for v in value if isinstance(value, tuple) else [value]:
                if v is not None and not _COMPARE[op](v, float(limit)):
                    raise UserError(f"{place}: {v!r}: must be {bound.replace(',', ' and')}")
    return value


def _words(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Annotated:
        return _words(typing.get_args(kind)[0])
    return _WORDS.get(kind, "a value")


def plain(value: Any) -> Any:
    """A parsed value back as what YAML and JSON can hold: the inverse of `convert`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def mapping(raw: Any, place: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise UserError(f"{place}: {raw!r}: must be a mapping of options")
    return raw
