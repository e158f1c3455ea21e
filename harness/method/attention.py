"""D's attention (GradCAM, section 2.2) and its distance to the heatmaps (eq. 4): pure functions.

They take the logits and feature maps of one forward pass of D, still in the graph, so that
the pass is shared with the GAN loss. Half-precision inputs are computed on in float32.
"""

from collections.abc import Mapping
from typing import Literal, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

K = TypeVar("K")
Objective = Literal["logit", "softplus"]
Rectify = Literal["after_sum", "per_channel", "absolute"]
Normalize = Literal["minmax", "max", "none"]
Truncate = Literal["mean_above", "zero_below", "none"]

# Below this relative range a map is flat: what varies is the rounding of its resizing.
_FLAT = 1e-6


def gradcam_weights(
    logits: Tensor, feats: Mapping[K, Tensor], objective: Objective = "logit", differentiate: bool = False
) -> dict[K, Tensor]:
    """Spatial means of d(objective)/d(feature) summed over the batch: {level: [N, C, 1, 1]}.

    `logit` is the paper's "maximizing the output of D"; `softplus` is softplus(-D), G's loss,
    whose gradient has the opposite sign. The weights are detached unless `differentiate`.
    No parameter's `.grad` is touched. Raises RuntimeError where feats are outside the graph.
    """
    score = logits.sum() if objective == "logit" else F.softplus(-logits).sum()
    grads = torch.autograd.grad(score, list(feats.values()), retain_graph=True, create_graph=differentiate)
    return {k: _full(g).mean(dim=(2, 3), keepdim=True) for k, g in zip(feats, grads, strict=True)}


def attention_map(weights: Tensor, feats: Tensor, rectify: Rectify = "after_sum") -> Tensor:
    """weights [N, C, 1, 1], feats [N, C, H, W] -> map [N, 1, H, W] >= 0; ReLU of the weighted sum
    over channels (GradCAM), the sum of each channel's ReLU (released code), or the sum's absolute value."""
    with torch.autocast(feats.device.type, enabled=False):
        weighted = _full(weights) * _full(feats)
        if rectify == "per_channel":
            return weighted.relu().sum(dim=1, keepdim=True)
        total = weighted.sum(dim=1, keepdim=True)
        return total.abs() if rectify == "absolute" else total.relu()


def gradcam(
    logits: Tensor,
    feats: Mapping[K, Tensor],
    *,
    objective: Objective = "logit",
    rectify: Rectify = "after_sum",
    differentiate: bool = False,
) -> dict[K, Tensor]:
    """Attention maps {level: [N, 1, H, W]} of one forward pass: logits [N], feats [N, C, H, W]."""
    weights = gradcam_weights(logits, feats, objective, differentiate)
    return {k: attention_map(weights[k], feats[k], rectify) for k in feats}


def normalize(maps: Tensor, how: Normalize = "minmax") -> Tensor:
    """Per-sample scaling of [N, 1, H, W] to [0, 1] with detached extrema. A flat map (all zero,
    constant) becomes 0 with zero gradient; a non-finite one stays non-finite."""
    if how == "none":
        return maps
    values = maps.detach()
    high = values.amax(dim=(1, 2, 3), keepdim=True)
    low = values.amin(dim=(1, 2, 3), keepdim=True)
    if how == "max":
        low = torch.zeros_like(low)
    span = high - low
    flat = (span <= _FLAT * torch.maximum(high.abs(), low.abs())) & span.isfinite()
    return torch.where(flat, 0.0, (maps - low) / torch.where(flat, 1.0, span))


def empty(maps: Tensor) -> Tensor:
    """[N]: 1 for a normalised map [N, 1, H, W] that is 0 everywhere, as where GradCAM has no positive part, else 0;
    NaN for one that is not finite."""
    peak = maps.detach().abs().amax(dim=(1, 2, 3))
    return torch.where(peak.isfinite(), (peak == 0).to(peak.dtype), torch.nan)


def alignment(attention: Tensor, heatmap: Tensor, tau: float = 0.25, truncate: Truncate = "zero_below") -> Tensor:
    """Eq. 4 for one level: mean absolute difference of [N, 1, r, r] maps, scalar.

    `zero_below`: differences up to tau count 0. `mean_above`: mean over the batch's differences
    above tau, or over all of them where fewer than two are above (released code). `none`: all.
    """
    difference = (attention - heatmap).abs()
    if truncate == "none":
        return difference.mean()
    # Products, not `where`: NaN times 0 stays NaN, so no bad value is masked away.
    above = difference > tau
    kept = difference * above
    if truncate == "zero_below":
        return kept.mean()
    count = above.sum()
    return torch.where(count >= 2, kept.sum() / count.clamp(min=1), difference.mean())


def _full(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
