"""MLflow's SQLite database in results: its place as a URI, how it is made, and whether this MLflow can use it."""

import contextlib
import importlib.util
import os
import re
import shlex
import sqlite3
import subprocess
import sys
from glob import escape as glob_escape
from pathlib import Path

from harness.disk import ROOT
from harness.errors import UserError

LOCKED_S = 10.0  # how long another may hold the database
BROKEN = ("SQLITE_NOTADB", "SQLITE_CORRUPT")


# ── its place ────────────────────────────────────────────────────────────────


def default_uri(results: Path) -> str:
    """The SQLite file that is used where no tracking URI is given."""
    return uri_of(results.absolute() / "mlflow.db")


def uri_of(db: Path) -> str:
    """A path as SQLAlchemy's URI: quoted, never pasted, for `a%20b` is not `a b`, and a `?` begins no query.

    MLflow makes the folder that stands behind `sqlite:///`, taken by the letter; with the driver's name it does not.
    UserError for a path that is no UTF-8, which no URI can name.
    """
    if re.fullmatch(r"[\w/.\- ]+", str(db), re.ASCII):
        return f"sqlite:///{db}"
    from sqlalchemy.engine import URL

    try:
        return URL.create("sqlite+pysqlite", database=str(db)).render_as_string()
    except UnicodeEncodeError:
        raise UserError(
            f"{os.fsencode(db)!r}: is no UTF-8, so no URI can name MLflow's database there; rename the folder, or give "
            "--tracking-uri off"
        ) from None


def file_of(uri: str) -> Path | None:
    """The file of a SQLite URI, as SQLAlchemy takes it; None of any other, and of one in memory."""
    if not uri.startswith("sqlite"):
        return None
    from sqlalchemy.engine import make_url

    found = make_url(uri).database
    return Path(found) if found and found != ":memory:" else None


# ── making it ────────────────────────────────────────────────────────────────


def create(db: Path, artifacts: Path) -> None:
    """Make the database whole or not at all: MLflow's own migration, interrupted, leaves one that never opens."""
    if db.exists():
        return
    db.parent.mkdir(parents=True, exist_ok=True)
    part = db.with_name(f".{db.name}.{os.getpid()}.part")
    code = "import sys; from harness.tracking.sqlite import migrate; migrate(*sys.argv[1:])"
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-c", code, str(part), artifacts.as_uri()]
    try:
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{db}: MLflow could not make its database: {_raised(done.stderr)}")
        with contextlib.suppress(FileExistsError):
            os.link(part, db)  # whoever comes first; the other's is the same
    finally:
        for leftover in db.parent.glob(f"{glob_escape(part.name)}*"):
            leftover.unlink()


def migrate(part: str, artifacts: str) -> None:
    """In a process of its own: create the schema in `part`, in WAL mode, which lets readers in while we write."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(uri_of(Path(part)), artifacts).engine.dispose()
    with contextlib.closing(sqlite3.connect(part)) as connection:
        connection.execute("pragma journal_mode=wal")
        connection.execute("pragma wal_checkpoint(truncate)")


def _raised(stderr: str) -> str:
    """What a traceback ends with, from the exception's name on."""
    said = [line for line in stderr.splitlines() if line and not line[0].isspace()]
    begun = [i for i, line in enumerate(said) if line.startswith("Traceback")]
    return " ".join(said[begun[-1] + 1 :] if begun else said[-1:])


# ── its schema ───────────────────────────────────────────────────────────────


def check(db: Path) -> None:
    """Raise UserError, with the command that cures it, where this MLflow can't use the database that is there.

    Of older schemas MLflow refuses some, and upgrades others in place without a word; broken off there, it leaves a
    database that never opens again.
    """
    aside = f"; a new one is built from the results once it is out of the way: mv {_word(db)} {_word(f'{db}.old')}"
    try:
        found = schema(db)
    except sqlite3.DatabaseError as e:
        if getattr(e, "sqlite_errorname", None) in BROKEN:
            raise UserError(f"{db}: not a whole SQLite database ({e}){aside}") from None
        raise
    known = releases()
    if found is None or not known or found in known.keys() - known.values():
        return
    if found in known:
        backup, uri = _word(f"{db}.{found}"), _word(uri_of(db.absolute()))
        upgrade = f"cp {_word(db)} {backup} && {_word(sys.executable)} -m mlflow db upgrade {uri}"
        raise UserError(f"{db}: made by an older MLflow (schema {found}); bring it up to date: {upgrade}")
    raise UserError(f"{db}: made by a newer MLflow (schema {found}){aside}")


def schema(db: Path) -> str | None:
    """The revision of a database's schema; None where it names none."""
    with contextlib.closing(sqlite3.connect(db, timeout=LOCKED_S)) as connection:
        try:
            row = connection.execute("select version_num from alembic_version").fetchone()
        except sqlite3.OperationalError as e:
            if "no such table" in str(e):
                return None
            raise
    return str(row[0]) if row else None


def releases() -> dict[str, str]:
    """{revision: the one before it} of all schemas that the installed MLflow knows, read without importing it."""
    spec = importlib.util.find_spec("mlflow")
    known = {}
    for place in (spec.submodule_search_locations or []) if spec else []:
        for file in Path(place, "store", "db_migrations", "versions").glob("*.py"):
            said = dict(
                re.findall(
                    r'^(revision|down_revision)\s*=\s*["\'](\w+)["\']', file.read_text(encoding="utf-8"), re.MULTILINE
                )
            )
            if "revision" in said:
                known[said["revision"]] = said.get("down_revision", "")
    return known


def _word(text: object) -> str:
    """A word of a command line, to be typed as it stands."""
    return shlex.quote(str(text))
