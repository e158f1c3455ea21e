"""What several files of tests share and is dear to make."""

from pathlib import Path

import pytest

from harness import tracking


@pytest.fixture(scope="session")
def mlflow_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of MLflow: its migrations take seconds, a copy takes none."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    tracking._create(path, path.parent / "mlartifacts")
    return path
