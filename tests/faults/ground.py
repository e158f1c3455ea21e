"""The ground on which faults are tried: one tiny experiment that the command line runs in real processes,
and what must hold of its results afterwards."""

import contextlib
import csv
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from harness.tracking import finals

ROOT = Path(__file__).parent.parent.parent
PATIENCE_S = 240.0
EXPERIMENT = """
    name: faults
    preset: chainer
    seeds: [0]
    dataset: {name: synthetic, num_images: 256}
    backbone: {width: 0.0625, z_dim: 8}
    train: {total_kimg: 0.96, batch_size: 8, tick_kimg: 0.064, snapshot_kimg: 0.32}
    arms: {baseline: {}, align: {sel: {}, align: {}}}
    labels: {align: + L_align}
    eval:
      num_fakes: 64
      num_reals: 64
      batch_size: 16
      metrics: {fd_efficientnet_lite0: {size: 32}, disequilibrium: {}}
    run: {device: cpu, checkpoint_s: 0.3, retries: 99}
"""
TRIALS = 2


class Said(NamedTuple):
    """What a command ended with."""

    code: int
    out: str
    err: str


class Harm(NamedTuple):
    """What a fault cost in the end: results that are missing, digits that differ from an undisturbed run's,
    points (and pictures) that the journal or MLflow lacks or has twice, processes left over."""

    lost: int = 0
    digits: int = 0
    points: int = 0
    strays: int = 0


class Ground:
    """A folder with the experiment, its results, and a TMPDIR (so a machine's lock) of its own."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="nb", dir="/tmp"))  # short: Ray's sockets are below it
        self.results = self.folder / "results"
        (self.folder / "faults.yaml").write_text(textwrap.dedent(EXPERIMENT))
        self.environment: dict[str, str] = {}
        self._logs = 0

    def start(self, *words: str, results: str = "results") -> "Command":
        """The matrix, begun."""
        self._logs += 1
        env = {
            **os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "NASHBOARD_CACHE": str(self.folder / "cache"),
            "TMPDIR": str(self.folder), "RAY_TMPDIR": str(self.folder), **self.environment,
        }  # fmt: skip
        line = [sys.executable, str(ROOT / "cli.py"), "matrix", "faults.yaml", "--results", results, *words]
        return Command(line, env, self.folder, self.folder / f"log{self._logs}")

    def run(self, *words: str) -> Said:
        return self.start(*words).end()

    # ── looking on ──

    def trials(self) -> list[Path]:
        return sorted(self.results.glob("trials/*"))

    def checkpoints(self) -> list[Path]:
        return sorted(self.results.glob("trials/*/checkpoints/*.safetensors"))

    def finished(self) -> list[Path]:
        return sorted(self.results.glob("trials/*/result.json"))

    def training(self) -> bool:
        """Whether a trial has saved something and is not done."""
        return {p.parent.parent for p in self.checkpoints()} - {p.parent for p in self.finished()} != set()

    def processes(self) -> list[psutil.Process]:
        """All that were started here and still run: by their working folder, or their command line."""
        found = []
        for process in psutil.process_iter(["cwd", "cmdline"]):
            told = [process.info["cwd"] or "", *(process.info["cmdline"] or [])]
            if any(str(self.folder) in word for word in told) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found

    def workers(self) -> list[psutil.Process]:
        """The processes that train, or would."""
        return [p for p in self.processes() if (p.info["cmdline"] or [""])[0].startswith("ray::_Worker")]

    def strays(self, patience_s: float = 30.0) -> int:
        """Processes that are there when nothing should be, and stay so."""
        deadline = time.monotonic() + patience_s
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.2)
        for process in left:
            print("stray:", process.pid, " ".join(process.info["cmdline"] or [])[:150])
        return len(left)

    # ── judging ──

    def harm(self, calm: "Numbers", store: Path | None = None) -> Harm:
        """What is left of a fault, seen from the undisturbed run's numbers. `store`: MLflow's database."""
        now = Numbers(self.results)
        names = calm.numbers.keys() | now.numbers.keys()
        different = [name for name in names if calm.numbers.get(name) != now.numbers.get(name)]
        points = _unequal("journal", calm.places, now.places)
        points += _unequal("mlflow", now.points, mirrored(store or self.results / "mlflow.db"))
        for name in different[:5]:
            print("differs:", name, calm.numbers.get(name), now.numbers.get(name))
        return Harm(TRIALS - len(self.finished()), len(different), points, self.strays())

    def clear(self) -> None:
        """Forget all results."""
        shutil.rmtree(self.results, ignore_errors=True)

    def sweep(self) -> None:
        """End whatever was started here."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def leave(self) -> None:
        self.sweep()
        shutil.rmtree(self.folder, ignore_errors=True)


class Command:
    """A process of the command line; its output goes to files, for a pipe may be full."""

    def __init__(self, line: list[str], env: dict[str, str], folder: Path, log: Path) -> None:
        self._log, self.began = log, time.monotonic()
        with log.with_suffix(".out").open("w") as out, log.with_suffix(".err").open("w") as err:
            self.process = subprocess.Popen(line, cwd=folder, env=env, stdout=out, stderr=err, start_new_session=True)

    def age(self) -> float:
        """Seconds since it was begun."""
        return time.monotonic() - self.began

    def runs(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def interrupt(self) -> None:
        """Ctrl-C, as a terminal does it: to the whole group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGINT)

    def until(self, true: Callable[[], Any], patience_s: float = PATIENCE_S, every_s: float = 0.01) -> bool:
        """Wait until it is true; False where the process ended first."""
        deadline = time.monotonic() + patience_s
        while not true():
            if not self.runs():
                return False
            assert time.monotonic() < deadline, "nothing happened"
            time.sleep(every_s)
        return True

    def end(self) -> Said:
        code = self.process.wait(PATIENCE_S)
        return Said(code, *(self._log.with_suffix(s).read_text() for s in (".out", ".err")))


class Numbers:
    """All numbers of a results folder that an undisturbed run must share, and how often each point or picture
    (trial, nimg, name, time, value) is in its journals."""

    def __init__(self, results: Path) -> None:
        self.numbers = dict(_numbers(results))
        self.points = Counter(_points(results))
        self.places = Counter(point[:3] for point in self.points.elements())


def _numbers(results: Path) -> Iterator[tuple[str, Any]]:
    """Every cell of every table; every metric, and every point of every series that no clock decides."""
    for path in results.glob("faults/tables/*.csv"):
        for i, row in enumerate(csv.reader(path.read_text().splitlines())):
            for j, cell in enumerate(row):
                yield f"{path.name}:{i}:{j}", cell
    for path in results.glob("trials/*/result.json"):
        result = json.loads(path.read_text())
        for name, record in result["metrics"].items():
            yield f"{result['id']}:{name}", record
        for name, series in result["series"].items():
            if not name.startswith("system/"):
                yield f"{result['id']}:{name}", series


def events(trial: Path) -> list[dict[str, Any]]:
    """The journal of a trial's folder."""
    return [json.loads(line) for line in (trial / "events.jsonl").read_text().splitlines()]


def _points(results: Path) -> Iterator[tuple[Any, ...]]:
    for path in results.glob("trials/*/events.jsonl"):
        for event in events(path.parent):
            for name, value in event.get("metrics", {}).items():
                yield path.parent.name, event["nimg"], name, event["time_ms"], value
            if "image" in event:
                yield path.parent.name, event["nimg"], "picture", event["time_ms"], None
    for path in results.glob("trials/*/result.json"):  # scores are no part of the journal
        for name, value, time_ms, nimg in finals.points(json.loads(path.read_text()), path.parent):
            yield path.parent.name, nimg, name, time_ms, value


def mirrored(store: Path) -> Counter[tuple[Any, ...]]:
    """The points and pictures in MLflow's database at `store`, read without MLflow; deleted runs don't count."""
    held: Counter[tuple[Any, ...]] = Counter()
    with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=60)) as db:
        runs = "from runs r join tags t on t.run_uuid = r.run_uuid and t.key = 'trial.id' "
        where = "where r.lifecycle_stage = 'active'"
        query = f"select t.value, m.step, m.key, m.timestamp, m.value {runs} join metrics m on m.run_uuid = r.run_uuid "
        held.update(db.execute(f"{query} {where} and m.key not like 'cost/%'"))
        for trial, uri in db.execute(f"select t.value, r.artifact_uri {runs} {where}"):
            for path in Path(uri.removeprefix("file://")).glob("images/samples+step+*.png"):
                _, _, step, _, time_ms, _ = path.name.split("+", 5)
                held[trial, int(step), "picture", int(time_ms), None] += 1
    return held


def _unequal(where: str, expected: Counter[tuple[Any, ...]], found: Counter[tuple[Any, ...]]) -> int:
    missing, extra = expected - found, found - expected
    for what, points in (("lacks", missing), ("has too much", extra)):
        for point in list(points)[:5]:
            print(where, what, point)
    return missing.total() + extra.total()
