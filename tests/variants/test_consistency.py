"""Consistency: what moves an image, and which pairs are compared. tests/golden/test_methods_consistency.py has the
equations."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor

from harness.errors import UserError
from harness.experiment.schema import parse
from harness.method.generator import Fakes
from harness.method.hooks import ArmHooks, DStep, Hooks, Kind, Memory
from harness.rng import Streams
from harness.training.arm import build, load_data
from harness.training.state import new_state
from harness.training.train import train
from harness.variants.consistency import Options, hooks, transformed
from tests import tiny
from tests.variants.arms import arm, trained

DRAWS = Streams(0, "test", 0)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("channels", "side"), [(3, 32), (1, 20)])
def test_t_mirrors_and_moves_each_image_by_its_own_whole_pixels(channels: int, side: int) -> None:
    """Each result is one of all that T may give, and all of them are given alike often."""
    x, reach = torch.randn(channels, side, side, generator=rng()), int(side / 8 + 0.5)
    padded = torch.nn.functional.pad(x[None], (reach,) * 4, mode="reflect")
    possible = {}
    for flip in (False, True):
        for i in range(2 * reach + 1):
            for j in range(2 * reach + 1):
                cut = padded[0, :, i : i + side, j : j + side]
                if flip:  # mirrored first, then moved
                    cut = padded.flip(3)[0, :, i : i + side, j : j + side]
                possible[cut.numpy().tobytes()] = flip, i, j
    assert len(possible) == 2 * (2 * reach + 1) ** 2
    n = 2000
    given = [possible[y.contiguous().numpy().tobytes()] for y in transformed(x.expand(n, -1, -1, -1), rng(1))]
    for place, values in enumerate((2, 2 * reach + 1, 2 * reach + 1)):
        counts = torch.bincount(torch.tensor([int(g[place]) for g in given]), minlength=values)
        assert ((counts - n / values).abs() < 5 * (n / values) ** 0.5).all()
    assert torch.equal(transformed(x[None], rng(), mirror=False, shift=0.0)[0], x)


IDENTITY = {"mirror": False, "shift": 0.0}


@pytest.mark.parametrize("backbone", list(tiny.BACKBONES))
@pytest.mark.parametrize(
    ("kind", "options"), [("cr", IDENTITY), ("bcr", IDENTITY), ("icr", {**IDENTITY, "delta": 0.0})]
)
def test_under_the_identity_a_frozen_d_is_consistent(backbone: str, kind: Any, options: dict[str, Any]) -> None:
    """In evaluation mode: no power iteration, no statistics of a group. With an augmentation in the arm too, which
    shows D both images of a pair by the same draws."""

    class Noise(Hooks):
        def see(self, images: Tensor, draws: Streams, kind: Kind, nimg: int, memory: Memory) -> Tensor:
            return images + torch.randn(images.shape, generator=draws("noise"))

    trial = arm(backbone, {}, conditional=True)
    data, _ = load_data(trial)
    g, d, _ = build(trial, data, torch.device("cpu"))
    g.eval(), d.eval()
    own = hooks(Options(kind, **options), 32)
    for together in (ArmHooks({"own": own}), ArmHooks({"noise": Noise(), "own": own})):

        def see(images: Tensor, kind: Kind, together: ArmHooks = together) -> Tensor:
            return together.see(images, DRAWS, kind, 0, {})

        def sample(z: Tensor, labels: Tensor | None) -> Fakes:
            return cast(Fakes, g(z, labels, draws=DRAWS))

        x, z, labels = torch.randn(4, 3, 32, 32), g.backbone.sample_z(4, rng()), torch.arange(4) % data.num_classes
        with torch.no_grad():
            fakes = sample(z, labels)
            logits = {
                k: d(see(images, k), labels)[0] for k, images in cast(Any, {"real": x, "fake": fakes.images}).items()
            }
            step = DStep(
                reals=x, labels=labels, z=z, fakes=fakes, fake_labels=labels, real_logits=logits["real"],
                fake_logits=logits["fake"], score=lambda seen, y: d(seen, y)[0], sample=sample, draws=DRAWS, nimg=0,
                see=see, number=0,
            )  # fmt: skip
            term = own.d_term(step, {})
            assert term is not None and term.value == 0 and not any(term.parts.values())
            moved = hooks(Options(kind), 32).d_term(step, {})
            assert moved is not None and all(part > 0 for part in moved.parts.values())


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("cr", {"real"}),
        ("bcr", {"real", "fake"}),
        ("zcr", {"near", "apart"}),
        ("icr", {"real", "fake", "near", "apart"}),
    ],
)
def test_each_kind_has_its_terms(kind: str, parts: set[str]) -> None:
    stats = trained(arm("sn_dcgan", {"consistency": {"kind": kind}}, total_kimg=0.008)).stats.stacked()
    assert {name for name in stats if name.startswith("loss/consistency/")} == {f"loss/consistency/{p}" for p in parts}
    assert all((stats[f"loss/consistency/{p}"] > 0).all() for p in parts)


@pytest.mark.slow
def test_near_latents_differ_in_nothing_else() -> None:
    """With delta 0 the second images are the first, style noise, mixing and heatmaps among them."""
    for backbone in tiny.BACKBONES:
        for delta in (0.0, 0.05):
            variants = {"sel": {}, "consistency": {"kind": "zcr", "delta": delta}}
            stats = trained(arm(backbone, variants, total_kimg=0.016)).stats.stacked()
            near, apart = (stats[f"loss/consistency/{name}"] for name in ("near", "apart"))
            if delta:
                assert (near > 0).all() and (apart > 0).all()
            else:
                assert apart.abs().max() < 1e-10
                if backbone == "stylegan2":  # sn_dcgan's spectral norm has moved between the two passes
                    assert near.abs().max() < 1e-10


def test_a_step_sees_other_images_as_it_saw_its_own() -> None:
    """`DStep.see` in the loop has the same draws, and each step of D its number."""
    met: list[tuple[int, int]] = []

    class Watch(Hooks):
        def see(self, images: Tensor, draws: Streams, kind: Kind, nimg: int, memory: Memory) -> Tensor:
            self.last = {**getattr(self, "last", {}), kind: torch.randn(1, generator=draws("noise"))}
            return images + self.last[kind]

        def d_term(self, step: DStep, memory: Memory) -> None:
            met.append((step.nimg, step.number))
            for kind, images in cast(Any, {"real": step.reals, "fake": step.fakes.images}).items():
                wanted = images + self.last[kind]
                assert torch.equal(step.see(images, kind), wanted)

    trial = arm("stylegan2", {}, d_steps=2, total_kimg=0.032)
    data, _ = load_data(trial)
    g, d, _ = build(trial, data, torch.device("cpu"))
    together = ArmHooks({"watch": Watch()})
    train(
        new_state(g, d, trial.train), trial.train, data, together,
        seed=0, conditional=False, upkeep=lambda state: False,
    )  # fmt: skip
    assert met == [(0, 0), (0, 0), (0, 1), (0, 1), (16, 2), (16, 2), (16, 3), (16, 3)]  # two microbatches each


def test_near_is_as_far_as_its_law_says() -> None:
    z = torch.zeros(1000, 16)
    normal, uniform = (
        cast(Any, hooks(Options("zcr", delta=0.1, delta_law=cast(Any, law)), 32)).near(z, DRAWS)
        for law in ("normal", "uniform")
    )
    assert normal.std() == pytest.approx(0.1, rel=0.02) and normal.abs().max() > 0.3
    assert uniform.std() == pytest.approx(0.1 / 3**0.5, rel=0.02) and uniform.abs().max() <= 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fake": 5.0}, "own.fake: 5.0: does nothing in kind cr; choose kind bcr, icr"),
        ({"kind": "bcr", "delta": 0.1}, "own.delta: 0.1: does nothing in kind bcr; choose kind zcr, icr"),
        ({"kind": "zcr", "real": 1.0}, "own.real: 1.0: does nothing in kind zcr; choose kind cr, bcr, icr"),
    ],
)
def test_an_option_of_an_absent_term_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as e:
        parse(Options, options, "own")
    assert message in str(e.value)
