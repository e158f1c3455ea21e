"""A finished matrix answers again at once, and only as long as the answer is still true."""

import json
import textwrap

import pytest

import cli
from harness.experiment import files
from harness.orchestration import changed, finished, matrix
from harness.report import collect
from tests.e2e.test_cli import TINY


@pytest.fixture
def words(tmp_path, monkeypatch):
    """The command of a matrix of one short trial, and the folder of its results."""
    (tmp_path / "tiny.yaml").write_text(textwrap.dedent(TINY))
    monkeypatch.chdir(tmp_path)
    return ["matrix", "tiny.yaml", "--local", "--tracking-uri", "off", "--set", "arms={baseline: {}}"]


def test_it_says_the_same_without_looking_at_a_trial(words, tmp_path, capsys, monkeypatch):
    assert cli.main(words) == 0
    first = capsys.readouterr().out
    for reader in (matrix, changed):
        monkeypatch.setattr(reader, "finished", lambda *_: pytest.fail("a trial was read"))
    assert cli.main(words) == 0
    again = capsys.readouterr().out
    assert again.startswith("tiny: 1 trials, 1 finished before\n")
    assert first[first.index("Arm") :] == again[again.index("Arm") :]


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


@pytest.mark.parametrize(
    "include", ["5", "whole.yaml", "[5, null]", "[whole.yaml]", "{whole.yaml: }", "[/etc/passwd, ../a]"]
)
def test_an_include_that_is_wrong_is_left_to_who_checks_it(tmp_path, include):
    (tmp_path / "whole.yaml").write_text(f"include: {include}\n")
    assert files.sources(tmp_path / "whole.yaml") == [tmp_path / "whole.yaml"]
