"""MLflow that is away for a while, or when everything ends; its database locked by someone else."""

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.tracking import sqlite
from harness.tracking.server import serve
from tests.faults.ground import Ground, Said

pytestmark = pytest.mark.slow
AWAY_S = 30.0


class Server:
    """MLflow's server over a database of its own, which can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, folder / "mlflow.db"
        sqlite.create(self.store, folder / "mlartifacts")
        self.port = 0

    @contextmanager
    def up(self) -> Iterator[tuple[str, ...]]:
        with serve(self.folder, self.port) as uri:
            self.port = int(uri.rsplit(":", 1)[1])
            yield ("--tracking-uri", uri)

    def knows(self, what: str) -> bool:
        """Whether it has a run whose tag `kind` is `what`."""
        with contextlib.closing(sqlite3.connect(self.store, timeout=60)) as db:
            return bool(db.execute("select 1 from tags where key = 'kind' and value = ?", (what,)).fetchall())


@pytest.fixture
def server(ground: Ground) -> Server:
    return Server(ground.folder / "server")


def test_the_server_is_away_for_a_while(ground: Ground, server: Server, settle: Callable[..., Said]) -> None:
    with server.up() as words:
        driver = ground.start(*words)
        assert driver.until(lambda: server.knows("matrix"))
    time.sleep(AWAY_S)
    with server.up():
        said = driver.end()
        assert said.code == 0 and len(said.err.splitlines()) <= 1, said  # a warning, once
        # The trials may have ended while it was away, and the sink's patience with them.
        assert ground.run(*words).code == 0
    settle(ground, "MLflow's server down for 30 s", 1, *words, store=server.store)


def test_the_server_is_away_at_the_end(ground: Ground, server: Server, settle: Callable[..., Said]) -> None:
    with server.up() as words:
        driver = ground.start(*words)
        assert driver.until(lambda: server.knows("trial"))
    said = driver.end()
    assert said.code == 0 and "MLflow lacks" in said.out, "results don't wait for it"
    with server.up():
        assert ground.run(*words).code == 0
    settle(ground, "MLflow's server down at the end", 1, *words, store=server.store)


def test_the_database_is_locked(ground: Ground, settle: Callable[..., Said]) -> None:
    driver, store = ground.start(), ground.results / "mlflow.db"
    assert driver.until(store.exists)
    with contextlib.closing(sqlite3.connect(store, timeout=60)) as other:
        other.execute("begin exclusive")
        time.sleep(AWAY_S)
        other.rollback()
    said = driver.end()
    assert said.code == 0 and len(said.err.splitlines()) <= 1, said  # a warning, once
    settle(ground, "SQLite locked for 30 s", 1)
