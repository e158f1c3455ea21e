"""One experiment from start to report: what `nashboard matrix` does, as a function."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from harness import disk, outside
from harness.experiment.matrix import Entry, entries
from harness.experiment.spec import Experiment
from harness.orchestration import changed, cluster, fit, possible, recognise, shared, speeds
from harness.orchestration import finished as notes
from harness.orchestration.launch import Tell, launch
from harness.report import collect as reading
from harness.report import tables
from harness.report import write as reports
from harness.report.model import Report
from harness.store import claim, code, remote
from harness.store.folder import RESULT, answer, finished
from harness.tracking.sink import Sink
from harness.tracking.sink import sync as send
from harness.trial.preflight import preflight

Display = Callable[[dict[str, str]], AbstractContextManager[Tell]]  # {trial id: name} -> who hears of their progress


@dataclass(frozen=True)
class Result:
    """What came of a matrix. `ends`: {trial id: done, diverged, failed, oom, timeout, hung, interrupted}. `written`:
    the files of the report. `told`: MLflow has all there is, or was not asked for; `books` say what it has."""

    experiment: Experiment
    trials: tuple[Entry, ...]
    ends: Mapping[str, str]
    report: Report
    written: tuple[Path, ...]
    told: bool
    books: tuple[Path, ...]

    @property
    def exit_code(self) -> int:
        """0: every trial is done, 1: some trial is not, 130: interrupted."""
        if "interrupted" in self.ends.values():
            return 130
        return int(any(word != "done" for word in self.ends.values()))


def run(
    experiment: Experiment,
    results: Path,
    *,
    launcher: Literal["ray", "inline"] = "ray",
    address: str | None = None,
    ship_code: bool = True,
    tracking_uri: str | None = None,
    retry_failed: bool = False,
    other_code: changed.Choice = "ask",
    rescore: bool = False,
    accept_old: bool = False,
    say: Callable[[str], None] = lambda line: None,
    display: Display = lambda names: nullcontext(_unheard),
) -> Result:
    """Preflight, run what is unfinished, and write the report.

    `launcher`: trials on Ray (a Ray of our own, or the cluster at `address`, host:port, which is shipped our code), or
    `inline`, one after another in this process. `tracking_uri`: an MLflow server; None: a SQLite file in `results`;
    "off": none. `retry_failed`: try again what failed before. `other_code` and `rescore` as in `changed.judge`.
    `accept_old` as in `recognise`. `say` hears a line now and then. Raises UserError for bad input before anything
    runs, Busy where another driver is at it.
    """
    if launcher == "ray" and address is not None:
        cluster.reach(address)  # in seconds; all that follows may take minutes
    outside.use_paths(experiment.plugins, f"{experiment.path}: plugins")  # another may have been loaded since
    results = results.absolute()
    known_as = recognise.recognise(experiment, results, accept_old)
    experiment = known_as.experiment
    claim.check(experiment, results)
    todo = entries(experiment, partial(speeds.seconds, records=speeds.measured()))
    old = known_as.taken.keys() if accept_old else None
    judged = changed.judge(todo, results, experiment.name, other_code, rescore, old)

    def ended(entry: Entry) -> str | None:
        result = finished(results / "trials" / entry.id, entry.trial)
        return str(result["status"]) if result and entry.id not in judged.unfinished else None

    known = {e.id: word for e in todo if (word := ended(e)) is not None}
    left = [e.trial for e in todo if e.id not in known]
    fit.check(left, experiment.run)
    refused = possible.asked(experiment)
    left_out = preflight(left, str(experiment.path), mark=refused)
    experiment = possible.marked(experiment, refused)
    todo = tuple(e for e in todo if e.id not in (refused or {}))
    disk.check_writable(results / experiment.name)
    remote.check_writable()
    claim.take(experiment, results)
    possible.keep(experiment, results, refused)
    recognise.settle(results, known_as)
    changed.settle(todo, results, experiment.name, judged, say)
    say(counted(experiment, len(todo), len(known)))
    unknown = changed.adopt([e for e in todo if e.id in known], results)
    for line in filter(None, (*known_as.notes, *judged.notes, unknown, *left_out, *possible.told(experiment))):
        say(line)
    sink = None
    if tracking_uri != "off":
        note = partial(_note, experiment, results)
        sink = Sink(results, experiment.name, todo, tracking_uri, note)
    ends: Mapping[str, str] = known
    if len(known) < len(todo) or (sink and not sink.settled):
        try:
            with display({e.id: e.name for e in todo}) as progress, remote.refreshed(results):
                ends = launch(
                    todo, results, experiment.run, experiment=experiment.name, finished=ended,
                    on_progress=progress, local=launcher == "inline", address=address,
                    ship_code=ship_code, retry_failed=retry_failed, during=sink, say=say,
                )  # fmt: skip
        finally:
            if sink and sink.behind:
                say(f"MLflow lacks {sink.behind} bytes ({sink.problem}); later: the same command, or sync")
    shared.catch_up((e for e in todo if e.id not in known), results)
    report = reading.collect(experiment, results)
    written = write(report, results)
    books = tuple((results / experiment.name).glob("tracking-*.json"))
    return Result(experiment, todo, ends, report, tuple(written), sink is None or sink.settled, books)


def report(experiment: Experiment, results: Path) -> tuple[Report, Sequence[Path]]:
    """What is known of the experiment now, and the files that say so. UserError where nothing of it has begun."""
    found = reading.collect(experiment, results.absolute())
    reports.check_begun(found, results)
    return found, write(found, results.absolute())


def sync(experiment: Experiment, results: Path, uri: str | None) -> str:
    """Send what `results` hold of the experiment to MLflow; returns its URI, redacted. UserError where nothing of it
    has begun."""
    found = reading.collect(experiment, results.absolute())
    reports.check_begun(found, results)
    claim.check(experiment, results.absolute())
    return send(results, experiment.name, entries(experiment), uri, tables.note(found))


def write(found: Report, results: Path) -> Sequence[Path]:
    """Write the files of a report under `results`/<experiment>, and at its URL where it has one."""
    folder = results / found.experiment.name
    claim.check(found.experiment, results)
    disk.check_writable(folder)
    remote.check_writable()
    claim.take(found.experiment, results)
    written = reports.write(found, results.absolute())
    remote.publish(folder, found.experiment.name)
    return written


def remember(made: Result, results: Path, key: str, said: Sequence[Any], data: Mapping[str, str]) -> None:
    """Note what was `said` of a matrix where nothing of it is left to do, so that the same command says it again at
    once. `key` and `data` as in `finished.keep`."""
    if made.exit_code or not made.told:
        return
    trials, folder = results.absolute() / "trials", results.absolute() / made.experiment.name
    answers = (answer(trials / e.id, e.trial) or trials / e.id / RESULT for e in made.trials)
    whole = {"said": [counted(made.experiment, len(made.trials), len(made.trials)), *said]}
    notes.keep(folder, key, whole, [*answers, *made.written, *made.books], data, code_outside(made.trials))


def code_outside(todo: Iterable[Entry]) -> dict[Path, str]:
    """{file: sha256 of what this process has of it} of the code outside the project that decides numbers of trials."""
    sources = [s for e in todo for part in code.deciding(e.trial) for s in part.values()]
    return {s.path: s.sha256 for s in sources if not s.path.is_relative_to(disk.ROOT)}


def counted(experiment: Experiment, trials: int, finished: int) -> str:
    """The first line about a matrix."""
    return f"{experiment.name}: {trials} trials, {finished} finished before"


def _note(experiment: Experiment, results: Path) -> str:
    return tables.note(reading.collect(experiment, results))


def _unheard(id: str, word: str, told: dict[str, object]) -> None:
    pass
