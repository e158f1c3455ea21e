"""YAML read safely: nothing in it is executed, no key is lost, and a small text can't unfold to a large one.

The only yaml import.
"""

from datetime import date
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from harness.errors import UserError
from harness.experiment.schema import mapping
from harness.experiment.words import Word

MAX_SIZE = 64 * 2**10  # bytes of a file, and characters it may unfold to where it repeats parts of itself
MAX_DEPTH = 50


def read_yaml(path: Path, words: bool = False) -> dict[str, Any]:
    """The mapping in a file. UserError where it is none, not readable, or larger than an experiment's.

    `words`: what YAML 1.1 turns into something else than it looks like comes as a `Word`, for `schema` to judge.
    """
    try:
        if (size := path.stat().st_size) > MAX_SIZE:
            raise UserError(f"{path}: {size} bytes: must be at most {MAX_SIZE}; give an experiment file")
        text = path.read_text(encoding="utf-8")
    except OSError as e:
        raise UserError(f"{path}: {e.strerror}; check the path and its permissions") from None
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: not readable as YAML: {e}; save it as UTF-8") from None
    return mapping(parse_yaml(text, str(path), words), str(path))


def parse_yaml(text: str, place: str, words: bool = False) -> Any:
    """The plain data in `text`; YAML can name no class and call nothing here. `words` as in `read_yaml`."""
    try:
        return yaml.load(text, _Words if words else _Loader)
    except Exception as e:  # on odd scalars the library raises what its conversions do: KeyError, AttributeError, ...
        reason = str(e) if isinstance(e, yaml.YAMLError | ValueError) else repr(e)
        raise UserError(f"{place}: not readable as YAML: {reason}") from None


def dump_yaml(value: Any) -> str:
    """Plain data as YAML, keys in their order."""
    return yaml.safe_dump(value, sort_keys=False, default_flow_style=None, width=110)


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, which YAML would silently overwrite, and bounds what a
    small text can unfold to."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth, self._sizes = 0, dict[int, int]()  # by node: its characters, with those of its aliases

    def compose_node(self, parent: Any, index: Any) -> Any:
        fresh, mark = not self.check_event(yaml.AliasEvent), self.peek_event().start_mark
        self._depth += 1
        node = super().compose_node(parent, index) if self._depth <= MAX_DEPTH else None
        self._depth -= 1
        if node is None or not fresh and id(node) not in self._sizes:
            raise yaml.composer.ComposerError(None, None, f"nested in more than {MAX_DEPTH} levels, or in itself", mark)
        if fresh:
            parts = chain(*node.value) if isinstance(node, yaml.MappingNode) else node.value
            within = len(parts) if isinstance(parts, str) else sum(self._sizes[id(part)] for part in parts)
            self._sizes[id(node)] = 1 + within
        if self._sizes[id(node)] > MAX_SIZE:
            raise yaml.composer.ComposerError(None, None, f"unfolds to more than {MAX_SIZE} characters", mark)
        return node

    def construct_yaml_int(self, node: Any) -> int:
        value: int = super().construct_yaml_int(node)
        if value.bit_length() > 63:  # of a longer one, even a message may not be made
            raise yaml.constructor.ConstructorError(None, None, "whole number of more than 64 bits", node.start_mark)
        return value

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *other` may be overridden
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float | bool) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key if isinstance(key, str | int | float | bool) else str(key))
        return super().construct_mapping(node, deep)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


class _Words(_Loader):
    """Keeps the words that are not the one way to write their value."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        value = super().construct_object(node, deep)
        if isinstance(node, yaml.ScalarNode) and node.style is None and isinstance(value, bool | int | float | date):
            usual = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
            return value if node.value == usual else Word(node.value, value)
        return value
