"""Somebody at MLflow's pages: an experiment deleted there while its trials run."""

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.tracking.sqlite import uri_of
from tests.faults.ground import Ground, Said

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:::(mlflow|sqlalchemy|alembic|pydantic|google|starlette).*"),
]
NAME = "nashboard/faults"
QUERY = (
    "select e.lifecycle_stage, count(r.run_uuid) from experiments e join runs r using (experiment_id) where e.name = ?"
)


def held(store: Path) -> tuple[str, int]:
    """Whether the experiment is active, and how many runs it has."""
    if not store.exists():
        return "none", 0
    with contextlib.closing(sqlite3.connect(store, timeout=60)) as db:
        stage, runs = db.execute(QUERY, (NAME,)).fetchone()
    return str(stage), int(runs)


def delete(store: Path) -> None:
    """As a click does."""
    from mlflow import MlflowClient

    client = MlflowClient(uri_of(store))
    client.delete_experiment(client.get_experiment_by_name(NAME).experiment_id)


def test_the_experiment_is_deleted_while_trials_run(ground: Ground, settle: Callable[..., Said]) -> None:
    """As soon as it has its first trial, and again when it is back."""
    driver, store = ground.start(), ground.results / "mlflow.db"
    tried = 0
    for ready in (lambda: held(store)[1] > 1, ground.training):
        if not driver.until(lambda ready=ready: held(store)[0] == "active" and ready(), every_s=0.2):
            break
        delete(store)
        tried += 1
    said = driver.end()
    assert tried and said.code == 0 and "had been deleted there, and is restored" in said.err, said
    settle(ground, "MLflow experiment deleted and restored", tried)
