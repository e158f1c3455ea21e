"""Strict, typed parsing: plain mappings in, frozen dataclasses out.

The fields of a dataclass are the schema. A bound is part of the type and reads as one:
`width: Annotated[float, "> 0"] = 1.0`. Rules across fields are a ValueError raised in
`__post_init__`. Every complaint is one line: place, value found, rule, remedy. A key that is a word of Python's is a
field with an underscore behind it (PEP 8): `from_` is written `from`.
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
from harness.experiment.words import Word, shown
from harness.method.schedules import Schedule
from harness.plugins import hint

_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}


def parse(cls: Any, raw: object, place: str) -> Any:
    """`raw` as an instance of dataclass `cls`; unknown, missing and ill-typed keys are UserErrors."""
    if not isinstance(raw, dict):
        raise UserError(f"{place}: {shown(raw)}: must be a mapping of options")
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {spelt(f): f for f in dataclasses.fields(cls)}
    for key in raw:
        if key not in fields:
            name = key if isinstance(key, str) else shown(key)
            raise UserError(f"{place}.{name}: unknown key{hint(name, sorted(fields))}")
    values = {}
    for name, field in fields.items():
        if name in raw:
            values[field.name] = convert(hints[field.name], raw[name], f"{place}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UserError(f"{place}.{name}: missing; give {_words(hints[field.name])}")
    try:
        return cls(**values)
    except ValueError as e:
        raise UserError(f"{place}.{e}") from None


def convert(hint_: Any, value: object, place: str) -> Any:
    """`value` as the annotated type `hint_`."""
    origin, args = typing.get_origin(hint_), typing.get_args(hint_)
    if origin is typing.Annotated:
        return _bounded(convert(args[0], value, place), args[1:], place, value)
    if origin is Literal:
        # YAML 1.1 reads a bare `off` as False; a choice that is spelt off is meant so.
        read = "off" if value is False and "off" in args else value
        if isinstance(value, Word):
            read = str(value) if str(value) in args or value.misread else value.value
        if read not in args or isinstance(read, bool) and read not in [a for a in args if isinstance(a, bool)]:
            near = hint(str(value), [str(a) for a in args])
            raise UserError(f"{place}: {shown(value)} is not a choice{near}")
        return read
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        rest = [a for a in args if a is not type(None)]
        if isinstance(value, dict):  # meant for what is written as one; else the last choice has the word
            rest = [a for a in rest if _is_mapping(a)] or rest
        for i, arg in enumerate(rest):
            try:
                return convert(arg, value, place)
            except UserError:
                if i == len(rest) - 1:
                    raise
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{place}: {shown(value)}: must be a list, like [4, 8, 16]")
        if args[-1] is not Ellipsis and len(value) != len(args):
            raise UserError(f"{place}: {shown(value)}: must have {len(args)} entries")
        each = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        return tuple(convert(a, v, f"{place}[{i}]") for i, (a, v) in enumerate(zip(each, value, strict=True)))
    if origin is dict:
        if not isinstance(value, dict):
            raise UserError(f"{place}: {shown(value)}: must be a mapping")
        return {convert(args[0], k, place): convert(args[1], v, f"{place}.{k}") for k, v in value.items()}
    if dataclasses.is_dataclass(hint_):
        return parse(hint_, value, place)
    return _scalar(hint_, value, place)


def spelt(field: "dataclasses.Field[Any]") -> str:
    """A field's name as files write it."""
    return field.name.removesuffix("_")


def _is_mapping(kind: Any) -> bool:
    kind = typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return any(map(_is_mapping, typing.get_args(kind)))
    return dataclasses.is_dataclass(kind) or typing.get_origin(kind) is dict


def _scalar(kind: Any, value: object, place: str) -> Any:
    if kind is Any or kind is object:
        return value
    if isinstance(value, Word):
        return _word(kind, value, place)
    if kind is Path and isinstance(value, str) and value:
        return home(value, place)
    if type(value) is int and not -(2**63) <= value < 2**63 or type(value) is float and not math.isfinite(value):
        raise UserError(f"{place}: {shown(value)}: must be finite, and of at most 64 bits")
    if kind is float and type(value) is int:
        return float(value)
    if kind in (int, float, bool, str) and type(value) is kind:
        return value
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind in (int, float) and isinstance(value, str) and _NUMBER.fullmatch(value):
        mantissa, _, exponent = value.lower().partition("e")
        signed = exponent if exponent[:1] in ("+", "-") else f"+{exponent}"
        fixed = f"{float(mantissa)}e{signed}" if exponent else re.sub(r"^([-+]?)0+(?=\d)", r"\1", value)
        raise UserError(f"{place}: {value!r} is text in YAML 1.1; write {fixed} without quotes")
    cure = ""
    if kind is Path and value is None:
        cure = '; a bare ~ is null in YAML, the home folder is "~/" in quotes'
    elif kind is str and value is None:
        cure = "; nothing, or a bare ~, is null in YAML; write text, in quotes if it is one of these words"
    elif kind is str and isinstance(value, bool | int | float):
        cure = f'; write "{shown(value)}" in quotes'
    raise UserError(f"{place}: {shown(value)}: must be {_words(kind)}{cure}")


def _word(kind: Any, word: Word, place: str) -> Any:
    """A word as bool or number where it is written as one in an odd but clear way; refused as anything else."""
    if kind is bool and isinstance(word.value, bool):
        return word.value
    if kind in (int, float) and isinstance(word.value, int | float) and not isinstance(word.value, bool):
        if word.misread:
            raise UserError(f"{place}: {word}: must be {_words(kind)} as it reads{_cure(word, number=True)}")
        try:
            return _scalar(kind, word.value, place)
        except UserError as e:
            raise UserError(str(e).replace(f"{place}: {shown(word.value)}:", f"{place}: {word}:", 1)) from None
    raise UserError(f"{place}: {word}: must be {_words(kind)}{_cure(word, number=kind in (int, float, bool))}")


def _cure(value: object, number: bool = False) -> str:
    return f"; {value.cure(number)}" if isinstance(value, Word) else ""


def home(text: str, place: str) -> Path:
    """A path of the user's, `~` in front as the home folder."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{place}: {text!r}: {text.split('/')[0]} is nobody's home folder here; write it out") from None


def _bounded(value: Any, bounds: tuple[str, ...], place: str, raw: object) -> Any:
    """`value` within its bounds; `raw` is what stands in the file for it."""
    if isinstance(value, Schedule):
        assert isinstance(raw, dict)
        _bounded(value.from_, bounds, f"{place}.from", raw["from"])
        _bounded(value.to, bounds, f"{place}.to", raw["to"])
        return value
    written = raw if isinstance(value, tuple) and isinstance(raw, list | tuple) else [raw]
    for bound in bounds:
        for rule in bound.split(","):
            op, limit = rule.split()
            for v, at in zip(value if isinstance(value, tuple) else [value], written, strict=True):
                if v is not None and not _COMPARE[op](v, float(limit)):
                    raise UserError(f"{place}: {shown(at)}: must be {bound.replace(',', ' and')}")
    return value


def _words(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Annotated:
        return _words(typing.get_args(kind)[0])
    return _WORDS.get(kind, "a value")


def plain(value: Any) -> Any:
    """A parsed value back as what YAML and JSON can hold: the inverse of `convert`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {spelt(f): plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def mapping(raw: Any, place: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise UserError(f"{place}: {shown(raw)}: must be a mapping of options{_cure(raw)}")
    return raw
