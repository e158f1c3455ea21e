"""What several files of tests share and is dear to make."""

from pathlib import Path
from typing import Any

import pytest

from harness.tracking import sqlite


@pytest.fixture(scope="session")
def mlflow_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of MLflow: its migrations take seconds, a copy takes none."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    sqlite.create(path, path.parent / "mlartifacts")
    return path


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How near each golden file was met, over all tests that read it; and where digests had no record to equal."""
    met: dict[str, list[float]] = {}
    unrecorded: dict[str, float] = {}
    for report in (r for reports in terminalreporter.stats.values() for r in reports):
        for key, value in getattr(report, "user_properties", ()):
            if key == "golden":
                name, *found = value
                met[name] = list(map(max, met.get(name, found), found))
            if key == "digests" and value[1] is not None:
                unrecorded[value[0]] = value[1]
    if met:
        terminalreporter.section("golden files: largest relative difference (share of the tolerance)")
    for name, (relative, share) in sorted(met.items()):
        terminalreporter.line(f"{name:28} {relative:.2e}   ({share:6.1%})")
    if unrecorded:
        terminalreporter.section("digests")
        terminalreporter.line(
            f"no record for this ground ({len(unrecorded)} arms); compared with recorded values within 1e-4: "
            f"largest {max(unrecorded.values()):.0e}"
        )
