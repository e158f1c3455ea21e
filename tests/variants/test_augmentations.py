"""DiffAugment and ADA as variants: 0 is the baseline, gradients are those of what D saw, p follows, nothing waits."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from harness.errors import UserError
from harness.experiment.parse import parse_trial, to_plain
from harness.method import losses
from harness.method.hooks import ArmHooks, DStep, Hooks
from harness.method.schedules import Schedule
from harness.rng import Streams
from harness.training.state import State
from harness.variants import ada, diffaugment
from tests import tiny
from tests.contract.cells import differing
from tests.contract.test_processes import by_both
from tests.variants.arms import trained

DRAWS = Streams(0, "t", 0)
ALL: dict[str, Any] = dict.fromkeys(ada.KINDS, 1.0)
STRENGTHS = {
    "xint": {"xint_max": 0.0}, "scale": {"scale_std": 0.0}, "rotate_before": {"rotate_max": 0.0},
    "rotate_after": {"rotate_max": 0.0}, "aniso": {"aniso_std": 0.0}, "xfrac": {"xfrac_std": 0.0},
    "brightness": {"brightness_std": 0.0}, "contrast": {"contrast_std": 0.0}, "hue": {"hue_max": 0.0},
    "saturation": {"saturation_std": 0.0}, "noise": {"noise_std": 0.0}, "cutout": {"cutout_size": 0.0},
    **{f"filter_{band}": {"filter_std": 0.0} for band in range(4)},
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def images(n: int = 4, channels: int = 3, side: int = 16) -> Tensor:
    return torch.randn(n, channels, side, side, generator=torch.Generator().manual_seed(1))


def step_of(real: Tensor) -> DStep:
    """A step of D of which only the logits of reals matter."""
    return DStep(**{**dict.fromkeys(DStep._fields), "real_logits": real, "nimg": 0})  # type: ignore[arg-type]


def given(p: Any, **changes: Any) -> ada.Ada:
    return ada.Ada(ada.Options(control="given", p=p, **changes))


# ── nothing asked ──


@pytest.mark.parametrize("channels", [1, 3])
def test_diffaugment_of_no_strength_is_the_identity(channels: int) -> None:
    none: dict[str, Any] = dict.fromkeys(("brightness", "saturation", "contrast", "translation", "cutout"), 0.0)
    x = images(channels=channels).requires_grad_()
    y = diffaugment.DiffAugment(diffaugment.Options(**none)).see(x, DRAWS, "real", 0, {})
    assert torch.equal(x, y) and torch.equal(torch.autograd.grad(y, x, x.detach())[0], x)
    assert not torch.equal(x, diffaugment.DiffAugment(diffaugment.Options()).see(x, DRAWS, "real", 0, {}))


@pytest.mark.parametrize("channels", [1, 3])
def test_ada_at_p_0_is_the_identity(channels: int) -> None:
    x = images(channels=channels).requires_grad_()
    for own in (given(0.0, **ALL), ada.Ada(ada.Options(**ALL))):
        y = own.see(x, DRAWS, "real", 0, own.memory())
        assert torch.equal(x, y) and torch.equal(torch.autograd.grad(y, x, x.detach())[0], x)


def test_each_transform_of_ada_of_no_strength_is_the_identity_and_else_is_not() -> None:
    assert STRENGTHS.keys() == ada.SOURCES.keys() - {"xflip", "rotate90", "lumaflip"}, "those have none"
    x = images()
    for name in ada.SOURCES:
        numbers = given(1.0, **ALL).drawn(x, DRAWS)
        alone = {k: ada.Drawn(v.values, v.gate if k == name else v.gate + 1) for k, v in numbers.items()}
        assert not torch.equal(given(1.0, **ALL).transformed(x, alone, 1.0), x), name
        if name in STRENGTHS:
            assert torch.equal(given(1.0, **ALL, **STRENGTHS[name]).transformed(x, alone, 1.0), x), name


# ── gradients ──


def test_diffaugments_gradient_is_that_of_finite_differences() -> None:
    own = diffaugment.DiffAugment(diffaugment.Options())
    x = images(2, side=8).double().requires_grad_()
    numbers = own.drawn(x, DRAWS)
    weights = torch.randn_like(x)
    assert torch.autograd.gradcheck(lambda x: (own.transformed(x, numbers) * weights).sum().tanh(), x)


METHODS: dict[str, Hooks] = {
    "diffaugment": diffaugment.DiffAugment(diffaugment.Options()), "ada": given(0.8, **ALL),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_r1_is_taken_at_the_images_before_the_transform(name: str) -> None:
    """Of D(x) = <w, T x> it is |T' w|^2, whose gradient is 2 T T' w: T's linear part, from its differences."""
    arm = ArmHooks({name: METHODS[name]})

    def seen(x: Tensor) -> Tensor:
        return arm.see(x, DRAWS, "real", 0, {})

    x, w = images().requires_grad_(), torch.randn(3, 16, 16).requires_grad_()
    penalty = losses.r1_penalty(x, (seen(x) * w).sum((1, 2, 3)))
    (grad,) = torch.autograd.grad(penalty.sum(), w)
    # T is affine, so that its differences are its linear part; T' w by one image for each direction would be long.
    direction = images().flip(0)
    (adjoint,) = torch.autograd.grad((seen(x) * w.detach()).sum(), x)
    linear = seen(x + direction) - seen(x)
    torch.testing.assert_close((linear * w).sum(), (direction * adjoint).sum(), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(penalty, adjoint.square().sum((1, 2, 3)))
    back = seen(x + adjoint) - seen(x)
    torch.testing.assert_close(grad, 2 * back.sum(0), atol=2e-4, rtol=2e-4)


# ── random numbers ──


def test_no_transform_draws_the_numbers_of_another() -> None:
    few, x = given(1.0).drawn(images(), DRAWS), images()
    all_ = given(1.0, **ALL).drawn(x, DRAWS)
    for name in ada.SOURCES:
        assert torch.equal(few[name].values, all_[name].values) and torch.equal(few[name].gate, all_[name].gate)
    drawn = torch.cat([row for v in all_.values() for row in v.values.reshape(-1, len(x)) if v.values.ndim == 2])
    assert len(drawn.unique()) == len(drawn)
    one = diffaugment.DiffAugment(diffaugment.Options()).drawn(x, DRAWS)
    other = diffaugment.DiffAugment(diffaugment.Options(policy=("cutout",))).drawn(x, DRAWS)
    assert all(map(torch.equal, one["cutout"], other["cutout"]))


def test_a_transform_meets_the_share_that_p_says() -> None:
    own, n, p = given(0.3, color=0.5), 20_000, torch.tensor(0.3)
    numbers = own.drawn(torch.empty(n, 1, 1, 1), DRAWS)
    for name, source in ada.SOURCES.items():
        turns = name.startswith("rotate_")
        wanted = 0.3 * getattr(own.options, source.kind) if not turns else 1 - math.sqrt(0.7)
        share = own.acts(numbers, p, name).float().mean()
        assert abs(share - wanted) < 4 * math.sqrt(0.25 / n), name
    both = own.acts(numbers, p, "rotate_before") | own.acts(numbers, p, "rotate_after")
    assert abs(both.float().mean() - 0.3) < 4 * math.sqrt(0.25 / n)
    assert own.acts(numbers, torch.tensor(1.5), "rotate_before").all(), "more than always is always"


def test_noise_and_cutout_are_as_large_as_they_say() -> None:
    x = torch.ones(400, 1, 16, 16)
    off = dict.fromkeys(ada.KINDS, 0.0)
    sigma = (given(1.0, **{**off, "noise": 1.0}).see(x, DRAWS, "real", 0, {}) - x).std((1, 2, 3))
    assert sigma.mean() == pytest.approx(0.1 * math.sqrt(2 / math.pi), rel=0.1)  # half-normal
    kept = given(1.0, **{**off, "cutout": 1.0}).see(x, DRAWS, "real", 0, {}).mean()
    assert 1 - kept == pytest.approx(0.4375**2, rel=0.1)  # of a side: 1/2 less the mean overhang, 1/16


# ── p ──


def learnt(own: ada.Ada, signs: list[float], shown: int = 8) -> list[float]:
    """p after each step, of logits whose mean sign is as given."""
    memory, found = own.memory(), []
    for step, sign in enumerate(signs, start=1):
        real = torch.ones(shown)
        real[: round(shown * (1 - sign) / 2)] = -1.0
        memory = own.learn(memory, real, -real, {}, shown, step * shown)
        found.append(float(memory["p"]))
    return found


def test_p_moves_every_so_many_steps_towards_the_target_and_not_below_0() -> None:
    own = ada.Ada(ada.Options(interval=2, kimg=0.16, target=0.5))  # 16 images of 160: a tenth
    assert learnt(own, [1, 1, 1, 0, 0.5, 0.5, 0, 0, 0, 0, 0, 0]) == pytest.approx(
        [0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0, 0, 0, 0, 0], abs=1e-7
    )
    assert learnt(ada.Ada(ada.Options(interval=1, kimg=0.004)), [1])[0] == pytest.approx(2.0), "no upper bound"


def test_a_given_p_follows_its_schedule_and_learns_nothing() -> None:
    own = given(Schedule(0.0, 0.6, 1.0, "cosine"))
    assert own.memory() == {} == own.learn({}, torch.ones(4), torch.ones(4), {}, 4, 4)
    assert [own.p(nimg, {}) for nimg in (0, 500, 1000, 5000)] == pytest.approx([0.0, 0.3, 0.6, 0.6])
    trial = tiny.trial(
        variants={"ada": {"control": "given", "p": {"from": 0, "to": 0.3, "kimg": 1, "shape": "cosine"}}}
    )
    assert trial.variant("ada").p == Schedule(0.0, 0.3, 1.0, "cosine") and parse_trial(to_plain(trial), "t") == trial


def test_p_and_the_sign_it_follows_are_in_the_journal() -> None:
    own = ada.Ada(ada.Options(p=0.25))
    term = own.d_term(step_of(torch.tensor([1.0, -2.0, 3.0, 0.5], requires_grad=True)), own.memory())
    assert (term.value, term.parts["p"], term.parts["sign"]) == (0.0, 0.25, 0.5)


class NoWaiting(TorchFunctionMode):
    """Refuses what makes a host wait for its GPU: reading a number, shapes that depend on numbers, new constants."""

    WAITS = (
        "item", "tolist", "numpy", "cpu", "nonzero", "masked_select", "unique", "equal", "allclose", "tensor",
        "as_tensor", "new_tensor", "__bool__", "__float__", "__int__", "__index__",
    )  # fmt: skip

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        mask = func is Tensor.__getitem__ and isinstance(args[1], Tensor) and args[1].dtype == torch.bool
        assert func.__name__ not in self.WAITS and not mask, func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("own", [*METHODS.values(), ada.Ada(ada.Options(**ALL))], ids=["diffaugment", "given", "ada"])
def test_no_host_waits_for_its_gpu(own: Hooks) -> None:
    x, memory = images(), own.memory()
    step = step_of(torch.ones(4))
    own.see(x, DRAWS, "real", 0, memory)  # constants are made once
    with NoWaiting():
        own.see(x, DRAWS, "fake", 0, memory)
        own.d_term(step, memory)
        for nimg in range(4, 24, 4):
            memory = own.learn(memory, torch.ones(4), torch.ones(4), {}, 4, nimg)
    for wait in (lambda: x.sum().item(), lambda: float(x[0, 0, 0, 0]), lambda: x[x > 0], lambda: torch.tensor([1.0])):
        with pytest.raises(AssertionError), NoWaiting():
            wait()


# ── in the loop ──

FAST = {"ada": {**ALL, "p": 0.5, "interval": 1, "kimg": 0.08}}


def test_adas_memory_is_its_rule_over_the_journal_and_the_same_after_a_resume() -> None:
    """p as it moved is that of the logits that the journal has, and a stop between two steps leaves no trace."""
    trial = tiny.trial("sn_dcgan", variants={"ada": {**FAST["ada"], "interval": 2}}, train={"total_kimg": 0.048})
    kept: dict[str, Tensor] = {}

    def keep(state: State) -> bool:
        if state.nimg == 24:  # an odd number of steps: the memory is in the middle of a sum
            kept.update({k: v.clone() for k, v in state.tensors().items()})
        return False

    whole = trained(trial, keep)
    stats, p, want = whole.stats.stacked(), 0.5, []
    for step, real in enumerate(stats["scores/real"].view(6, -1), start=1):
        want.append(p)
        torch.testing.assert_close(stats["loss/ada/sign"][step - 1], real.sign().mean())
        if step % 2 == 0:
            mean = stats["scores/real"].view(6, -1)[step - 2 : step].sign().mean()
            p = max(0.0, p + math.copysign(16 / 80, float(mean) - 0.6))
    assert stats["loss/ada/p"].tolist() == pytest.approx(want, abs=1e-6)
    assert float(whole.memory["ada"]["p"]) == pytest.approx(p, abs=1e-6) != 0.5
    assert kept["memory/ada/images"] == 8
    again = trained(trial, resume=(kept, 24)).tensors()
    assert not [k for k, v in whole.tensors().items() if not torch.equal(v, again[k])]


@pytest.mark.slow
def test_two_processes_move_p_as_one_does() -> None:
    trials = [
        tiny.trial("stylegan2", "baseline", variants=variants, train={"total_kimg": 0.048})
        for variants in (FAST, {"diffaugment": {}})
    ]
    for alone, together in by_both(trials):
        assert not differing(alone, together)


# ── refusals ──


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({"diffaugment": {}}, "variants.diffaugment.policy: ['color', 'translation', 'cutout']: translation moves"),
        (
            {"diffaugment": {"policy": ["cutout"]}},
            "cutout moves what D sees from where align's heatmap is; with align use",
        ),
        ({"ada": {}}, "variants.ada.blit: 1: moves what D sees from where align's heatmap is; with align set blit"),
        ({"ada": {"blit": 0.0, "geometry": 0.0, "cutout": 0.5}}, "variants.ada.cutout: 0.5: moves what D sees from"),
    ],
)
def test_beside_align_what_moves_is_refused(variants: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as e:
        tiny.trial("sn_dcgan", "align", variants=variants)
    assert message in str(e.value) and "\n" not in str(e.value)


def test_beside_align_colours_run_and_beside_sel_all_do() -> None:
    tiny.trial("sn_dcgan", "align", variants={"diffaugment": {"policy": ["color"]}})
    tiny.trial("sn_dcgan", "align", variants={"diffaugment": {"policy": ["color", "translation"], "translation": 0.0}})
    tiny.trial("sn_dcgan", "align", variants={"ada": {"blit": 0.0, "geometry": 0.0, "filter": 1.0, "noise": 1.0}})
    tiny.trial("sn_dcgan", "sel", variants={"diffaugment": {}, "ada": {}})


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({"diffaugment": {"policy": []}}, "variants.diffaugment.policy: []: must name a function"),
        (
            {"diffaugment": {"policy": ["color", "contrast"]}},
            "policy: ['color', 'contrast']: has contrast more than once",
        ),
        ({"diffaugment": {"policy": ["colour"]}}, "'colour' is not a choice; did you mean 'color'?"),
        (
            {"ada": {"blit": 0.0, "geometry": 0.0, "color": 0.0}},
            "variants.ada.blit: 0: blit, geometry, color, filter, noise, cutout are all 0; one",
        ),
        ({"ada": {"p": -0.1}}, "variants.ada.p: -0.1: must be >= 0"),
        (
            {"ada": {"p": {"from": 0.0, "to": 0.3, "kimg": 1.0, "shape": "cosine"}}},
            "an adaptive p begins at one number; for a schedule set control: given",
        ),
    ],
)
def test_what_makes_no_sense_is_one_line(variants: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as e:
        tiny.trial("sn_dcgan", variants=variants)
    assert message in str(e.value) and "\n" not in str(e.value)
