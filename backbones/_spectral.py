"""Spectral normalisation (Miyato et al. 2018, https://arxiv.org/abs/1802.05957): a weight over its largest singular
value, which one power iteration a pass estimates from the pair u, v of the pass before."""

from contextlib import nullcontext
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

EPOCH = 1


class Spectral(parametrizations._SpectralNorm):
    """torch's own: u <- W v, then v <- W^T u. In float32 under autocast too: the power iteration's vectors go on from
    step to step, and rounding to half precision would stay in them."""

    def forward(self, weight: Tensor) -> Tensor:
        kind = weight.device.type
        with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
            normalised: Tensor = super().forward(weight)
        return normalised


class SpectralVFirst(Spectral):
    """v <- W^T u, then u <- W v, as the paper's algorithm 1 has it. The same stored pair gives another sigma = u . W v
    than torch's order does: weights trained with this one need it."""

    @torch.no_grad()
    def _power_method(self, weight_mat: Tensor, n_power_iterations: int) -> None:
        for _ in range(n_power_iterations):
            self._v = F.normalize(torch.mv(weight_mat.H, self._u), dim=0, eps=self.eps, out=self._v)
            self._u = F.normalize(torch.mv(weight_mat, self._v), dim=0, eps=self.eps, out=self._u)


def spectral(layer: nn.Module, norm: type[Spectral] = Spectral) -> nn.Module:
    """`layer` with spectral norm of its weight [out, ...], the pair after 15 iterations, as torch begins."""
    parametrize.register_parametrization(layer, "weight", norm(cast(Tensor, layer.weight)))
    return layer
