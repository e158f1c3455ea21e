"""Whose report it is, and when there is one at all: through the command line."""

import json
import shutil
import textwrap

import pytest

import cli
from harness.experiment import files
from harness.store import claim
from harness.trial import run as trial

TINY = """
    name: same
    preset: chainer
    conditional: false
    dataset: {{name: synthetic, resolution: 32, num_images: 32}}
    backbone: {{width: 0.0625, z_dim: 8}}
    train: {{total_kimg: 0.016, batch_size: 8, tick_kimg: 0.016, snapshot_kimg: 0.008}}
    seeds: {seeds}
    arms: {{{arms}}}
    eval: {{num_fakes: 16, batch_size: 8, metrics: {{disequilibrium: {{n: 4, repeats: 2}}}}}}
    run: {{device: cpu}}
"""
MATRIX = ("--local", "--tracking-uri", "off")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(trial, "draw", lambda *_: {})  # takes longer than all else
    return tmp_path


def write(path, seeds="[0]", arms="baseline: {}"):
    path.parent.mkdir(exist_ok=True)
    path.write_text(textwrap.dedent(TINY.format(seeds=seeds, arms=arms)))


def test_an_experiment_that_was_never_run_has_no_report(here, capsys):
    write(here / "a.yaml")
    for verb in ("report", "sync"):
        assert cli.main([verb, "a.yaml"]) == 2
        err = capsys.readouterr().err
        assert err.startswith(
            "nashboard: a.yaml: none of its 1 trials has begun in results; run them first: nashboard "
        )
        assert len(err.splitlines()) == 1
    assert not (here / "results").exists()
    assert cli.main(["status", "a.yaml"]) == 0  # how far it is: not at all


def test_plan_refuses_the_name_that_matrix_refuses(here, capsys):
    write(here / "a" / "x.yaml")
    write(here / "b" / "x.yaml", arms="baseline: {}, sel: {sel: {hidden: 4}}")
    (here / "results").mkdir()
    claim.take(files.load("a/x.yaml", []), here / "results")
    said = []
    for verb, *more in (("plan",), ("matrix", *MATRIX)):
        assert cli.main([verb, "b/x.yaml", *more]) == 2
        said.append(capsys.readouterr().err)
    assert said[0] == said[1] and "name: 'same'" in said[0]
    assert cli.main(["plan", "a/x.yaml"]) == 0


@pytest.mark.slow
def test_two_files_of_one_name_do_not_share_a_report(here, capsys):
    write(here / "a" / "x.yaml")
    write(here / "b" / "x.yaml", arms="baseline: {}, sel: {sel: {hidden: 4}}")
    assert cli.main(["matrix", "a/x.yaml", *MATRIX]) == 0
    before = {p: p.read_bytes() for p in (here / "results").rglob("*") if p.is_file()}
    for verb, *more in (("matrix", *MATRIX), ("plan",), ("report",), ("sync", "--tracking-uri", "http://127.0.0.1:9")):
        capsys.readouterr()
        assert cli.main([verb, "b/x.yaml", *more]) == 2
        err = capsys.readouterr().err
        assert "name: 'same'" in err and str(here / "a" / "x.yaml") in err and "give this one another name" in err
    assert {p: p.read_bytes() for p in (here / "results").rglob("*") if p.is_file()} == before
    assert cli.main(["matrix", "b/x.yaml", *MATRIX, "--results", "other"]) == 0

    # A file is free to change, to be overridden, to be copied and to move.
    write(here / "a" / "x.yaml", seeds="[1]")
    assert cli.main(["matrix", "a/x.yaml", *MATRIX]) == 0
    assert cli.main(["report", "a/x.yaml", "--set", "seeds=[0]"]) == 0
    shutil.copy(here / "a" / "x.yaml", here / "copy.yaml")
    assert cli.main(["report", "copy.yaml"]) == 0
    write(here / "copy.yaml", seeds="[0, 1]")  # the copy has become the experiment's file
    assert cli.main(["report", "copy.yaml"]) == 0 and cli.main(["report", "a/x.yaml"]) == 2
    (here / "copy.yaml").rename(here / "moved.yaml")
    write(here / "moved.yaml", seeds="[1, 2]")  # gone from there; one trial is shared
    assert cli.main(["report", "moved.yaml"]) == 0
    (here / "moved.yaml").unlink()
    capsys.readouterr()
    assert cli.main(["report", "b/x.yaml", "--set", "seeds=[5]"]) == 2  # none is begun
    write(here / "b" / "x.yaml", seeds="[0]", arms="baseline: {}")
    assert cli.main(["report", "b/x.yaml"]) == 2 and "same" in capsys.readouterr().err


def test_the_done_line_says_what_the_table_says(here, capsys):
    write(here / "a.yaml")
    assert cli.main(["matrix", "a.yaml", *MATRIX]) == 0
    out = capsys.readouterr().out.splitlines()
    (path,) = (here / "results").glob("trials/*/result.json")
    result = json.loads(path.read_text())
    final, last = result["metrics"]["di"]["value"], result["series"]["eval/di"][-1][1]
    assert f"{final:.4g}" != f"{last:.4g}"
    (done,) = [line for line in out if line.startswith("done")]
    assert f"di {final:.4g}" in done and "calibrated" not in done


@pytest.mark.slow
def test_at_a_url_another_machine_s_file_of_that_name_is_refused_too(here, capsys, monkeypatch):
    """Whose folder it is stands at the URL, not only in the cache of the machine that began it."""
    write(here / "a" / "x.yaml")
    write(here / "b" / "x.yaml", seeds="[1]")
    at = ("--results", f"file://{here}/store")
    assert cli.main(["matrix", "a/x.yaml", *MATRIX, *at]) == 0
    report = (here / "store" / "same" / "results.csv").read_bytes()
    (here / "a" / "x.yaml").rename(here / "a" / "elsewhere.yaml")
    monkeypatch.setenv("NASHBOARD_CACHE", str(here / "another machine"))
    for verb in ("matrix", "report"):
        capsys.readouterr()
        assert cli.main([verb, "b/x.yaml", *(MATRIX if verb == "matrix" else ()), *at]) == 2
        refused = capsys.readouterr().err
        assert "holds the report of another file of that name" in refused or verb == "report"
    assert (here / "store" / "same" / "results.csv").read_bytes() == report
    assert cli.main(["report", "a/elsewhere.yaml", *at]) == 0
