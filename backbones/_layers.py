"""Layers of the StyleGAN family, in plain PyTorch: no compiler, any device, any order of derivatives.

Equations are those of "Analyzing and Improving the Image Quality of StyleGAN" (StyleGAN2)
and, for the configuration of the discriminator, of its ADA follow-up. Feature maps are kept
channels-last where that is faster (`layout`).
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones._fir import add_sides, down_padding, filter_size, setup_filter, up_padding, upfirdn2d

EPOCH = 1

_HALF = (torch.float16, torch.bfloat16)


# ── activations and statistics ───────────────────────────────────────────────


class Activation(NamedTuple):
    """`gain` is what keeps the variance of a unit normal input near 1."""

    function: Callable[[Tensor, float], Tensor]
    slope: float
    gain: float


ACTIVATIONS = {
    "linear": Activation(lambda x, _: x, 0.0, 1.0),
    "relu": Activation(lambda x, _: F.relu(x), 0.0, math.sqrt(2)),
    "lrelu": Activation(F.leaky_relu, 0.2, math.sqrt(2)),
    "tanh": Activation(lambda x, _: x.tanh(), 0.0, 1.0),
    "sigmoid": Activation(lambda x, _: x.sigmoid(), 0.0, 1.0),
    "elu": Activation(lambda x, _: F.elu(x), 0.0, 1.0),
    "selu": Activation(lambda x, _: F.selu(x), 0.0, 1.0),
    "softplus": Activation(lambda x, _: F.softplus(x), 0.0, 1.0),
    "swish": Activation(lambda x, _: F.silu(x), 0.0, math.sqrt(2)),
}


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    *,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """clamp(gain * act(x + b)); b runs along `dim`. None: the activation's own slope and gain, no clamp."""
    function, slope, own_gain = ACTIVATIONS[act]
    if b is not None:
        x = x + b.to(x.dtype).view([-1 if i == dim else 1 for i in range(x.ndim)])
    x = function(x, slope if alpha is None else alpha)
    gain = own_gain if gain is None else gain
    if gain != 1:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def finish_(x: Tensor, b: Tensor | None = None, *, act: str, clamp: float | None = None) -> Tensor:
    """clamp(act(x + b)) in place for "linear" and "lrelu", without the activation's gain. x must be fresh.

    These two have act(g x) = g act(x): layers take the gain into their weights and biases and so
    save passes over the features.
    """
    if b is not None:
        x = x.add_(b.to(x.dtype).view(-1, 1, 1))
    if act == "lrelu":
        x = F.leaky_relu_(x, ACTIVATIONS["lrelu"].slope)
    return x if clamp is None else x.clamp(-clamp, clamp)


def normalize_2nd_moment(x: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """x / rms(x) along `dim`."""
    return x * (x.square().mean(dim, keepdim=True) + eps).rsqrt()


def minibatch_stddev(x: Tensor, group_size: int | None = 4, num_channels: int = 1) -> Tensor:
    """Append how much the samples of a group differ: [N, C, H, W] -> [N, C + F, H, W].

    Member g of group i is sample i + g n, with n groups. Per pixel the population standard
    deviation over a group, averaged over pixels and over each of F chunks of channels. A group
    has the largest size up to `group_size` (None: N) that divides N.
    """
    n, c, h, w = x.shape
    limit = min(group_size or n, n)
    size = next(g for g in range(limit, 0, -1) if n % g == 0)
    groups = x.reshape(size, -1, num_channels, c // num_channels, h, w)
    deviation = (groups.var(0, correction=0) + 1e-8).sqrt().mean((2, 3, 4))
    return torch.cat([x, deviation.repeat(size, 1)[:, :, None, None].expand(-1, -1, h, w)], 1)


# ── convolutions ─────────────────────────────────────────────────────────────


def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
) -> Tensor:
    """Upsample, convolve with w [O, I / groups, k, k], downsample; `padding` is that of the convolution.
    `bias` [O] only where nothing follows the convolution (up 1).

    All steps are linear, so they are done in the cheapest order: a convolution and the FIR
    filter commute. `flip_weight` True is a correlation, False a true convolution.
    """
    k, (fw, fh) = w.shape[-1], filter_size(f)
    sides = (padding,) * 4
    if up > 1:
        sides = add_sides(sides, (*up_padding(fw, up), *up_padding(fh, up)))
    if down > 1:
        sides = add_sides(sides, (*down_padding(fw, down), *down_padding(fh, down)))
    if up == 1:
        w = w if flip_weight else w.flip((2, 3))
        if down == 1:
            return F.conv2d(x, w, bias, padding=padding, groups=groups)
        if k == 1:
            return F.conv2d(upfirdn2d(x, f, down=down, padding=sides, flip_filter=flip_filter), w, bias, groups=groups)
        x = upfirdn2d(x, f, padding=sides, flip_filter=flip_filter)
        return F.conv2d(x, w, bias, stride=down, groups=groups)
    assert bias is None
    if k == 1 and down == 1:
        x = F.conv2d(x, w, groups=groups)
        return upfirdn2d(x, f, up=up, padding=sides, flip_filter=flip_filter, gain=up**2)
    w = w.flip((2, 3)) if flip_weight else w
    w = w.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    sides = add_sides(sides, (1 - k, up - k, 1 - k, up - k))
    crop = max(0, -max(sides))
    x = F.conv_transpose2d(x, w, stride=up, padding=crop, groups=groups)
    x = upfirdn2d(x, f, padding=add_sides(sides, (crop,) * 4), flip_filter=flip_filter, gain=up**2)
    return x if down == 1 else upfirdn2d(x, f, down=down, flip_filter=flip_filter)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    f: Tensor | None = None,
    *,
    noise: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int = 0,
    demodulate: bool = True,
    gain: float = 1.0,
    flip_weight: bool = True,
    fused: bool = False,
) -> Tensor:
    """Convolve with weights whose input channels are scaled by `styles` [N, I] (StyleGAN2 eq. 1),
    and whose outputs are demodulated (eq. 3), times `gain`; then add `noise` (broadcast to the output).

    `fused` folds both scalings into one kernel per sample; otherwise they act on the features
    before and after one ordinary convolution. Equal but for rounding.
    """
    if demodulate and _low_precision(x):
        # Demodulation undoes any scale of a kernel or a style; at scale 1 no product leaves fp16's range.
        weight = weight * (weight.square().mean((1, 2, 3), keepdim=True) + 1e-8).rsqrt()
        weight = weight / math.sqrt(weight[0].numel())
        styles = styles / styles.abs().amax(1, keepdim=True).clamp_min(1e-8)
    if not demodulate and up == down == weight.shape[2] == 1:
        # A small matrix for each sample costs less than two passes over the features.
        kernels = (weight.flatten(1) * (styles * gain)[:, None]).to(x.dtype)
        x = torch.bmm(kernels, x.flatten(2)).unflatten(2, x.shape[2:])
        return x if noise is None else x + noise
    scale = None
    if not demodulate:
        styles = styles * gain
    else:
        with torch.autocast(x.device.type, enabled=False):
            scale = torch.addmm(weight.new_full((), 1e-8), styles.square(), weight.square().sum((2, 3)).t()).rsqrt()
            scale = scale * gain
    if fused:
        n = len(x)
        kernels = weight * styles[:, None, :, None, None]
        if scale is not None:
            kernels = kernels * scale[:, :, None, None, None]
        x = x.reshape(1, -1, *x.shape[2:])
        kernels = kernels.flatten(0, 1).to(x.dtype)
        x = conv2d_resample(x, kernels, f, up=up, down=down, padding=padding, groups=n, flip_weight=flip_weight)
        x = x.reshape(n, -1, *x.shape[2:])
        return x if noise is None else x + noise
    x = x * styles.to(x.dtype)[:, :, None, None]
    x = conv2d_resample(x, weight.to(x.dtype), f, up=up, down=down, padding=padding, flip_weight=flip_weight)
    if scale is not None:
        scale = scale.to(x.dtype)[:, :, None, None]
        return x * scale if noise is None else torch.addcmul(noise, x, scale)
    return x if noise is None else x + noise


def _low_precision(x: Tensor) -> bool:
    return x.dtype in _HALF or torch.is_autocast_enabled(x.device.type)


def full(x: Tensor) -> Tensor:
    """x in at least float32."""
    return x.float() if x.dtype in _HALF else x


def layout(x: Tensor) -> Tensor:
    """x in the memory order in which convolutions are fastest: channels last on a CPU, where oneDNN then
    reorders only the weights (they outweigh small maps), and for half precision on a GPU (tensor cores)."""
    if x.shape[2] >= 16 if x.device.type == "cpu" else _low_precision(x):
        return x.contiguous(memory_format=torch.channels_last)
    return x.contiguous()


# ── layers with equalised learning rate ──────────────────────────────────────


class FullyConnected(nn.Module):
    """act(lr_mult (W x / sqrt(fan_in) + b)), in float32 whatever surrounds it. [N, in] -> [N, out].

    Weights start as normal / lr_mult, so `lr_mult` slows learning and leaves the output alone.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        act: Literal["linear", "lrelu"] = "linear",
        lr_mult: float = 1.0,
        bias: bool = True,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.act = act
        self.lr_mult = lr_mult
        self.weight_gain = lr_mult / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_mult)
        self.bias = nn.Parameter(torch.full((out_features,), bias_init / lr_mult)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x, w = full(x), self.weight.t()
            if self.bias is None:
                x = (x * self.weight_gain) @ w
            else:
                x = torch.addmm(self.bias, x, w, beta=self.lr_mult, alpha=self.weight_gain)
            return bias_act(x, act=self.act)


class Mapping(nn.Module):
    """z [N, z_dim] and / or labels -> w [N, w_dim]. With z_dim 0 only labels enter (D's mapping)."""

    w_avg: Tensor

    def __init__(self, z_dim: int, num_classes: int, w_dim: int, layers: int, lr_mult: float) -> None:
        super().__init__()
        self.num_classes = num_classes
        if num_classes:
            self.embed = FullyConnected(num_classes, w_dim)
        self.layers: list[str] = [f"fc{i}" for i in range(layers)]
        for i, name in enumerate(self.layers):
            fan_in = w_dim if i else z_dim + (w_dim if num_classes else 0)
            self.add_module(name, FullyConnected(fan_in, w_dim, act="lrelu", lr_mult=lr_mult))
        if z_dim:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Tensor | None, labels: Tensor | None = None) -> Tensor:
        parts = [] if z is None else [normalize_2nd_moment(z.float())]
        if self.num_classes:
            if labels is None:
                raise ValueError("labels: missing; this network is conditional")
            one_hot = F.one_hot(labels, self.num_classes).to(self.embed.weight.dtype)
            parts.append(normalize_2nd_moment(self.embed(one_hot)))
        x = torch.cat(parts, 1)
        for name in self.layers:
            x = self.get_submodule(name)(x)
        return x


class Conv(nn.Module):
    """Convolution k x k with size-keeping padding, optional FIR downsampling, bias, activation, clamp."""

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        act: Literal["linear", "lrelu"] = "linear",
        bias: bool = True,
        down: int = 1,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.act = act
        self.down = down
        self.clamp = clamp
        self.padding = kernel // 2
        self.weight_gain = 1 / math.sqrt(in_channels * kernel**2)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.register_buffer("resample_filter", setup_filter((1, 3, 3, 1)), persistent=False)

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """x [N, in, H, W] -> [N, out, H / down, W / down]; `gain` scales output and clamp."""
        clamp = None if self.clamp is None else self.clamp * gain
        gain = gain * ACTIVATIONS[self.act].gain
        w = (self.weight * (self.weight_gain * gain)).to(x.dtype)
        b = None if self.bias is None else (self.bias * gain).to(x.dtype)
        x = conv2d_resample(x, w, self.resample_filter, bias=b, down=self.down, padding=self.padding)
        return finish_(x, act=self.act, clamp=clamp)
