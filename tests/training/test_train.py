"""The loop: arms are paired, interruption leaves no trace, several processes make one step."""

import copy
from types import SimpleNamespace

import pytest
import torch

from harness.data.batches import batch
from harness.errors import Diverged, UserError
from harness.experiment.parse import to_plain
from harness.method.generator import Fakes
from harness.method.hooks import ArmHooks
from harness.training import ranks
from harness.training.arm import build, load_data
from harness.training.state import Stats, new_state
from harness.training.train import train
from harness.trial import run as trials
from harness.trial import upkeep
from tests import tiny

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(trial, stop=lambda state: False, resume=None):
    data, _ = load_data(trial)
    g, d, hooks = build(trial, data, torch.device("cpu"))
    state = new_state(g, d, trial.train)
    if resume is not None:
        tensors, nimg = resume
        state.load(tensors, nimg)
    train(state, trial.train, data, hooks, seed=trial.seed, conditional=trial.conditional, upkeep=stop)
    return state


def assert_equal(a, b):
    assert a.keys() == b.keys()
    different = [k for k in a if not torch.equal(a[k], b[k])]
    assert not different


CASES = [
    pytest.param("sn_dcgan", "baseline", False, marks=pytest.mark.slow),
    ("sn_dcgan", "baseline", True),
    pytest.param("sn_dcgan", "align", False, marks=pytest.mark.slow),
    ("sn_dcgan", "align", True),
    ("sn_dcgan", "flatten", False),
    pytest.param("stylegan2", "baseline", False, marks=pytest.mark.slow),
    ("stylegan2", "align", True),
]


def keeping(*moments):
    """An upkeep that keeps the tensors of those moments, and where it keeps them."""
    kept = {}

    def upkeep(state):
        if state.nimg in moments:
            kept[state.nimg] = {k: v.clone() for k, v in state.tensors().items()}
        return False

    return upkeep, kept


@pytest.mark.parametrize(("backbone", "arm", "conditional"), CASES)
def test_a_resumed_trial_is_the_uninterrupted_one_bit_for_bit(backbone, arm, conditional):
    trial = tiny.trial(backbone, arm, conditional)
    upkeep, kept = keeping(24, 40)  # across every phase of lazy R1 and path length
    whole = run(trial, upkeep).tensors()
    for at, tensors in kept.items():
        assert_equal(run(trial, resume=(tensors, at)).tensors(), whole)


def test_a_stopped_trial_is_the_beginning_of_the_whole():
    trial = tiny.trial("sn_dcgan", "align")
    upkeep, kept = keeping(24)
    run(trial, upkeep)
    assert_equal(run(trial, lambda state: state.nimg == 24).tensors(), kept[24])


@pytest.mark.parametrize("backbone", ["sn_dcgan", "stylegan2"])
def test_arms_of_one_seed_are_paired(backbone):
    """Same backbone weights, same real batches, same latents, whatever an arm adds."""
    seen = {}
    for arm in ("baseline", "sel", "align", "flatten"):
        trial = tiny.trial(backbone, arm)
        data, _ = load_data(trial)
        g, d, _ = build(trial, data, torch.device("cpu"))
        weights = {
            k: v.clone() for k, v in [*g.backbone.state_dict(prefix="g.").items(), *d.state_dict(prefix="d.").items()]
        }
        latents = []
        draw = g.backbone.sample_z
        g.backbone.sample_z = lambda n, rng, draw=draw, out=latents: out.append(draw(n, rng)) or out[-1]
        reals = []
        d.register_forward_pre_hook(lambda _, args, out=reals: out.append(args[0].detach().clone()))
        state = new_state(g, d, trial.train)
        train(state, trial.train, data, ArmHooks({}), seed=0, conditional=False, upkeep=lambda s: s.nimg >= 16)
        seen[arm] = weights, latents, reals
    weights, latents, reals = seen["baseline"]
    parts = trial.train.batch_size // trial.train.microbatch
    for arm in ("sel", "align", "flatten"):
        other_weights, other_latents, other_reals = seen[arm]
        assert_equal(weights, other_weights)
        assert all(torch.equal(a, b) for a, b in zip(latents, other_latents, strict=True))
        # The first D pass of each step sees reals; fakes differ, as they should.
        assert torch.equal(reals[0], other_reals[0])
        assert len(reals) == len(other_reals) >= 6 * parts


def test_the_rampup_of_ema_counts_the_images_before_the_step():
    """As the reference does: after the first step the average is G itself; after the next, half of it stays after
    `rampup` times the images of the first."""
    trial = tiny.trial("stylegan2", train={"ema_kimg": 20, "ema_rampup": 0.5, "total_kimg": 0.016})
    upkeep, kept = keeping(8)
    last = run(trial, upkeep).tensors()
    for name in (n for n, _ in build(trial, load_data(trial)[0], torch.device("cpu"))[0].named_parameters()):
        first, second, average = kept[8][f"g/{name}"], last[f"g/{name}"], last[f"g_ema/{name}"]
        assert torch.equal(kept[8][f"g_ema/{name}"], first)
        torch.testing.assert_close(average, first.lerp(second, 1 - 0.5 ** (8 / (8 * 0.5))))


def test_one_image_has_no_batch_statistics():
    trial = tiny.trial(backbone={"first_norm": "vector"}, train={"batch_gpu": 1})
    with pytest.raises(UserError, match="train.batch_gpu: 1: .*batch norm.*2 or more"):
        build(trial, load_data(trial)[0], torch.device("cpu"))


def test_an_absent_variant_is_absent():
    trial = tiny.trial("sn_dcgan", "baseline")
    data, _ = load_data(trial)
    g, _, hooks = build(trial, data, torch.device("cpu"))
    assert g.encoder is None
    assert hooks.variants == {}
    fakes = g(g.backbone.sample_z(2, torch.Generator()), draws=lambda name: pytest.fail(f"drew {name}"))
    assert isinstance(fakes, Fakes)
    assert fakes.heatmaps is None


def test_alignment_leaves_d_alone():
    """One step of `align` with weight 0 moves D and G as `sel` does, bit for bit."""
    a = run(tiny.trial("sn_dcgan", "sel"), lambda s: s.nimg >= 8).tensors()
    b = run(tiny.trial("sn_dcgan", "align", variants={"align": {"weight": 0.0}}), lambda s: s.nimg >= 8).tensors()
    assert_equal({k: v for k, v in a.items() if k[0] == "d"}, {k: v for k, v in b.items() if k[0] == "d"})


def test_every_image_is_shown_once_an_epoch_and_mirrored_with_xflip():
    import dataclasses

    data, _ = load_data(tiny.trial())
    shown = [batch(data, 0, i, 8, False)[0] for i in range(0, 64, 8)]
    assert sorted(x.tobytes() for b in shown for x in b) == sorted(x.tobytes() for x in data.images)
    flipped = dataclasses.replace(data, xflip=True)
    shown = [batch(flipped, 0, i, 8, False)[0] for i in range(0, 128, 8)]
    both = [x.tobytes() for x in data.images] + [x[:, :, ::-1].tobytes() for x in data.images]
    assert sorted(x.tobytes() for b in shown for x in b) == sorted(both)
    straddling, _ = batch(data, 0, 60, 8, False)
    assert (straddling[:4] == batch(data, 0, 56, 8, False)[0][4:]).all()


def test_the_earliest_bad_value_is_named_also_after_a_resume():
    """A bad term of G's loss spoils all of the next step, some of which stands before it in every list of names."""
    state = run(tiny.trial(train={"total_kimg": 0.016}))
    assert upkeep.earliest_bad(state.stats.stacked(), state.stats.places) is None
    state.stats.add("loss/align/4", torch.tensor(float("nan")))
    for name in ("loss/d", "scores/real", "loss/g"):
        state.stats.add(name, torch.full_like(state.stats.values[name][0], float("inf")))
    again = run(tiny.trial(train={"total_kimg": 0.016}), lambda s: True, resume=(state.tensors(), state.nimg))
    for one in (state, again):
        assert upkeep.earliest_bad(one.stats.stacked(), one.stats.places) == "loss/align/4"


def test_linear_decay_ends_at_zero():
    rates = []
    trial = tiny.trial(train={"lr_decay": "linear"})
    run(trial, lambda s: rates.append(s.opt_g.param_groups[0]["lr"]) or False)
    assert rates[1:] == pytest.approx([2e-4 * (1 - n / 64) for n in range(0, 56, 8)])


@pytest.mark.slow
def test_two_processes_make_the_step_of_one(tmp_path, monkeypatch):
    """Gradients, and so all weights, equal those of one process with the same microbatches."""
    from harness.experiment.schema import plain
    from harness.experiment.spec import Resources, Run
    from harness.store import checkpoint
    from harness.store.folder import results

    class Control:
        def stop(self):
            return False

        def report(self, progress):
            pass

    trial = tiny.trial("stylegan2", "align", train={"total_kimg": 0.032}, eval={"num_fakes": 64})
    weights = []
    joined = []
    monkeypatch.setattr(trials, "team", lambda world, *a, **k: joined.append(world) or ranks.team(world, *a, **k))
    for world in (1, 2):
        run_options = plain(Run(resources=Resources(processes=world), device="cpu"))
        folder = tmp_path / str(world)
        assert trials.run(to_plain(trial), folder, run_options, Control()) == "done"
        saved = checkpoint.load_latest(folder / "checkpoints")
        assert [r["world"] for r in results(folder)] == [[world]]
        weights.append({k: v for k, v in saved.tensors.items() if not k.startswith("places/")})
    assert joined == [1, 2]
    assert_equal(*weights)


def one_step(precision, scale=None):
    """A step after which D takes fakes for real by far, so that G's gradients are small; `scale`: of the losses."""
    trial = tiny.trial("sn_dcgan", train={"precision": precision, "total_kimg": 0.008})
    data, _ = load_data(trial)
    g, d, hooks = build(trial, data, torch.device("cpu"))
    with torch.no_grad():
        d.linear.bias += 8
    state = new_state(g, d, trial.train)
    if scale is not None:
        state.scales = {name: torch.amp.GradScaler("cpu", init_scale=scale) for name in state.scales}
    before = {k: v.clone() for k, v in state.tensors().items()}
    train(state, trial.train, data, hooks, seed=0, conditional=False, upkeep=lambda state: False)
    return before, state


def test_small_gradients_outlive_float16():
    """In the first step Adam's first moments are the gradients, times 1 - beta."""
    moments = {}
    for precision in ("fp32", "fp16"):
        _, state = one_step(precision)
        moments[precision] = torch.cat([of["exp_avg"].flatten() for of in state.opt_g.state.values()])
    error = (moments["fp16"] - moments["fp32"]).norm() / moments["fp32"].norm()
    assert error < 0.2, "without a scale it is 1: all of them are 0"


def test_a_step_whose_scaled_gradients_overflow_is_left_out_and_the_scale_halved():
    before, state = one_step("fp16", 2.0**60)
    for name, value in state.tensors().items():
        if name.startswith(("g/", "d/")) and "running" not in name and "num_batches" not in name and "._" not in name:
            assert torch.equal(value, before[name]), name
    assert [s.get_scale() for s in state.scales.values()] == [2.0**59] * 2
    state.scales["g"].update(0.5)
    with pytest.raises(Diverged, match="gradients of G's loss are not finite in float16"):
        upkeep.Upkeep.finite(SimpleNamespace(journal=SimpleNamespace(commit=lambda: None)), state)  # type: ignore[arg-type]


def test_scales_are_part_of_a_checkpoint_of_float16_alone():
    trial = tiny.trial("sn_dcgan", train={"precision": "fp16"})
    data, _ = load_data(trial)
    g, d, hooks = build(trial, data, torch.device("cpu"))

    def grown(resume=None):
        state = new_state(copy.deepcopy(g), copy.deepcopy(d), trial.train)
        for scale in state.scales.values():
            scale.set_growth_interval(3)
        if resume is not None:
            state.load(resume, 32)
        upkeep, kept = keeping(32)
        train(state, trial.train, data, hooks, seed=0, conditional=False, upkeep=upkeep)
        return state.tensors(), kept

    whole, kept = grown()
    assert kept[32]["scale/g/scale"] > 2**12 and whole["scale/g/scale"] > kept[32]["scale/g/scale"]
    assert_equal(grown(kept[32])[0], whole)
    assert not [k for k in run(tiny.trial(train={"total_kimg": 0.008})).tensors() if k.startswith("scale/")]


def test_a_trial_knows_how_many_processes_trained_it():
    assert trials.worlds(None, 2) == [2]
    assert trials.worlds({"world": [2], "complete": False}, 1) == [1, 2], "another number went on with it"
    assert trials.worlds({"world": [2], "complete": True}, 1) == [2], "scored alone"
    assert trials.worlds({"complete": False}, 1) is None, "begun by a version that did not note it"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("backbone", ["sn_dcgan", "stylegan2"])
def test_low_precision_trains_finite_and_scores_in_float32(backbone, precision):
    over = {"backbone": {"num_fp16_res": 2, "conv_clamp": 256}} if backbone == "stylegan2" else {}
    trial = tiny.trial(backbone, "align", train={"precision": precision, "total_kimg": 0.024}, **over)
    stats = run(trial).stats.stacked()
    assert all(torch.isfinite(v).all() for v in stats.values())
    assert stats["scores/fake"].dtype == torch.float32
    assert stats["loss/align"].dtype == torch.float32


def test_steps_joined_are_as_if_each_value_had_been_added_to_one():
    joined, whole = Stats(), Stats()
    for step in range(2):
        one = Stats()
        for name in ("loss/d", "scores/real", "loss/d"):
            one.add(name, torch.tensor(step))
            whole.add(name, torch.tensor(step))
        joined.join(one)
    assert joined.places == whole.places == {"loss/d": [0, 2, 3, 5], "scores/real": [1, 4]}
    assert joined.values.keys() == whole.values.keys()
