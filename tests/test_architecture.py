"""The rules that keep the house simple, held by reading its imports."""

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROWS = (  # from top to bottom: a file imports its own folder and lower rows only
    "api",
    "orchestration study editor",
    "trial",
    "pictures",
    "training tracking weights metrics",
    "evaluation report datasets",
    "store",
    "data experiment variants",
    "outside command verbs",
    "method plugins disk locks pickles",
    "errors rng console proxies process",
    "streams",
    "backbones",
)
ROW = {room: i for i, row in enumerate(ROWS) for room in row.split()}
OWNERS = {
    "ray": "harness/orchestration/cluster.py",
    "mlflow": "harness/tracking/",  # mirror.py, and sqlite.py for the migration that runs in a process of its own
    "torch_fidelity": "harness/evaluation/features.py",
    "rich": "harness/console.py",
    "yaml": "harness/experiment/loader.py",
    "fcntl": "harness/locks.py",
}
DOORS = (  # by which text, or bytes, may become code; or another user's file ours
    "import_module", "pickle.loads", "pickle.load", "Unpickler", "torch.load", "torch.hub.load", "yaml.load", "exec",
    "eval", "gettempdir",
)  # fmt: skip
TYPED = "harness.plugins"  # names, for type checkers alone, the types of what it finds on the shelves
SHELVES = ("backbones", "harness/datasets", "harness/variants", "harness/metrics")


def sources(root: Path = ROOT) -> dict[str, Path]:
    """{dotted name: file} of the project's own modules; a folder's `__init__.py` bears the folder's name."""
    files = [p for folder in ("harness", "backbones") for p in (root / folder).rglob("*.py")] + [root / "cli.py"]
    return {".".join(p.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): p for p in files}


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Dotted names of what a file imports: a module of the project where it is one."""
    for node in _nodes(ast.parse(path.read_text()), known.get(TYPED) == path):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import hides where it leads"
            assert node.module
            for a in node.names:
                yield f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in known else node.module


def _nodes(tree: ast.AST, typed: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if not (typed and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from _nodes(node, typed)


def room(module: str) -> str:
    """The folder, or the file on the ground floor of harness/, that a module belongs to."""
    parts = module.split(".")
    return parts[1] if parts[0] == "harness" and len(parts) > 1 else parts[0]


def broken(root: Path = ROOT) -> list[str]:
    """Every import that leads up or sideways, into another room's private file, or through a room's front door."""
    known = sources(root)
    found = []
    for module, path in known.items():
        if module in ("cli", "harness"):
            continue
        for name in set(imported(path, known)):
            if name.split(".")[0] not in ("harness", "backbones", "cli"):
                continue
            here, there = room(module), room(name)
            if there == "cli" or name == "harness":
                found.append(f"{module} -> {name}: nothing imports the command line, nor the whole house")
            elif here != there and not ROW[there] > ROW[here]:
                found.append(f"{module} -> {name}: from {here} to {there} is not downwards")
            elif here != there and any(part.startswith("_") for part in name.split(".")):
                found.append(f"{module} -> {name}: private to {there}")
    return sorted(found)


def circles(root: Path = ROOT) -> list[str]:
    """Modules that import each other in a ring, late imports counted."""
    known = sources(root)
    arrows = {m: {n for n in imported(p, known) if n in known and n != m} for m, p in known.items()}
    while free := [m for m, to in arrows.items() if not to & arrows.keys()]:
        for m in free:
            del arrows[m]
    return sorted(arrows)


def test_every_room_stands_in_a_row():
    rooms = {room(m) for m in sources()} - {"cli", "harness"}
    assert rooms <= ROW.keys(), f"no row for {rooms - ROW.keys()}"


def test_imports_run_downwards_and_private_files_stay_private():
    assert not broken()


def test_no_module_imports_itself_by_way_of_others():
    assert not circles()


@pytest.mark.parametrize(
    ("file", "line", "what"),
    [
        ("harness/store/lock.py", "from harness.trial import run", "from store to trial is not downwards"),
        ("harness/report/page.py", "from harness.evaluation import scores", "from report to evaluation"),
        ("harness/trial/run.py", "from harness.variants import _scaled", "private to variants"),
        ("backbones/sn_dcgan.py", "import harness.rng", "from backbones to rng is not downwards"),
        ("harness/rng.py", "import cli", "nothing imports the command line"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path, file, line, what):
    copy_of_the_house(tmp_path)
    (tmp_path / file).write_text(f"{line}\n" + (tmp_path / file).read_text())
    assert any(what in complaint for complaint in broken(tmp_path))


def test_a_circle_is_found(tmp_path):
    copy_of_the_house(tmp_path)
    path = tmp_path / "harness/experiment/schema.py"
    path.write_text(path.read_text() + "\n\ndef late():\n    from harness.experiment import spec\n    return spec\n")
    assert "harness.experiment.schema" in circles(tmp_path)


def copy_of_the_house(to: Path) -> None:
    for path in sources().values():
        target = to / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path.read_text())


@pytest.mark.parametrize("module", sorted(sources()))
def test_each_heavy_library_has_one_owner(module):
    known = sources()
    used = {name.split(".")[0] for name in imported(known[module], known)}
    for library in used & OWNERS.keys():
        here = str(known[module].relative_to(ROOT))
        assert here.startswith(OWNERS[library]), f"{library} belongs in {OWNERS[library]}"


def test_each_door_in_the_code_is_told():
    """docs/security.md names every file that has one."""
    told = (ROOT / "docs" / "security.md").read_text()
    for path in sources().values():
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        for call in calls:
            name = ast.unparse(call.func)
            if any(name == door or door != "eval" and name.endswith(f".{door}") for door in DOORS):
                assert f"`{path.name}`" in told, f"{path}, line {call.lineno}: {name}"


@pytest.mark.parametrize("path", sorted((ROOT / "backbones").glob("*.py")), ids=lambda p: p.name)
def test_backbones_know_nothing_of_the_method(path):
    assert "heatmap" not in path.read_text().lower().replace("nothing here knows heatmaps", "")


@pytest.mark.parametrize("folder", SHELVES)
def test_plugins_never_import_each_other(folder):
    known, shelf = sources(), folder.replace("/", ".")
    plugins = {m for m in known if m.rpartition(".")[0] == shelf and not m.rpartition(".")[2].startswith("_")}
    for module in plugins:
        assert not set(imported(known[module], known)) & (plugins - {module}), module


def test_each_room_says_what_is_in_it_and_loads_nothing():
    """A folder's `__init__.py` is a docstring with a line for each of its files; machinery holds nothing else."""
    for path in (ROOT / "harness").rglob("__init__.py"):
        tree = ast.parse(path.read_text())
        said = ast.get_docstring(tree) or ""
        for file in path.parent.glob("*.py"):
            if not file.name.startswith("_"):
                assert file.name in said, f"{path}: does not say what {file.name} is"
        assert len(tree.body) == 1, f"{path}: loads something"


def loaded(code: str, *heavy: str) -> set[str]:
    """Which of the `heavy` modules a fresh interpreter has loaded after `code`."""
    code += f"\nimport sys; print(*(set(sys.modules) & {set(heavy)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("\n")[-2].split())


def test_help_is_quick_and_imports_nothing_heavy():
    start = time.perf_counter()
    code = "import cli\ntry: cli.main(['--help'])\nexcept SystemExit: print()"
    assert not loaded(code, *OWNERS, "torch", "numpy", "scipy")
    # 0.3 s on an idle machine (bench/); here only that nothing heavy slipped in by another door.
    assert time.perf_counter() - start < 5


def test_the_store_loads_no_torch_but_for_checkpoints():
    names = [m for m in sources() if m.startswith("harness.store.") and m != "harness.store.checkpoint"]
    assert names and not loaded("\n".join(f"import {m}" for m in names), "torch", "ray", "mlflow")


@pytest.mark.parametrize("verb", ["status", "plan"])
def test_a_first_line_comes_before_torch(verb, tmp_path):
    """A line on the terminal while the plugins that a YAML names load it."""
    code = (
        "import sys, cli\n"
        "class Watch:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'torch': print('TORCH', flush=True)\n"
        "sys.meta_path.insert(0, Watch())\n"
        f"cli.main([{verb!r}, 'smoke', '--results', {str(tmp_path)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout.split("\n")
    assert said[0].startswith("smoke: ") and "TORCH" in said[1:]


def test_no_text_is_read_or_written_in_the_encoding_of_the_day():
    """A file means the same under every locale: who opens text says UTF-8."""
    loose = []
    for path in (*(ROOT / "harness").rglob("*.py"), ROOT / "cli.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            text = node.func.attr in ("read_text", "write_text") or (
                node.func.attr == "open"
                and bool(node.args)
                and isinstance(node.args[0], ast.Constant)
                and node.args[0].value in ("r", "w", "a", "x")
            )
            if text and "encoding" not in {k.arg for k in node.keywords}:
                loose.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not loose
