"""What a trial draws at its end: which pictures, that they belong to its result, and that none can cost it."""

import json

import pytest
import torch
from PIL import Image

from harness.experiment.parse import to_plain
from harness.experiment.schema import plain
from harness.experiment.spec import Run
from harness.orchestration.attempt import Control
from harness.pictures import gallery
from harness.pictures import of_model as pictures
from harness.training.arm import build, load_data
from harness.trial import run as trial
from tests import tiny

ALWAYS = {"gradcam", "robustness", "consistency"}
EDITS = {"edit", "heatmaps"}


def run(tmp_path, *args, **over):
    t = tiny.trial(*args, **over)
    assert trial.run(to_plain(t), tmp_path, plain(Run(device="cpu")), Control()) == "done"
    return json.loads((tmp_path / "result.json").read_text())


@pytest.mark.slow  # tests/e2e has a whole trial of either arm in the fast set
@pytest.mark.parametrize(("arm", "kinds"), [("baseline", ALWAYS), ("align", ALWAYS | EDITS)])
def test_a_result_lists_the_pictures_that_lie_beside_it(tmp_path, arm, kinds):
    result = run(tmp_path, "sn_dcgan", arm, train={"total_kimg": 0.032, "snapshot_kimg": 0.016})
    assert set(result["figures"]) == kinds
    for path in result["figures"].values():
        with Image.open(tmp_path / path) as picture:
            assert picture.width > 8 * 32
    assert len(list((tmp_path / "attention").glob("*.png"))) == 3
    assert not (tmp_path / "figures" / "failed.txt").exists()


@pytest.mark.slow
def test_a_picture_that_fails_costs_no_result(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no ink")

    monkeypatch.setattr(pictures, "gradcam", fail)
    result = run(tmp_path, "stylegan2", "align", train={"total_kimg": 0.016})
    assert set(result["figures"]) == EDITS
    assert result["metrics"]["di"]["value"] is not None
    assert "no ink" in (tmp_path / "figures" / "failed.txt").read_text()


def test_one_moment_is_no_picture_over_time(tmp_path):
    t = tiny.trial()
    data, _ = load_data(t)
    g, d, _ = build(t, data, torch.device("cpu"))
    model = gallery.trained(t, g, d, data, "raw", 8)
    gallery.note_attention(model, tmp_path)
    assert len(list((tmp_path / "attention").glob("*.png"))) == 1
    assert gallery.consistency(model, tmp_path / "attention", tmp_path) is None
