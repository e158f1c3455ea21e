"""One suite over every file of the shelf of variants, and over some that a user would bring: what the harness and a
comparison of arms rely on."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import harness.variants
from harness import plugins
from harness.errors import UserError
from harness.experiment.parse import parse_trial, to_plain
from harness.experiment.schema import parse, plain
from harness.experiment.spec import Trial
from harness.training.arm import build, load_data
from harness.training.state import State, new_state
from harness.training.train import train
from tests import tiny
from tests.contract import NOT_POSSIBLE

OUTSIDE = Path(__file__).parents[1] / "outside" / "variants"
NAMES = sorted({*plugins.names("harness.variants"), *(p.stem for p in OUTSIDE.glob("[!_]*.py"))})
FAST = {name: list(tiny.BACKBONES)[i % len(tiny.BACKBONES)] for i, name in enumerate(NAMES)}  # a backbone for each
CASES = [
    pytest.param(backbone, name, marks=[] if backbone == FAST[name] else pytest.mark.slow)
    for backbone in tiny.BACKBONES
    for name in NAMES
]
CASES += [(backbone, "align") for backbone in tiny.OTHERS]  # with sel; every pair: tests/contract/test_processes.py


@pytest.fixture(autouse=True)
def ground(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The shelf with the files from outside, and one thread."""
    monkeypatch.setattr(harness.variants, "__path__", [*harness.variants.__path__, str(OUTSIDE)])
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trial_of(backbone: str, name: str, conditional: bool = False, **train: Any) -> Trial:
    """A tiny trial with variant `name` and what it requires, and without what of the recipe it refuses."""
    module = plugins.find("harness.variants", name)
    givers = {
        what: next(n for n in NAMES if what in getattr(plugins.find("harness.variants", n), "PROVIDES", ()))
        for what in getattr(module, "REQUIRES", ())
    }
    variants = {**dict.fromkeys(givers.values(), {}), name: {}}
    recipe = {"total_kimg": 0.032, **train, **tiny.without(module)}
    return tiny.trial(backbone, "baseline", conditional, variants=variants, train=recipe)


def run(
    trial: Trial, upkeep: Callable[[State], bool] = lambda state: False, resume: tuple[Any, int] | None = None
) -> State:
    data, _ = load_data(trial)
    g, d, hooks = build(trial, data, torch.device("cpu"))
    state = new_state(g, d, trial.train)
    if resume is not None:
        state.load(*resume)
    train(state, trial.train, data, hooks, seed=trial.seed, conditional=trial.conditional, upkeep=upkeep)
    return state


def refused(backbone: str, name: str, trial: Trial) -> bool:
    """Whether this pair can't be, which its own line must say then."""
    if (backbone, name) not in NOT_POSSIBLE:
        return False
    with pytest.raises(UserError, match=f"variants.{name}: {NOT_POSSIBLE[backbone, name]}"):
        build(trial, load_data(trial)[0], torch.device("meta"))
    return True


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert not [k for k in a if not torch.equal(a[k], b[k])]


@pytest.mark.parametrize("name", NAMES)
def test_defaults_parse_and_read_back(name: str) -> None:
    module = plugins.find("harness.variants", name)
    options = parse(module.Options, {}, name)
    assert parse(module.Options, plain(options), name) == options
    assert hasattr(module, "encoder") or hasattr(module, "hooks")
    for profile in getattr(module, "PROFILES", {}).values():
        parse(module.Options, profile, name)
    trial = trial_of("sn_dcgan", name)
    assert parse_trial(to_plain(trial), "t") == trial


@pytest.mark.parametrize(("backbone", "name"), CASES)
def test_it_trains_finite_and_resumed_as_uninterrupted(backbone: str, name: str) -> None:
    trial = trial_of(backbone, name, conditional=backbone != "stylegan2")
    if refused(backbone, name, trial):
        return
    kept: dict[str, Tensor] = {}

    def keep(state: State) -> bool:
        if state.nimg == 16:
            kept.update({k: v.clone() for k, v in state.tensors().items()})
        return False

    whole = run(trial, keep)
    assert all(v.isfinite().all() for v in whole.tensors().values())
    assert_equal(run(trial, resume=(kept, 16)).tensors(), whole.tensors())
    for name_, values in whole.stats.stacked().items():
        assert not name_.startswith("loss/") or values.ndim == 1, "a part is a scalar of its microbatch"


@pytest.mark.parametrize(("backbone", "name"), CASES)
def test_its_batches_latents_and_first_weights_are_the_baselines(backbone: str, name: str) -> None:
    seen = []
    if refused(backbone, name, trial_of(backbone, name)):
        return
    for trial in (trial_of(backbone, name), tiny.trial(backbone, train=plain(trial_of(backbone, name).train))):
        data, _ = load_data(trial)
        g, d, hooks = build(trial, data, torch.device("cpu"))
        first = {k: v.clone() for k, v in [*g.backbone.state_dict(prefix="g.").items(), *d.state_dict().items()]}
        latents: list[Tensor] = []
        draw = g.backbone.sample_z

        def noted(n: int, rng: Any, draw: Any = draw, out: list[Tensor] = latents) -> Tensor:
            out.append(draw(n, rng))
            return out[-1]

        g.backbone.sample_z = noted
        shown: list[int] = []
        look = data.images

        class Images:
            def __getitem__(self, items: Any, look: Any = look, shown: list[int] = shown) -> Any:
                shown.extend(int(i) for i in items)
                return look[items]

            def __len__(self, look: Any = look) -> int:
                return len(look)

        object.__setattr__(data, "images", Images())
        train(
            new_state(g, d, trial.train), trial.train, data, hooks,
            seed=0, conditional=False, upkeep=lambda state: state.nimg >= 16,
        )  # fmt: skip
        seen.append((first, latents, shown))
    (weights, latents, shown), (base_weights, base_latents, base_shown) = seen
    assert_equal(weights, base_weights)
    assert len(latents) == len(base_latents) > 0
    assert all(map(torch.equal, latents, base_latents))
    size = trial.train.batch_size
    if len(shown) > len(base_shown):  # a paired loss: each step of G meets the reals of the next step of D
        shown = [i for k in range(0, len(shown), 2 * size) for i in shown[k : k + size]]
    assert shown == base_shown


# ── rules of the protocol ────────────────────────────────────────────────────


def test_a_paired_loss_pairs() -> None:
    """Partners share a label in both steps, and D's loss is that of the pairs with R1 and R2."""
    trial = trial_of("sn_dcgan", "paired", conditional=True)
    data, _ = load_data(trial)
    g, d, hooks = build(trial, data, torch.device("cpu"))
    labels: list[Tensor] = []
    d.register_forward_pre_hook(lambda _, args: labels.append(args[1]))
    state = new_state(g, d, trial.train)
    train(state, trial.train, data, hooks, seed=0, conditional=True, upkeep=lambda s: s.nimg >= 16)
    assert len(labels) == 8  # D: reals, fakes; G: reals, fakes; two steps
    for real, fake in zip(labels[::2], labels[1::2], strict=True):
        assert torch.equal(real, fake)
    assert torch.equal(labels[2], labels[4])  # G meets the reals of D's next step
    stats = state.stats.stacked()
    apart = stats["scores/fake"] - stats["scores/real"]
    torch.testing.assert_close(stats["loss/d"], torch.nn.functional.softplus(apart).mean(1))
    assert (stats["loss/paired/r1"] > 0).all() and (stats["loss/paired/r2"] > 0).all() and "loss/r1" not in stats


@pytest.mark.parametrize(
    ("variants", "train", "message"),
    [
        ({"paired": {}}, {"r1_gamma": 1.0, "r1_interval": 4}, "variants.paired: refuses train.r1_gamma, here 1.0; set"),
        ({"paired": {}, "other": {}}, {}, "variants.other: can't be in one arm with paired; keep one of them"),
        ({"strange": {}}, {}, "variants.strange: CLASHES: 'train.gama': no such key of a trial"),
        ({"picky": {}}, {}, "variants.picky.weight: 2: must be at most 1 without sel"),
    ],
)
def test_what_a_variant_refuses_is_one_line(
    variants: Any, train: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Options:\n    weight: int = 2\n"
    check = (
        "def check(options, others):\n"
        "    if 'sel' not in others and options.weight > 1:\n"
        "        raise ValueError(f'weight: {options.weight}: must be at most 1 without sel')\n"
    )
    clashes = {"other": "CLASHES = ('paired',)\n", "strange": "CLASHES = ('train.gama',)\n"}
    for name, text in {**clashes, "picky": check}.items():
        (tmp_path / f"{name}.py").write_text(options + text)
        monkeypatch.delitem(sys.modules, f"harness.variants.{name}", raising=False)
    monkeypatch.setattr(harness.variants, "__path__", [*harness.variants.__path__, str(tmp_path)])
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    with pytest.raises(UserError) as e:
        tiny.trial("sn_dcgan", variants=variants, train=train)
    assert message in str(e.value) and "\n" not in str(e.value)
