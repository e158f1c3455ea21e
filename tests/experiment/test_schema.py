from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest

from harness.errors import UserError
from harness.experiment.schema import parse, plain


@dataclass(frozen=True)
class Inner:
    lr: Annotated[float, "> 0"] = 1e-3
    betas: tuple[Annotated[float, ">= 0, < 1"], Annotated[float, ">= 0, < 1"]] = (0.0, 0.9)


@dataclass(frozen=True)
class Outer:
    steps: Annotated[int, ">= 1"]
    kind: Literal["a", "off"] = "a"
    path: Path | None = None
    flag: bool = False
    sides: tuple[int, ...] = (4, 8)
    gpus: Annotated[float, ">= 0"] | Literal["auto"] = "auto"
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.flag and self.path is None:
            raise ValueError("path: missing; flag needs it")


def test_defaults_and_conversions():
    o = parse(Outer, {"steps": 3, "kind": False, "path": "x/y", "inner": {"lr": 1}}, "t")
    assert o == Outer(3, "off", Path("x/y"), inner=Inner(1.0))
    assert isinstance(o.inner.lr, float)
    assert parse(Outer, {"steps": 2.0}, "t").steps == 2


def test_plain_is_the_inverse_of_parse():
    o = parse(Outer, {"steps": 3, "path": "x", "gpus": 0.5}, "t")
    assert parse(Outer, plain(o), "t") == o


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({}, "t.steps: missing"),
        ({"stpes": 1}, "t.stpes: unknown key; did you mean 'steps'?"),
        ({"steps": 0}, "t.steps: 0: must be >= 1"),
        ({"steps": 1.5}, "t.steps: 1.5: must be a whole number"),
        ({"steps": True}, "t.steps: true: must be a whole number"),
        ({"steps": "3"}, "t.steps: '3' is text in YAML 1.1; write 3 without quotes"),
        ({"steps": 1, "inner": {"lr": "2e-4"}}, "t.inner.lr: '2e-4' is text in YAML 1.1; write 2.0e-4"),
        ({"steps": 1, "inner": {"lr": "2E-4"}}, "t.inner.lr: '2E-4' is text in YAML 1.1; write 2.0e-4"),
        ({"steps": 1, "inner": {"lr": "1e5"}}, "t.inner.lr: '1e5' is text in YAML 1.1; write 1.0e+5"),
        ({"steps": 1, "inner": {"lr": float("nan")}}, "t.inner.lr: .nan: must be finite"),
        ({"steps": 1, "inner": 3}, "t.inner: 3: must be a mapping"),
        ({"steps": 1, "inner": {"betas": [0.5]}}, "t.inner.betas: [0.5]: must have 2 entries"),
        ({"steps": 1, "inner": {"betas": [0.5, 1]}}, "t.inner.betas[1]: 1: must be >= 0 and < 1"),
        ({"steps": 1, "kind": "b"}, "t.kind: 'b' is not a choice"),
        ({"steps": 1, "flag": True}, "t.path: missing; flag needs it"),
        ({"steps": 1, "sides": 4}, "t.sides: 4: must be a list"),
        ({"steps": 1, "gpus": "many"}, "t.gpus: 'many' is not a choice"),
        ({"steps": 1, "path": 5}, "t.path: 5: must be a path"),
        ([], "t: []: must be a mapping"),
    ],
)
def test_each_complaint_names_place_value_and_rule(raw, message):
    with pytest.raises(UserError) as e:
        parse(Outer, raw, "t")
    assert str(e.value).startswith(message)
    assert "\n" not in str(e.value)
