"""Which files decide a trial's numbers, and when they are still the same code."""

import json
import subprocess
import sys
import textwrap
import zipfile

import pytest

from harness.errors import UserError
from harness.store import code
from harness.trial import environment
from harness.trial.environment import commit
from tests import tiny


@pytest.fixture
def source(tmp_path):
    """`source(text)`: a file of code as this process would have read it."""

    def make(text):
        path = tmp_path / f"{abs(hash(text))}.py"
        path.write_text(textwrap.dedent(text))
        return code._read_once(str(path))

    return make


def same(was, now, **more):
    return not code.compare({"mine": was.sha256}, {was.sha256: was.data}, {"mine": now}, **more)


PLAIN = '''
    """About it."""
    GAIN = 2.0

    class Loss:
        """What it is."""

        def __call__(self, x):
            """x -> y"""
            return GAIN * x  # linear
'''


@pytest.mark.parametrize(
    ("old", "new", "equal"),
    [
        ("# linear", "# straight", True),
        ('"""x -> y"""', '"""Twice x."""', True),
        ('    """What it is."""\n', "", True),
        ("GAIN * x", "(GAIN * x)", True),
        ("GAIN * x", "x * GAIN", False),
        ("2.0", "20000.0", False),
        ("2.0", "2", False),
        ("return GAIN", "GAIN", False),
        ("def __call__(self, x):", "def __call__(self, x)", False),
    ],
)
def test_only_comments_docstrings_and_layout_may_differ(source, old, new, equal):
    assert old in PLAIN
    assert same(source(PLAIN), source(PLAIN.replace(old, new))) == equal


def test_a_text_that_is_no_docstring_counts(source):
    assert not same(source("def f():\n    return 'a'\n"), source("def f():\n    return 'b'\n"))
    assert not same(source("x = 1\n'a'\n"), source("x = 1\n'b'\n"))


def test_a_copy_that_is_not_what_was_recorded_proves_nothing(source):
    was, now = source(PLAIN), source(PLAIN + "# more\n")
    assert code.compare({"mine": was.sha256}, {was.sha256: b"x = 1\n"}, {"mine": now}) == ("mine",)
    assert code.compare({"mine": was.sha256}, {}, {"mine": now}) == ("mine",)


def test_what_came_or_went_is_other_code_unless_the_package_knows_it(source, monkeypatch):
    now = source(PLAIN)
    assert code.compare({}, {}, {"mine": now}) == ("mine",)
    assert code.compare({"mine": now.sha256}, {}, {}) == ("mine",)
    monkeypatch.setattr(code, "known", lambda name: {now.sha256} if name == "mine" else set())
    assert code.compare({}, {}, {"mine": now}) == code.compare({"mine": now.sha256}, {}, {}) == ()


def test_two_digests_that_the_package_knows_are_the_same_code(source, monkeypatch):
    was, now, edited = source("x = 1\n"), source("x = 2\n"), source("x = 3\n")
    monkeypatch.setattr(code, "known", lambda name: {was.sha256, now.sha256})
    assert same(was, now)
    assert not same(was, edited) and not same(edited, now)


def test_accepted_is_the_code_that_was_seen_then_and_no_other(source):
    was, taken, later = source("x = 1\n"), source("x = 2\n"), source("x = 3\n")
    accepted = {"mine": [taken.sha256], "gone": [None]}
    assert same(was, taken, accepted=accepted)
    assert not same(was, later, accepted=accepted)
    assert code.compare({"gone": was.sha256}, {}, {}, accepted) == ()


def test_the_package_knows_its_present_files():
    """Red: a file that decides numbers was changed. Where the digests of trained arms hold, or an EPOCH was raised:
    python -m tests.digests.known"""
    kept = json.loads(code.KNOWN.read_text())
    assert {
        "harness.method.losses",
        "harness.variants.align",
        "backbones._layers",
        "harness.metrics.fid",
    } <= kept.keys()
    for name, source in code.own().items():
        assert source.sha256 in kept[name]["sha256"], name
        assert kept[name]["epoch"] == code.epoch(name), name
    assert code.with_present(kept) == kept


def test_a_raised_epoch_forgets_what_was_before_it(monkeypatch):
    (name, present), *_ = [(n, s) for n, s in code.own().items() if n == "harness.variants.align"]
    before = {name: {"epoch": code.epoch(name), "sha256": ["an older one"]}, "gone": {"epoch": 1, "sha256": ["a"]}}
    after = code.with_present(before)
    assert after[name]["sha256"] == ["an older one", present.sha256]
    assert after["gone"] == before["gone"]
    monkeypatch.setattr(code, "epoch", lambda name: 100)
    assert code.with_present(before)[name] == {"epoch": 100, "sha256": [present.sha256]}


def test_what_a_trial_uses_decides_it_and_nothing_else():
    plain, full = (code.deciding(tiny.trial("stylegan2", arm)) for arm in ("baseline", "align"))
    assert {"harness.method.losses", "harness.rng", "backbones", "backbones._layers"} <= plain.training.keys()
    assert "harness.datasets.synthetic" in plain.training
    assert "harness.variants.align" not in plain.training
    assert {"harness.variants.align", "harness.method.attention", "harness.method.heatmaps"} <= full.training.keys()
    assert "backbones.sn_dcgan" not in full.training
    assert {"harness.metrics.disequilibrium", "harness.evaluation.scores"} <= full.scoring.keys()
    assert "harness.metrics.fid" not in full.scoring
    assert not full.scoring.keys() & full.training.keys()
    carried = {
        "harness.errors",
        "harness.console",
        "harness.orchestration.pool",
        "harness.tracking.mirror",
        "harness.page",
    }
    assert not carried & (full.training.keys() | full.scoring.keys())


def test_modules_outside_the_project_are_followed_and_installed_ones_are_not(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("raise RuntimeError('run')\n")
    (tmp_path / "mine" / "maths.py").write_text("from . import deeper\nimport numpy\n")
    (tmp_path / "mine" / "deeper.py").write_text("import json\nfrom harness import errors, rng\n")
    script = "from harness.store import code; print(*code._reached(['mine.maths'], code.TRAINING))"
    words = [sys.executable, "-c", script]
    env = {"PYTHONPATH": f"{code.ROOT}:{tmp_path}", "PATH": ""}
    out = subprocess.run(words, env=env, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.split()
    assert out == ["harness.rng", "mine", "mine.deeper", "mine.maths"]


def test_the_record_lies_in_the_folder_with_every_copy(tmp_path):
    t = tiny.trial()
    told = code.note(tmp_path, t, resumed=False)
    first = (tmp_path / "code.zip").read_bytes()
    assert told == {k: v for k, v in code.read(tmp_path).items() if k != "accepted"}
    kept = code.copies(tmp_path)
    assert {*told["training"].values(), *told["scoring"].values()} == kept.keys()
    assert (
        kept[told["training"]["harness.method.losses"]] == (code.ROOT / "harness" / "method" / "losses.py").read_bytes()
    )
    (tmp_path / "code.zip").unlink()
    code.note(tmp_path, t, resumed=False)
    assert (tmp_path / "code.zip").read_bytes() == first, "content alone decides"
    with zipfile.ZipFile(tmp_path / "code.zip") as archive:
        assert archive.testzip() is None


@pytest.mark.parametrize(
    "spoilt",
    [
        None, [], {"training": {}}, {"training": 5, "scoring": {}}, {"training": {"a": 1}, "scoring": {}},
        {"training": None, "scoring": ["a"]}, {"training": None, "scoring": {}, "accepted": [1]},
        {"training": None, "scoring": {}, "accepted": {"a": 5}},
    ],
)  # fmt: skip
def test_a_spoilt_record_of_code_is_none(tmp_path, spoilt):
    """In the folder and in a result."""
    (tmp_path / code.RECORD).write_text(json.dumps(spoilt))
    assert code.read(tmp_path) == {}
    assert code.other(tmp_path, tiny.trial(), {"status": "done", "code": spoilt}) == code.Other()
    assert not code.scores_alike(tmp_path, tiny.trial(), {"code": spoilt}, "disequilibrium")


def test_a_resumed_trial_keeps_the_record_of_what_trained_it(tmp_path):
    t = tiny.trial()
    assert code.note(tmp_path, t, resumed=True)["training"] is None, "an older version kept none"
    told = code.note(tmp_path, t, resumed=False)
    record = code.read(tmp_path)
    record["training"]["harness.method.losses"] = "0" * 64
    record["scoring"]["harness.evaluation.scores"] = "0" * 64
    (tmp_path / "code.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="losses.py"):
        code.note(tmp_path, t, resumed=True)
    code.accept(tmp_path, code.deciding(t), ["harness.method.losses"])
    again = code.note(tmp_path, t, resumed=True)
    assert again["training"] == record["training"]
    assert again["scoring"] == told["scoring"]


def test_a_file_in_no_commit_makes_the_commit_read_as_changed(tmp_path, monkeypatch):
    def git(*words):
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True)

    git("init", "-q")
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness" / "x.py").write_text("")
    git("add", ".")
    git("commit", "-qm", "x")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    assert not commit().endswith("+")
    (tmp_path / "notes.txt").write_text("no code")
    assert not commit().endswith("+")
    (tmp_path / "harness" / "new.py").write_text("")
    assert commit().endswith("+")
