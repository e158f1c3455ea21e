"""DiffAugment and ADA against recorded numbers: their own hooks, given the recorded random numbers."""

import dataclasses
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from harness.method import augment
from harness.method.hooks import Hooks, Memory
from harness.rng import Streams
from harness.variants import ada, diffaugment
from tests.golden._golden import Case, cases, close

DRAWS = Streams(0, "t", 0)
DIFFAUGMENT, PIPE, PIPE_GRADIENT, MATRIX, P = 1e-6, 2e-5, 5e-5, 1e-5, 1e-6


def seen(own: Hooks, numbers: Any, x: Tensor, dy: Tensor, memory: Memory | None = None) -> tuple[Tensor, Tensor]:
    """What `see` makes of x by given numbers, and d sum(y dy) / dx."""
    own.drawn = lambda images, draws: numbers  # type: ignore[attr-defined]
    x = x.clone().requires_grad_()
    y = own.see(x, DRAWS, "real", 0, memory or {})
    return y.detach(), torch.autograd.grad(y, x, dy)[0]


def within(actual: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Absolutely; one matrix may stand for those of all samples."""
    expected = expected.expand_as(actual)
    off = (actual.detach().double() - expected.double()).abs().max().item()
    assert off <= tolerance, f"{what}: differs by {off:.2e}; allowed {tolerance:.0e}"


# ── DiffAugment ──────────────────────────────────────────────────────────────


def chains(case: Case) -> list[tuple[str, Any]]:
    return [(f"{size}-{chain}", (size, chain)) for size, chain, _ in case.config["cases"]]


@pytest.mark.parametrize(("case", "entry"), cases("method_diffaugment*", chains))
def test_diffaugment(case: Case, entry: tuple[str, str]) -> None:
    size, chain = entry
    ratios = {k: case.config[f"{k}_ratio"] for k in ("translation", "cutout") if f"{k}_ratio" in case.config}
    options = diffaugment.Options(policy=cast(Any, tuple(chain.split("+"))), **ratios)
    drawn = [draw.flatten() for draw in case.group(f"in/{size}/{chain}/draw/").values()]
    numbers = {}
    for name in options.functions:
        count = 1 if name in diffaugment.COLOR else 2
        numbers[name], drawn = tuple(drawn[:count]), drawn[count:]
    assert not drawn
    y, grad = seen(diffaugment.DiffAugment(options), numbers, case[f"in/{size}/x"], case[f"in/{size}/dy"])
    close(y, case[f"out/{size}/{chain}/y"], DIFFAUGMENT, "y")
    close(grad, case[f"out/{size}/{chain}/grad_x"], DIFFAUGMENT, "grad_x")


@pytest.mark.parametrize("case", cases("method_diffaugment*"))
def test_diffaugment_draws_from_the_range_of_the_recorded(case: Case) -> None:
    """Every integer that was recorded is one that `drawn` can give, and the ends of the range are met."""
    for size, chain, _ in case.config["cases"]:
        if chain not in diffaugment.PLACE:
            continue
        ratio = {chain: case.config[f"{chain}_ratio"]}
        own = diffaugment.DiffAugment(diffaugment.Options(policy=cast(Any, (chain,)), **ratio))
        side = case[f"in/{size}/x"].shape[-1]
        drawn = own.drawn(torch.empty(20_000, 1, side, side), DRAWS)[chain]
        low, high = (-own.reach(side), own.reach(side)) if chain == "translation" else (0, side - own.size(side) % 2)
        for values, recorded in zip(drawn, case.group(f"in/{size}/{chain}/draw/").values(), strict=True):
            assert (values.min(), values.max()) == (low, high)
            assert low <= recorded.min() and recorded.max() <= high


# ── ADA's pipeline ───────────────────────────────────────────────────────────

KINDS = {"blit": ("blit",), "geom": ("geometry",), "color": ("color",), "bgc": ("blit", "geometry", "color")}
NAMES = {  # as the files name transforms, in their order
    "blit": ("xflip", "rotate90", "xint"),
    "geom": ("scale", "rotate", "aniso", "rotate_after", "xfrac"),
    "color": ("brightness", "contrast", "lumaflip", "hue", "saturation"),
    "cutout": ("cutout",),
}
CLOSED = 2.0


def options(case: Case, category: str, **changes: Any) -> ada.Options:
    """What a category asks for, with the file's strengths."""
    words = category.split("+")
    kinds: dict[str, Any] = dict.fromkeys(ada.KINDS, 0.0)
    kinds |= {kind: 1.0 for word in words for kind in KINDS.get(word, (word,))}
    known = {f.name for f in dataclasses.fields(ada.Options)} - kinds.keys() - {"p"}
    return ada.Options(**kinds, **{k: v for k, v in case.config.items() if k in known}, **changes)


def own_name(recorded: str) -> str:
    return "rotate_before" if recorded == "rotate" else recorded


def at_percentile(n: int, q: float, only: str | None = None) -> ada.Numbers:
    """Every number its percentile, and every gate open, or `only` that of one transform."""
    numbers = {}
    for name, source in ada.SOURCES.items():
        level = torch.tensor(q, dtype=torch.float64)
        value = level if source.law == "uniform" else torch.erfinv(2 * level - 1)
        if name == "rotate_after":  # by the files' rule: the second rotation is none
            value = torch.tensor(0.5)
        gate = 0.0 if only in (None, name) else CLOSED
        numbers[name] = ada.Drawn(value.float().expand(source.width, n), torch.full((n,), gate))
    return numbers


def recorded(case: Case, category: str, p: float, channels: int) -> ada.Numbers:
    """The numbers as recorded, in drawing order: value, then gate; of cutout gate, then value."""
    prefix = f"in/random_{category}_p{p}/draw/"
    keys = sorted(k for k in case.keys if k.startswith(prefix))
    n = len(case[keys[0]])
    drawn = [case[k].reshape(n, -1).T for k in keys]
    numbers = at_percentile(n, 0.5)
    words = category.replace("bgc", "blit+geom+color").split("+")
    for word in (word for word in NAMES if word in words):
        for name in NAMES[word]:
            if channels == 1 and name in ("hue", "saturation"):
                continue
            (first, second), drawn = drawn[:2], drawn[2:]
            value, gate = (second, first) if name == "cutout" else (first, second)
            assert (len(value), len(gate)) == (ada.SOURCES[own_name(name)].width, 1)
            numbers[own_name(name)] = ada.Drawn(value, gate[0])
    assert not drawn
    return numbers


def compare_pipe(case: Case, out: str, own: ada.Ada, numbers: ada.Numbers, p: float) -> None:
    x, dy = case["in/x"], case["in/dy"]
    if f"{out}/G_inv" in case:
        within(own.inverse(numbers, p, x.shape[-1]), case[f"{out}/G_inv"], MATRIX, "G_inv")
    if f"{out}/C" in case:
        within(own.colors(numbers, p, x.shape[1]), case[f"{out}/C"], MATRIX, "C")
    y, grad = seen(own, numbers, x, dy, {"p": torch.tensor(p)})
    close(y, case[f"{out}/y"], PIPE, "y")
    close(grad, case[f"{out}/grad_x"], PIPE_GRADIENT, "grad_x")


@pytest.mark.parametrize(
    ("case", "entry"), cases("method_ada_pipe*", lambda c: [(f"{k}@{q}", (k, q)) for k, q in c.config["cases"]])
)
def test_ada_at_a_percentile(case: Case, entry: tuple[str, float]) -> None:
    category, q = entry
    numbers = at_percentile(len(case["in/x"]), q)
    compare_pipe(case, f"out/{category}@{q}", ada.Ada(options(case, category)), numbers, 1.0)


@pytest.mark.parametrize(
    ("case", "entry"), cases("method_ada_pipe*", lambda c: [(f"{k}-p{p}", (k, p)) for k, p in c.config["random"]])
)
def test_ada_of_random_numbers(case: Case, entry: tuple[str, float]) -> None:
    category, p = entry
    numbers = recorded(case, category, p, case["in/x"].shape[1])
    compare_pipe(case, f"out/random_{category}_p{p}", ada.Ada(options(case, category)), numbers, p)


@pytest.mark.parametrize("case", cases("method_ada_pipe*"))
def test_the_matrix_of_one_transform(case: Case) -> None:
    own = ada.Ada(options(case, "bgc"))
    n, channels, side, _ = case["in/x"].shape
    met = set()
    for key in case.keys:
        if not key.startswith("out_matrix/"):
            continue
        transform, _, q = key.split("/")[1].partition("@")
        numbers = at_percentile(n, float(q), own_name(transform))
        if key.endswith("/G_inv"):
            within(own.inverse(numbers, 1.0, side), case[key], MATRIX, key)
        else:
            within(own.colors(numbers, 1.0, channels), case[key], MATRIX, key)
        met.add(transform)
    assert met == set(case.config["single_transforms"])


@pytest.mark.parametrize("case", cases("method_ada_pipe*"))
def test_the_low_pass(case: Case) -> None:
    close(torch.tensor(augment.SYM6) / 2**0.5, case["in/Hz_geom"], 1e-6)


# ── ADA's p ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("case", "name"), cases("method_ada_p*", lambda c: [(k, k) for k in c.config.get("sequences", ())])
)
def test_ada_p(case: Case, name: str) -> None:
    s = case.config["sequences"][name]
    own = ada.Ada(ada.Options(p=s["p_start"], target=s["target"], interval=s["interval"], kimg=s["kimg"]))
    memory, moved, signs = own.memory(), [], []
    for step, real in enumerate(case[f"in/{name}/real_logits"], start=1):
        assert len(real) == s["batch"]
        before, memory = memory, own.learn(memory, real, torch.zeros_like(real), {}, s["batch"], step * s["batch"])
        if step % s["interval"] == 0:
            moved.append(memory["p"])
            signs.append((before["signs"] + real.sign().sum()).double() / (before["images"] + s["batch"]))
    assert len(moved) == s["updates"]
    close(torch.stack(moved), case[f"out/{name}/p"], P, "p")
    close(torch.stack(signs), case[f"out/{name}/mean_sign"], P, "mean_sign")
