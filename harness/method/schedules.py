"""A number of a recipe that moves while a trial trains, as a function of the real images that D has seen.

A plain number is constant. One that moves is written in its place:

    lr: {from: 2.0e-4, to: 5.0e-5, kimg: 20000, shape: cosine}
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal


@dataclass(frozen=True)
class Schedule:
    """From `from` at the first image to `to` after `kimg` thousand, and `to` ever after.

    With s = nimg / (1000 kimg): linear is from + s (to - from); cosine, half a cosine with level ends, is
    from + (1 - cos(pi s)) / 2 (to - from), R3GAN's burn-in (Huang et al. 2024, https://arxiv.org/abs/2501.05441).
    """

    from_: float
    to: float
    kimg: Annotated[float, "> 0, <= 1000000000"]
    shape: Literal["cosine", "linear"]

    def __post_init__(self) -> None:
        if self.from_ == self.to:
            raise ValueError(f"to: {self.to:g}: is what it starts from; write the number alone, which is constant")

    def __str__(self) -> str:
        return f"{self.from_:g} -> {self.to:g} ({self.shape}, {self.kimg:g} kimg)"


Scheduled = Schedule | float
"""The type of an option that may move. Its bounds hold for both ends, and so for all between."""


def at(value: Scheduled, nimg: int) -> float:
    """A number, or what a schedule says in the step that begins after `nimg` images."""
    if not isinstance(value, Schedule):
        return value
    share = nimg / (value.kimg * 1000)
    if share >= 1:
        return value.to
    moved = share if value.shape == "linear" else 1 - 0.5 * (1 + math.cos(math.pi * share))
    return value.from_ + moved * (value.to - value.from_)
