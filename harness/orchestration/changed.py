"""Trials that other code made than is here, and what becomes of them before anything runs."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from harness.disk import read_json
from harness.errors import UserError
from harness.experiment.matrix import Entry
from harness.experiment.parse import scoring_of
from harness.experiment.spec import Trial
from harness.orchestration import attempt
from harness.store import code, lease, remote
from harness.store.folder import finished, stored, take, was_scored
from harness.store.folder import results as scorings

Choice = Literal["ask", "accept", "retrain"]
SHOWN = 5  # names of trials in a line


class Judged(NamedTuple):
    """What becomes of trials, by id: put away and trained again, accepted (with the modules), scored again."""

    away: frozenset[str]
    taken: Mapping[str, tuple[str, ...]]
    again: frozenset[str]
    notes: tuple[str, ...]

    @property
    def unfinished(self) -> frozenset[str]:
        return self.away | self.again


def judge(
    entries: Sequence[Entry],
    results: Path,
    experiment: str,
    choice: Choice,
    rescore: bool,
    old: Collection[str] | None = None,
) -> Judged:
    """What `choice` says about trials of other code; nothing is done yet.

    Trials (finished, or with a checkpoint) that other code trains: `ask` refuses them in one line, `accept` notes in
    their folders that the code here is as good, `retrain` (what was accepted before, too) puts their folders away under
    results/superseded. Those that other code only scores are scored again, unless accepted; `rescore`: all that were
    scored. None is trained for it: one whose result is scored otherwise than asked, and whose networks are gone, is
    refused, too, or with `retrain` put away. `old`: the folders that are taken as they are though an EPOCH touched them
    (None: not asked for), so the code that trained them is accepted.
    """
    home, by_id = results / "trials", {e.id: e for e in entries}
    found = {id: stored(home / id, e.trial) for id, e in by_id.items()}
    otherwise = {id for id, e in by_id.items() if found[id] and not finished(home / id, e.trial)}
    whole = {id for id, result in found.items() if is_whole(home / id, result)}
    accepted = choice != "retrain"
    others = {id: code.other(home / id, e.trial, found[id], accepted=accepted) for id, e in by_id.items()}
    others |= {id: others[id]._replace(scoring=()) for id in otherwise}  # scored again in any case

    def names(ids: Iterable[str]) -> str:
        found = [by_id[id].name for id in ids]
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return f"{len(found)} trial{'s' * (len(found) > 1)} ({', '.join(found[:SHOWN])}{more})"

    trained = {id: o.training for id, o in others.items() if o.training and id not in (old or ())}
    also = "" if old is None else "--accept-old "
    if trained and choice == "ask":
        raise UserError(
            f"{experiment}: other code than is here trained {names(trained)}: {_files(trained.values())}; train them "
            f"again: {also}--retrain (their old folders are kept), or go on with them as they are: {also}--accept-code"
        )
    lost = sorted(otherwise - whole)
    if lost and choice != "retrain":
        raise UserError(
            f"{experiment}: scored otherwise than is asked for, and without the last checkpoint that could be scored "
            f"again: {names(lost)}; train them again: {also}--retrain (their old folders are kept), or ask for the "
            "scoring that they have"
        )
    away = trained.keys() | lost if choice == "retrain" else set()
    taken = {id: (*o.training, *o.scoring) for id, o in others.items() if any(o)} if choice == "accept" else {}
    for id in old or ():
        if id not in away and others[id].training:
            taken.setdefault(id, others[id].training)
    scored = {id: o.scoring for id, o in others.items() if o.scoring}
    if rescore:
        scored = {id: others[id].scoring for id, result in found.items() if was_scored(result)}
    if choice == "accept" and not rescore:
        scored = {}
    scored |= dict.fromkeys(otherwise, ())
    scored = {id: modules for id, modules in scored.items() if id not in away}
    again = {id: modules for id, modules in scored.items() if id in whole}
    gone = sorted(scored.keys() - again.keys())
    notes = []
    if away:
        notes.append(f"trained again, what was there is in {results / 'superseded'}: {names(away)}")
    if taken:
        notes.append(f"taken for made by the code that is here ({_files(taken.values())}): {names(taken)}")
    new = sorted(id for id in again.keys() & otherwise if not _was_asked(home / id, by_id[id].trial))
    if anew := {id: modules for id, modules in again.items() if id not in new}:
        why = f" ({_files(anew.values())})" if any(anew.values()) else ""
        notes.append(f"scored again by the code that is here{why}, and not trained: {names(anew)}")
    if new:
        notes.append(f"trained before and not yet scored as is asked for, so only scored: {names(new)}")
    if gone:
        notes.append(f"not scored again, since their last checkpoint is gone: {names(gone)}")
    return Judged(frozenset(away), taken, frozenset(again), tuple(notes))


def settle(
    entries: Sequence[Entry],
    results: Path,
    experiment: str,
    judged: Judged,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Put away, and note as accepted, what was judged so. Busy where a driver works on the experiment."""
    if not (judged.away or judged.taken):
        return
    with lease.drive(results / experiment, say):
        for id in judged.away:
            supersede(results, id)
        for e in entries:
            if e.id in judged.taken:
                folder = results / "trials" / e.id
                code.accept(folder, code.deciding(e.trial), judged.taken[e.id])
                for name in (code.COPIES, code.RECORD):
                    remote.publish(folder / name, f"trials/{e.id}/{name}")


def adopt(entries: Iterable[Entry], results: Path) -> str | None:
    """Let finished trials of versions that kept no record of code hang on the code at hand; one line where they can't,
    because it is not as released."""
    edited: dict[str, tuple[str, ...]] = {}
    for e in entries:
        folder = results / "trials" / e.id
        if code.read(folder) or "code" in read_json(folder / "result.json"):
            continue
        if modules := code.adopt(folder, e.trial):
            edited[e.name] = modules
        else:
            for name in (code.COPIES, code.RECORD):
                remote.publish(folder / name, f"trials/{folder.name}/{name}")
    if not edited:
        return None
    return (
        f"{len(edited)} trials are of a version that kept no record of code, and files here are not as released: "
        f"{_files(edited.values())}; whether these are still the same code can't be told"
    )


def supersede(results: Path, id: str) -> None:
    """Put the folder of a trial away under the first free results/superseded/<id>-<n>. Attempts count on, so that a
    worker that lives on in it, that of another experiment perhaps, writes nothing more."""
    folder, away = results / "trials" / id, results / "superseded"
    away.mkdir(exist_ok=True)
    n = next(n for n in range(1, 10**6) if not (away / f"{id}-{n}").exists() and remote.is_free(f"superseded/{id}-{n}"))
    number = attempt.begin(folder)
    remote.supersede(id, f"superseded/{id}-{n}")
    folder.rename(away / f"{id}-{n}")
    take(folder, number)


def is_whole(folder: Path, result: Mapping[str, Any]) -> bool:
    """Whether the trained networks are there (at a URL: said to be), so that scoring trains nothing."""
    try:
        latest = json.loads((folder / "checkpoints" / "latest.json").read_text(encoding="utf-8"))
        here = remote.url() is not None or (folder / "checkpoints" / latest["file"]).exists()
        return bool(here and latest["nimg"] == result.get("nimg"))
    except (OSError, ValueError, TypeError, KeyError):  # not there, or spoilt
        return False


def _was_asked(folder: Path, trial: Trial) -> bool:
    """Whether a result has scores by these options, be they of other code, or to other images."""
    asked = trial.scoring["options"]
    return any((scoring_of(result) or {}).get("options") == asked for result in scorings(folder))


def _files(modules: Iterable[Iterable[str]]) -> str:
    return code.files(sorted({name for of in modules for name in of}))
