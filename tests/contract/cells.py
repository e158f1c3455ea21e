"""The contract of an arm, cell by cell: a variant on a backbone, with labels or without.

It trains to finite numbers, goes on from a checkpoint as if nothing had been, has the batches, latents and first
weights of the baseline of its seed, and two processes leave the bits of one. Which cells a run takes is computed from
the shelves: the fast set has each variant on one backbone and each backbone with one variant, the covering set two.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harness import plugins
from harness.errors import UserError
from harness.experiment.spec import Trial
from harness.method.hooks import ArmHooks, Hooks
from harness.training.arm import build, load_data
from harness.training.state import State, new_state
from harness.training.train import train
from tests import tiny
from tests.contract import NOT_POSSIBLE, names

CPU = torch.device("cpu")
BACKBONES = tuple(names("backbones"))
VARIANTS = tuple(names("harness.variants"))
OUTSIDE: dict[str, dict[str, Any]] = {"plain_dcgan": {"name": "plain_dcgan", "width": 8, "z_dim": 8}}

_ADAM = {"lr": 1e-3, "eps": 1e-3}  # a gradient that is rounding alone makes no whole step of its sign
EVERYTHING: dict[str, Any] = {
    "batch_size": 8, "batch_gpu": 4, "total_kimg": 0.048, "d_steps": 2, "r1_gamma": 1.0, "r1_interval": 2,
    "ema_kimg": 0.02, "g": _ADAM, "d": _ADAM,
}  # fmt: skip
STEP = EVERYTHING["batch_size"] * EVERYTHING["d_steps"]  # images; three steps in all
NOTHING: Mapping[str, Hooks] = {}
LEFT = ("g/", "d/", "g_ema/", "opt_", "memory/", "pl_mean", "stats/")  # of a state, by the first letters


class Cell(NamedTuple):
    backbone: str
    variant: str  # or "baseline"
    conditional: bool

    def __str__(self) -> str:
        return f"{self.backbone} {self.variant} {'conditional' if self.conditional else 'unconditional'}"


# ── which ────────────────────────────────────────────────────────────────────


def grid() -> list[Cell]:
    """Every variant, and the baseline, on every backbone, with labels and without."""
    return [Cell(b, v, c) for b in BACKBONES for c in (False, True) for v in ("baseline", *VARIANTS)]


def covering(times: int, backbones: tuple[str, ...] = BACKBONES, variants: tuple[str, ...] = VARIANTS) -> list[Cell]:
    """Each variant on `times` backbones, each backbone with at least as many variants, half of them with labels.
    Fewer times are the first of more; a pair that can't be is not among them."""
    cells: list[Cell] = []

    def used(name: str) -> int:
        return sum(name in cell for cell in cells)

    def with_labels(*names: str) -> int:
        """How many more cells have labels than have none, of those of each name."""
        return sum(1 if cell.conditional else -1 for name in names for cell in cells if name in cell)

    def add(variants: tuple[str, ...], backbones: tuple[str, ...]) -> None:
        have = {cell[:2] for cell in cells} | NOT_POSSIBLE.keys()
        free = [(b, v) for v in variants for b in backbones if (b, v) not in have]
        if free:
            pair = min(free, key=lambda pair: (used(pair[0]), used(pair[1])))
            overall = sum(1 if cell.conditional else -1 for cell in cells)
            cells.append(Cell(*pair, (with_labels(*pair), overall) < (0, 0)))

    for n in range(1, times + 1):
        for variant in variants:
            add((variant,), backbones)
        for backbone in backbones:
            if used(backbone) < n:
                add(variants, (backbone,))
    return cells


FAST = covering(1)
COVER = covering(2)


# ── one of them ──────────────────────────────────────────────────────────────


def trial_of(cell: Cell, **train: Any) -> Trial:
    """All phases of the loop that the variant does not refuse, and with it the variant that gives what it requires."""
    chosen: dict[str, Any] = {}
    off: dict[str, Any] = {}
    if cell.variant != "baseline":
        module = plugins.find("harness.variants", cell.variant)
        chosen, off = {**needed(module), cell.variant: {}}, tiny.without(module)
    styles = {"pl_weight": 2.0, "pl_interval": 2, "style_mixing": 0.9} if cell.backbone == "stylegan2" else {}
    known = cell.backbone in tiny.BACKBONES | tiny.OTHERS
    own = {} if known else {"backbone": OUTSIDE.get(cell.backbone, {"name": cell.backbone})}
    return tiny.trial(
        cell.backbone if known else "sn_dcgan", "baseline", cell.conditional,
        variants=chosen, train={**EVERYTHING, **styles, **off, **train}, **own,
    )  # fmt: skip


def needed(variant: plugins.Variant) -> dict[str, Any]:
    """The variants that give what this one requires: {name: no options}."""

    def giver(what: str) -> str:
        return next(v for v in VARIANTS if what in getattr(plugins.find("harness.variants", v), "PROVIDES", ()))

    return {giver(what): {} for what in getattr(variant, "REQUIRES", ())}


def refusal(cell: Cell) -> str | None:
    """What the harness says of a cell that can't be, in its own words."""
    try:
        trial = trial_of(cell)
        build(trial, load_data(trial)[0], CPU)
    except UserError as e:
        return str(e)
    return None


def trained(
    trial: Trial, upkeep: Callable[[State], bool] = lambda state: False,
    resume: dict[str, Tensor] | None = None, also: Mapping[str, Hooks] = NOTHING,
) -> State:  # fmt: skip
    """The state after the trial's training, from its start or from the tensors of its first step; `also`: hooks beside
    those of its variants."""
    data, _ = load_data(trial)
    g, d, hooks = build(trial, data, CPU)
    state = new_state(g, d, trial.train)
    if resume is not None:
        state.load(resume, STEP)
    together = ArmHooks({**hooks.variants, **also})
    train(state, trial.train, data, together, seed=trial.seed, conditional=trial.conditional, upkeep=upkeep)
    return state


def left(state: State) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in state.tensors().items() if k.startswith(LEFT)}


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, float]:
    """By how much of its scale each tensor that is not the same bits differs; inf: only one has it."""
    off = {k: (a[k].double() - b[k].double()).abs().max() for k in a.keys() & b if not torch.equal(a[k], b[k])}
    return {k: float(v / a[k].double().abs().max().clamp_min(1e-3)) for k, v in off.items()} | {
        k: float("inf") for k in a.keys() ^ b
    }


def told(what: str, off: dict[str, float]) -> list[str]:
    """No fault, or one line of it."""
    worst = sorted(off, key=lambda k: -off[k])[:3]
    return [f"{what}: {len(off)} tensors differ, " + ", ".join(f"{k} by {off[k]:.0e}" for k in worst)] if off else []


# ── the contract ─────────────────────────────────────────────────────────────


def alone(trial: Trial, also: Mapping[str, Hooks] = NOTHING) -> tuple[dict[str, Tensor], list[str]]:
    """What one process leaves, and what is wrong with it: numbers that are not finite, parts that are no scalars, and
    a resumed training that ends elsewhere."""
    kept: dict[str, Tensor] = {}

    def keep(state: State) -> bool:
        if state.nimg == STEP:
            kept.update({k: v.clone() for k, v in state.tensors().items()})
        return False

    state = trained(trial, keep, also=also)
    whole = left(state)
    faults = [f"trains: {k} is not finite" for k, v in whole.items() if not v.isfinite().all()][:1]
    if state.nimg != round(trial.train.total_kimg * 1000):
        faults.append(f"trains: ended at {state.nimg} images")
    values = state.stats.stacked()
    faults += [f"trains: {k}: a part is a scalar of its microbatch" for k in values if _vector(k, values[k])]
    return whole, faults + told("resumed", differing(whole, left(trained(trial, resume=kept, also=also))))


def _vector(name: str, values: Tensor) -> bool:
    return name.startswith("loss/") and values.ndim != 1


class Beginning(NamedTuple):
    """Of a first step: weights before it, latents, and the images that were looked at."""

    weights: dict[str, Tensor]
    latents: list[Tensor]
    shown: list[int]


@functools.lru_cache(maxsize=4)
def beginning(trial: Trial) -> Beginning:
    data, _ = load_data(trial)
    g, d, hooks = build(trial, data, CPU)
    first = {k: v.clone() for k, v in [*g.backbone.state_dict(prefix="g.").items(), *d.state_dict().items()]}
    noted = Beginning(first, [], [])
    draw, look = g.backbone.sample_z, data.images

    def sample_z(n: int, rng: Any) -> Tensor:
        noted.latents.append(draw(n, rng))
        return noted.latents[-1]

    class Images:
        def __getitem__(self, items: Any) -> Any:
            noted.shown.extend(int(i) for i in items)
            return look[items]

        def __len__(self) -> int:
            return len(look)

    g.backbone.sample_z = sample_z
    object.__setattr__(data, "images", Images())
    train(
        new_state(g, d, trial.train), trial.train, data, hooks,
        seed=trial.seed, conditional=trial.conditional, upkeep=lambda state: state.nimg >= STEP,
    )  # fmt: skip
    return noted


def pairing(cell: Cell) -> list[str]:
    """What sets it apart from the baseline of its seed and recipe before any number of the variant's can."""
    off = {} if cell.variant == "baseline" else tiny.without(plugins.find("harness.variants", cell.variant))
    return unpaired(trial_of(cell), trial_of(cell._replace(variant="baseline"), **off))


def unpaired(ours: Trial, base: Trial) -> list[str]:
    mine, theirs = beginning(ours), beginning(base)
    faults = told("paired: first weights", differing(mine.weights, theirs.weights))
    same = len(mine.latents) == len(theirs.latents) > 0 and all(map(torch.equal, mine.latents, theirs.latents))
    if not same:
        faults.append("paired: latents are not the baseline's")
    shown = mine.shown
    if len(shown) > len(theirs.shown):  # a paired loss: G's step meets the reals of D's next step
        shown = shown[: ours.train.d_steps * ours.train.batch_size]
    if shown != theirs.shown or not shown:
        faults.append("paired: batches are not the baseline's")
    return faults


def verdict(cell: Cell, refused: str | None, faults: list[str]) -> tuple[bool, str]:
    """Whether a cell ended as it is listed, and in words: ok, not possible, or what is wrong."""
    listed = NOT_POSSIBLE.get(cell[:2])
    if faults:
        return False, "FAILED: " + "; ".join(faults)
    if refused is None:
        return (True, "ok") if listed is None else (False, f"FAILED: trains, and NOT_POSSIBLE says that it {listed}")
    if listed is None or not refused.startswith(f"variants.{cell.variant}: {listed}"):
        return False, f"FAILED: refused, for no reason in NOT_POSSIBLE: {refused}"
    return True, f"not possible: {refused}"
