"""Folders of plugins from outside: found, told apart, shipped, kept, and gone when another set is used."""

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness import outside, plugins
from harness.errors import UserError
from harness.experiment import files
from harness.orchestration import finished, matrix
from harness.store import code
from tests.two_users import ALICE, needs_root

EXAMPLE = Path(__file__).parent / "outside"
VARIANT = """
from dataclasses import dataclass
from {where} import VALUE

@dataclass(frozen=True)
class Options:
    weight: float = 1.0
"""
METRIC = """
from dataclasses import dataclass
from harness.evaluation.evidence import Needs, record

@dataclass(frozen=True)
class Options:
    pass

def needs(options, setting):
    return Needs(scores=True)

def compute(evidence, options, setting):
    return {{"m": record({value}, "lower", setting.protocol())}}
"""
PART = "VALUE = {value}\n"
YAML = """
preset: chainer
dataset: {name: synthetic, num_images: 64}
train: {total_kimg: 0.064, batch_size: 8}
eval: {num_fakes: 64, metrics: [disequilibrium]}
"""


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path / "cache"))
    outside.use([])
    yield
    outside.use([])


def folder(path, **texts):
    """`variants__y="text"` -> variants/y.py."""
    for name, text in texts.items():
        file = path / f"{name.replace('__', '/', 1)}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return path


def mine(path, value=1, where="harness.variants._part"):
    return folder(path, variants__y=VARIANT.format(where=where), variants___part=PART.format(value=value))


def found() -> Any:
    return plugins.find("harness.variants", "y")


def use(*paths):
    outside.use([outside.read(path) for path in paths])


@pytest.mark.parametrize("where", ["harness.variants._part", "._part"])
def test_a_file_is_found_by_its_name_with_what_stands_beside_it(tmp_path, where):
    use(mine(tmp_path / "mine", 7, where))
    assert "y" in plugins.names("harness.variants") and "_part" not in plugins.names("harness.variants")
    module = found()
    assert (module.VALUE, module.__file__) == (7, str(tmp_path / "mine" / "variants" / "y.py"))
    assert "sel" in plugins.names("harness.variants")
    assert not list(tmp_path.rglob("__pycache__")), "nothing is left in the user's folder"


def test_the_same_set_again_changes_nothing_and_another_takes_it_away(tmp_path):
    before = {package: list(importlib.import_module(package).__path__) for package in plugins.PARTS}
    use(mine(tmp_path / "a", 1))
    first = found()
    use(tmp_path / "a")
    assert found() is first
    use(mine(tmp_path / "b", 2))
    assert found().VALUE == 2
    use()
    assert {package: list(importlib.import_module(package).__path__) for package in plugins.PARTS} == before
    assert not [name for name in sys.modules if name in ("harness.variants.y", "harness.variants._part")]
    assert not hasattr(importlib.import_module("harness.variants"), "y")
    with pytest.raises(UserError, match="'y' is not one of the variants"):
        found()


def test_an_edit_within_the_same_second_is_seen(tmp_path):
    for value in range(5):
        use(mine(tmp_path / "mine", value))
        seen = found().VALUE
        assert seen == value


def test_a_name_twice_on_a_shelf_names_both_files(tmp_path):
    use(mine(tmp_path / "kept"))
    for name in ("sel", "_scaled"):  # of our own; a private one would be taken for ours in silence
        other = folder(tmp_path / name, **{f"variants__{name}": "X = 1\n"})
        with pytest.raises(UserError) as error:
            use(other)
        own = str(Path(importlib.import_module("harness.variants").__path__[0]) / f"{name}.py")
        assert own in str(error.value) and str(other / "variants" / f"{name}.py") in str(error.value)
    with pytest.raises(UserError, match="twice: .*kept/variants/.*twin/variants/"):
        use(tmp_path / "kept", mine(tmp_path / "twin"))
    assert found().VALUE == 1, "what was in use still is"


def test_a_folder_that_is_none_holds_none_or_too_much_is_refused(tmp_path):
    with pytest.raises(UserError, match="gone: is no folder; name one"):
        use(tmp_path / "gone")
    (tmp_path / "empty" / "variants").mkdir(parents=True)
    with pytest.raises(UserError, match="empty: holds no plugin; put its files into backbones/"):
        use(tmp_path / "empty")
    big = folder(tmp_path / "big", variants__a="#" * (outside.MAX_BYTES + 1))
    with pytest.raises(UserError, match=f"1 files of {outside.MAX_BYTES + 1} bytes: must be at most"):
        use(big)
    many = folder(tmp_path / "many", **{f"metrics__m{i}": "" for i in range(outside.MAX_FILES + 1)})
    with pytest.raises(UserError, match=f"{outside.MAX_FILES + 1} files"):
        use(many)
    (folder(tmp_path / "latin", variants__a="") / "variants" / "a.py").write_bytes(b"# \xe9\n")
    with pytest.raises(UserError, match="no UTF-8 text"):
        use(tmp_path / "latin")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\nx = 1 +\n", r"bad\.py, line 2: SyntaxError"),
        ("\n\nimport no_such_library\n", r"bad\.py, line 3: ModuleNotFoundError: No module named 'no_such_library'"),
        ("class Options: ...\n", r"bad\.py: has no needs, compute; a file of this shelf"),
    ],
)
def test_a_file_that_does_not_load_is_one_line_with_its_place(tmp_path, text, message):
    use(folder(tmp_path / "mine", metrics__bad=text))
    for _ in range(2):
        with pytest.raises(UserError, match=message) as error:
            plugins.find("harness.metrics", "bad", "a.yaml: eval.metrics.bad.name")
        assert str(error.value).startswith("a.yaml: eval.metrics.bad.name: ") and "\n" not in str(error.value)


def test_a_trial_used_its_plugins_and_what_they_import(tmp_path):
    use(
        folder(
            mine(tmp_path / "mine"),
            variants__other="from ..metrics import w\n",
            metrics__w="import backbones._deep\n",
            backbones___deep="",
            metrics__idle="",
        )
    )
    ask = {"y": {"variants/_part.py", "variants/y.py"}, "other": {"variants/other.py", "metrics/w.py"}}
    ask["other"] |= {"backbones/_deep.py"}
    for name, expected in ask.items():
        assert set(outside.used_by([("harness.variants", name), ("backbones", "sn_dcgan")])) == expected
    assert outside.used_by([("harness.variants", "sel")]) == {}


def test_another_process_uses_the_folder_or_where_there_is_none_a_copy(tmp_path):
    use(mine(tmp_path / "mine", 5))
    sent = json.loads(json.dumps(outside.packed()))

    def elsewhere():
        outside.use([])
        outside.unpack(sent)
        module = found()
        return module.VALUE, Path(module.__file__)

    assert elsewhere() == (5, tmp_path / "mine" / "variants" / "y.py")
    (tmp_path / "mine" / "variants" / "_part.py").write_text(PART.format(value=6))  # edited while the matrix runs
    value, file = elsewhere()
    assert value == 5 and file.is_relative_to(tmp_path / "cache")
    (file.parent / "_part.py").write_text(PART.format(value=7))  # a copy that was spoilt
    assert elsewhere() == (5, file)


def test_options_of_a_worker_bring_their_sources_once(tmp_path):
    use(mine(tmp_path / "mine", 5))
    options = {"device": "cpu", outside.KEY: outside.packed()}
    outside.use([])
    assert outside.unpacked(options) == {"device": "cpu"}
    assert found().VALUE == 5
    assert outside.unpacked({"device": "cpu"}) == {"device": "cpu"}, "one that brings none leaves what is in use"


def test_what_a_trial_kept_is_used_when_the_folder_is_gone_or_another(tmp_path):
    use(mine(tmp_path / "mine", 5))
    kept = outside.used_by([("harness.variants", "y")])
    outside.keep(tmp_path / "trial", kept)
    outside.restore(tmp_path / "trial")
    assert found().__file__.startswith(str(tmp_path / "mine")), "it is at hand"
    use(mine(tmp_path / "mine", 6))
    outside.restore(tmp_path / "trial")
    assert found().VALUE == 5, "the code that made it"
    named = folder(tmp_path / "named", variants___part=PART.format(value=8))
    outside.restore(tmp_path / "trial", [outside.read(named)])
    assert found().VALUE == 8, "unless one says otherwise"
    outside.keep(tmp_path / "trial", {})
    assert not (tmp_path / "trial").exists()


@needs_root
def test_what_another_users_trial_kept_runs_only_when_it_is_named(tmp_path):
    """A trial's folder that is scored or drawn brings code; a shared folder of results takes nobody over."""
    use(mine(tmp_path / "mine", 5))
    outside.keep(tmp_path / "trial", outside.used_by([("harness.variants", "y")]))
    outside.use([])
    os.chown(tmp_path / "trial" / "variants" / "y.py", ALICE, ALICE)
    with pytest.raises(UserError, match=f"y.py: belongs to user {ALICE}, .* --set plugins=.{tmp_path / 'trial'}"):
        outside.restore(tmp_path / "trial")
    outside.restore(tmp_path / "trial", [outside.read(tmp_path / "trial")])
    assert found().VALUE == 5


# ── in an experiment ─────────────────────────────────────────────────────────


def experiment(path, more=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(YAML + more)
    return path


def test_folders_are_seen_from_the_file_and_overrides_from_the_working_folder(tmp_path, monkeypatch):
    mine(tmp_path / "mine", 1)
    mine(tmp_path / "work" / "mine", 2)
    path = experiment(tmp_path / "work" / "a.yaml", "plugins: [../mine]\narms: {y: {y: {weight: 2}}}\n")
    loaded = files.load(path)
    assert loaded.plugins == (tmp_path / "mine",)
    assert loaded.tables[0].cells["synthetic", "y"][0].variant("y").weight == 2
    assert found().VALUE == 1
    monkeypatch.chdir(tmp_path / "work")
    files.load(path, ["plugins=[mine]"])
    assert found().VALUE == 2
    assert files.load("smoke", ["plugins=[mine]", "arms={y: {y: {}}}"]).plugins == (tmp_path / "work" / "mine",)
    files.load("smoke")
    assert "y" not in plugins.names("harness.variants"), "an experiment that names none has none"


def test_an_experiment_has_the_plugins_of_all_that_it_includes(tmp_path):
    mine(tmp_path / "mine")
    folder(tmp_path / "more", variants__z="class Options: ...\n")
    experiment(tmp_path / "sub" / "a.yaml", "plugins: [../mine]\narms: {y: [y]}\n")
    whole = tmp_path / "whole.yaml"
    whole.write_text("include: {sub/a.yaml: {plugins: [mine], title: A}}\nplugins: [more]\n")
    assert files.load(whole).plugins == (tmp_path / "more", tmp_path / "mine")
    assert {"y", "z"} <= set(plugins.names("harness.variants"))


@pytest.mark.parametrize(
    ("more", "sets", "message"),
    [
        ("plugins: [gone]\n", [], r"a\.yaml: plugins: .*/gone: is no folder; name one that holds"),
        ("plugins: gone\n", [], r"plugins: 'gone': must be a list"),
        ("plugins: [3]\n", [], r"plugins\[0\]: 3: must be a path"),
        ("", ["plugins=gone"], r"--set plugins: 'gone': must be a list of folders, like \[mine\]"),
    ],
)
def test_what_names_no_folder_is_one_line(tmp_path, more, sets, message):
    path = experiment(tmp_path / "a.yaml", more)
    with pytest.raises(UserError, match=message) as error:
        files.load(path, sets)
    assert "\n" not in str(error.value)


def test_an_experiment_runs_with_its_own_plugins_whatever_was_loaded_since(tmp_path):
    for name, value in (("a", 1.0), ("b", 2.0)):
        folder(tmp_path / f"of_{name}", metrics__m=METRIC.format(value=value))
        more = f"plugins: [of_{name}]\nbackbone: {{width: 0.0625, z_dim: 8}}\n"
        experiment(tmp_path / f"{name}.yaml", more)
    sets = ["eval={num_fakes: 16, batch_size: 16, metrics: [m]}", "train.total_kimg=0.008"]
    first = files.load(tmp_path / "a.yaml", sets)
    files.load(tmp_path / "b.yaml", sets)
    matrix.run(first, tmp_path / "results", launcher="inline", tracking_uri="off")
    (result,) = (tmp_path / "results" / "trials").glob("*/result.json")
    assert json.loads(result.read_text())["metrics"]["m"]["value"] == 1


def test_an_edited_file_is_other_code_in_the_same_process(tmp_path):
    mine(tmp_path / "mine", 1)
    path = experiment(tmp_path / "a.yaml", "plugins: [mine]\narms: {y: [y]}\n")

    def seen():
        (trial,) = files.load(path).tables[0].cells["synthetic", "y"]
        return {name: source.sha256 for name, source in code.deciding(trial).training.items() if "variants" in name}

    before = seen()
    mine(tmp_path / "mine", 2)
    after = seen()
    assert before.keys() == after.keys() and "harness.variants._part" in after
    assert {name for name in after if before[name] != after[name]} == {"harness.variants._part"}


def test_a_finished_matrix_does_not_answer_for_an_edited_file(tmp_path):
    mine(tmp_path / "mine")
    path = str(experiment(tmp_path / "a.yaml", "plugins: [mine]\n"))

    def key():
        return finished.key(path, [], files.plugin_folders(path))

    before = key()
    assert key() == before
    (tmp_path / "mine" / "variants" / "_part.py").write_text(PART.format(value=2))
    assert key() != before


def test_the_example_is_one_file_a_shelf():
    names = [Path(name) for name in outside.read(EXAMPLE).files]
    assert {p.parts[0] for p in names} == set(outside.SHELVES)
    assert all(len(p.parts) == 2 and not p.name.startswith("_") for p in names)


def test_the_example_computes_what_it_says():
    outside.use([outside.read(EXAMPLE)])
    metric: Any = plugins.find("harness.metrics", "energy_distance")
    here, there = np.zeros((3, 2), np.float32), np.full((5, 2), (3, 4), np.float32)
    assert metric.energy_distance(here, there) == pytest.approx(10), "2 |x - y| of two points"
    assert metric.energy_distance(here, np.zeros((4, 2), np.float32)) == 0
    x, y = np.array([[0], [2]], np.float32), np.array([[0], [1], [2]], np.float32)
    assert metric.energy_distance(x, y) == pytest.approx(2 * 1 - 2 - 4 / 3)
    variant: Any = plugins.find("harness.variants", "smooth")
    assert variant.total_variation(torch.tensor([[[[0.0, 1], [0, 1]]]])) == 1
