"""Numbers that move while a trial trains: their maths, how files write them, what the loop makes of them."""

import json

import pytest
import torch

from harness.errors import UserError
from harness.experiment.parse import parse_trial, to_plain
from harness.experiment.schema import parse
from harness.experiment.spec import Adam, Train
from harness.method.schedules import Schedule, at
from harness.training.state import paced
from tests import tiny

BURN_IN = {"from": 2.0e-4, "to": 5.0e-5, "kimg": 0.032, "shape": "cosine"}


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_a_schedule_begins_at_from_and_stays_at_to(shape):
    s = Schedule(3.0, -1.0, 10.0, shape)
    assert (at(s, 0), at(s, 10_000), at(s, 10**9)) == (3.0, -1.0, -1.0)
    assert at(s, 5_000) == pytest.approx(1.0, rel=1e-15), "both pass the middle at half time"
    before, after = at(s, 2_500), at(s, 7_500)
    assert before + after == pytest.approx(2.0) and (before == pytest.approx(2.0)) == (shape == "linear")
    path = [at(s, n) for n in range(0, 10_001, 100)]
    assert path == sorted(path, reverse=True), "bounds of both ends hold between"


def test_the_ends_of_a_cosine_are_level_and_a_number_is_constant():
    s = Schedule(0.0, 1.0, 1.0, "cosine")
    assert at(s, 1) < 3e-6 and 1 - at(s, 999) < 3e-6
    assert at(0.25, 0) == at(0.25, 10**12) == 0.25


def test_files_write_it_in_the_place_of_the_number():
    beta2 = {**BURN_IN, "from": 0.9, "to": 0.99}
    trial = tiny.trial(train={"g": {"lr": BURN_IN, "betas": [0.0, beta2]}, "ema_kimg": {**BURN_IN, "from": 0}})
    assert trial.train.g.lr == Schedule(2e-4, 5e-5, 0.032, "cosine")
    assert trial.train.ema_kimg == Schedule(0.0, 5e-5, 0.032, "cosine")
    stored = json.loads(json.dumps(to_plain(trial)))
    assert stored["train"]["g"]["lr"] == BURN_IN
    assert parse_trial(stored, "t") == trial and parse_trial(stored, "t").id == trial.id
    others = [{**BURN_IN, "to": 1e-4}, {**BURN_IN, "kimg": 0.016}, {**BURN_IN, "shape": "linear"}, 2e-4]
    assert len({tiny.trial(train={"g": {"lr": lr}}).id for lr in [BURN_IN, *others]}) == 5


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"g": {"lr": {**BURN_IN, "shape": "cosin"}}}, "t.g.lr.shape: 'cosin' is not a choice; did you mean 'cosine'?"),
        ({"g": {"lr": {"from": 1, "to": 2, "shape": "linear"}}}, "t.g.lr.kimg: missing; give a number"),
        ({"g": {"lr": {**BURN_IN, "from": "2e-4"}}}, "t.g.lr.from: '2e-4' is text in YAML 1.1; write 2.0e-4"),
        ({"g": {"lr": {**BURN_IN, "to": -1}}}, "t.g.lr.to: -1: must be >= 0"),
        ({"g": {"lr": {**BURN_IN, "kimg": 0}}}, "t.g.lr.kimg: 0: must be > 0"),
        ({"g": {"lr": {**BURN_IN, "form": 1}}}, "t.g.lr.form: unknown key; did you mean 'from'?"),
        ({"g": {"lr": {**BURN_IN, "from_": 1}}}, "t.g.lr.from_: unknown key; did you mean 'from'?"),
        ({"g": {"lr": {**BURN_IN, "to": 2.0e-4}}}, "t.g.lr.to: 0.0002: is what it starts from; write the number alone"),
        ({"g": {"lr": [1]}}, "t.g.lr: [1]: must be a number"),
        ({"g": {"lr": 0}}, "t.g.lr: 0: must be > 0"),
        ({"g": {"betas": [0, {**BURN_IN, "from": 1}]}}, "t.g.betas[1].from: 1: must be >= 0 and < 1"),
        ({"g": {"betas": [BURN_IN, 0.9]}}, "t.g.betas[0]: "),
        ({"ema_kimg": "2e-4"}, "t.ema_kimg: '2e-4' is text in YAML 1.1"),
        ({"r1_gamma": BURN_IN}, "t.r1_interval: missing"),
        ({"lr_decay": "linear", "d": {"lr": BURN_IN}}, "t.lr_decay: linear: d.lr moves by itself"),
    ],
)
def test_each_complaint_is_of_the_key_that_is_wrong(raw, message):
    with pytest.raises(UserError) as e:
        parse(Train, raw, "t")
    assert str(e.value).startswith(message), e.value


def test_the_lazy_correction_is_of_the_scheduled_values():
    """StyleGAN2's correction for steps of a regulariser acts on the value of the moment, as on a number."""
    moving = Adam(Schedule(2e-3, 0.0, 1.0, "linear"), (0.0, Schedule(0.9, 0.99, 1.0, "linear")))
    still = Adam(1e-3, (0.0, 0.945))
    for interval in (None, 4):
        now, number = paced(moving, interval, 500), paced(still, interval, 500)
        assert now["lr"] == pytest.approx(number["lr"]) and now["betas"] == pytest.approx(number["betas"])


def test_linear_decay_of_old_files_is_the_schedule_to_zero():
    """`lr_decay: linear` stays its own key, with its own id, and trains as the schedule that says the same."""
    old = Train(lr_decay="linear", total_kimg=0.064)
    assert old.g.lr == 2e-4
    falling = Adam(Schedule(2e-4, 0.0, 0.064, "linear"), old.g.betas)
    for n in range(0, 64, 8):
        assert paced(falling, None, n)["lr"] == pytest.approx(paced(old.g, None, n, 1 - n / 64)["lr"], rel=1e-12)
    assert tiny.trial(train={"lr_decay": "linear"}).id != tiny.trial().id


def test_the_loop_reads_each_schedule_at_the_images_seen_before_the_step():
    from tests.training.test_train import run

    seen = []
    betas = {"from": 0.9, "to": 0.99, "kimg": 0.032, "shape": "cosine"}
    trial = tiny.trial(train={"g": {"lr": BURN_IN, "betas": [0.0, betas]}, "d": {"lr": {**BURN_IN, "shape": "linear"}}})

    def upkeep(state):
        seen.append([state.nimg, state.opt_g.param_groups[0], state.opt_d.param_groups[0]])
        seen[-1][1:] = [(group["lr"], group["betas"][1]) for group in seen[-1][1:]]
        return False

    run(trial, upkeep)
    t = trial.train
    for (n, *_), (_, g, d) in zip(seen, seen[1:], strict=False):  # what a step leaves is what it was made with
        assert g == (at(t.g.lr, n), at(t.g.betas[1], n)) and d == (at(t.d.lr, n), t.d.betas[1])
    assert len({g for _, g, _ in seen}) > 4, "it moved"
    assert seen[-1][1][0] == 5e-5


@pytest.mark.slow
def test_gamma_and_half_life_move_too_and_a_resumed_trial_goes_on_where_they_were():
    from tests.training.test_train import assert_equal, keeping, run

    falling = {"from": 1.0, "to": 0.0, "kimg": 0.016, "shape": "linear"}
    rising = {"from": 0.0, "to": 0.02, "kimg": 0.032, "shape": "cosine"}
    train = {"r1_gamma": falling, "r1_interval": 1, "ema_kimg": rising, "ema_rampup": None, "total_kimg": 0.032}
    moving = tiny.trial("stylegan2", train=train)
    upkeep, kept = keeping(8, 16)
    whole = run(moving, upkeep)
    for name in ("mapping.fc0.weight", "synthesis.b4.const"):
        g, average = (kept[8][f"{part}/backbone.{name}"] for part in ("g", "g_ema"))
        assert torch.equal(g, average), "a half-life of 0 keeps nothing of before"
        g, average = (kept[16][f"{part}/backbone.{name}"] for part in ("g", "g_ema"))
        assert not torch.equal(g, average)
    upkeep, still = keeping(8, 16)
    run(tiny.trial("stylegan2", train={**train, "r1_gamma": 1.0}), upkeep)
    same = [torch.equal(kept[n]["d/b8.conv0.weight"], still[n]["d/b8.conv0.weight"]) for n in (8, 16)]
    assert same == [True, False], "gamma is 1 in the first step and 0.5 in the second"
    assert_equal(run(moving, resume=(kept[16], 16)).tensors(), whole.tensors())
