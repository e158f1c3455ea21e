"""Which folder of results holds which trial: by what its images are, and by what it records of itself.

A folder is named by the id it was made under. Its identity.json says what that id is the digest of; a folder of the
previous format has none, and is known by its config.yaml and the recorded fingerprint of its pixels. Where the images
are not here, what results recorded of them is taken, and said.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from harness import plugins
from harness.data import identity as identities
from harness.disk import read_json, write_atomic
from harness.errors import UserError
from harness.experiment import ids, loader
from harness.experiment.matrix import entries
from harness.experiment.parse import parse_trial
from harness.experiment.spec import Experiment, Plugin, Trial
from harness.orchestration import shared
from harness.store import checkpoint, remote
from harness.store.folder import finished

NOTE = "data.json"  # in results/<experiment>/: {dataset as written: identity of its images}
PIXELS = "pixels:"  # how the data of a folder begins that knows of its images only their fingerprint


class Found(NamedTuple):
    """An experiment whose trials know their images and the ids that results have for them."""

    experiment: Experiment
    notes: tuple[str, ...]  # a line for whatever is not simply so
    absent: frozenset[str]  # ids of the trials whose images are not here
    data: Mapping[str, str]  # for data.json
    taken: Mapping[
        str, dict[str, Any]
    ]  # folders known by something else than their own identity.json: what it shall be


@dataclass(frozen=True, eq=False)
class _Folder:
    """A trial's folder as it describes itself; `options` as text."""

    name: str
    options: str
    epochs: Mapping[str, int]
    data: str  # an identity, or `pixels:...`, or empty: it can't tell
    ended: bool


@dataclass
class _Images:
    """A dataset of the experiment: its identity if its images are here, or are known before they are downloaded; else
    None."""

    dataset: Plugin
    known: str | None
    identity: str = ""
    assumed: bool = False  # that results of the previous format saw these, which their pixels would tell
    settings: dict[str, None] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """How its place is called in a message."""
        return str(getattr(self.dataset.options, "path", None) or self.dataset.name)

    @cached_property
    def absent(self) -> bool:
        return self.known is None or not ids.is_here(self.dataset)

    @cached_property
    def pixels(self) -> str | None:
        """`pixels:` and the fingerprint of the training images, loaded once a content; None where they are not here."""
        if self.absent:
            return None
        module: Any = plugins.find("harness.datasets", self.dataset.name)
        epochs = ids.epochs({"dataset": module})
        key = ids.digest({"data": self.known, "dataset": ids.dataset_options(self.dataset), "epochs": epochs})
        return PIXELS + identities.remembered(
            (f"pixels-{key}", 0.0), lambda: str(module.load(self.dataset.options).without_folders.fingerprint)
        )


def recognise(experiment: Experiment, results: Path, accept_old: bool = False) -> Found:
    """Find what `results` hold of `experiment`, where they are at a URL also what is not listed there yet.
    `accept_old`: also what an EPOCH touched since, and what can't tell which images it was trained on."""
    found = _Search(experiment, results, accept_old).found()
    todo = entries(found.experiment)
    shared.catch_up((e for e in todo if not finished(results / "trials" / e.id, e.trial)), results)
    return found


def settle(results: Path, found: Found) -> None:
    """Note what was found, so that it is known without looking, and without the images."""
    folder = results / found.experiment.name
    if found.data != read_json(folder / NOTE):
        write_atomic(folder / NOTE, json.dumps(found.data, indent=1).encode())
    for name, identity in found.taken.items():
        path = results / "trials" / name / ids.FILE
        write_atomic(path, json.dumps(identity, indent=1).encode())
        remote.publish(path, f"trials/{name}/{ids.FILE}")


class _Search:
    def __init__(self, experiment: Experiment, results: Path, accept_old: bool) -> None:
        self.experiment, self.trials, self.accept_old = experiment, results / "trials", accept_old
        self.noted: dict[str, str] = read_json(results / experiment.name / NOTE)
        self.images: dict[str, _Images] = {}
        self.taken: dict[str, dict[str, Any]] = {}
        self.odd: dict[tuple[str, str, str], list[str]] = {}  # kind of oddity, setting, place of its images -> folders
        self.claimed: set[str] = set()

    def found(self) -> Found:
        wanted = self._wanted()
        for key, images in self.images.items():
            images.identity = images.known or self.noted.get(key) or ""
        self._from_folders(wanted)
        known = {text: replace(t, data=self.images[_key(t.dataset)].identity) for text, (t, _) in wanted.items()}
        self.claimed = {t.id for t in known.values() if (self.trials / t.id).is_dir()}
        for last in (False, True):  # what is certain first
            for text, trial in known.items():
                if trial.id not in self.claimed and trial.data:
                    known[text] = self._match(trial, wanted[text][1], last)
        tables = tuple(
            replace(t, cells={place: tuple(known[repr(x)] for x in cell) for place, cell in t.cells.items()})
            for t in self.experiment.tables
        )
        absent = frozenset(t.id for t in known.values() if self.images[_key(t.dataset)].absent)
        data = {key: i.identity for key, i in self.images.items() if i.identity}
        return Found(
            replace(self.experiment, tables=tables), tuple(self._notes()), absent, {**self.noted, **data}, self.taken
        )

    def _wanted(self) -> dict[str, tuple[Trial, str]]:
        """The unique trials as the experiment has them, by their texts, with a setting each serves; fills `images`."""
        wanted: dict[str, tuple[Trial, str]] = {}
        for table in self.experiment.tables:
            for (setting, _), cell in table.cells.items():
                for trial in cell:
                    wanted.setdefault(repr(trial), (trial, setting))
                    key = _key(trial.dataset)
                    if key not in self.images:
                        self.images[key] = _Images(trial.dataset, _known(trial.dataset))
                    self.images[key].settings[setting] = None
        return wanted

    @cached_property
    def folders(self) -> dict[str, list[_Folder]]:
        """What lies in results, by options."""
        out: dict[str, list[_Folder]] = {}
        for folder in _folders(self.trials):
            out.setdefault(folder.options, []).append(folder)
        return out

    def _from_folders(self, wanted: Mapping[str, tuple[Trial, str]]) -> None:
        """Of images that are neither here nor noted: the identity that all folders of their trials agree on."""
        unknown = {key for key, images in self.images.items() if not images.identity}
        agreed: dict[str, set[str]] = {key: set() for key in unknown}
        for trial, _ in wanted.values() if unknown else ():
            key = _key(trial.dataset)
            if key in unknown:
                agreed[key] |= {f.data for f in self.folders.get(_options(trial), []) if f.data}
        others = {images.identity for images in self.images.values()}
        for key, found in agreed.items():
            found -= others
            if len(found) > 1:
                found -= {images.pixels or "" for images in self.images.values()}
            if len(found) == 1 and not any(found & other for k, other in agreed.items() if k != key):
                self.images[key].identity = found.pop()

    def _match(self, trial: Trial, setting: str, last: bool) -> Trial:
        """The trial under the name of the folder that holds it, if one does. `last`: also by what is likely or allowed,
        and what else there is gets noted."""
        identity = ids.of_trial(trial)
        images, former = self.images[_key(trial.dataset)], self.noted.get(_key(trial.dataset))
        candidates = [f for f in self.folders.get(_options(trial), []) if f.name not in self.claimed]
        pixels = images.pixels if any(f.data.startswith(PIXELS) for f in candidates) else None
        kinds = {f: _compare(f, trial, identity["epochs"], pixels) for f in candidates}
        likely = [f for f, kind in kinds.items() if kind == "likely"]
        for folder, kind in sorted(kinds.items(), key=lambda pair: not pair[0].ended):
            assumed = last and likely == [folder]
            if kind == "same" or assumed or last and self.accept_old and kind in ("epoch", "likely", "unknown"):
                self.claimed.add(folder.name)
                images.assumed |= assumed
                if identity != {**identity, "epochs": folder.epochs, "data": folder.data}:
                    self.taken[folder.name] = identity
                return replace(trial, known_as=folder.name)
            if kind == "other" and folder.data != former and not folder.data.startswith(PIXELS):
                continue  # of another setting or experiment; nothing says that this one's images were others
            if last and (folder.ended or kind != "other"):
                self.odd.setdefault((kind, setting, images.path), []).append(folder.name)
        return trial

    def _notes(self) -> Iterator[str]:
        for images in self.images.values():
            if images.absent or images.assumed:
                if images.known and not images.assumed:
                    said = "downloaded once a trial needs them"
                elif images.identity:
                    said = "taken for those that results recorded"
                else:
                    said = "and no result says which they were"
                yield f"images of setting {', '.join(images.settings)} are not here ({images.path}): {said}"
        for (kind, setting, path), names in self.odd.items():
            if names := [n for n in dict.fromkeys(names) if n not in self.claimed]:
                yield _odd(kind, setting, path, names)


def _odd(kind: str, setting: str, path: str, names: list[str]) -> str:
    """The line for folders whose trials are not those wanted, and what one can do."""
    count = f"{len(names)} trial{'s' * (len(names) != 1)} of setting {setting}"
    kept = f"(kept: {', '.join(f'trials/{name}' for name in names)}), to be trained anew"
    if kind == "other":
        return f"data changed since: {count} saw other images {kept}; to keep the old figures restore {path}"
    why = "are of code that gives other numbers now" if kind == "epoch" else "can't tell which images they saw"
    return f"{count} {why} {kept}; to take them as they are: matrix --accept-old"


def _compare(folder: _Folder, trial: Trial, epochs: Mapping[str, int], pixels: str | None) -> str:
    """How a folder of the trial's options stands to it: same, epoch, likely (the images that could tell are not here),
    unknown or other."""
    if not folder.data:
        return "unknown"
    if folder.data in (trial.data, pixels):
        return "same" if folder.epochs == epochs else "epoch"
    comparable = pixels is not None or not folder.data.startswith(PIXELS) or trial.data.startswith(PIXELS)
    return "other" if comparable or folder.epochs != epochs else "likely"


def _known(dataset: Plugin) -> str | None:
    try:
        return ids.data_of(dataset)
    except UserError:  # unreadable: whoever needs the images hears of it from `load`
        return None


def _key(dataset: Plugin) -> str:
    """A dataset as the experiment writes it, its path too."""
    return json.dumps({"name": dataset.name, **ids.differing(dataset.options)}, sort_keys=True)


def _options(trial: Trial) -> str:
    return json.dumps(ids.of_trial(trial)["options"], sort_keys=True)


def _folders(trials: Path) -> Iterator[_Folder]:
    """Every trial's folder that says what it is."""
    for path in sorted(trials.glob("*/")):
        result, identity = read_json(path / "result.json"), read_json(path / ids.FILE)
        if identity.keys() >= {"options", "epochs", "data"}:
            options = json.dumps(identity["options"], sort_keys=True)
            yield _Folder(path.name, options, identity["epochs"], identity["data"], bool(result))
        elif (trial := _previous(path, result)) is not None:
            yield _Folder(path.name, _options(trial), {}, trial.data, bool(result))


def _previous(path: Path, result: Mapping[str, Any]) -> Trial | None:
    """The trial in a folder of the previous format, with what is known of its images; None where it says nothing that
    is still understood."""
    try:
        raw = result.get("config") or loader.read_yaml(path / "config.yaml")
        trial = parse_trial(raw, str(path))
    except UserError:
        return None
    if not ids.paths(trial.dataset):
        return replace(trial, data=ids.data_of(trial.dataset) or "")  # its options decide every image
    fingerprint = result.get("dataset", {}).get("fingerprint") or checkpoint.meta(path / "checkpoints").get(
        "fingerprint"
    )
    return replace(trial, data=f"{PIXELS}{fingerprint}" if fingerprint else "")


def paths(experiment: Experiment) -> list[Path]:
    """Where the experiment's images lie."""
    sets = {_key(t.dataset): t.dataset for table in experiment.tables for cell in table.cells.values() for t in cell}
    return [path for dataset in sets.values() for path in ids.lie_at(dataset)]
