"""How strong a term of G's loss is beside the GAN loss: their gradients at the fakes, and a weight that bounds their
ratio. Pure functions; none waits for the device, and the graph and all that hangs on it stay as they are.

Both losses are means over a microbatch of equal size, so the gradients of the mean over several are theirs over the
number of microbatches: norms of the whole are roots of sums of squares, and ratio and cosine need no number.
"""

from typing import NamedTuple

import torch
from torch import Tensor

HALF_LIFE = 2.0  # measurements until one counts half: ratios fall by a hundred within the first 100 steps
MOST = 1e12  # of a ratio to a gradient that is 0: finite, so that it is no divergence
_HEADROOM = 8  # log2 of the largest gradient from which the pass through D starts; half precision has 2^-24 ... 2^16


class Beside(NamedTuple):
    """Norms of the gradients of the term (at weight 1) and of the GAN loss, and the cosine between them (0 where one
    is 0): scalars, or [M] of M microbatches. `cosine` > 0: lowering the term lowers the GAN loss too."""

    own: Tensor
    gan: Tensor
    cosine: Tensor

    @property
    def ratio(self) -> Tensor:
        """own / gan: 0 where `own` is 0, at most MOST where only `gan` is, NaN where one is not finite."""
        found = torch.where(self.own == 0, self.own, self.own / self.gan).clamp(max=MOST)
        return torch.where(self.own.isfinite() & self.gan.isfinite(), found, torch.nan)


def beside(own: Tensor, own_through: list[Tensor], gan: Tensor, gan_through: list[Tensor], images: Tensor) -> Beside:
    """Compare two losses, scalars in one graph, at `images` [N, C, R, R]. `*_through`: tensors of the graph between
    D's features and the loss, in float32, by whose gradients the pass through D is scaled."""
    (a, a_scale), (g, g_scale) = _at(own, own_through, images), _at(gan, gan_through, images)
    a_norm, g_norm = a.norm(), g.norm()
    return Beside(a_norm / a_scale, g_norm / g_scale, _cosine((a * g).sum(), a_norm * g_norm))


def _at(loss: Tensor, through: list[Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    """(gradient of `loss` at `images` times s, s), s being the power of 2 by which no pass in half precision loses it:
    a mean's gradient would become 0 there, which is why training scales its losses too."""
    start = torch.autograd.grad(loss, through, retain_graph=True)
    peak = torch.stack([x.detach().float().abs().max() for x in start]).max()
    scale = torch.exp2((_HEADROOM - peak.log2().ceil()).clamp(-100, 100))
    scale = torch.where((peak > 0) & peak.isfinite(), scale, 1.0)
    (found,) = torch.autograd.grad(loss * scale, images, retain_graph=True)
    return found.detach().float(), scale


def joined(parts: Beside) -> Beside:
    """Of the whole batch, from [M] microbatches, in float64: squares of small norms are 0 in float32."""
    own, gan, cosine = (x.double() for x in parts)
    norms = own.norm(), gan.norm()
    return Beside(*(x.float() for x in (*norms, _cosine((cosine * own * gan).sum(), norms[0] * norms[1]))))


def _cosine(dot: Tensor, product: Tensor) -> Tensor:
    return (dot / torch.where(product == 0, 1.0, product)).clamp(-1, 1)


def bounded(weight: float, most: float, found: Beside) -> Tensor:
    """The largest weight, at most `weight`, under which |own| is at most `most` times |gan|; `weight` where own is 0.
    NaN where a gradient is not finite: nothing bad is weighted away."""
    allowed = (most * found.gan / found.own).clamp(max=weight)
    allowed = torch.where(found.own == 0, weight, allowed)
    return torch.where(found.own.isfinite() & found.gan.isfinite(), allowed, torch.nan)


def reckoned(weight: float, most: float, last: Tensor, smooth: Tensor) -> Tensor:
    """The weight between measurements: as `bounded`, by the larger of the two remembered ratios; 0: none is known."""
    return (most / torch.maximum(last, smooth)).clamp(max=weight)


def remembered(last: Tensor, smooth: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """(last, smooth) after a measurement. `smooth` is a running geometric mean: a ratio moves by factors, and one
    that is off by a million is forgotten as soon as its logarithm. A ratio of 0 (all maps empty) says nothing of
    the next one, and changes nothing."""
    before = torch.where(smooth == 0, ratio, smooth).log()
    moved = before.lerp(ratio.log(), 1 - 0.5 ** (1 / HALF_LIFE)).exp()
    silent = ratio == 0
    return torch.where(silent, last, ratio), torch.where(silent, smooth, moved)
