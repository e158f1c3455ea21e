"""Expectations of our own for the method: `python -m tests.golden.own_method` writes own_method.json.

Weights and inputs come from a fixed formula, so the file holds results only. Written once the
recorded reference numbers were met; rewrite it only while they still are.
"""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.experiment.schema import parse
from harness.method import heatmaps
from harness.method.generator import Fakes, Heatmaps
from harness.variants import align, sel

FILE = Path(__file__).with_suffix(".json")


def wave(*shape: int, phase: float = 0.0, scale: float = 1.0) -> Tensor:
    """Numbers in [-scale, scale] that look arbitrary and are the same everywhere."""
    i = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (scale * torch.sin(12.9898 * i + phase + 0.37 * torch.sin(78.233 * i))).reshape(shape).float()


def fill(module: torch.nn.Module) -> None:
    """Formula weights for every parameter."""
    with torch.no_grad():
        for k, p in enumerate(module.parameters()):
            p.copy_(wave(*p.shape, phase=float(k)))


def summary(x: Tensor) -> list[float]:
    """A few entries spread over x, its mean and its mean square."""
    flat = x.detach().double().flatten()
    picked = flat[torch.linspace(0, len(flat) - 1, 8).long()]
    return [float(f"{v:.8g}") for v in [*picked.tolist(), flat.mean().item(), flat.square().mean().item()]]


def both(module: Any) -> dict[str, Any]:
    """The options of each profile."""
    return {
        name: parse(module.Options, {"profile": name, **profile}, "own") for name, profile in module.PROFILES.items()
    }


def _heatmaps(options: heatmaps.HeatmapOptions, resolution: int) -> Heatmaps:
    units = {}
    for i, (level, count) in enumerate(zip(options.drawn, options.counts, strict=True)):
        anchor, offsets, spread = wave(3, 2, phase=i), wave(3, count, 2, phase=i + 5.0), wave(3, count, phase=i + 9.0)
        unit = [x.abs() for x in (anchor, offsets, spread)]
        units[level] = heatmaps.Units(
            unit[0] if options.off_image == "redraw" else anchor,
            unit[1] if options.offsets == "uniform" else offsets,
            unit[2],
        )
    return heatmaps.render(options, heatmaps.regions(options, units), resolution)


def _discriminator(image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Three strided convolutions to the features of 16x16, 8x8 and 4x4, and a linear logit."""
    x, feats = image, {}
    for k, (tap, channels) in enumerate((("16", 6), ("8", 8), ("4", 8))):
        weight = wave(channels, x.shape[1], 4, 4, phase=3.0 * k, scale=0.4)
        x = feats[tap] = F.leaky_relu(F.conv2d(x, weight, stride=2, padding=1), 0.2)
    return x.flatten(1) @ wave(x[0].numel(), phase=1.0, scale=0.3), feats


def numbers() -> dict[str, list[float]]:
    """Name -> a few numbers that stand for a tensor."""
    out = {}
    given = {}
    for name, options in both(sel).items():
        given[name] = _heatmaps(options.heatmaps, 32)
        for level, h in given[name].items():
            out[f"{name}/heatmap/{level}"] = summary(h)
        x = wave(3, 5, 8, 8, phase=2.0)
        for kind in ("norm", "concat"):
            plain = {"profile": name, **sel.PROFILES[name], "norm": kind, "zero_init": False}
            layer = sel.SelLayer(5, 2, parse(sel.Options, plain, "own"))
            fill(layer)
            h = heatmaps.resize(wave(3, 2, 16, 16, phase=4.0), 8, options.resize)
            out[f"{name}/sel_{kind}"] = summary(layer(x, h))
    for name, options in both(align).items():
        image = wave(3, 3, 32, 32, phase=6.0).requires_grad_()
        logits, feats = _discriminator(image)
        total, parts = align.hooks(options, 32).term(
            logits, feats, Fakes(image, image, given.get(name, given["paper"]))
        )
        out[f"{name}/align"] = [
            float(f"{v.item():.8g}") for v in (parts["align"], *(parts[f"align/{k}"] for k in options.compared))
        ]
        out[f"{name}/align_gradient"] = summary(torch.autograd.grad(total, image)[0])
    return out


if __name__ == "__main__":
    lines = (f"{json.dumps(name)}: {json.dumps(values)}" for name, values in numbers().items())
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
