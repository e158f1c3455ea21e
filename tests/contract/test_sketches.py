"""The protocol of hooks holds methods that no shipped variant needs: they train, and do what their equations say."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from backbones import Discriminator, sn_dcgan
from harness.errors import UserError
from harness.method import losses
from harness.method.hooks import Adversarial, ArmHooks, Hooks, Term, curve, per_logit
from harness.rng import Streams
from harness.training import ranks
from harness.training.arm import build, load_data
from harness.training.state import State, new_state
from harness.training.train import train
from harness.variants import san, sel
from tests import tiny
from tests.contract.sketches import ALL, Limited, Noise
from tests.outside.variants import anchor, paired


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(
    backbone: str, hooks: dict[str, Hooks], conditional: bool = False, stop: Callable[[State], bool] | None = None,
    resume: tuple[dict[str, Tensor], int] | None = None, arm: str = "baseline", **changes: Any,
) -> State:  # fmt: skip
    """Train the tiny trial of a backbone with `hooks` in the place of its own."""
    trial = tiny.trial(backbone, arm, conditional, train={"total_kimg": 0.032, **changes})
    data, _ = load_data(trial)
    g, d, own = build(trial, data, torch.device("cpu"))
    state = new_state(g, d, trial.train)
    if resume is not None:
        state.load(*resume)
    together = ArmHooks({**own.variants, **hooks})
    train(
        state, trial.train, data, together,
        seed=0, conditional=conditional, upkeep=stop or (lambda state: False),
    )  # fmt: skip
    return state


def after(nimg: int) -> Callable[[State], bool]:
    return lambda state: state.nimg >= nimg


CASES = [(b, name, b == "stylegan2") for b in tiny.BACKBONES for name in ALL]


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "name", "conditional"), CASES)
def test_a_sketch_trains_and_resumes_bit_for_bit(backbone: str, name: str, conditional: bool) -> None:
    kept: dict[str, Tensor] = {}

    def keep(state: State) -> bool:
        if state.nimg == 16:
            kept.update({k: v.clone() for k, v in state.tensors().items()})
        return False

    whole = run(backbone, {name: ALL[name]()}, conditional, keep).tensors()
    assert all(v.isfinite().all() for v in whole.values())
    assert not torch.equal(whole["stats/scores/real"], _plain(backbone, conditional))
    again = run(backbone, {name: ALL[name]()}, conditional, resume=(kept, 16)).tensors()
    assert again.keys() == whole.keys()
    assert not [k for k in whole if not torch.equal(whole[k], again[k])]


_baselines: dict[tuple[str, bool], Tensor] = {}


def _plain(backbone: str, conditional: bool) -> Tensor:
    """The baseline's logits of reals: a sketch moves them."""
    key = backbone, conditional
    if key not in _baselines:
        _baselines[key] = run(backbone, {}, conditional).stats.stacked()["scores/real"]
    return _baselines[key]


METHODS: dict[str, Callable[[], Hooks]] = {
    **ALL, "anchor": lambda: anchor.Anchor(anchor.Options()), "paired": lambda: paired.Paired(paired.Options()),
}  # fmt: skip
OFF: dict[str, Any] = {"r1_gamma": 0.0}  # the paired loss brings its own


def follow(rank: int, name: str) -> Callable[[], None]:
    def rest() -> None:
        run("stylegan2", {name: METHODS[name]()}, **OFF)

    return rest


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_two_processes_are_as_one_and_remember_the_same(name: str) -> None:
    alone = run("stylegan2", {name: METHODS[name]()}, **OFF).tensors()
    with ranks.team(2, torch.device("cpu"), follow, name):
        together = run("stylegan2", {name: METHODS[name]()}, **OFF).tensors()
    assert together.keys() == alone.keys()
    assert not [k for k in alone if not torch.equal(alone[k], together[k]) and not k.startswith("places/")]


@pytest.mark.parametrize("backbone", list(tiny.BACKBONES))
def test_hooks_that_do_nothing_leave_no_trace(backbone: str) -> None:
    """Overridden, called and empty: the baseline bit for bit, in R1 and path length too."""

    class Idle(Hooks):
        def see(self, images: Any, draws: Any, kind: Any, nimg: Any, memory: Any) -> Any:
            return images

        def d_term(self, step: Any, memory: Any) -> Any:
            assert step.reals.shape == step.fakes.images.shape and step.nimg % 8 == 0

        def g_term(self, step: Any, memory: Any) -> Any:
            assert step.real_logits is None and step.gan.requires_grad

        def learn(self, memory: Any, real: Any, fake: Any, parts: Any, shown: Any, nimg: Any) -> Any:
            assert real.shape == fake.shape == (shown,) and not real.requires_grad and nimg % shown == 0 and not parts
            return memory

    a = run(backbone, {}, total_kimg=0.016).tensors()
    b = run(backbone, {"idle": Idle()}, total_kimg=0.016).tensors()
    assert a.keys() == b.keys()
    assert not [k for k in a if not torch.equal(a[k], b[k])]


def test_the_share_of_a_limited_term_follows_its_ratios() -> None:
    """The memory is the written recursion over the ratios that the journal has."""
    hooks = Limited(limit=0.1, half_life=16)
    state = run("stylegan2", {"limited": hooks})
    share = torch.ones(())
    ratios = state.stats.stacked()["loss/limited/ratio"].view(-1, 2)  # two microbatches a step
    assert len(ratios) == 4 and (ratios > 0.1).all()
    for ratio in ratios:
        share = share + (min(0.1 / ratio.mean(), torch.ones(())) - share) * (1 - 0.5 ** (8 / 16))
    torch.testing.assert_close(state.memory["limited"]["share"], share)
    assert state.tensors()["memory/limited/share"] == state.memory["limited"]["share"]


def test_the_noise_that_d_sees_is_as_strong_as_its_memory_says() -> None:
    hooks = Noise(sigma=0.2, until=100)
    x, draws = torch.zeros(64, 3, 32, 32), Streams(0, "t", 0)
    seen = hooks.see(x, draws, "real", 50, {"p": torch.tensor(0.5)})
    assert seen.std() == pytest.approx(0.2 * 0.5 * 0.5, rel=0.01)
    state = run("sn_dcgan", {"noise": hooks}, total_kimg=0.024)
    p = torch.tensor(0.5)
    for real in state.stats.stacked()["scores/real"]:
        p = (p + (real.sign().mean() - 0.6).sign() * 8 / 64).clamp(0, 1)
    assert state.memory["noise"]["p"] == p != 0.5


def test_each_pass_draws_its_own_noise() -> None:
    """Reals, fakes, R1, each microbatch, each step and each variant: no two streams are one."""
    scopes: list[tuple[str, int]] = []

    class Listen(Hooks):
        def see(self, images: Tensor, draws: Streams, kind: Any, nimg: int, memory: Any) -> Tensor:
            scopes.append((draws.scope, nimg))
            return images

        def d_term(self, step: Any, memory: Any) -> None:
            scopes.append((step.draws.scope, step.nimg))

        def g_term(self, step: Any, memory: Any) -> None:
            scopes.append((step.draws.scope, step.nimg))

    run("stylegan2", {"one": Listen(), "two": Listen()}, total_kimg=0.008)
    assert len(scopes) == len(set(scopes)) == 2 * (2 * 3 + 2 + 2 * 2)  # D: two looks and a term; R1; G: a look, a term


def test_two_variants_cant_have_one_place() -> None:
    class Other(Hooks):
        adversarial = per_logit(losses.ADVERSARIAL["hinge"])

    with pytest.raises(UserError, match=r"variants: a, b: more than one replaces the GAN loss; keep one"):
        ArmHooks({"a": Other(), "b": Other()})
    with pytest.raises(UserError, match=r"variants: a, b: more than one replaces D's last layer; keep one"):
        ArmHooks({"a": san.San(san.Options()), "b": san.San(san.Options())})


def test_a_loss_in_the_place_of_the_recipes() -> None:
    class Other(Hooks):
        adversarial: Adversarial | None = per_logit(losses.ADVERSARIAL["hinge"])

    asked = run("sn_dcgan", {}, loss="hinge").tensors()
    brought = run("sn_dcgan", {"other": Other()}, loss="logistic").tensors()
    assert not [k for k in asked if not torch.equal(asked[k], brought[k])]


def test_where_parts_are_filed() -> None:
    assert curve("lecam", "distance") == "loss/lecam/distance"
    assert curve("paired", "r1") == "loss/paired/r1"
    assert [curve("align", p) for p in ("align", "align/4", "align_empty/4")] == [
        "loss/align", "loss/align/4", "loss/align_empty/4",
    ]  # fmt: skip
    assert curve("r1", "r1") == "loss/r1/r1"  # never the loop's own curve


def test_a_part_filed_from_two_places_is_refused() -> None:
    """Two numbers of one name would be one curve, and one tensor of parts for `learn`."""
    term = Term(torch.zeros(()), {"size": torch.ones(())})
    arm = ArmHooks({"a": Hooks(), "b": Hooks()})
    for _ in range(2):  # every step files again
        assert [at for at, _ in arm.file("a", "d_term", term)] == ["loss/a/size"]
    assert [at for at, _ in arm.file("b", "g_term", term)] == ["loss/b/size"]
    with pytest.raises(UserError, match="variants.a: part 'size' of its g_term: loss/a/size is that of a's d_term"):
        list(arm.file("a", "g_term", term))


def test_a_head_needs_a_backbone_that_names_its_last_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = tiny.trial(variants={"sel": {}})
    data, _ = load_data(trial)
    monkeypatch.setattr(sn_dcgan.SNDCGANDiscriminator, "last_layer", Discriminator.last_layer)
    monkeypatch.setattr(sel, "hooks", lambda options, resolution: san.San(san.Options()), raising=False)
    with pytest.raises(UserError, match="variants.sel: acts in D's last layer, which sn_dcgan does not name"):
        build(trial, data, torch.device("cpu"))
