"""Which cells the fast and the covering set have; that they keep the contract; that who breaks it is caught."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.experiment.parse import parse_trial, to_plain
from harness.method.hooks import DStep, Hooks, Term
from harness.training import ranks
from tests.contract import NOT_POSSIBLE, cells, pair
from tests.contract.__main__ import main
from tests.contract.cells import BACKBONES, COVER, FAST, VARIANTS, Cell


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ── which ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("backbones", "variants"), [(len(BACKBONES), len(VARIANTS)), (5, 9), (9, 4), (2, 12), (3, 3)])
def test_each_variant_has_its_backbones_and_each_backbone_its_variants(backbones: int, variants: int) -> None:
    rows = BACKBONES if backbones == len(BACKBONES) else tuple(f"b{i}" for i in range(backbones))
    columns = VARIANTS if variants == len(VARIANTS) else tuple(f"v{i}" for i in range(variants))
    for times in (1, 2):
        chosen = cells.covering(times, rows, columns)
        pairs = [cell[:2] for cell in chosen]
        assert len(set(pairs)) == len(pairs) and not set(pairs) & NOT_POSSIBLE.keys()
        for i, names in ((0, rows), (1, columns)):
            assert min(sum(found[i] == name for found in pairs) for name in names) >= times
        assert abs(2 * sum(cell.conditional for cell in chosen) - len(chosen)) <= 2
        assert len(chosen) <= times * (backbones + variants)
    assert cells.covering(1, rows, columns) == chosen[: len(cells.covering(1, rows, columns))]


def test_a_pair_that_cant_be_leaves_its_place_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NOT_POSSIBLE, ("b0", "v0"), "refuses")
    monkeypatch.setitem(NOT_POSSIBLE, ("b0", "v1"), "refuses")
    pairs = [cell[:2] for cell in cells.covering(2, ("b0", "b1", "b2"), ("v0", "v1", "v2", "v3"))]
    assert sorted(pairs)[:2] == [("b0", "v2"), ("b0", "v3")]
    assert {("b1", "v0"), ("b2", "v0"), ("b1", "v1"), ("b2", "v1")} <= set(pairs)


def test_the_grid_has_every_pair_with_labels_and_without() -> None:
    assert len(set(cells.grid())) == len(cells.grid()) == 2 * len(BACKBONES) * (len(VARIANTS) + 1)
    assert set(FAST) <= set(COVER) <= set(cells.grid())


# ── they keep it ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize("cell", FAST, ids=str)
def test_a_cell_trains_resumes_bitwise_and_pairs_with_the_baseline(cell: Cell) -> None:
    """Two steps, the second resumed; the covering set has a third, in which lazy R1 and path length come again."""
    assert cells.alone(cells.trial_of(cell, total_kimg=0.032))[1] + cells.pairing(cell) == []


def follow(rank: int, plain: list[dict[str, Any]]) -> Any:
    return lambda: [cells.trained(parse_trial(raw, "t")) for raw in plain]


def test_two_processes_equal_one_in_each_cell_of_the_fast_set() -> None:
    """Two steps of D and G, and of path length; R1, two steps of D and the averaged G: the covering set."""
    few: dict[str, Any] = {"total_kimg": 0.016, "d_steps": 1, "r1_gamma": 0.0, "r1_interval": None, "ema_kimg": None}
    trials = [cells.trial_of(cell, **few) for cell in FAST]
    alone = [cells.left(cells.trained(trial)) for trial in trials]
    with ranks.team(2, cells.CPU, follow, [to_plain(trial) for trial in trials]):
        together = [cells.left(cells.trained(trial)) for trial in trials]
    for cell, one, two in zip(FAST, alone, together, strict=True):
        assert not cells.differing(one, two), cell


@pytest.fixture(scope="module")
def both() -> Iterator[pair.Pair]:
    with pair.kept() as both:
        yield both


@pytest.mark.slow
@pytest.mark.cover
@pytest.mark.parametrize("cell", COVER, ids=str)
def test_a_cell_keeps_the_whole_contract_in_two_processes(cell: Cell, both: pair.Pair) -> None:
    assert both.judge(cell) == (True, "ok")


# ── one who breaks it is caught ──────────────────────────────────────────────


class Forgetful(Hooks):
    """Counts its steps outside of its memory."""

    def __init__(self) -> None:
        self.steps = 0

    def d_term(self, step: DStep, memory: Any) -> Term:
        self.steps += 1
        return Term(self.steps * 0.1 * step.real_logits.mean(), {"level": step.real_logits.mean()})


class Wild(Hooks):
    """A loss that is no number, and a part that is no scalar."""

    def d_term(self, step: DStep, memory: Any) -> Term:
        return Term(step.real_logits.mean() * float("nan"), {"level": step.real_logits})


def test_a_variant_that_forgets_or_goes_wild_is_caught() -> None:
    trial = cells.trial_of(Cell("sn_dcgan", "baseline", False), total_kimg=0.032)
    (fault,) = cells.alone(trial, {"forgetful": Forgetful()})[1]
    assert fault.startswith("resumed: ") and "tensors differ" in fault
    faults = cells.alone(trial, {"wild": Wild()})[1]
    assert faults[0].startswith("trains: ") and faults[0].endswith("is not finite")
    assert "trains: loss/wild/level: a part is a scalar of its microbatch" in faults


def test_an_arm_of_another_seed_is_caught() -> None:
    base = cells.trial_of(Cell("sn_dcgan", "baseline", True))
    other = parse_trial({**to_plain(base), "seed": 1}, "t")
    found = cells.unpaired(other, base)
    assert [fault.split(":")[0] for fault in found] == ["paired"] * 3
    assert cells.unpaired(base, base) == []


@pytest.mark.parametrize(
    ("cell", "refused", "faults", "expected"),
    [
        (Cell("sn_dcgan", "san", True), None, [], (True, "ok")),
        (Cell("dcgan", "relativistic", True), "variants.relativistic: refuses batch norm in D, here BatchNorm2d", [],
         (True, "not possible: variants.relativistic: refuses batch norm in D, here BatchNorm2d")),
        (Cell("dcgan", "relativistic", True), "backbone: no such", [],
         (False, "FAILED: refused, for no reason in NOT_POSSIBLE: backbone: no such")),
        (Cell("dcgan", "relativistic", True), None, [],
         (False, "FAILED: trains, and NOT_POSSIBLE says that it refuses batch norm in D")),
        (Cell("sn_dcgan", "san", True), "variants.san: acts", [],
         (False, "FAILED: refused, for no reason in NOT_POSSIBLE: variants.san: acts")),
        (Cell("sn_dcgan", "san", True), None, ["resumed: x", "paired: y"], (False, "FAILED: resumed: x; paired: y")),
    ],
)  # fmt: skip
def test_the_verdict_of_a_cell(cell: Cell, refused: str | None, faults: list[str], expected: tuple[bool, str]) -> None:
    assert cells.verdict(cell, refused, faults) == expected


ODD = """from dataclasses import dataclass

import torch.distributed as dist

from harness.method.hooks import Hooks, Term


@dataclass(frozen=True)
class Options:
    pass


class Odd(Hooks):
    def d_term(self, step, memory):
        rank = dist.get_rank() if dist.is_initialized() else 0
        {act}
        return Term(rank * step.real_logits.square().mean(), {{}})


def hooks(options, resolution):
    return Odd()
"""


@pytest.mark.slow
def test_who_acts_otherwise_in_the_second_process_is_caught(tmp_path: Path) -> None:
    """And the two are kept: the next cell is judged as ever."""
    (tmp_path / "variants").mkdir()
    for name, act in {"heavier": "pass", "raising": "assert rank == 0, 'an odd end'"}.items():
        (tmp_path / "variants" / f"{name}.py").write_text(ODD.format(act=act))
    with pair.kept(tmp_path) as both:
        good, said = both.judge(Cell("sn_dcgan", "heavier", False))
        assert not good and said.startswith("FAILED: two processes: ") and "tensors differ" in said
        good, said = both.judge(Cell("sn_dcgan", "raising", False))
        assert not good and "Lost in" in said and "AssertionError in d_term, line 16: an odd end" in said
        assert both.judge(Cell("sn_dcgan", "baseline", False)) == (True, "ok")


@pytest.mark.slow
def test_the_run_says_what_each_cell_is_and_fails_on_anything_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["dcgan", "relativistic"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[-1].split(", here")[0] for line in said[:-1]] == [
        f"dcgan relativistic {labels}: not possible: variants.relativistic: refuses batch norm in D"
        for labels in ("unconditional", "conditional")
    ]
    assert said[-1].startswith("2 cells, 0 failed")
    monkeypatch.delitem(NOT_POSSIBLE, ("dcgan", "relativistic"))
    monkeypatch.setitem(NOT_POSSIBLE, ("gone", "san"), "refuses")
    assert main(["dcgan", "relativistic", "conditional"]) == 1
    out = capsys.readouterr().out
    assert "FAILED: refused, for no reason in NOT_POSSIBLE: variants.relativistic" in out
    assert "NOT_POSSIBLE: gone, san: no such pair" in out
    assert main(["nothing"]) == 1
