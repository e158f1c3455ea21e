"""Eight arms leave the recorded numbers behind; and a digest, a comparison and a recording that can say no."""

import json
from functools import cache
from typing import Any

import pytest
import torch

from tests.digests import arms, record, records


@cache
def trained(arm):
    return arms.trained(arm)


def check(arm, tensors, note):
    """Equal to the bit on a recorded ground; elsewhere near, and said so."""
    known, here = records.Records(), records.ground()
    sha = known.hash(here, arm)
    if sha is not None:
        note("digests", [arm, None])
        assert records.digest(tensors) == sha, (
            f"{arm}: numbers moved (largest difference in recorded values: {known.near(arm, tensors)}); "
            "if they are meant to: python -m tests.digests.record"
        )
        return
    found = known.near(arm, tensors)
    note("digests", [arm, found.relative])
    assert found.relative <= records.TOLERANCE, f"{arm}: {found.tensor} differs by {found.relative:.1e} of its scale"


@pytest.mark.parametrize("arm", arms.ARMS)
def test_an_arm_leaves_the_recorded_numbers(arm, record_property):
    check(arm, trained(arm), record_property)


def test_every_part_of_training_is_in_some_arm():
    names = {arm: set(trained(arm)) for arm in ("sn_dcgan-sel", "sn_dcgan-flatten", "stylegan2-flatten")}
    assert "stats/loss/r1" in names["sn_dcgan-sel"]
    assert {"stats/loss/r1", "stats/loss/path_length", "stats/loss/align"} <= names["stylegan2-flatten"]
    assert all(any(k.startswith("g_ema/") for k in names[arm]) for arm in ("sn_dcgan-flatten", "stylegan2-flatten"))
    assert trained("stylegan2-flatten")["pl_mean"] > 0


def test_another_ground_is_compared_by_value_and_says_so():
    """oneDNN's convolutions off: other kernels, other last bits, the same numbers."""
    arm, notes = "stylegan2-flatten", {}
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.set_flags(False)
    try:
        assert "oneDNN off" in records.ground()
        check(arm, arms.trained(arm), notes.__setitem__)
    finally:
        torch.backends.mkldnn.set_flags(before)
    name, relative = notes["digests"]
    assert name == arm and 0 <= relative <= records.TOLERANCE


TENSORS = {"g/w": torch.linspace(-1, 1, 35).reshape(5, 7), "g/b": torch.zeros(3), "opt_g/0/step": torch.tensor(3.0)}


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t["g/w"][2, 3].add_(1e-7),
        lambda t: t.update({"g/w": t["g/w"].reshape(7, 5)}),
        lambda t: t.update({"g/w": t["g/w"].view(torch.int32)}),
        lambda t: t.update({"g/v": t.pop("g/w")}),
        lambda t: t.update({"g/c": torch.zeros(1)}),
        lambda t: t["g/b"].neg_(),
    ],
    ids=["last bit", "shape", "dtype", "name", "one more", "sign of zero"],
)
def test_a_digest_sees(change):
    tensors = {k: v.clone() for k, v in TENSORS.items()}
    assert records.digest(tensors) == records.digest(dict(reversed(TENSORS.items())))
    change(tensors)
    assert records.digest(tensors) != records.digest(TENSORS)


@pytest.mark.parametrize("at", [0, 5, 17, 34])
def test_a_comparison_sees_one_value_that_is_off(at):
    recorded = records.values(TENSORS)
    assert records.compare(TENSORS, recorded).relative == 0
    for off, right in ((1e-5, True), (1e-3, False), (torch.nan, False), (torch.inf, False)):
        tensors = {k: v.clone() for k, v in TENSORS.items()}
        tensors["g/w"].view(-1)[at] += off
        found = records.compare(tensors, recorded)
        assert (found.relative <= records.TOLERANCE) == right and found.tensor == "g/w", off


def test_a_real_arm_off_by_a_thousandth_in_one_value_is_seen():
    tensors = {k: v.clone() for k, v in trained("sn_dcgan-align").items()}
    moved = tensors["g/backbone.linear.weight"]
    moved.view(-1)[1234] += 1e-3 * moved.abs().max()
    found = records.Records().near("sn_dcgan-align", tensors)
    assert found.relative > records.TOLERANCE and found.tensor == "g/backbone.linear.weight"


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Two arms of given tensors, a ground by name, and an empty folder of records."""
    state: dict[str, Any] = {"a": dict(TENSORS), "b": dict(TENSORS)}
    monkeypatch.setattr(arms, "ARMS", {"a": None, "b": None})
    monkeypatch.setattr(arms, "trained", lambda arm: state[arm])
    monkeypatch.setattr(arms, "epochs", lambda arm: state.get("epochs", {}))
    monkeypatch.setattr(record.digests, "record", lambda: state.setdefault("told", []).append(1))
    monkeypatch.setattr(records.Records.__init__, "__defaults__", (tmp_path,))
    monkeypatch.setattr(records, "ground", lambda: state.get("ground", "here"))
    return state


def test_recording_moves_only_the_arms_that_are_named(fake, tmp_path, capsys):
    first, file = ["--why", "the first", "--arms", "a", "b"], tmp_path / "hashes.json"
    assert record.main([*first[:-1]]) == 2 and not file.exists()
    assert record.main(first) == 0
    fake["ground"] = "elsewhere"
    fake["b"] = {**TENSORS, "g/w": TENSORS["g/w"] * (1 + 1e-6)}  # another ground's rounding
    assert record.main(["--why", "another machine"]) == 0
    told = json.loads(file.read_text())
    assert [said["arms"] for said in told["why"]] == [["a", "b"], []]
    assert told["grounds"]["here"]["a"] == told["grounds"]["elsewhere"]["a"]
    assert told["grounds"]["here"]["b"] != told["grounds"]["elsewhere"]["b"]

    fake["a"] = {**TENSORS, "g/w": TENSORS["g/w"] * (1 + 1e-6)}  # here to the bit
    before = file.read_bytes()
    capsys.readouterr()
    for named in ([], ["--arms", "b"], ["--arms", "a", "b"], ["--arms", "c"]):
        assert record.main(["--why", "a loss", *named]) == 2 and file.read_bytes() == before
        assert capsys.readouterr().err.count("\n") == 1
    assert record.main(["--why", "a loss", "--arms", "a"]) == 2 and file.read_bytes() == before
    assert "moved under its EPOCH" in capsys.readouterr().err and len(fake["told"]) == 2
    fake["epochs"] = {"loop": 2}
    assert record.main(["--why", "a loss", "--arms", "a"]) == 0 and len(fake["told"]) == 3
    told = json.loads(file.read_text())
    assert told["grounds"]["elsewhere"]["a"] == records.digest(fake["a"])
    assert "a" not in told["grounds"]["here"] and "b" in told["grounds"]["here"]
    before = file.read_bytes()
    assert record.main(["--why", "again"]) == 0 and file.read_bytes() == before
