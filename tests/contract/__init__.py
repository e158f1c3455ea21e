"""What every plugin of a shelf promises: one suite a shelf, over its own files and those of tests/outside/."""

from pathlib import Path

from harness import outside, plugins

NOT_POSSIBLE = {("dcgan", "relativistic"): "refuses batch norm in D"}  # (backbone, variant) -> why; all others train
EXAMPLE = Path(__file__).parent.parent / "outside"


def names(package: str) -> list[str]:
    """The plugins of `package` with those from outside, which `conftest.py` has in use while these tests run."""
    shelf = package.rsplit(".", 1)[-1]
    files = [Path(file) for file in outside.read(EXAMPLE).files]
    return plugins.names(package) + [file.stem for file in files if file.parts[0] == shelf]
