"""The layer that encoding variants are made of."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPOCH = 1


class Scaled(nn.Module):
    """A linear layer (shape [out, in]) or a zero-padded k x k convolution ([out, in, k, k]) with
    gain 1/sqrt(fan_in).

    `equalized` applies the gain at run time to unit normal weights, as StyleGAN2's layers do;
    else it is in the weights from the start, as in plain backbones. The function at the start is
    the same, the step that Adam takes is not. `zero` starts the weights at 0, as biases always do.
    """

    def __init__(self, *shape: int, equalized: bool, zero: bool = False) -> None:
        super().__init__()
        scale = torch.Size(shape[1:]).numel() ** -0.5
        self.gain = scale if equalized else 1.0
        weight = torch.zeros(shape) if zero else torch.randn(shape) * (scale / self.gain)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(shape[0]))

    def forward(self, x: Tensor) -> Tensor:
        """[N, in] -> [N, out], or [N, in, h, w] -> [N, out, h, w]."""
        weight = self.weight * self.gain
        if weight.ndim == 2:
            return F.linear(x, weight, self.bias)
        return F.conv2d(x, weight, self.bias, padding=weight.shape[-1] // 2)
