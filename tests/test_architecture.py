"""The rules that keep the project simple, held by reading its imports."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OWNERS = {
    "ray": "harness/orchestration/cluster.py",
    "mlflow": "harness/tracking/mirror.py",
    "torch_fidelity": "harness/evaluation/features.py",
    "rich": "harness/console.py",
    "yaml": "harness/experiment/files.py",
}
SOURCES = sorted(p for folder in ("harness", "backbones") for p in (ROOT / folder).rglob("*.py")) + [ROOT / "cli.py"]
PLUGINS = ("backbones", "harness/datasets", "harness/variants", "harness/metrics")


def imported(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_each_heavy_library_has_one_owner(path):
    used = {name.split(".")[0] for name in imported(path)}
    for library, owner in OWNERS.items():
        if library in used:
            assert str(path.relative_to(ROOT)) == owner, f"{library} belongs in {owner}"


@pytest.mark.parametrize("path", sorted((ROOT / "backbones").glob("*.py")), ids=lambda p: p.name)
def test_backbones_know_nothing_of_what_stands_above(path):
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & {"harness", "cli", "ray", "mlflow"}
    assert "heatmap" not in path.read_text().lower().replace("nothing here knows heatmaps", "")


@pytest.mark.parametrize("folder", PLUGINS)
def test_plugins_never_import_each_other(folder):
    files = [p for p in (ROOT / folder).glob("*.py") if not p.name.startswith("_")]
    dotted = {f"{folder.replace('/', '.')}.{p.stem}" for p in files}
    for path in files:
        assert not imported(path) & dotted, path


def test_harness_never_imports_the_command_line():
    for path in SOURCES:
        if path.name != "cli.py":
            assert "cli" not in {name.split(".")[0] for name in imported(path)}


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys, cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        f"heavy = set(sys.modules) & {set(OWNERS) | {'torch', 'numpy', 'scipy'}!r}\n"
        "assert not heavy, heavy"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # 0.3 s on an idle machine (bench/); here only that nothing heavy slipped in by another door.
    assert time.perf_counter() - start < 5
