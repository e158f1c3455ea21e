"""Consistency: D says the same of an image and of the same image moved a little.

    CR    D's loss += real mean (D(x) - D(T x))^2                   (Zhang et al. 2020, https://arxiv.org/abs/1910.12027)
    bCR   and      += fake mean (D(G(z)) - D(T G(z)))^2             (Zhao et al. 2021, https://arxiv.org/abs/2002.04724)
    zCR   D's loss += zcr_d mean (D(G(z)) - D(G(z + delta)))^2, G's loss -= zcr_g mean (G(z) - G(z + delta))^2
    ICR   bCR and zCR (both of the latter paper)

T mirrors with probability 1/2 and shifts by up to an eighth of the side, whole pixels, the border reflected. Gradients
run through both sides of each difference.

Where we differ:
- With an augmentation in the arm, both images of a pair are seen by the same draw of it; T acts before it.
- T x, T G(z) and G(z + delta) are judged in a pass each, as x and G(z) are; a D with statistics of a group, like
  StyleGAN2's, takes them from that pass.
- delta is normal with standard deviation `delta`, which is 0.05 of a standard normal prior; for one that is uniform in
  [-1, 1], like SN-DCGAN's, `delta_law: uniform` is 0.05 of it.
- G's second pass has the style noise, mixing and heatmaps of its first, so z alone differs.
- D's power iterations and G's running moments move in the further passes too.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from harness.method.hooks import DStep, GStep, Hooks, Memory, Term
from harness.rng import Streams

EPOCH = 1
_TERMS = {"cr": ("real",), "bcr": ("real", "fake"), "zcr": ("zcr",), "icr": ("real", "fake", "zcr")}
_OPTIONS = {"real": ("real",), "fake": ("fake",), "zcr": ("zcr_d", "zcr_g", "delta", "delta_law")}  # of each term


@dataclass(frozen=True)
class Options:
    kind: Literal["cr", "bcr", "zcr", "icr"] = "cr"
    real: Annotated[float, ">= 0"] = 10.0
    fake: Annotated[float, ">= 0"] = 10.0
    zcr_d: Annotated[float, ">= 0"] = 20.0
    zcr_g: Annotated[float, ">= 0"] = 0.5
    delta: Annotated[float, ">= 0"] = 0.05
    delta_law: Literal["normal", "uniform"] = "normal"
    mirror: bool = True
    shift: Annotated[float, ">= 0, <= 0.5"] = 0.125  # of the side, the farthest

    def __post_init__(self) -> None:
        for term, names in _OPTIONS.items():
            for name in names:
                value = getattr(self, name)
                if term not in _TERMS[self.kind] and value != getattr(type(self), name):
                    takers = ", ".join(kind for kind, terms in _TERMS.items() if term in terms)
                    raise ValueError(f"{name}: {value}: does nothing in kind {self.kind}; choose kind {takers}")


def hooks(options: Options, resolution: int) -> Hooks:
    return Consistency(options)


def transformed(images: Tensor, rng: torch.Generator, *, mirror: bool = True, shift: float = 0.125) -> Tensor:
    """T of images [N, C, R, R]: each one mirrored or not, and moved by its own whole numbers of pixels."""
    n, _, height, width = images.shape

    def reflected(side: int) -> Tensor:
        """Where the pixels of each image come from along one side [N, side]."""
        reach = int(side * shift + 0.5)
        moved = torch.randint(-reach, reach + 1, (n, 1), generator=rng, device=images.device)
        inside = (moved + torch.arange(side, device=images.device)).abs()
        return side - 1 - (side - 1 - inside).abs()

    rows, columns = reflected(height), reflected(width)
    if mirror:
        turned = torch.randint(2, (n, 1), generator=rng, device=images.device) == 1
        columns = torch.where(turned, width - 1 - columns, columns)
    by_row = images.gather(2, rows[:, None, :, None].expand_as(images))
    return by_row.gather(3, columns[:, None, None, :].expand_as(images))


class Consistency(Hooks):
    """Parts, unweighted: `real`, `fake` and `near` (zCR's) of D's term, `apart` of G's."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.terms = _TERMS[options.kind]

    def d_term(self, step: DStep, memory: Memory) -> Term:
        o = self.options
        weighted: dict[str, tuple[float, Tensor]] = {}
        if "real" in self.terms:
            seen = step.see(self.moved(step.reals, step.draws("real")), "real")
            weighted["real"] = o.real, _squared(step.real_logits, step.score(seen, step.labels))
        if "fake" in self.terms:
            seen = step.see(self.moved(step.fakes.images, step.draws("fake")), "fake")
            weighted["fake"] = o.fake, _squared(step.fake_logits, step.score(seen, step.fake_labels))
        if "zcr" in self.terms:
            other = step.sample(self.near(step.z, step.draws), step.fake_labels)
            seen = step.see(other.images, "fake")
            weighted["near"] = o.zcr_d, _squared(step.fake_logits, step.score(seen, step.fake_labels))
        value = torch.stack([weight * squared for weight, squared in weighted.values()]).sum()
        return Term(value, {name: squared for name, (_, squared) in weighted.items()})

    def g_term(self, step: GStep, memory: Memory) -> Term | None:
        if "zcr" not in self.terms:
            return None
        other = step.sample(self.near(step.z, step.draws), step.labels)
        apart = _squared(step.fakes.images, other.images)
        return Term(-self.options.zcr_g * apart, {"apart": apart})

    def moved(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """T of images, which takes no gradient to them."""
        return transformed(images.detach(), rng, mirror=self.options.mirror, shift=self.options.shift)

    def near(self, z: Tensor, draws: Streams) -> Tensor:
        """z + delta [N, z_dim]."""
        if self.options.delta_law == "uniform":
            drawn = torch.rand(z.shape, generator=draws("delta"), device=z.device) * 2 - 1
        else:
            drawn = torch.randn(z.shape, generator=draws("delta"), device=z.device)
        return z + self.options.delta * drawn


def _squared(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().mean()
