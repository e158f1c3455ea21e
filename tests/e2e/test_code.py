"""Code is part of a trial: an edited clone is noticed, in a copy of the project and through its command line."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import cli
from harness import outside

ROOT = Path(__file__).parent.parent.parent
TINY = """
    name: tiny
    preset: chainer
    dataset: {name: synthetic, num_images: 64}
    backbone: {width: 0.0625, z_dim: 8}
    train: {total_kimg: 0.016, batch_size: 8}
    arms: {baseline: {}, align: {sel: {}, align: {}}}
    eval: {num_fakes: 64, batch_size: 16, metrics: [disequilibrium]}
"""
STYLEGAN2 = """
    name: style
    dataset: {name: synthetic, num_images: 64}
    backbone: {name: stylegan2, z_dim: 16, w_dim: 16, mapping_layers: 2, channel_base: 128, channel_max: 8}
    train: {total_kimg: 0.016, batch_size: 8}
    arms: {baseline: {}}
    eval: {num_fakes: 64, batch_size: 16, metrics: [disequilibrium]}
"""


class Clone:
    """A copy of the project with results of its own."""

    def __init__(self, home):
        self.home = home
        for name in ("harness", "backbones", "experiments"):
            shutil.copytree(ROOT / name, home / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "cli.py", home)
        for name, text in (("tiny", TINY), ("style", STYLEGAN2)):
            (home / f"{name}.yaml").write_text(textwrap.dedent(text))

    def __call__(self, verb, experiment="tiny.yaml", *words):
        env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "400", "NASHBOARD_CACHE": str(self.home / "cache")}
        env.pop("PYTHONPATH", None)
        done = subprocess.run(
            [sys.executable, "cli.py", verb, experiment, *words],
            cwd=self.home, env=env, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def matrix(self, *words, experiment="tiny.yaml"):
        return self("matrix", experiment, "--local", "--tracking-uri", "off", *words)

    def edit(self, path, old, new):
        text = (self.home / path).read_text()
        assert old in text
        (self.home / path).write_text(text.replace(old, new, 1))

    def trials(self):
        """{arm: its folder}."""
        found = (self.home / "results" / "trials").iterdir()
        return {"align" if "align:" in (p / "config.yaml").read_text() else "baseline": p for p in found}

    def results(self):
        return {arm: json.loads((p / "result.json").read_text()) for arm, p in self.trials().items()}

    def trained(self):
        """Whatever changes when anything is trained: seconds and checkpoints."""
        saved = {p: p.stat().st_ino for p in (self.home / "results" / "trials").rglob("*.safetensors")}
        return saved, {arm: r["cost"]["train_s"] for arm, r in self.results().items()}


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path)


OWN = TINY.replace("arms: {baseline: {}, align: {sel: {}, align: {}}}", "plugins: [mine]\n    arms: {gray: {gray: {}}}")


def test_a_variant_of_ones_own_edited_does_not_answer_with_the_old_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "own.yaml").write_text(textwrap.dedent(OWN))
    text = (ROOT / "tests" / "outside" / "variants" / "smooth.py").read_text().replace('"smooth"', '"gray"')
    gray = tmp_path / "mine" / "variants" / "gray.py"
    gray.parent.mkdir(parents=True)
    gray.write_text(text)
    words = ["matrix", "own.yaml", "--local", "--tracking-uri", "off"]
    try:
        assert cli.main(words) == 0
        gray.write_text(text.replace("    def g_term", "    # what it adds\n    def g_term"))
        capsys.readouterr()
        assert cli.main(words) == 0, "a comment is no code"
        assert "1 finished before" in capsys.readouterr().out
        gray.write_text(text.replace("self.weight * variation", "10_000 * self.weight * variation"))
        before = [p.read_bytes() for p in tmp_path.glob("results/trials/*/result.json")]
        assert cli.main(words) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert all(word in said for word in ("gray/s0", str(gray), "--retrain", "--accept-code"))
        assert before == [p.read_bytes() for p in tmp_path.glob("results/trials/*/result.json")]
    finally:
        outside.use([])


@pytest.mark.slow
def test_an_edited_loss_does_not_answer_with_the_old_table(clone, monkeypatch):
    monkeypatch.chdir(clone.home)
    monkeypatch.setenv("NASHBOARD_CACHE", str(clone.home / "cache"))
    baseline = ["--set", "arms={baseline: {}}"]
    assert cli.main(["matrix", "tiny.yaml", "--local", "--tracking-uri", "off", *baseline]) == 0
    before = clone.trained()
    clone.edit(
        "harness/method/losses.py", "import torch.nn.functional as F\n", "import torch.nn.functional as F\n\nEDIT = 1\n"
    )
    code, said = clone.matrix(*baseline)
    assert code == 2
    assert said.count("\n") == 1
    assert all(word in said for word in ("baseline/s0", "harness/method/losses.py", "--retrain", "--accept-code"))
    assert clone.trained() == before


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    clone = Clone(tmp_path_factory.mktemp("finished"))
    code, said = clone.matrix()
    assert code == 0, said
    return clone


@pytest.fixture
def done(finished, tmp_path):
    """A clone whose two trials are finished."""
    clone = Clone(tmp_path)
    shutil.copytree(finished.home / "results", tmp_path / "results")
    return clone


@pytest.mark.slow
def test_an_edit_concerns_those_whom_it_decides(done):
    before = done.trained()
    done.edit("harness/variants/align.py", "import torch\n", "import torch  # the library\n")
    code, said = done.matrix()
    assert code == 0 and "2 finished before" in said, "a comment is no code"
    done.edit("harness/variants/align.py", "total = o.weight", "total = 10_000 * o.weight")
    code, said = done.matrix()
    assert code == 2
    assert "1 trial (synthetic/align/s0): harness/variants/align.py" in said
    for verb in ("status", "report"):
        code, said = done(verb)
        assert code == 0
        assert "trained by other code than is here (harness/variants/align.py): synthetic/align" in said, verb
    page = (done.home / "results" / "tiny" / "report.html").read_text()
    assert "trained by other code than is here" in page
    code, said = done.matrix("--set", "arms={baseline: {}}")
    assert code == 0 and "1 finished before" in said
    assert done.trained() == before


@pytest.mark.slow
def test_accepted_once_and_asked_again_for_another_edit(done):
    before = done.trained()
    done.edit("harness/variants/align.py", "total = o.weight", "total = 2 * o.weight")
    code, said = done.matrix("--accept-code")
    assert code == 0 and "2 finished before" in said
    (done.home / "results" / "tiny" / ".finished.json").unlink()
    code, said = done.matrix()
    assert code == 0 and "2 finished before" in said, "it is asked once"
    assert "trained by other code than is here" in said, "and stays a fact"
    done.edit("harness/variants/align.py", "total = 2 * o.weight", "total = 3 * o.weight")
    assert done.matrix()[0] == 2
    assert done.trained() == before


@pytest.mark.slow
def test_retrained_the_old_folder_is_kept(done):
    home, before = done.trials()["align"], done.results()
    done.edit("harness/variants/align.py", "total = o.weight", "total = 10_000 * o.weight")
    code, said = done.matrix("--retrain")
    assert code == 0, said
    assert "1 finished before" in said
    after = done.results()
    assert after["baseline"] == before["baseline"]
    assert after["align"]["metrics"] != before["align"]["metrics"]
    kept = done.home / "results" / "superseded" / f"{home.name}-1"
    assert json.loads((kept / "result.json").read_text()) == before["align"]
    assert int((home / "attempt").read_text()) > int((kept / "attempt").read_text())
    code, said = done.matrix("--retrain")
    assert code == 0 and "2 finished before" in said, "nothing is other code now"
    assert len(list(kept.parent.iterdir())) == 1


@pytest.mark.slow
def test_an_edited_metric_scores_again_and_trains_nothing(done):
    before, results = done.trained(), done.results()
    done.edit("harness/metrics/disequilibrium.py", '"""', '"""Said otherwise. ')
    code, said = done.matrix()
    assert code == 0 and "2 finished before" in said
    done.edit("harness/evaluation/scores.py", "import numpy as np\n", "import numpy as np\n\nEDIT = 1\n")
    code, said = done("status")
    assert "scored by other code than is here (harness/evaluation/scores.py)" in said
    code, said = done.matrix("--accept-code")
    assert code == 0 and "2 finished before" in said and done.results() == results
    done.edit("harness/evaluation/scores.py", "EDIT = 1", "EDIT = 2")
    code, said = done.matrix()
    assert code == 0
    assert (
        "scored again by the code that is here (harness/evaluation/scores.py)" in said and "0 finished before" in said
    )
    after = done.results()
    for arm, result in results.items():
        assert (
            after[arm]["code"]["scoring"]["harness.evaluation.scores"]
            != result["code"]["scoring"]["harness.evaluation.scores"]
        )
        assert after[arm]["code"]["training"] == result["code"]["training"]
        assert after[arm]["metrics"] == result["metrics"], "the edit moves no number"
    code, said = done.matrix()
    assert code == 0 and "2 finished before" in said
    code, said = done.matrix("--rescore")
    assert code == 0 and "0 finished before" in said
    assert done.trained() == before


@pytest.mark.slow
def test_without_its_checkpoint_a_trial_keeps_its_scores(done):
    for path in (done.home / "results" / "trials").rglob("*.safetensors"):
        path.unlink()
    before = done.results()
    done.edit("harness/evaluation/scores.py", "import numpy as np\n", "import numpy as np\n\nEDIT = 1\n")
    code, said = done.matrix()
    assert code == 0
    assert "not scored again, since their last checkpoint is gone" in said
    assert "scored by other code than is here" in said
    assert done.results() == before


@pytest.mark.slow
def test_results_without_a_record_are_as_good_as_ever(done):
    for home in done.trials().values():
        result = json.loads((home / "result.json").read_text())
        del result["code"]
        (home / "result.json").write_text(json.dumps(result))
        (home / "code.json").unlink()
        (home / "code.zip").unlink()
    done.edit("harness/variants/align.py", "total = o.weight", "total = 2 * o.weight")
    code, said = done.matrix()
    assert code == 0 and "2 finished before" in said and "other code" not in said


@pytest.mark.slow
def test_a_layer_of_a_backbone_decides_those_that_use_it_also_while_they_train(clone):
    words = {"experiment": "style.yaml"}
    assert clone.matrix(**words)[0] == 0
    (home,) = (clone.home / "results" / "trials").iterdir()
    for result in home.glob("result*.json"):  # begun: it has a checkpoint
        result.unlink()
    clone.edit("backbones/_layers.py", "import torch\n", "import torch\n\nEDIT = 1\n")
    code, said = clone.matrix(**words)
    assert code == 2 and "backbones/_layers.py" in said
    code, said = clone.matrix("--accept-code", **words)
    assert code == 0, said
    assert "0 finished before" in said
    assert json.loads((home / "result.json").read_text())["status"] == "done"
    assert clone.matrix(**words)[0] == 0


@pytest.mark.slow
def test_results_at_a_url_are_put_away_there(clone, monkeypatch):
    words = ["--results", f"file://{clone.home}/there", "--set", "arms={baseline: {}}"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(clone.home / "front"))
    assert clone.matrix(*words)[0] == 0
    clone.edit(
        "harness/method/losses.py", "import torch.nn.functional as F\n", "import torch.nn.functional as F\n\nEDIT = 1\n"
    )
    assert clone.matrix(*words)[0] == 2
    code, said = clone.matrix(*words, "--retrain")
    assert code == 0 and "0 finished before" in said, said
    assert clone.matrix(*words)[0] == 0
    (home,) = (clone.home / "there" / "trials").iterdir()
    (kept,) = (clone.home / "there" / "superseded").iterdir()
    assert kept.name == f"{home.name}-1"
    assert (kept / "result.json").exists() and (home / "result.json").exists()
