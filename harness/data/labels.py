"""The label table of StyleGAN's format: `dataset.json`, {"labels": [[file name, class number], ...]}.

Names in it are names, not bytes: both slashes part folders, `./` in front means nothing, and letters with marks are
the same in every normal form of Unicode. What is there and is not read, is named.
"""

import json
import unicodedata
from collections.abc import Callable, Collection, Iterable
from pathlib import PurePosixPath
from typing import Any

from harness.errors import UserError, one_line

EPOCH = 1

LABELS = "dataset.json"
MAX_CLASSES = 100_000
DATA = (
    ".json", ".jsonl", ".csv", ".tsv", ".txt", ".xml", ".yaml", ".yml", ".parquet", ".arrow", ".npy", ".npz", ".mat",
    ".pkl", ".pt", ".lst",
)  # fmt: skip
PROSE = ("readme", "license", "licence", "copying", "notice", "changelog", "citation")
SHOWN = 3


def normal(name: str) -> str:
    """A file's name as names are compared."""
    if name.isascii() and not any(odd in f"/{name}" for odd in ("\\", "//", "/.")):
        return name
    parts = unicodedata.normalize("NFC", name.replace("\\", "/")).split("/")
    return "/".join(part for part in parts if part not in ("", "."))


def read_meta(read: Callable[[str], bytes], name: str, place: str) -> dict[str, Any]:
    """The mapping in dataset.json, which lies under `name`."""
    try:
        meta = json.loads(read(name))
    except (ValueError, RecursionError) as e:
        raise UserError(f"{place}: {LABELS}: not readable JSON ({one_line(e)}); make it again") from None
    if not isinstance(meta, dict):
        raise UserError(f'{place}: {LABELS}: must be a mapping {{"labels": [[file name, class], ...]}}')
    return meta


def read_labels(meta: dict[str, Any], names: Collection[str], place: str) -> dict[str, int] | None:
    """The class number of each of `names`; None where the table is empty. UserError where it is not one of them all."""
    raw = meta.get("labels")
    if not raw:
        return None
    try:
        rows = [(name, label) for name, label in raw]
    except (TypeError, ValueError):
        rows = []
    if not isinstance(raw, list) or not rows or not all(isinstance(name, str) for name, _ in rows):
        raise UserError(f"{place}: labels: must be a list of [file name, class], each file once")
    for name, label in rows:
        if type(label) is not int or not 0 <= label < MAX_CLASSES:
            raise UserError(f"{place}: {name}: label {label!r}: must be a class number from 0 to {MAX_CLASSES - 1}")
    meant = _Meant(names)
    labels: dict[str, int] = {}
    for name, label in rows:
        file = meant.file(name, place)
        if file in labels:
            raise UserError(f"{place}: labels: {name!r}: is there twice; must name each file once")
        labels[file] = label
    for name in names:
        if name not in labels:
            raise UserError(f"{place}: {name!r} has no label; label every image, or drop all labels")
    return labels


class _Meant:
    """Which file a name in the table means: the one of the very name, else the only one that is the same name."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = set(names)
        self._same: dict[str, list[str]] = {}
        for name in names:
            for form in {normal(name), normal(_as_utf8(name))}:
                self._same.setdefault(form, []).append(name)

    def file(self, name: str, place: str) -> str:
        if name in self._names:
            return name
        same = self._same.get(normal(name), [])
        if len(same) > 1:
            raise UserError(f"{place}: {name!r} could be {same[0]!r} or {same[1]!r}; rename one of them")
        if not same:
            near = [n for form, them in self._same.items() if form.casefold() == normal(name).casefold() for n in them]
            hint = f" (there is {near[0]!r})" if near else ""
            raise UserError(f"{place}: {name!r} has a label but is not there{hint}; add the file or drop the label")
        return same[0]


def _as_utf8(name: str) -> str:
    """A name that a ZIP holds in UTF-8 without saying so, which is read as the code page of the first PCs."""
    try:
        return name.encode("cp437").decode("utf-8")
    except ValueError:
        return name


def unused(others: Iterable[str], meta: dict[str, Any]) -> list[str]:
    """Notes on what could hold labels and is not read: files that are no images, and keys of dataset.json."""
    said = []
    files = [n for n in sorted(others) if _is_data(n)]
    elsewhere = [n for n in files if PurePosixPath(normal(n)).name.lower() == LABELS]
    if elsewhere:
        said.append(f"not used: {shown(elsewhere)}; labels must be in {LABELS}, of that very name and at the top")
    rest = [n for n in files if n not in elsewhere]
    if rest:
        said.append(f"not used: {shown(rest)}; labels are read from {LABELS} at the top")
    keys = [str(k) for k in meta if k not in ("labels", "prepared")]
    if keys:
        said.append(f"not used: {shown(keys)} in {LABELS}; labels are read from its key labels")
    return said


def why_none(names: Collection[str], at_top: bool, said: list[str]) -> str:
    """Why these images have no labels, with what to do."""
    if said:
        return "; ".join(said)
    if at_top:
        return f"{LABELS} has no labels"
    folders = sorted({normal(n).rpartition("/")[0] for n in names} - {""})
    also = f"; names of folders ({shown(folders)}) are not read as labels" if len(folders) > 1 else ""
    return f"there is no {LABELS} at the top{also}"


def shown(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def _is_data(name: str) -> bool:
    path = PurePosixPath(normal(name))
    return path.suffix.lower() in DATA and not path.stem.lower().startswith(PROSE)
