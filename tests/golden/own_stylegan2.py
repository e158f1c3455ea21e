"""Expectations of our own for StyleGAN2: `python -m tests.golden.own_stylegan2` writes own_stylegan2.json.

Weights and inputs come from a fixed formula, so the file holds results only. Written once the
recorded reference numbers were met; rewrite it only while they still are.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from backbones import stylegan2
from harness.method import losses
from tests.golden.own_method import fill, summary, wave

FILE = Path(__file__).with_suffix(".json")
RESOLUTION = 16
OPTIONS = stylegan2.Options(
    z_dim=8, w_dim=8, mapping_layers=2, channel_base=128, channel_max=8, noise="const", conv_clamp=256.0
)


def results() -> dict[str, list[float]]:
    """Name -> summary of a tensor, for an unconditional resnet and a conditional plain pair."""
    found: dict[str, Tensor] = {}
    for architecture, num_classes in (("resnet", 0), ("orig", 3)):
        options = stylegan2.Options(**{**vars(OPTIONS), "architecture": architecture})
        g, d = stylegan2.build(options, RESOLUTION, num_classes)
        fill(g)
        fill(d)
        with torch.no_grad():
            for k, layer in enumerate(m for m in g.modules() if isinstance(m, stylegan2.SynthesisLayer)):
                layer.noise_const.copy_(wave(*layer.noise_const.shape, phase=float(k)))
        labels = torch.tensor([0, 1, 2, 0]) if num_classes else None
        images, ws = g(wave(4, 8, phase=0.5), labels)
        pl = losses.path_length(images, ws, torch.tensor(0.1), wave(*images.shape, phase=0.7), 0.01)
        reals = wave(4, 3, RESOLUTION, RESOLUTION, phase=0.9).requires_grad_()
        logits, feats = d(reals, labels, taps=d.taps)
        penalty = losses.r1_penalty(reals, logits)
        found |= {f"{architecture}/{k}": v for k, v in {"images": images, "logits": logits, "r1": penalty}.items()}
        found |= {f"{architecture}/tap{k}": v for k, v in feats.items()}
        found[f"{architecture}/lengths"] = pl.lengths
        for net, loss in ((g, pl.penalty.mean()), (d, penalty.mean())):
            grads = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
            norms = [torch.zeros(()) if grad is None else grad.norm() for grad in grads]
            found[f"{architecture}/norms_{'g' if net is g else 'd'}"] = torch.stack(norms)
    return {name: summary(x) for name, x in found.items()}


if __name__ == "__main__":
    FILE.write_text(json.dumps(results(), indent=1) + "\n")
