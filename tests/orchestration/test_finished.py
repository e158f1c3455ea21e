"""A finished matrix answers again at once, and only as long as the answer is still true."""

import hashlib
import json
import os
import sys
import textwrap

import pytest

import cli
from harness import outside
from harness.datasets import image_zip
from harness.experiment import files
from harness.experiment.spec import Plugin
from harness.orchestration import changed, finished, matrix, recognise
from harness.report import collect
from tests.e2e.test_cli import TINY
from tests.image_files import pngs, write_zip
from tests.test_outside import METRIC


@pytest.fixture
def words(tmp_path, monkeypatch):
    """The command of a matrix of one short trial, and the folder of its results."""
    (tmp_path / "tiny.yaml").write_text(textwrap.dedent(TINY))
    monkeypatch.chdir(tmp_path)
    return ["matrix", "tiny.yaml", "--local", "--tracking-uri", "off", "--set", "arms={baseline: {}}"]


@pytest.mark.slow
def test_it_says_the_same_without_looking_at_a_trial(words, tmp_path, capsys, monkeypatch):
    assert cli.main(words) == 0
    first = capsys.readouterr().out
    for reader in (matrix, changed):
        monkeypatch.setattr(reader, "finished", lambda *_: pytest.fail("a trial was read"))
    assert cli.main(words) == 0
    again = capsys.readouterr().out
    assert again.startswith("tiny: 1 trials, 1 finished before\n")
    assert first[first.index("Arm") :] == again[again.index("Arm") :]


@pytest.mark.slow
def test_whatever_changes_the_answer_is_seen(words, tmp_path, capsys, monkeypatch):
    assert cli.main(words) == 0
    collected = []
    monkeypatch.setattr(collect, "collect", lambda *a, real=collect.collect: collected.append(1) or real(*a))

    def made_anew():
        collected.clear()
        assert cli.main(words) == 0
        return bool(collected)

    assert not made_anew()
    (path,) = (tmp_path / "results").glob("trials/*/result.json")
    result = json.loads(path.read_text())
    result["metrics"]["di"]["value"] = 123.5
    path.write_text(json.dumps(result))
    capsys.readouterr()
    assert made_anew() and "123.5" in capsys.readouterr().out
    assert not made_anew()
    (tmp_path / "results" / "tiny" / "report.html").unlink()
    assert made_anew() and (tmp_path / "results" / "tiny" / "report.html").exists()
    text = (tmp_path / "tiny.yaml").read_text()
    (tmp_path / "tiny.yaml").write_text(text.replace("+ SEL", "with SEL"))
    assert made_anew() and not made_anew()


def test_the_key_holds_all_that_an_experiment_is_made_of(tmp_path, monkeypatch):
    (tmp_path / "part.yaml").write_text("name: part\n")
    (tmp_path / "whole.yaml").write_text("include: [part.yaml]\n")
    whole = str(tmp_path / "whole.yaml")
    keys = [finished.key(whole, []), finished.key(whole, ["seeds=[1]"])]
    (tmp_path / "part.yaml").write_text("name: other\n")
    keys.append(finished.key(whole, []))
    monkeypatch.setattr(finished, "ROOT", tmp_path)
    (tmp_path / "cli.py").write_text("")
    keys.append(finished.key(whole, []))
    assert len(set(keys)) == 4


def test_the_key_holds_the_inception_weights_that_are_named(tmp_path, monkeypatch):
    (tmp_path / "whole.yaml").write_text("name: whole\n")
    weights = tmp_path / "inception.pth"
    monkeypatch.setenv("NASHBOARD_INCEPTION_WEIGHTS", str(weights))
    keys = [finished.key(str(tmp_path / "whole.yaml"), [])]
    for data in (b"one", b"two"):
        weights.write_bytes(data)
        os.utime(weights, ns=(10**18, 10**18))
        keys.append(finished.key(str(tmp_path / "whole.yaml"), []))
    monkeypatch.delenv("NASHBOARD_INCEPTION_WEIGHTS")
    keys.append(finished.key(str(tmp_path / "whole.yaml"), []))
    assert len(set(keys)) == 4


def test_what_changed_while_the_answer_was_sought_is_not_noted(tmp_path):
    data, code = tmp_path / "data", tmp_path / "factor.py"
    data.write_text("before")
    code.write_text("before")
    stamps, ran = finished.stamps([data]), {code: hashlib.sha256(b"before").hexdigest()}

    def kept():
        finished.keep(tmp_path / "tiny", "key", {"said": 1}, [], stamps, ran)
        return finished.recall(tmp_path, "key") is not None

    assert kept()
    code.write_text("after")
    assert finished.recall(tmp_path, "key") is None and not kept()
    code.write_text("before")
    assert kept()
    data.write_text("after!")
    assert finished.recall(tmp_path, "key") is None and not kept()
    code.unlink()
    assert not kept()


@pytest.mark.slow
def test_images_corrected_during_the_matrix_leave_no_note(words, tmp_path, monkeypatch):
    images = write_zip(tmp_path / "a.zip", pngs(64, 32))
    words += ["--set", f"dataset={{name: image_zip, path: {images}}}"]

    def correct(*a, real=matrix.write):
        os.utime(images)
        return real(*a)

    with monkeypatch.context() as m:
        m.setattr(matrix, "write", correct)
        assert cli.main(words) == 0
    assert not list((tmp_path / "results").glob(f"*/{finished.NOTE}"))
    assert cli.main(words) == 0
    assert list((tmp_path / "results").glob(f"*/{finished.NOTE}"))


def test_what_pixels_a_folder_had_is_asked_anew_of_another_epoch(tmp_path, monkeypatch):
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path / "cache"))
    options = image_zip.Options(write_zip(tmp_path / "a.zip", pngs(2)))
    loaded = []
    monkeypatch.setattr(image_zip, "load", lambda o, real=image_zip.load: loaded.append(o) or real(o))
    for epoch, times in ((1, 1), (1, 1), (2, 2)):
        monkeypatch.setattr(image_zip, "EPOCH", epoch)
        images = recognise._Images(Plugin("image_zip", options), image_zip.identity(options))
        assert images.pixels and len(loaded) == times


@pytest.mark.slow
def test_a_module_that_a_plugin_imports_from_anywhere_is_part_of_the_answer(words, tmp_path, capsys, monkeypatch):
    name = "factor_of_a_plugin"
    (tmp_path / f"{name}.py").write_text("VALUE = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "mine" / "metrics").mkdir(parents=True)
    (tmp_path / "mine" / "metrics" / "m.py").write_text(METRIC.format(value=f"{name}.VALUE") + f"import {name}\n")
    words += ["--set", "plugins=[mine]", "--set", "eval.metrics=[m]"]
    try:
        assert cli.main(words) == 0
        (note,) = (tmp_path / "results").glob(f"*/{finished.NOTE}")
        key = json.loads(note.read_text())["key"]
        assert finished.recall(tmp_path / "results", key)
        (tmp_path / f"{name}.py").write_text("VALUE = 4\n")
        assert finished.recall(tmp_path / "results", key) is None
    finally:
        outside.use([])
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "include", ["5", "whole.yaml", "[5, null]", "[whole.yaml]", "{whole.yaml: }", "[/etc/passwd, ../a]"]
)
def test_an_include_that_is_wrong_is_left_to_who_checks_it(tmp_path, include):
    (tmp_path / "whole.yaml").write_text(f"include: {include}\n")
    assert files.sources(tmp_path / "whole.yaml") == [tmp_path / "whole.yaml"]
