"""Golden files: numbers recorded from public reference implementations.

A file holds `sd/...` (weights under their reference names), `in/...`, `out/...` and its
hyperparameters as JSON in the header. Tests find files by pattern, so a file of the same
kind with other sizes is tested without a new line of code:

    @pytest.mark.parametrize("case", cases("stylegan2_d*"))
    def test_logits(case: Case) -> None:
        d = build(case.config, case.group("sd/"))
        close(d(case["in/img"]), case["out/logits"], FORWARD)

`close` notes the largest relative difference in each test; tests/conftest.py prints them by file.
"""

import json
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

FOLDER = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parents[3] / "shared" / "golden")
FORWARD, GRADIENT, OPS = 3e-5, 2e-4, 2e-6  # tolerances, as parts of max|expected|

largest: list[float] = [0.0, 0.0]
"""Of the running test: the largest relative difference, of forward values and gradients alike, and its part of the
tolerance in use."""


class Case:
    """One golden file. `case["out/logits"]` is a tensor, `case.config` its hyperparameters."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self._file = safe_open(path, "pt")
        self.meta: dict[str, str] = self._file.metadata() or {}
        self.keys = frozenset(self._file.keys())

    @cached_property
    def config(self) -> dict[str, Any]:
        return json.loads(self.meta["config"])

    def table(self, key: str) -> list[dict[str, Any]]:
        """A metadata entry that is a JSON list of cases."""
        return json.loads(self.meta[key])

    def __contains__(self, key: str) -> bool:
        return key in self.keys

    def __getitem__(self, key: str) -> Tensor:
        return self._file.get_tensor(key)

    def group(self, prefix: str) -> dict[str, Tensor]:
        """All tensors whose name begins with `prefix`, without it."""
        return {k.removeprefix(prefix): self[k] for k in sorted(self.keys) if k.startswith(prefix)}


def cases(pattern: str, expand: Callable[[Case], list[tuple[str, Any]]] | None = None) -> list[Any]:
    """Parameters for `pytest.mark.parametrize`: one Case per file that matches, or a skip.

    `expand` turns a file into several tests: it gives (id, entry) pairs, and the test then
    takes two parameters, the case and the entry.
    """
    found = [Case(p) for p in sorted(FOLDER.glob(f"{pattern}.safetensors"))]
    if not found:
        absent = pytest.mark.skip(reason=f"no {pattern}.safetensors in the golden folder; set GOLDEN_DIR")
        return [pytest.param(*([None] * (2 if expand else 1)), marks=absent, id="absent")]
    if expand is None:
        return [pytest.param(c, id=c.name) for c in found]
    return [pytest.param(c, entry, id=f"{c.name}-{name}") for c in found for name, entry in expand(c)]


def close(actual: Tensor, expected: Tensor, rel: float, what: str = "") -> None:
    """max|actual - expected| <= rel * max|expected|; both of the same shape and finite."""
    assert actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    difference = (actual.detach().double() - expected.double()).abs().max().item()
    scale = expected.double().abs().max().item()
    relative = difference / scale if scale else (0.0 if difference == 0 else float("inf"))
    largest[:] = max(largest[0], relative), max(largest[1], relative / rel)
    # Written so that NaN fails.
    assert relative <= rel, f"{what}: differs by {relative:.2e} of the largest value; allowed {rel:.0e}"


def close_all(actual: dict[str, Tensor], expected: dict[str, Tensor], rel: float) -> None:
    """`close` for each name in `expected`; `actual` must have just those names."""
    assert sorted(actual) == sorted(expected)
    for name in expected:
        close(actual[name], expected[name], rel, name)


def gradients(output: Tensor, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """d output / d input by name; zeros where the output does not depend on it."""
    grads = torch.autograd.grad(output, list(inputs.values()), allow_unused=True)
    return {k: torch.zeros_like(v) if g is None else g for (k, v), g in zip(inputs.items(), grads, strict=True)}
