"""Which results answer for which images, code and format: through the command line."""

import csv
import json
import os
import re
import shutil
import textwrap
import urllib.error
from pathlib import Path

import pytest

import cli
from harness.datasets import _fashion_files, image_zip
from harness.evaluation import statistics
from harness.experiment import files, ids
from harness.experiment.parse import to_plain
from harness.metrics import disequilibrium
from harness.orchestration.attempt import Control
from harness.store import code
from harness.trial import run as trial
from harness.variants import sel
from tests.data.test_identity import changed_by_a_byte, folder_of
from tests.image_files import noise, png, write_zip

OLD = Path(__file__).parent.parent / "old_results"
TINY = """
    name: sets
    preset: chainer
    conditional: false
    dataset: {name: image_zip, path: set.zip}
    backbone: {width: 0.0625, z_dim: 8}
    train: {total_kimg: 0.016, batch_size: 8, tick_kimg: 0.016}
    arms: {baseline: {}}
    eval: {num_fakes: 16, batch_size: 8, metrics: {disequilibrium: {n: 4, repeats: 2}}}
    run: {device: cpu}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(trial, "draw", lambda *_: {})  # takes longer than all else
    return tmp_path


@pytest.fixture
def say(capsys):
    def command(verb, experiment="sets.yaml", *words, code=0):
        more = ("--local", "--tracking-uri", "off") if verb == "matrix" else ()
        assert cli.main([verb, experiment, *more, *words]) == code
        return capsys.readouterr().out

    return command


def experiment(here, text=""):
    (here / "sets.yaml").write_text(textwrap.dedent(TINY) + text)


def images(seed, count=12):
    return {f"{i:03d}.png": png(noise(seed + i, 32) // (1 + seed // 1000)) for i in range(count)}


def results(here):
    return {p.parent.name: json.loads(p.read_text()) for p in here.glob("results/trials/*/result.json")}


def test_an_average_that_was_scored_with_foreign_statistics_is_scored_again_and_not_trained(here, say, monkeypatch):
    """What an earlier version scored so is no figure of today's; one without an average is as it was."""
    experiment(here, "settings: {ema: {train.ema_kimg: 0.01}, raw: {}}\n")
    write_zip(here / "set.zip", images(0))
    with monkeypatch.context() as before:
        before.setattr(ids, "own_statistics", lambda trial: False)
        before.setattr(statistics, "settle", lambda g, **_: None)
        before.setattr(ids, "STATISTICS", ids.SCORING)
        say("matrix")
    old = results(here)
    assert "scored otherwise" in say("report") and "to score: 1 trials" in say("plan")
    monkeypatch.setattr(trial, "train", lambda state, *_, **__: state.nimg == 16 or pytest.fail("trained"))
    assert "scored again by the code that is here, and not trained: 1 trial (ema/" in say("matrix")
    new = results(here)
    for name, result in new.items():
        averaged = result["config"]["train"]["ema_kimg"] is not None
        assert result["scoring"]["epochs"] == ({"statistics": 2} if averaged else {})
        assert (result["metrics"]["di"]["value"] != old[name]["metrics"]["di"]["value"]) == averaged
    assert "scored otherwise" not in say("report") and results(here) == new


def test_two_files_of_one_name_are_two_trials(here, say):
    experiment(here, "settings: {dark: {dataset.path: dark/train.zip}, light: {dataset.path: light/train.zip}}\n")
    for name, seed in (("dark", 3000), ("light", 0)):
        (here / name).mkdir()
        write_zip(here / name / "train.zip", images(seed))
    assert "2 unique trials for 2 places" in say("plan")
    assert "2 trials, 0 finished before" in say("matrix")
    found = results(here)
    assert len({r["dataset"]["fingerprint"] for r in found.values()}) == len(found) == 2
    assert {r["dataset"]["identity"] for r in found.values()} == {r["config"]["data"] for r in found.values()}
    for name, result in found.items():
        assert result["id"] == name == ids.digest(json.loads((here / "results/trials" / name / ids.FILE).read_text()))
    assert "2 trials, 2 finished before" in say("matrix")
    (here / "light").rename(here / "moved")
    for again in ("noted beside the tables", "known by the only folder left"):
        for verb in ("status", "report", "plan"):
            out = say(verb)
            assert (
                "images of setting light are not here (light/train.zip): taken for those that results recorded" in out
            )
            assert "waiting" not in out and "missing" not in out and "to do: 0 trials" in out or verb != "plan", again
        (here / "results" / "sets" / "data.json").unlink(missing_ok=True)
    shutil.rmtree(here / "results")
    assert "data not here" in say("plan") and not (here / "results").exists()


def test_data_that_was_corrected_in_place_is_trained_on_anew(here, say):
    experiment(here)
    write_zip(here / "set.zip", images(3000))
    say("matrix")
    ((first, old),) = results(here).items()
    kept = shutil.copy2(here / "set.zip", here / "kept.zip")
    write_zip(here / "set.zip", images(0))
    changed = f"data changed since: 1 trial of setting image_zip saw other images (kept: trials/{first})"
    out = {verb: say(verb) for verb in ("status", "report", "plan")}
    assert all(changed in text and "restore set.zip" in text for text in out.values())
    assert "waiting" in out["status"] and "0 of 1: missing" in out["report"] and "to do: 1 trials" in out["plan"]
    out = say("matrix")
    assert "1 trials, 0 finished before" in out and changed in out
    found = results(here)
    assert len(found) == 2 and found[first] == old and changed not in say("status")
    shutil.move(kept, here / "set.zip")
    assert "1 trials, 1 finished before" in say("matrix")
    assert results(here) == found


@pytest.mark.slow
def test_a_folder_of_images_is_its_content(here, say):
    experiment(here)
    folder = folder_of(here / "a", images(0))
    say("matrix", "sets.yaml", "--set", "dataset.path=a")
    shutil.copytree(folder, here / "elsewhere" / "b", copy_function=shutil.copy)
    again = ("sets.yaml", "--set", "dataset.path=elsewhere/b")
    assert "1 finished before" in say("matrix", *again) and len(results(here)) == 1
    assert "1 finished before" in say("matrix", *again), "as the note of the finished matrix says"
    labels = here / "elsewhere" / "b" / "dataset.json"
    labels.write_text(json.dumps({"labels": [[name, 0] for name in images(0)]}) + " ")
    say("matrix", *again)
    assert len(results(here)) == 2
    before = labels.stat()
    labels.write_text(labels.read_text().replace('.png", 0]] ', '.png", 1]] ').replace("]} ", "]}\n"))
    os.utime(labels, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert labels.stat().st_size == before.st_size
    assert "0 finished before" in say("matrix", *again) and len(results(here)) == 3
    changed_by_a_byte(here / "a" / "000.png")
    assert "data changed since: 1 trial" in say("status", "sets.yaml", "--set", "dataset.path=a")


def test_images_that_change_under_a_running_matrix_end_its_trial(here):
    experiment(here)
    write_zip(here / "set.zip", images(0))
    (cell,) = files.load(here / "sets.yaml").tables[0].cells.values()
    meant = {**to_plain(cell[0]), "data": "zip:0123"}
    with pytest.raises(Exception, match="other images here .* than the trial is meant for"):
        trial.run(meant, here / "x", {"device": "cpu"}, Control())
    assert not (here / "x").exists()


# ── the previous format ──────────────────────────────────────────────────────


def figures(line):
    """The digits of a table's row, without what has come to stand beside them: counts of seeds, signs of notes."""
    return re.findall(r"[−+]?\d+\.\d+", re.sub(r"\([^)]*\)|n=\d+(/\d+)?", "", line))


def survivors(row):
    """A row of a table as the last version wrote it, but for differences to a baseline of what a divergence left."""
    gone = ("pairs", "difference") if row.get("waiting") == "diverged" else ()
    return {k: v for k, v in row.items() if k not in gone}


def test_tables_of_the_previous_format_keep_their_digits(here, say):
    """What stands beside them has changed: counts, signs, and no difference is drawn from survivors."""
    shutil.copytree(OLD / "results", here / "results")
    shutil.copy(OLD / "old.yaml", here)
    before = {p: p.read_bytes() for p in (here / "results").rglob("*.*") if p.is_file()}
    said = (OLD / "said" / "console.txt").read_text().splitlines()
    out = say("report", "old.yaml").splitlines()
    made = here / "results" / "old"
    tex = [(path / "old.tex").read_text().splitlines() for path in (made / "tables", OLD / "said")]
    for now, then in ((out, said), tex):
        for arm in ("Baseline", "+ SEL", "+ L"):
            a, b = ([line for line in lines if line.strip().startswith(arm)] for lines in (now, then))
            assert len(a) == len(b) == 1 and figures(a[0]) == [
                f for f in figures(b[0]) if f not in ("−1.11", "+2.07")
            ]  # fmt: skip
    assert any("27.34‡ (1 of 2: diverged)" in line for line in out)
    for path in (made / "tables" / "old.csv", made / "results.csv"):
        for now, then in zip(rows(path), rows(OLD / "said" / path.name), strict=True):
            assert {k: now[k] for k in survivors(then)} == survivors(then)
    out = say("matrix", "old.yaml", code=1)  # one diverged
    assert "6 trials, 6 finished before" in out and "running" not in out and "anew" not in out
    assert "to do: 0 trials" in say("plan", "old.yaml")
    assert all(p.read_bytes() == data for p, data in before.items())
    # From now on they hang on the code that was here: an edit is noticed as for any other result.
    for folder in (here / "results" / "trials").iterdir():
        record = code.read(folder)
        record["training"]["harness.method.losses"] = "0" * 64
        code.keep(folder, record, [])
    assert "harness/method/losses.py" in say("report", "old.yaml")


def rows(path):
    """A table's rows but for the figures over the last snapshots, of which the untrained one was one then."""
    with path.open(newline="") as f:
        return [{k: v for k, v in row.items() if "snapshots" not in k} for row in csv.DictReader(f)]


def as_before(folder, name):
    """A trial's folder as the previous format had it: an id of its own kind, and no word on what the images are."""
    result = json.loads((folder / "result.json").read_text())
    for part, key in (
        (result, "identity"),
        (result, "scoring"),
        (result["dataset"], "identity"),
        (result["config"], "data"),
    ):
        del part[key]
    (folder / "result.json").write_text(json.dumps({**result, "id": name}))
    (folder / ids.FILE).unlink()
    lines = [line for line in (folder / "config.yaml").read_text().splitlines() if not line.startswith("data:")]
    (folder / "config.yaml").write_text("\n".join(lines) + "\n")
    return folder.rename(folder.with_name(name))


def test_old_results_are_known_by_their_pixels(here, say, monkeypatch):
    experiment(here, "settings: {one: {dataset.path: one.zip}, two: {dataset.path: two.zip}}\n")
    for name, seed in (("one", 3000), ("two", 0)):
        write_zip(here / f"{name}.zip", images(seed))
    say("matrix")
    for i, name in enumerate(sorted(results(here))):
        as_before(here / "results" / "trials" / name, f"0ld{i}")
    shutil.rmtree(here / "results" / "sets")
    before = results(here)
    assert "waiting" not in say("status")
    (here / "one.zip").rename(here / "away.zip")
    out = say("status")
    assert "images of setting one are not here (one.zip): taken for those that results recorded" in out
    assert "waiting" not in out
    (here / "away.zip").rename(here / "one.zip")
    assert "2 trials, 2 finished before" in say("matrix")
    monkeypatch.setattr(image_zip, "load", lambda *_: pytest.fail("loaded, though noted by now"))
    assert "waiting" not in say("report") and results(here) == before
    write_zip(here / "two.zip", images(500))
    out = say("status")
    assert "data changed since: 1 trial of setting two saw other images" in out and out.count("waiting") == 1


def test_old_results_that_cannot_tell_their_images_are_taken_when_asked(here, say):
    experiment(here)
    write_zip(here / "set.zip", images(0))
    say("matrix")
    folder = as_before(next((here / "results" / "trials").iterdir()), "0ld")
    shutil.rmtree(here / "results" / "sets")
    result = json.loads((folder / "result.json").read_text())
    del result["dataset"]["fingerprint"]
    (folder / "result.json").write_text(json.dumps(result))
    shutil.rmtree(folder / "checkpoints")
    out = say("status")
    assert "1 trial of setting image_zip can't tell which images they saw (kept: trials/0ld)" in out
    assert "matrix --accept-old" in out and "waiting" in out
    assert "1 trials, 1 finished before" in say("matrix", "sets.yaml", "--accept-old")
    assert "accept-old" not in (out := say("status")) and "waiting" not in out and set(results(here)) == {"0ld"}


@pytest.mark.parametrize(
    "name, place, remedy",
    [
        ("cifar10", "data/cifar-10-python.tar.gz", "put cifar-10-python.tar.gz (170498071 bytes, from https://"),
        ("fashion_mnist", "data/fashion-mnist", "apt-get install dataset-fashion-mnist, or set dataset.path to"),
        ("stacked_fashion_mnist", "data/fashion-mnist", "apt-get install dataset-fashion-mnist, or set dataset.path"),
    ],
)
def test_what_would_be_downloaded_is_known_without_and_never_fetched_unasked(
    name, place, remedy, here, say, monkeypatch, capsys
):
    """Only what needs the images asks the network for them; without one it says in a line what helps."""
    asked = []

    def no_network(url, **_):
        asked.append(url)
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    monkeypatch.setattr(_fashion_files, "DEBIAN", here / "no package")
    (here / "sets.yaml").write_text(textwrap.dedent(TINY).replace("image_zip, path: set.zip", name))
    for verb in ("plan", "status"):
        assert "downloaded once a trial needs them" in (out := say(verb))
        assert ("data not here" if verb == "plan" else "waiting") in out
    say("report", code=2)  # nothing of it was ever begun
    assert not asked
    capsys.readouterr()
    assert cli.main(["matrix", "sets.yaml", "--local"]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and f"dataset.path: {place}" in line and remedy in line and "no network here" in line
    assert len(asked) == 1 and not (here / "data").exists() and not list(here.glob("results/trials/*"))


# ── epochs ───────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_an_epoch_trains_anew_what_it_touches_unless_told_otherwise(here, say, monkeypatch):
    experiment(here)
    words = ("sets.yaml", "--set", "arms={baseline: {}, sel: {sel: {}}}")
    write_zip(here / "set.zip", images(0))
    say("matrix", *words)
    before = results(here)
    monkeypatch.setattr(sel, "EPOCH", 2)
    out = say("status", *words)
    assert out.count("done") == 1 and "1 trial of setting image_zip are of code that gives other numbers now" in out
    assert "2 trials, 2 finished before" in say("matrix", *words, "--accept-old")
    assert say("status", *words).count("done") == 2 and results(here) == before


@pytest.mark.slow
def test_an_epoch_of_a_metric_scores_again_and_trains_nothing(here, say, monkeypatch):
    experiment(here)
    write_zip(here / "set.zip", images(0))
    say("matrix")
    weights = sorted(p.name for p in here.glob("results/trials/*/checkpoints/*.safetensors"))
    ((name, before),) = results(here).items()
    monkeypatch.setattr(disequilibrium, "EPOCH", 2)
    assert "scored otherwise" in say("report")
    assert "1 trials, 0 finished before" in say("matrix")
    ((again, after),) = results(here).items()
    assert again == name and after["metrics"]["di"]["value"] == before["metrics"]["di"]["value"]
    assert after["scoring"]["epochs"] == {"metric.disequilibrium": 2}
    assert sorted(p.name for p in here.glob("results/trials/*/checkpoints/*.safetensors")) == weights
    assert "1 trials, 1 finished before" in say("matrix")
