"""SAN: D's last layer as a direction on the sphere, trained to tell reals from fakes as a metric (Takida et al. 2024,
https://arxiv.org/abs/2301.12811).

The last layer's weight is w = s omega, |omega| = 1, s = |w|. With h the features that come into it, D is trained by

    L(s <sg(omega), h>)  +  weight (mean over fakes - mean over reals of <omega, sg(s h)>)

L the GAN loss of the recipe and sg no gradient: the loss moves s and h, the second term omega alone. G's loss is
unchanged. In a conditional D each class has its own direction.

Where we differ:
- omega is w / |w| at every step (the authors' simple form). Their form for StyleGAN, a scale of its own and w put back
  onto the sphere after each step, would need a parameter that a variant can't have; of one w both give the same
  gradients, and Adam makes other steps of them.
- The authors add a bias to h before the last layer; D's own is added after it and is moved by the first term alone, so
  that logits are those of the same D without the variant.
- w of a conditional D is the sum of its layer's and its class's, so classes share a part of their directions.
- R1, the recipe's or another variant's, is that of the first term's logits: it moves s and h, not omega.
- A last layer under spectral normalisation has s = 1 where no class is added: h alone scales the logits.
"""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from backbones import Last
from harness.method.hooks import Head, Hooks, Kind

EPOCH = 1


@dataclass(frozen=True)
class Options:
    weight: Annotated[float, ">= 0"] = 1.0  # of the direction's term


def hooks(options: Options, resolution: int) -> Hooks:
    return San(options)


def scale_and_direction(weight: Tensor) -> tuple[Tensor, Tensor]:
    """s [N, 1] and omega [N, F] of weights [N, F]."""
    scale = weight.norm(dim=1, keepdim=True)
    return scale, weight / scale


class San(Hooks):
    """Part `head`: the direction's term, weighted."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def head(self, h: Tensor, last: Last, labels: Tensor | None, kind: Kind | None) -> Head:
        scale, omega = scale_and_direction(last.weight)
        scaled = scale * h
        of_features = (scaled * omega.detach()).sum(1) + last.bias
        whole = (scaled * omega).sum(1) + last.bias
        if kind is None:
            return Head(of_features, whole, None)
        along = (scaled.detach() * omega).sum(1).mean()
        return Head(of_features, whole, self.options.weight * (along if kind == "fake" else -along))
