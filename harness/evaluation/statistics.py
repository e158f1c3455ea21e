"""The statistics of an averaged generator's own activations.

A buffer that a forward pass in training mode moves is a function of the weights which that pass had: moments of batch
norm, vectors of spectral norm. Weights that are an average of others have been through no such pass, and with the
moments of others they are no network that anyone trained. So before averaged weights make an image, they make their
own: over fixed batches of latents, labels of the data and whatever else is drawn, so that the result is a function of
weights and trial alone, and no stream of the training is touched. What moves but belongs to no weights (a backbone's
`copied`) and what never moves (FIR filters, constant noise) stays as the average has it.
"""

from collections import Counter
from collections.abc import Callable

import torch
from numpy.typing import NDArray
from torch import nn

from backbones import moments
from harness import rng
from harness.evaluation.fakes import scoring
from harness.method.generator import SpatialGenerator

EPOCH = 2  # raised when averaged networks that keep statistics score otherwise than before (1: with the raw ones' own)
BATCHES = 100


@torch.no_grad()
def settle(
    g: SpatialGenerator,
    *,
    batch_size: int,
    seed: int,
    labels: NDArray | None,
    beat: Callable[[], None] = lambda: None,
) -> None:
    """Give `g` the statistics of its own weights, in place: moments are plain means over `BATCHES` batches of
    `batch_size`, float32 without autocast or TF32; what moves otherwise has moved as often by its own decay.

    `labels`: int64, those of the training set, from which a conditional G's are drawn. `beat` is called before each
    batch. A network without such buffers passes one batch and is as it was.
    """
    before = {name: buffer.clone() for name, buffer in g.named_buffers()}
    copied = {f"backbone.{name}" for name in g.backbone.copied}
    layers = moments(g)
    momenta = [layer.momentum for layer in layers]
    counting = [layer.register_forward_pre_hook(_Mean()) for layer in layers]
    moved: set[str] = set()
    try:
        with scoring(g), torch.autocast(_device(g).type, enabled=False):
            g.train()
            for layer in layers:
                layer.reset_running_stats()  # type: ignore[operator]
            for index in range(BATCHES):
                beat()
                _pass(g, index, batch_size, seed, labels)
                if not index:
                    moved = {n for n, b in g.named_buffers() if n not in copied and not torch.equal(b, before[n])}
                if not moved:
                    break
    finally:
        for hook, layer, momentum in zip(counting, layers, momenta, strict=True):
            hook.remove()
            layer.momentum = momentum
    for name, buffer in g.named_buffers():
        if name not in moved:
            buffer.copy_(before[name])


class _Mean:
    """Lets a layer's running moments be the plain mean of those of every pass so far: a share of 1/n for the nth."""

    def __init__(self) -> None:
        self.passes: Counter[nn.Module] = Counter()

    def __call__(self, layer: nn.Module, inputs: object) -> None:
        self.passes[layer] += 1
        layer.momentum = 1 / self.passes[layer]  # type: ignore[assignment]


def _pass(g: SpatialGenerator, index: int, batch_size: int, seed: int, labels: NDArray | None) -> None:
    draws, chosen = rng.Streams(seed, "statistics", index, _device(g)), None
    if labels is not None:
        rows = torch.randint(len(labels), (batch_size,), generator=rng.stream(seed, "statistics/labels", index))
        chosen = torch.from_numpy(labels[rows.numpy()]).to(_device(g))
    g(g.backbone.sample_z(batch_size, draws("z")), chosen, draws=draws)


def _device(g: SpatialGenerator) -> torch.device:
    return next(g.parameters()).device
