"""The label table of StyleGAN's format: `dataset.json`, {"labels": [[file name, class number], ...]}.

Names in it are names, not bytes: both slashes part folders, `./` in front means nothing, and letters with marks are
the same in every normal form of Unicode. What is there and is not read, is named.

Where there is no table, folders are classes (the convention of torchvision's ImageFolder): see `of_folders`.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
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
SPLITS = ("train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval")
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


def named(table: bytes, names: Collection[str]) -> set[str] | None:
    """Those of `names` that a dataset.json gives a label; None where it has no labels, or none that can be read."""
    try:
        rows = {normal(name) for name, _ in json.loads(table)["labels"]}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return {n for n in names if normal(n) in rows or normal(_as_utf8(n)) in rows} if rows else None


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
    keys = [str(k) for k in meta if k not in ("labels", "prepared") and not (k == "classes" and class_names(meta))]
    if keys:
        said.append(f"not used: {shown(keys)} in {LABELS}; labels are read from its key labels")
    return said


def why_none(at_top: bool, said: list[str], folders: str) -> str:
    """Why these images have no labels, with what to do; `folders`: why their folders are no classes."""
    if said:
        return "; ".join(said)
    if at_top:
        return f"{LABELS} has no labels"
    return f"there is no {LABELS} at the top{f'; {folders}' if folders else ''}"


def class_names(meta: dict[str, Any]) -> tuple[str, ...]:
    """What dataset.json calls its classes, in the order of their numbers; empty where it does not say so."""
    found = meta.get("classes")
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        return ()
    return tuple(found)


@dataclass(frozen=True)
class Folders:
    """`labels` by file name and the `classes` they number; or None, () and `why`, a clause, or empty."""

    labels: dict[str, int] | None
    classes: tuple[str, ...] = ()
    why: str = ""


def of_folders(names: Collection[str], others: Iterable[str]) -> Folders:
    """Class numbers by folder, in the order of the folders' names: where every image lies in one of several folders
    at the top, or at the top of the one folder that holds everything, as a ZIP of a folder has it. How deep inside
    of it an image lies is all the same.

    No classes are folders called like the parts of a data set (SPLITS), and numbers of five digits, into which FFHQ
    and StyleGAN's ZIPs are cut. A label table among `others` at the same place is what was meant, though not read.
    """
    folders = {name: normal(name).split("/")[:-1] for name in names}
    least, most = min(folders.values()), max(folders.values())
    depth = next((i for i, (a, b) in enumerate(zip(least, most, strict=False)) if a != b), min(len(least), len(most)))
    top = "/".join([*least[:depth], LABELS])
    if any(normal(name).lower() == top.lower() for name in others):
        return Folders(None)
    loose = min((name for name, parts in folders.items() if len(parts) == depth), default=None)
    if loose is not None:
        some = sorted({parts[depth] for parts in folders.values() if len(parts) > depth})
        return Folders(None, why=f"folders ({shown(some)}) are no classes: {loose} is in none" if some else "")
    classes = sorted({parts[depth] for parts in folders.values()})
    if all(name.lower() in SPLITS for name in classes):
        return Folders(None, why=f"folders ({shown(classes)}) are no classes but parts of a data set; name one of them")
    if all(re.fullmatch(r"[0-9]{5}", name) for name in classes):
        return Folders(None, why=f"folders ({shown(classes)}) are no classes but numbered parts")
    number = {name: i for i, name in enumerate(classes)}
    return Folders({name: number[parts[depth]] for name, parts in folders.items()}, tuple(classes))


def shown(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def _is_data(name: str) -> bool:
    path = PurePosixPath(normal(name))
    return path.suffix.lower() in DATA and not path.stem.lower().startswith(PROSE)
