"""The estimator of `plan`, against cases worked out by hand."""

import json
from collections import Counter

import pytest

from harness.errors import UserError
from harness.experiment import files
from harness.experiment.matrix import entries
from harness.experiment.parse import to_plain
from harness.experiment.spec import Train
from harness.orchestration import plan, speeds
from harness.orchestration.plan import Forecast
from harness.orchestration.speeds import Record

TINY = """
name: t
preset: chainer
seeds: [0, 1]
dataset: {name: synthetic, resolution: 32}
train: {total_kimg: 36}
arms:
  baseline: {}
  align: {sel: {}, align: {}}
eval: {metrics: [disequilibrium]}
"""


@pytest.fixture
def experiment(tmp_path):
    def load(sets=(), text=TINY):
        path = tmp_path / "t.yaml"
        path.write_text(text)
        return files.load(path, sets)

    return load


def record(trial, rate, device="cpu", **changes):
    return Record({**speeds._hashable(speeds.shape(trial)), **changes}, device, rate, "a test")


def test_trials_start_in_order_as_slots_become_free():
    assert plan.finishes([3, 1, 2, 2], 1) == [3, 4, 6, 8]
    assert plan.finishes([3, 1, 2, 2], 2) == [3, 1, 3, 5]
    assert plan.finishes([3, 1, 2, 2], 9) == [3, 1, 2, 2]
    assert plan.finishes([], 2) == []


def test_slots_are_whole_trials():
    assert plan.slots(8, 1) == 8
    assert plan.slots(64, 8) == 8
    assert plan.slots(1, 0.25) == 4
    assert plan.slots(1, 0.1) == 10  # though 1 / 0.1 may fall short of 10 in floating point
    assert plan.slots(1, 8) == 0


def test_hours_and_finish_from_a_measured_speed(experiment):
    e = experiment()
    todo = entries(e)
    base = e.tables[0].cells["synthetic", "baseline"][0]
    found = plan.forecast(todo, "cpu", [record(base, 10.0)])
    assert found.seconds == (3600.0, None, 3600.0, None)  # 36,000 images at 10 a second; align is another shape
    assert found.hours == 2
    assert {x.trial.variants[0].name for x in found.unknown} == {"sel"}
    assert found.finish(2, 1, plan.first_seeds(e)) == (2, 3600.0, 3600.0)
    assert found.finish(1, 1, plan.first_seeds(e)) == (1, 3600.0, 7200.0)
    assert found.finish(1, 0.5, plan.first_seeds(e)) == (1, 7200.0, 7200.0)  # two at once, each half as fast
    assert found.finish(8, 4, plan.first_seeds(e)) == (8, 900.0, 900.0)
    assert found.finish(1, 2, plan.first_seeds(e)) is None


def test_one_seed_of_every_cell_comes_first_in_time_too(experiment):
    e = experiment()
    todo = entries(e)
    found = Forecast("gpu", todo, (10.0, 20.0, 10.0, 20.0), Counter())
    assert found.finish(1, 1, plan.first_seeds(e)) == (1, 30.0, 60.0)
    assert found.finish(2, 1, plan.first_seeds(e)) == (2, 20.0, 40.0)  # 0-10, 0-20, 10-20, 20-40


def test_a_speed_is_one_of_the_same_shape_and_device(experiment):
    t = experiment().tables[0].cells["synthetic", "align"][0]
    assert speeds.speed(t, "cpu", [record(t, 5.0)]).images_per_s == 5
    assert speeds.speed(t, "gpu", [record(t, 5.0)]) is None
    assert speeds.speed(t, "gpu", [record(t, 5.0, "Some GPU")]).images_per_s == 5
    assert speeds.speed(t, "cpu", [record(t, 5.0), record(t, 9.0)]).images_per_s == 5  # the first counts
    for other in ("train.batch_size=32", "backbone.width=0.5", "train.precision=bf16", "profile=release"):
        assert (
            speeds.speed(experiment([other]).tables[0].cells["synthetic", "align"][0], "cpu", [record(t, 5.0)]) is None
        )
    for same in ("train.total_kimg=1", "seeds=[9]", "dataset.seed=3", "train.g.lr=1.0e-3", "eval.num_fakes=3"):
        assert speeds.speed(experiment([same]).tables[0].cells["synthetic", "align"][0], "cpu", [record(t, 5.0)])


def test_a_record_from_before_an_option_existed_still_counts(experiment):
    t = experiment().tables[0].cells["synthetic", "baseline"][0]
    old = record(t, 5.0)
    assert speeds.speed(t, "cpu", [old._replace(shape={k: v for k, v in old.shape.items() if k != "tf32"})])
    assert speeds.speed(t, "cpu", [old._replace(shape={**old.shape, "no longer there": 1})]) is None


def test_paper256_has_a_published_speed_and_says_so():
    cells = files.load("table1").tables[0].cells
    base = speeds.speed(cells["ffhq", "baseline"][0], "gpu", [])
    full = speeds.speed(cells["ffhq", "align"][0], "gpu", [])
    assert base.images_per_s == pytest.approx(1000 / 19.76)
    assert base.images_per_s / full.images_per_s == pytest.approx(1.3)
    assert "published" in base.source and "A100" in base.source
    assert speeds.speed(cells["ffhq", "baseline"][0], "cpu", []) is None
    narrow = files.load("table1", ["backbone.channel_base=8192"]).tables[0].cells["ffhq", "baseline"][0]
    assert speeds.speed(narrow, "gpu", []) is None


def test_table1_takes_the_published_gpu_hours():
    todo = entries(files.load("table1", ["seeds=[0]"]))
    found = plan.forecast(todo, "gpu", [])
    # 25,000 kimg x 2.47 s x 8 GPUs = 137.22 h; three baselines, nine arms with 30 % more.
    assert found.hours == pytest.approx(137.222 * (3 + 9 * 1.3), rel=1e-4)


def test_disk_is_two_checkpoints_and_the_grids():
    t = Train(total_kimg=10, snapshot_kimg=4, ema_kimg=5)
    weights = 4 * (4 * 1000 + 3 * 100)  # G, EMA and two moments; D and two moments; 4 bytes each
    assert plan.disk_bytes(t, 1000, 100, 8) == 2 * weights + 3 * 64 * 3 * 64
    assert plan.disk_bytes(Train(total_kimg=10), 1000, 100, 8) == 2 * 4 * (3 * 1100) + 64 * 3 * 64
    assert plan.disk_bytes(t, 1000, 100, 8, best=True) == plan.disk_bytes(t, 1000, 100, 8) + 4 * (2 * 1000 + 100)


def test_a_checkpoint_is_as_large_as_planned(experiment, tmp_path):
    import torch

    from harness.store import checkpoint
    from harness.training.arm import build, load_data
    from harness.training.state import new_state
    from harness.training.train import train

    sets = ["backbone.width=0.125", "train.batch_size=8", "dataset.num_images=64", "train.total_kimg=0.008"]
    t = experiment([*sets, "train.ema_kimg=1"]).tables[0].cells["synthetic", "align"][0]
    data, _ = load_data(t)
    g, d, hooks = build(t, data, torch.device("cpu"))
    state = new_state(g, d, t.train)
    train(state, t.train, data, hooks, seed=0, conditional=False, upkeep=lambda _: False)
    path = checkpoint.save(tmp_path / "c", state.tensors(), {"nimg": 8, "journal_offset": 0})
    planned = plan.disk_bytes(t.train, *plan.parameters(t, 32, 0), 32) - 64 * 3 * 32**2
    assert path.stat().st_size == pytest.approx(planned / 2, rel=0.06)  # names, buffers and statistics besides


def test_the_file_of_speeds_is_read_back(experiment, tmp_path):
    t = experiment().tables[0].cells["synthetic", "align"][0]
    path = tmp_path / "throughput.json"
    assert speeds.measured(path) == []
    row = {"shape": speeds.shape(t), "device": "cpu", "images_per_s": 7, "machine": "two cores", "commit": "abc"}
    path.write_text(json.dumps([row]))
    assert speeds.speed(t, "cpu", speeds.measured(path)) == (7.0, "measured: two cores, abc")
    path.write_text('[{"device": "cpu"}]')
    with pytest.raises(UserError, match="throughput.json: not readable"):
        speeds.measured(path)


def test_the_shipped_speeds_can_be_read():
    assert all(r.images_per_s > 0 for r in speeds.measured())


def test_finished_trials_tell_their_speed(experiment, tmp_path):
    t = experiment().tables[0].cells["synthetic", "baseline"][0]
    for name, rate, status in (("a", 3.0, "done"), ("b", 6.0, "done"), ("c", 99.0, "diverged")):
        folder = tmp_path / "trials" / name
        folder.mkdir(parents=True)
        result = {"status": status, "config": to_plain(t), "cost": {"images_per_s": rate}}
        (folder / "result.json").write_text(json.dumps({**result, "env": {"device": "cpu"}}))
    (tmp_path / "trials" / "c" / "broken").mkdir()
    assert speeds.speed(t, "cpu", speeds.finished_here(tmp_path)).images_per_s == 6


def test_notes_name_what_is_known_and_what_is_not(experiment):
    e = experiment()
    t = e.tables[0].cells["synthetic", "baseline"][0]
    said = "\n".join(plan.notes(e, entries(e), [record(t, 10.0, "Some GPU")], [1, 2], 2))
    assert "GPU hours: 2\n  2 trials a test" in said
    assert "2 trials unmeasured on a GPU (sn_dcgan)" in said
    assert "1 GPU: one seed of every cell after 60 min, all after 2 h" in said
    assert "core" not in said.replace("one seed", "")
