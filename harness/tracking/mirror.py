"""MLflow's copy of the trials. The only mlflow import, made late: importing this file is cheap.

What is true stays in results/. One sink ships the *committed* part of each journal, so MLflow
may lag, be down, or be deleted and rebuilt, and never costs a trial anything. Sending twice is
safe: to MLflow a point is its (key, time, step, value), and the journal fixes all four. Scores at the end
(`final/`, `best/`) come from the trial's result, the one that is scored as this experiment asks.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness import proxies
from harness.disk import read_json, write_atomic
from harness.experiment.matrix import Entry
from harness.report import names
from harness.store import journal
from harness.store.folder import RESULT, read_state, results
from harness.tracking import finals, runs, sqlite, views

BATCH = 900  # metrics per request: below the limit of older servers
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the sink has its own patience; MLflow's blocks for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


_log = logging.getLogger(__name__)


class Mirror:
    """One experiment in MLflow: a parent run, and under it one run per trial.

    What was sent is noted in results/<experiment>/, bound to the store and its parent run.
    """

    def __init__(self, results: Path, experiment: str, entries: Sequence[Entry], uri: str | None) -> None:
        self.results, self.experiment, self.entries = results.absolute(), experiment, entries
        self.uri = uri or sqlite.default_uri(results)
        self.note = ""
        self.closed = False  # no driver will change these trials any more
        self._arms = list(dict.fromkeys(e.serves[0].arm for e in entries))
        key = hashlib.sha256(self.uri.encode()).hexdigest()[:8]
        self._book = self.results / experiment / f"tracking-{key}.json"
        self._sent: dict[str, Any] = read_json(self._book) or {"parent": None, "trials": {}, "keys": []}
        self._client: Any = None
        self._images: dict[str, set[str]] = {}  # run id -> pictures it has
        self._results: dict[str, tuple[Any, dict[str, Any]]] = {}  # trial id -> its files' stamp, its result

    def update(self) -> None:
        """Ship all that is committed and not yet sent. After whatever it raises the next call opens the store anew."""
        if self._client is None:
            self._open()
        before = json.dumps(self._sent)
        try:
            for entry in self.entries:
                self._trial(entry)
            self._parent()
        except Exception:
            self._client = None  # the experiment, or the runs' parent, may have been deleted there
            raise
        finally:
            if json.dumps(self._sent) != before:
                write_atomic(self._book, json.dumps(self._sent).encode())

    def behind(self) -> int:
        """Committed bytes of all journals that MLflow does not have."""
        sent = {id: trial["offset"] for id, trial in self._sent["trials"].items()}
        return sum(max(0, journal.committed(self._folder(e)) - sent.get(e.id, 0)) for e in self.entries)

    def settled(self) -> bool:
        """Whether MLflow has been told all there is, the end of the last driver included."""
        if self._sent.get("told", {}).get("status") not in ("FINISHED", "KILLED") or self.behind():
            return False
        told = {id: trial.get("result") for id, trial in self._sent["trials"].items()}
        return not any(finals.is_other(told.get(e.id), self._result(e)) for e in self.entries)

    def folders(self) -> list[Path]:
        """Those of its trials."""
        return [self._folder(e) for e in self.entries]

    def _folder(self, entry: Entry) -> Path:
        return self.results / "trials" / entry.id

    def _result(self, entry: Entry) -> dict[str, Any]:
        """What is told of the trial's result, read when one of its results is new."""
        folder = self._folder(entry)
        stamp = [(p.name, p.stat().st_mtime_ns, p.stat().st_ino) for p in sorted(folder.glob("result*.json"))]
        if self._results.get(entry.id, (None,))[0] != stamp:
            self._results[entry.id] = stamp, finals.read(folder, entry.trial)
        return self._results[entry.id][1]

    # ── opening ──

    def _open(self) -> None:
        proxies.spare_this_machine()
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        if db := sqlite.file_of(self.uri):
            sqlite.create(db, self.results / "mlartifacts")
            sqlite.check(db)
        from mlflow import MlflowClient
        from mlflow.entities import ViewType

        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # what it logs with a traceback it raises, too
        client = MlflowClient(self.uri)
        name = f"nashboard/{self.experiment}"
        found = client.get_experiment_by_name(name)
        root = (self.results / "mlartifacts" / self.experiment).as_uri() if db else None
        self.experiment_id = found.experiment_id if found else client.create_experiment(name, artifact_location=root)
        restored = bool(found) and _restore(client, found)
        parents = client.search_runs([self.experiment_id], "tags.kind = 'matrix'", ViewType.ALL)
        parents.sort(key=lambda run: run.info.lifecycle_stage != "active")
        if parents:
            parent = parents[0].info.run_id
            if parents[0].info.lifecycle_stage != "active":
                client.restore_run(parent)
        else:
            tags = {"kind": "matrix", "mlflow.source.name": "nashboard"}
            parent = client.create_run(self.experiment_id, tags=tags, run_name=self.experiment).info.run_id
        book = read_json(self._book)
        # Another parent means another database: nothing of it was sent.
        self._sent = book if book.get("parent") == parent else {"parent": parent, "trials": {}, "keys": []}
        children = list(_children(client, self.experiment_id, parent))
        if restored:
            children = self._without_replaced(client, children)
        self._known = dict(children)
        self._client = client

    def _without_replaced(self, client: Any, children: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """A restored experiment has all its runs back, those too that others had replaced: delete them again. What is
        valid stands in the book; of a trial that it does not know none is, where there are several."""
        valid = {id: trial["run"] for id, trial in self._sent["trials"].items()}
        several = {id for id, n in Counter(id for id, _ in children).items() if n > 1}
        stale = [(id, run) for id, run in children if (id in valid or id in several) and run != valid.get(id)]
        for _, run in stale:
            client.delete_run(run)
        return [child for child in children if child not in stale]

    # ── one trial ──

    def _trial(self, entry: Entry) -> None:
        folder = self._folder(entry)
        state = read_state(folder)
        if not state:
            return
        from mlflow.exceptions import MlflowException

        record = self._sent["trials"].setdefault(entry.id, {"run": None, "offset": 0, "tail": "", "told": {}})
        try:
            if record["tail"] != journal.mark(folder / "events.jsonl", record["offset"]):
                if journal.committed(folder) >= record["offset"] or (folder / RESULT).exists():
                    self._replace(entry, record)  # trained anew: the curves are others
                else:
                    return  # an older checkpoint was resumed; its journal will grow back to the same bytes
            result = self._result(entry)
            if record.get("result") and finals.is_other(record["result"], result):
                self._replace(entry, record)  # scored anew: MLflow forgets no point
            self._ship(entry, folder, state, result, record)
        except MlflowException as e:
            if e.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE") or not record["run"]:
                raise
            if self._experiment_is_gone() or not self._is_gone(record["run"]):
                raise
            self._replace(entry, record)  # deleted by hand

    def _ship(
        self, entry: Entry, folder: Path, state: dict[str, Any], result: dict[str, Any], record: dict[str, Any]
    ) -> None:
        if record["run"] is None:
            record["run"] = self._known.get(entry.id) or self._create_run(entry, folder, state)
        run, path = record["run"], folder / "events.jsonl"
        while chunk := journal.chunk(path, record["offset"], journal.committed(folder)):
            record["non_finite"] = self._send(run, folder, journal.parse(chunk).events, record.get("non_finite", {}))
            record["offset"] += len(chunk)
            record["tail"] = journal.mark(path, record["offset"])
        self._tell(run, folder, state, result, record)

    def _send(self, run: str, folder: Path, events: list[dict[str, Any]], before: dict[str, Any]) -> dict[str, Any]:
        """Ship events; returns which values of all, `before` those of earlier events, were dropped for no numbers."""
        from mlflow.entities import Metric, RunTag

        metrics, dropped = [], list[str]()
        for event in events:
            for key, value in event.get("metrics", {}).items():
                if key.startswith(finals.HEADS):  # of an earlier version: of whichever scoring was the last
                    continue
                if isinstance(value, int | float) and math.isfinite(value):
                    metrics.append(Metric(runs.name(key), float(value), event["time_ms"], event["nimg"]))
                else:
                    dropped.append(f"{key} at {event['nimg']}")
            if "image" in event:
                self._send_image(run, folder, event)
        noted = runs.non_finite(before, dropped)
        more = f" and {noted['more']} more" if noted.get("more") else ""
        tags = [RunTag("non_finite", noted["text"] + more)] if dropped else []
        for i in range(0, max(len(metrics), 1), BATCH):
            self._client.log_batch(run, metrics=metrics[i : i + BATCH], tags=tags)
        self._sent["keys"] = sorted({*self._sent["keys"], *(m.key for m in metrics)})
        return noted

    def _send_image(self, run: str, folder: Path, event: dict[str, Any]) -> None:
        """Log a picture as a step of `samples`. MLflow names each sending at random, so look first."""
        if run not in self._images:
            self._images[run] = {Path(a.path).name for a in self._client.list_artifacts(run, "images")}
        mark = f"samples+step+{event['nimg']}+timestamp+{event['time_ms']}+"
        path = (folder / event["image"]).resolve()
        if any(name.startswith(mark) for name in self._images[run]) or not path.is_relative_to(folder.resolve()):
            return
        from PIL import Image

        with contextlib.suppress(FileNotFoundError), Image.open(path) as picture:
            self._client.log_image(
                run, picture, key="samples", step=event["nimg"], timestamp=event["time_ms"], synchronous=True
            )
            self._images[run].add(mark)

    def _tell(
        self, run: str, folder: Path, state: dict[str, Any], result: dict[str, Any], record: dict[str, Any]
    ) -> None:
        """Scores, tags, files and the status: whatever changed since they were last told."""
        now = runs.state(state, result, self.closed)
        if now == record["told"] and not finals.is_other(record.get("result"), result):
            return
        from mlflow.entities import Metric, RunTag

        env = read_json(folder / "env.json")
        tags = {**now, "commit": env.get("commit", ""), "device": env.get("device", "")}
        tags |= {"spoilt_lines": result["spoilt_lines"]} if result.get("spoilt_lines") else {}
        at = int(float(state.get("time", time.time())) * 1000)
        costs = {f"cost/{k}": v for k, v in result.get("cost", {}).items() if isinstance(v, int | float)}
        points = [Metric(runs.name(k), float(v), at, result["nimg"]) for k, v in costs.items() if math.isfinite(v)]
        if finals.is_other(record.get("result"), result):
            points += [Metric(runs.name(k), v, ms, nimg) for k, v, ms, nimg in finals.points(result, folder)]
        self._client.log_batch(
            run, metrics=points, tags=[RunTag(k, str(v)) for k, v in tags.items() if v or k in record["told"]]
        )
        self._sent["keys"] = sorted({*self._sent["keys"], *(p.key for p in points if p.key.startswith(finals.HEADS))})
        for name in ("config.yaml", "env.json", "traceback.txt"):
            if (folder / name).exists():
                self._client.log_artifact(run, str(folder / name))
        if result.get("dataset"):
            self._client.log_inputs(run, datasets=[_dataset(result)])
        status = runs.STATUS.get(now["status"], "FAILED")
        if status == "RUNNING":
            self._client.update_run(run, status=status)
        else:
            self._client.set_terminated(run, status, end_time=at)
        record |= {"told": now, "result": finals.mark(result)}

    def _create_run(self, entry: Entry, folder: Path, state: dict[str, Any]) -> str:
        from mlflow.entities import Param

        began = (folder / "config.yaml").stat().st_mtime if (folder / "config.yaml").exists() else state.get("time", 0)
        tags = runs.tags(entry, self._sent["parent"], self._arms)
        run = self._client.create_run(
            self.experiment_id, start_time=int(began * 1000), tags=tags, run_name=entry.name
        ).info.run_id
        self._client.log_batch(run, params=[Param(k, str(v)[:500]) for k, v in runs.params(entry).items()])
        return str(run)

    def _replace(self, entry: Entry, record: dict[str, Any]) -> None:
        """Forget the run of a trial, so that the next update makes another."""
        if record["run"] and not self._is_gone(record["run"]):
            self._client.delete_run(record["run"])
        self._known.pop(entry.id, None)
        record |= {"run": None, "offset": 0, "tail": "", "told": {}, "result": False, "non_finite": {}}

    def _experiment_is_gone(self) -> bool:
        return bool(self._client.get_experiment(self.experiment_id).lifecycle_stage != "active")

    def _is_gone(self, run: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return bool(self._client.get_run(run).info.lifecycle_stage != "active")
        except MlflowException as e:
            if e.error_code == "RESOURCE_DOES_NOT_EXIST":
                return True
            raise

    # ── the parent ──

    def _parent(self) -> None:
        parent, told = self._sent["parent"], self._sent.setdefault("told", {})
        keys = self._sent["keys"]
        curves = [k for k in keys if k.partition("/")[0] in ("loss", "eval", "scores")]
        if told.get("keys") != keys:
            # The views are MLflow's own undocumented format; without them the numbers are all there.
            with contextlib.suppress(Exception):
                finals, pair = self._finals([k for k in keys if k.startswith("final/")])
                for key, value in views.tags(parent, curves, finals, pair, time.time_ns() // 1_000_000).items():
                    self._client.set_experiment_tag(self.experiment_id, key, value)
            told["keys"] = list(keys)
        if self.note and told.get("note") != self.note:
            self._client.set_tag(parent, "mlflow.note.content", self.note)
            told["note"] = self.note
        words = [t["told"].get("status") for t in self._sent["trials"].values()]
        status = ("KILLED" if "interrupted" in words else "FINISHED") if self.closed else "RUNNING"
        if told.get("status") != status:
            if status == "RUNNING":
                self._client.update_run(parent, status=status)
            else:
                self._client.set_terminated(parent, status)
            told["status"] = status

    def _finals(self, keys: list[str]) -> tuple[list[str], tuple[str, str] | None]:
        """The final scores `keys` in a report's order, and which two of them to draw against each other."""
        found: dict[str, names.Name] = {}
        for folder in self.folders():
            if set(keys) <= found.keys():
                break
            for name, record in [pair for r in results(folder) for pair in r.get("metrics", {}).items()]:
                key = runs.name(f"final/{name}")
                found.setdefault(key, names.of(name, record)._replace(key=key))
        known = [n for key, n in found.items() if key in keys]
        pair, ordered = names.pair(known), [n.key for n in names.order(known)]
        return ordered + [k for k in keys if k not in ordered], pair and (pair[0].key, pair[1].key)


def _restore(client: Any, experiment: Any) -> bool:
    """Whether the experiment had been deleted in MLflow, as one does in its pages. It is back then: whoever trains with
    tracking on wants its runs, and MLflow keeps the name of a deleted one taken."""
    if experiment.lifecycle_stage == "active":
        return False
    client.restore_experiment(experiment.experiment_id)
    _log.warning("mlflow: experiment %s had been deleted there, and is restored", experiment.name)
    return True


def _dataset(result: dict[str, Any]) -> Any:
    from mlflow.entities import Dataset, DatasetInput

    about = result["dataset"]
    name, digest = str(about.get("name", "images")), str(about.get("fingerprint", ""))[:36]
    return DatasetInput(Dataset(name=name, digest=digest, source_type="local", source=json.dumps({"name": name})), [])


def _children(client: Any, experiment_id: str, parent: str) -> Iterator[tuple[str, str]]:
    """(trial id, run id) of the runs under `parent`."""
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'", page_token=token)
        yield from ((r.data.tags["trial.id"], r.info.run_id) for r in page if "trial.id" in r.data.tags)
        token = page.token
        if not token:
            return
