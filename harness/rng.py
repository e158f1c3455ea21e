"""Named random streams, rebuilt from (seed, name, images seen).

No random state is ever saved: a generator is a pure function of what it is for, so a
resumed trial draws what the uninterrupted one would have drawn, and an arm that draws
more (heatmaps) can't shift what another arm sees (batches, latents).
"""

import hashlib
from dataclasses import dataclass

import torch


def derive(*parts: object) -> int:
    """A 63-bit seed from any values with a stable `repr`."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def stream(seed: int, name: str, nimg: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on `device` for purpose `name` of the trial `seed` after `nimg` images."""
    return torch.Generator(device).manual_seed(derive(seed, name, nimg))


@dataclass(frozen=True)
class Streams:
    """The streams of one forward pass: `Streams(seed, "d.0", nimg)("noise")`.

    `scope` tells apart the passes of one step (D's fakes, G's fakes, path length, each
    microbatch), so that no two of them draw the same numbers.
    """

    seed: int
    scope: str
    nimg: int
    device: torch.device | str = "cpu"

    def __call__(self, name: str) -> torch.Generator:
        return stream(self.seed, f"{self.scope}/{name}", self.nimg, self.device)
