"""The last layer of D in SN-DCGAN and in DCGAN: linear on 4x4 features, with the projection of Miyato & Koyama 2018
(https://arxiv.org/abs/1802.05637) where there are labels."""

from typing import cast

from torch import Tensor, nn

from backbones import Discriminator, Last


class Projected(Discriminator):
    """Has `linear` from [N, C * 16] features h, and `embed` from labels to C where `num_classes`."""

    linear: nn.Module
    embed: nn.Module
    num_classes: int

    def logits_of(self, h: Tensor, labels: Tensor | None = None) -> Tensor:
        logits = self.linear(h).squeeze(1)
        if self.num_classes:
            assert labels is not None, "a conditional D needs labels"
            logits = logits + (self.embed(labels) * h.unflatten(1, (-1, 4, 4)).sum((2, 3))).sum(1)
        return cast(Tensor, logits.float())

    def last_layer(self, labels: Tensor | None = None) -> Last:
        weight, bias = cast(Tensor, self.linear.weight), cast(Tensor, self.linear.bias)
        if self.num_classes:
            weight = weight + self.embed(labels).repeat_interleave(16, 1)  # the embedding meets the sum over 4x4 places
        return Last(weight, bias)
