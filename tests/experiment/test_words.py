"""Words of a user's YAML are shown as they stand there; one that YAML 1.1 turns into something else is refused with the
cure, unless it is clear; `~` in front of a path is the home folder."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UserError
from harness.experiment import files
from harness.experiment.words import Word, shown

BASE: dict[str, str] = {
    "title": "x", "preset": "chainer", "seeds": "[0]", "conditional": "false", "arms": "{a: {}}",
    "dataset": "{name: synthetic}", "train": "{total_kimg: 1}", "labels": "{}",
    "eval": "{metrics: [disequilibrium], num_fakes: 64}",
}  # fmt: skip


def load(tmp_path: Path, sets: tuple[str, ...] = (), **keys: str) -> Any:
    path = tmp_path / "t.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in {**BASE, **keys}.items()))
    return files.load(path, sets)


def only(experiment: Any) -> Any:
    ((trial,),) = experiment.tables[0].cells.values()
    return trial


REFUSED: list[tuple[str, str, str]] = [
    ("title", "no", 'title: no: must be text; YAML 1.1 reads it as false; write "no" in quotes'),
    ("title", "on", 'title: on: must be text; YAML 1.1 reads it as true; write "on" in quotes'),
    ("title", "Off", 'title: Off: must be text; YAML 1.1 reads it as false; write "Off" in quotes'),
    ("title", "YES", 'title: YES: must be text; YAML 1.1 reads it as true; write "YES" in quotes'),
    ("title", "true", 'title: true: must be text; write "true" in quotes'),
    ("title", "010", 'title: 010: must be text; YAML 1.1 reads it as 8; write "010" in quotes'),
    ("title", "1_000", 'title: 1_000: must be text; YAML 1.1 reads it as 1000; write "1_000" in quotes'),
    ("title", "1:30", 'title: 1:30: must be text; YAML 1.1 reads it as 90; write "1:30" in quotes'),
    ("title", "1.50", 'title: 1.50: must be text; YAML 1.1 reads it as 1.5; write "1.50" in quotes'),
    ("title", "2024-01-01", "title: 2024-01-01: must be text; YAML 1.1 reads it as the date 2024-01-01; write"),
    ("title", "null", "title: null: must be text"),
    ("title", "7", 'title: 7: must be text; write "7" in quotes'),
    ("arms", "{on: {}}", 'arms: on: must be text; YAML 1.1 reads it as true; write "on" in quotes'),
    ("settings", "{no: {train.total_kimg: 1}}", 'settings: no: must be text; YAML 1.1 reads it as false; write "no"'),
    ("settings", "{1:30: {}}", 'settings: 1:30: must be text; YAML 1.1 reads it as 90; write "1:30" in quotes'),
    ("labels", "{a: off}", 'labels.a: off: must be text; YAML 1.1 reads it as false; write "off" in quotes'),
    ("arms", "{a: {sel: on}}", "arms.a.sel: on: must be a mapping of options; YAML 1.1 reads it as true"),
    ("seeds", "[010]", "seeds[0]: 010: must be a whole number as it reads; YAML 1.1 reads it as 8; write 10"),
    ("seeds", "[0_64]", "seeds[0]: 0_64: must be a whole number as it reads; YAML 1.1 reads it as 52; write 64"),
    ("seeds", "[1:30]", "seeds[0]: 1:30: must be a whole number as it reads; YAML 1.1 reads it as 90; write 90"),
    ("seeds", "[-012]", "seeds[0]: -012: must be a whole number as it reads; YAML 1.1 reads it as -10; write -12"),
    ("seeds", "[09]", "seeds[0]: '09' is text in YAML 1.1; write 9 without quotes"),
    ("seeds", "[yes]", "seeds[0]: yes: must be a whole number; YAML 1.1 reads it as true"),
    ("train", "{total_kimg: 007}", "train.total_kimg: 007: must be a number as it reads"),
    ("train", "{total_kimg: 1:30.5}", "train.total_kimg: 1:30.5: must be a number as it reads"),
    ("train", "{total_kimg: -1_0}", "train.total_kimg: -1_0: must be > 0"),
    ("train", "{total_kimg: -1.50}", "train.total_kimg: -1.50: must be > 0"),
    ("train", "{total_kimg: .inf}", "train.total_kimg: .inf: must be finite"),
    ("train", "{total_kimg: on}", "train.total_kimg: on: must be a number; YAML 1.1 reads it as true"),
    ("train", "{total_kimg: true}", "train.total_kimg: true: must be a number"),
    ("train", "{batch_size: 2.50}", "train.batch_size: 2.50: must be a whole number"),
    ("train", "{loss: no}", "train.loss: no is not a choice; known: logistic, hinge"),
    ("train", "[on, 010, x]", "train: [on, 010, 'x']: must be a mapping"),
    ("train", "{on: 1}", "train.on: unknown key"),
    ("true", "1", "true: unknown key"),
    ("no", "1", "no: unknown key"),
    ("conditional", "1", "conditional: 1: must be true or false"),
    ("conditional", "010", "conditional: 010: must be true or false; YAML 1.1 reads it as 8"),
]


@pytest.mark.parametrize(("key", "value", "message"), REFUSED)
def test_a_word_that_yaml_makes_another_of_is_refused_as_it_stands(
    key: str, value: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        load(tmp_path, (), **{key: value})
    assert message in str(error.value)
    if key in ("title", "seeds", "train", "conditional"):
        with pytest.raises(UserError) as error:
            load(tmp_path, sets=(f"{key}={value}",))
        assert message in str(error.value)


def test_a_number_written_oddly_but_clearly_is_that_number(tmp_path: Path) -> None:
    trial = only(load(tmp_path, seeds="[1_000]", train="{total_kimg: 2.50, g: {lr: 2.0e-4}, batch_size: 0x10}"))
    assert (trial.seed, trial.train.total_kimg, trial.train.g.lr, trial.train.batch_size) == (1000, 2.5, 2e-4, 16)
    assert {type(trial.seed), type(trial.train.batch_size)} == {int} and type(trial.train.g.lr) is float


@pytest.mark.parametrize(
    ("word", "value"), [("on", True), ("yes", True), ("True", True), ("no", False), ("OFF", False)]
)
def test_true_and_false_may_be_written_as_ever(word: str, value: bool, tmp_path: Path) -> None:
    assert only(load(tmp_path, conditional=word)).conditional is value


def test_a_word_in_quotes_is_text(tmp_path: Path) -> None:
    experiment = load(tmp_path, title='"no"', arms="{'on': {}, \"010\": {}, '1:30': {}}", labels="{'on': 'yes'}")
    table = experiment.tables[0]
    assert table.title == "no" and table.arms == ("on", "010", "1:30") and table.labels == {"on": "yes"}


def test_words_survive_copies_and_are_shown_in_what_holds_them() -> None:
    word = Word("010", 8)
    for same in (copy.deepcopy(word), pickle.loads(pickle.dumps(word))):
        assert (same, same.value, type(same)) == ("010", 8, Word)
    assert (
        shown({"a": [word, None, True, float("-inf"), float("nan"), "x"]}) == "{a: [010, null, true, -.inf, .nan, 'x']}"
    )


def zipped(path: str) -> str:
    return f"{{name: image_zip, path: {path}}}"


def test_a_tilde_is_the_home_folder_or_refused_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for written in ("~/a.zip", "'~/a.zip'", '"~/a.zip"', "~//a.zip"):
        assert only(load(tmp_path, dataset=zipped(written))).dataset.options.path == tmp_path / "home" / "a.zip"
    assert only(load(tmp_path, ("dataset.path=~/b.zip",), dataset=zipped("x"))).dataset.options.path.name == "b.zip"
    assert only(load(tmp_path, dataset=zipped('"~"'))).dataset.options.path == tmp_path / "home"
    assert only(load(tmp_path, dataset=zipped("a/~/b~.zip"))).dataset.options.path == Path("a/~/b~.zip")
    for written, message in (
        ("~", 'dataset.path: null: must be a path; a bare ~ is null in YAML, the home folder is "~/" in quotes'),
        ("~nobody-of-this-name/a.zip", "~nobody-of-this-name is nobody's home folder here; write it out"),
    ):
        with pytest.raises(UserError) as error:
            load(tmp_path, dataset=zipped(written))
        assert message in str(error.value)


def test_a_tilde_in_plugins_and_include_is_no_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "t.yaml").write_text("plugins: [~/mine]\n")
    assert files.plugin_folders(tmp_path / "t.yaml") == [tmp_path / "home" / "mine"]
    assert files.named_folders(["plugins=[~/mine]"]) == [tmp_path / "home" / "mine"]
    (tmp_path / "u.yaml").write_text("include: [~/t.yaml]\n")
    with pytest.raises(UserError) as error:
        files.load(tmp_path / "u.yaml")
    assert "include: '~/t.yaml': must lie in the folder of the file that includes it" in str(error.value)
