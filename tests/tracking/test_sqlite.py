"""MLflow's database: where it lies whatever the folder is called, and what is said of one that can't be used."""

import contextlib
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from harness.errors import UserError, one_line, shortened
from harness.tracking import server, sqlite
from harness.tracking.mirror import Mirror
from harness.tracking.sink import Sink, sync
from tests.tracking.test_tracking import A, curve, finish, fresh, runs, write

pytestmark = pytest.mark.filterwarnings("ignore:::(mlflow|sqlalchemy|alembic|pydantic|google|starlette).*")
NAMES = (
    "plain", "plain space", "p%20q", "100%", "a%zz", "%2e%2e", "a?b", "a?b=c#d", "a#b", "ünï", "日本", "a@b:c", "a+b",
    "a&b;c", "a\\b", "'a\"", "[x]{y}", "$HOME~", "a\nb",
)  # fmt: skip


# ── a path becomes a URI by quoting ──────────────────────────────────────────


@pytest.mark.parametrize("name", NAMES)
def test_a_uri_leads_back_to_its_path(name, tmp_path):
    results = tmp_path / name / "res"
    uri = sqlite.default_uri(results)
    assert make_url(uri).database == str(results / "mlflow.db") and sqlite.file_of(uri) == results / "mlflow.db"
    assert uri.startswith("sqlite:///") == (name in ("plain", "plain space"))  # MLflow makes folders behind that


def test_what_is_no_database_of_ours_has_no_file():
    assert all(
        sqlite.file_of(u) is None for u in ("http://h:5000", "sqlite://", "sqlite:///:memory:", "postgresql://h/d")
    )
    assert sqlite.file_of("sqlite:///rel/a.db") == Path("rel/a.db")


def test_a_folder_that_no_uri_can_name_is_refused_at_the_start(tmp_path):
    results = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    with pytest.raises(UserError, match="rename the folder, or give --tracking-uri off"):
        Sink(results, "x", (A,))


def test_a_folder_that_is_utf_8_under_a_locale_that_is_not_is_told_so():
    seen = Path("/a/RL" + os.fsencode("ü").decode("ascii", "surrogateescape"))  # as under LC_ALL=C
    with pytest.raises(UserError, match="RLü/mlflow.db: the locale is not UTF-8.*LC_ALL=C.UTF-8"):
        sqlite.default_uri(seen)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["p%20q", "a?b#c", "ünï und mehr"])
def test_runs_and_pictures_lie_in_the_folder_and_nothing_beside_it(name, tmp_path, mlflow_db):
    results = tmp_path / name / "res"
    results.mkdir(parents=True)
    shutil.copy(mlflow_db, results / "mlflow.db")
    finish(write(results, A, range(3), state="done", image=True))
    sync(results, "x", (A,))
    mirror = fresh(results, A)
    assert curve(mirror, A) == [(i, i) for i in range(3)]
    assert len(list(results.glob("mlartifacts/x/*/artifacts/images/samples+step+*.png"))) == 3
    assert [p.name for p in tmp_path.iterdir()] == [name] and [p.name for p in (tmp_path / name).iterdir()] == ["res"]


@pytest.mark.slow
def test_a_new_database_and_its_pages_too(tmp_path, monkeypatch):
    """Nothing is copied: MLflow's own migration, the command line, the server."""
    monkeypatch.chdir(tmp_path)
    results = Path("p%20q?#ü") / "res"
    finish(write(results, A, range(3), state="done", image=True))
    sync(results, "x", (A,))
    with server.serve(results, 0) as base:
        assert "/experiments/" in server.view_link(base, "x")
    assert [p.name for p in tmp_path.iterdir()] == ["p%20q?#ü"]
    assert {p.name for p in results.iterdir()} >= {"mlflow.db", "mlartifacts", "mlflow-server.log"}


# ── a database of another MLflow ─────────────────────────────────────────────


def revised(db, revision):
    with contextlib.closing(sqlite3.connect(db, isolation_level=None)) as connection:
        connection.execute("update alembic_version set version_num = ?", [revision])


def test_the_revisions_that_are_known_are_mlflows_own(mlflow_db):
    known = sqlite.releases()
    assert len(known) > 50 and known.keys() - known.values() == {sqlite.schema(mlflow_db)}
    sqlite.check(mlflow_db)


@pytest.mark.parametrize("name", ["plain", "it's a%20b"])
@pytest.mark.parametrize("steps", [1, 20])
def test_an_older_database_names_the_whole_command_that_cures_it(tmp_path, mlflow_db, name, steps):
    results, known = tmp_path / name, sqlite.releases()
    results.mkdir()
    older = sqlite.schema(mlflow_db)
    for _ in range(steps):
        older = known[older]
    db = shutil.copy(mlflow_db, results / "mlflow.db")
    revised(db, older)
    write(results, A, range(3))
    said = []
    for act in (lambda: sync(results, "x", (A,)), lambda: server.serve(results, 0).__enter__()):
        with pytest.raises(UserError) as e:
            act()
        said.append(str(e.value))
    sink = Sink(results, "x", (A,))
    sink.start()
    assert sink.close() > 0 and sink.problem == said[0] == said[1]
    assert sqlite.schema(db) == older  # MLflow had upgraded some in place
    copy, _, upgrade = said[0].partition("bring it up to date: ")[2].partition(" && ")
    assert shlex.split(copy) == ["cp", str(db), f"{db}.{older}"]
    assert shlex.split(upgrade) == [sys.executable, "-m", "mlflow", "db", "upgrade", sqlite.uri_of(db)]


@pytest.mark.slow
def test_the_command_that_is_named_cures(tmp_path, mlflow_db):
    db = shutil.copy(mlflow_db, tmp_path / "mlflow.db")
    head = sqlite.schema(db)
    import alembic.command
    from mlflow.store.db.utils import _get_alembic_config  # MLflow has no public way down

    alembic.command.downgrade(_get_alembic_config(sqlite.uri_of(db)), sqlite.releases()[head])
    with pytest.raises(UserError) as e:
        sqlite.check(db)
    subprocess.run(str(e.value).partition("bring it up to date: ")[2], shell=True, check=True, capture_output=True)
    sqlite.check(db)
    assert sqlite.schema(db) == head


def test_a_newer_database_and_a_broken_one_are_named_with_a_way_out(tmp_path, mlflow_db):
    db = shutil.copy(mlflow_db, tmp_path / "mlflow.db")
    revised(db, "ffffffffffff")
    with pytest.raises(UserError, match=rf"made by a newer MLflow \(schema ffffffffffff\).*: mv {db} {db}.old$"):
        sqlite.check(db)
    db.write_bytes(b"no database at all" * 100)
    with pytest.raises(UserError, match=rf"not a whole SQLite database .*: mv {db} {db}.old$"):
        sync(tmp_path, "x", (A,))
    sqlite3.connect(tmp_path / "empty.db").close()
    assert sqlite.schema(tmp_path / "empty.db") is None


def test_a_locked_database_is_not_called_broken(tmp_path, mlflow_db, monkeypatch):
    db = shutil.copy(mlflow_db, tmp_path / "mlflow.db")
    monkeypatch.setattr(sqlite, "LOCKED_S", 0.1)
    with sqlite3.connect(db) as holder:
        holder.execute("pragma journal_mode=delete")
        holder.execute("begin exclusive")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            sqlite.check(db)


def test_what_mlflow_could_not_make_is_said_in_whole_words(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        err = "Traceback (most recent call last):\n  File x\n    call()\nsqlalchemy.exc.Error: (a) unable\n(more)\n"
        return subprocess.CompletedProcess(args, 1, "", err)

    monkeypatch.setattr(subprocess, "run", broken)
    with pytest.raises(RuntimeError) as e:
        sqlite.create(tmp_path / "a.db", tmp_path)
    assert str(e.value).endswith("database: sqlalchemy.exc.Error: (a) unable (more)")


# ── advice is never cut ──────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [1, 5, 50, 500])
def test_what_is_too_long_keeps_its_place_and_its_remedy(size):
    text = f"place: {'middle ' * size * 20}; then type: nashboard sync x"
    short = shortened(text, 120)
    assert len(short) <= max(120, len(short) if len(text) <= 120 else 0)
    assert short.startswith("place:") and short.endswith("then type: nashboard sync x")
    assert set(short.replace("…", "").split()) <= set(text.split())  # no word is cut
    assert len(one_line("x" * 500, 100)) <= 100 and shortened("ab", None) == "ab"


def test_a_long_message_keeps_the_end_that_says_what_to_do():
    assert str(UserError("place: " + "very long " * 900 + "; remove it")).endswith("; remove it")


# ── a deleted experiment ─────────────────────────────────────────────────────


def other(mirror):
    """Somebody at MLflow's pages."""
    from mlflow import MlflowClient

    return MlflowClient(mirror.uri)


def updated(mirror):
    """As the sink does: again, after it failed."""
    for _ in range(3):
        try:
            return mirror.update()
        except Exception as e:
            last = e
    raise last


def parents(mirror):
    return mirror._client.search_runs([mirror.experiment_id], "tags.kind = 'matrix'")


def test_an_experiment_deleted_between_two_commands_is_restored_with_its_runs(tmp_path, mlflow_db, caplog):
    shutil.copy(mlflow_db, tmp_path / "mlflow.db")
    write(tmp_path, A, range(3))
    first = fresh(tmp_path, A)
    run = runs(first)[A.id].info.run_id
    other(first).delete_experiment(first.experiment_id)
    write(tmp_path, A, range(3, 6))
    sync(tmp_path, "x", (A,))
    now = fresh(tmp_path, A)
    assert now.experiment_id == first.experiment_id and runs(now)[A.id].info.run_id == run and len(parents(now)) == 1
    assert curve(now, A) == [(i, i) for i in range(6)]
    assert "had been deleted there, and is restored" in caplog.text


def test_an_experiment_deleted_while_trials_run_is_restored(tmp_path, mlflow_db):
    shutil.copy(mlflow_db, tmp_path / "mlflow.db")
    write(tmp_path, A, range(3))
    mirror = fresh(tmp_path, A)
    other(mirror).delete_experiment(mirror.experiment_id)
    write(tmp_path, A, range(3, 6))
    updated(mirror)
    assert curve(mirror, A) == [(i, i) for i in range(6)] and len(parents(mirror)) == 1


@pytest.mark.parametrize("book", ["kept", "lost"])
def test_restoring_brings_no_run_back_that_another_had_replaced(tmp_path, mlflow_db, book):
    shutil.copy(mlflow_db, tmp_path / "mlflow.db")
    folder = write(tmp_path, A, range(3))
    mirror = fresh(tmp_path, A)
    shutil.rmtree(folder)
    write(tmp_path, A, range(100, 110))  # trained anew
    updated(mirror)
    other(mirror).delete_experiment(mirror.experiment_id)
    for path in (tmp_path / "x").glob("tracking-*.json") if book == "lost" else ():
        path.unlink()
    write(tmp_path, A, range(110, 112))
    now = fresh(tmp_path, A)
    assert curve(now, A) == [(i, i) for i in range(100, 112)]  # `runs` holds that there is one


def test_a_parent_deleted_by_hand_is_restored(tmp_path, mlflow_db):
    shutil.copy(mlflow_db, tmp_path / "mlflow.db")
    write(tmp_path, A, range(3))
    mirror = fresh(tmp_path, A)
    parent = parents(mirror)[0].info.run_id
    other(mirror).delete_run(parent)
    write(tmp_path, A, range(3, 5))
    mirror.note = "new"
    updated(mirror)
    again = fresh(tmp_path, A)
    assert [p.info.run_id for p in parents(again)] == [parent] and curve(again, A) == [(i, i) for i in range(5)]


def test_the_tag_of_values_that_are_no_number_keeps_the_earliest(tmp_path, mlflow_db):
    shutil.copy(mlflow_db, tmp_path / "mlflow.db")
    mirror = Mirror(tmp_path, "x", (A,), None)
    for chunk in (range(2), range(2, 4), range(4, 400)):
        write(tmp_path, A, chunk, bad=True)
        mirror.update()
    mirror.update()
    tag = runs(mirror)[A.id].data.tags["non_finite"]
    assert tag.startswith("loss/d at 0, loss/d at 1, loss/d at 2, loss/d at 3, loss/d at 4, ")
    named, _, more = tag.partition(" and ")
    assert len(named.split(", ")) + int(more.removesuffix(" more")) == 400 and len(tag) < 5000
