"""Backbones: plain GANs with named places where a variant may act.

A backbone is one module in this package with

    Options                                                  frozen dataclass, typed fields
    check(options, resolution, num_classes) -> None          ValueError("key: rule") if it can't be made
    build(options, resolution, num_classes, channels=3) -> (Generator, Discriminator)
    MOMENTS                                                  whether G keeps running moments; not said: yes
    OWN_LEVELS                                               whether D's `levels` are its own; not said: no
    uses(options) -> tuple[str, ...]                         optional: pretrained networks that it trains with, by
                                                             the names that metrics' records give them

`build` draws the initial weights from torch's global generator, which the caller has
seeded. `channels` of the images are 1 (grey) or 3. Nothing here knows heatmaps, SEL, Ray or
MLflow; nothing here imports `harness`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Site(NamedTuple):
    """A place in G where a variant may act.

    `name` is unique within a generator. `channels` and `resolution` describe the feature
    map [N, channels, resolution, resolution] that passes there; `resolution` 0 marks the
    latent vector [N, channels] before the first layer.
    """

    name: str
    channels: int
    resolution: int


Modulate = Callable[[Site, Tensor], Tensor]
"""Called at every site with the features that pass there; returns what goes on, same shape."""

Draws = Callable[[str], torch.Generator]
"""Named random streams: `draws("noise")` is a generator used for that purpose alone."""


def identity(site: Site, x: Tensor) -> Tensor:
    """The modulation that changes nothing: the baseline, bit for bit."""
    return x


class Synthesis(NamedTuple):
    """`images` [N, C, R, R], C 1 or 3, about [-1, 1]; `ws`, the latents that entered synthesis
    ([N, num_ws, w_dim] for style-based generators, z itself otherwise)."""

    images: Tensor
    ws: Tensor


class Generator(nn.Module):
    """What every generator offers.

    Attributes: `z_dim`; `num_classes` (0: unconditional); `resolution` of the images;
    `sites`, in the order in which `modulate` meets them; `copied`, the names of buffers that a forward pass in
    training mode moves and that averaged weights nevertheless take over, as StyleGAN2's w_avg. All others that it
    moves averaged weights make anew by passes of their own (`moments`).
    """

    z_dim: int
    num_classes: int
    resolution: int
    sites: tuple[Site, ...]
    copied: tuple[str, ...] = ()

    def sample_z(self, n: int, rng: torch.Generator) -> Tensor:
        """n latents [n, z_dim] from the prior p_z, on the generator's device."""
        raise NotImplementedError

    def forward(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        *,
        modulate: Modulate = identity,
        draws: Draws | None = None,
        mixing: float = 0.0,
    ) -> Synthesis:
        """z [N, z_dim], labels int64 [N] or None -> images and ws.

        `draws` gives the streams "noise" and "mixing" to networks that draw inside
        synthesis (None: torch's global generator). `mixing` is the probability of style
        mixing; a generator without styles ignores it.
        """
        raise NotImplementedError


def moments(network: nn.Module) -> list[nn.Module]:
    """Its layers that keep running moments of what passes them in training mode.

    They are torch's own norms, and every layer that offers what those offer: `momentum`, the share of what passes now
    in the running moments, and `reset_running_stats()`. A layer that does not is given as many passes as they are, by
    its own decay.
    """
    return [
        m
        for m in network.modules()
        if hasattr(m, "reset_running_stats") and hasattr(m, "momentum") and getattr(m, "track_running_stats", True)
    ]


Note = Callable[[Tensor, Callable[[], object]], None]
_note: Note | None = None


def follow(average: Tensor, value: Tensor, share: float) -> None:
    """average <- average + share (value - average), in place: what a pass in training mode moves for later, and no
    pass of training reads. A module tells it so (torch's own norms are known), for where several processes share the
    microbatches of a step, one microbatch after the other moves it for all of them."""

    def move() -> None:
        average.lerp_(value, share)

    move()
    if _note is not None:
        _note(average, move)


@contextmanager
def noting(note: Note) -> Iterator[None]:
    """Within, each `follow` is told to `note`: the average, and what moves it once more."""
    global _note
    before, _note = _note, note
    try:
        yield
    finally:
        _note = before


class Last(NamedTuple):
    """D's last layer: its logits are <weight, h> + bias. weight [N, F] (by label) or [1, F]; bias [N] or [1]."""

    weight: Tensor
    bias: Tensor


class Discriminator(nn.Module):
    """What every discriminator offers. `forward` may be written as a whole, or in three parts that name the last
    layer, as a variant with a `head` (harness.method.hooks) needs it: features h, and a layer that is linear in them.

    Attributes: `num_classes`; `resolution`; `taps`, the names of the feature maps that
    can be returned: the resolution as text ("4", "8", "16", ...); `levels`, the resolutions at which variants act
    where their options leave that to the backbone, coarsest first, all below the image's: both networks have a
    map there. A file whose D sets them says OWN_LEVELS (docs/decisions/0007).
    """

    num_classes: int
    resolution: int
    taps: tuple[str, ...]
    levels: tuple[int, ...] = (4, 8, 16)

    def forward(
        self, images: Tensor, labels: Tensor | None = None, *, taps: tuple[str, ...] = ()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """images [N, C, R, R], labels int64 [N] or None -> raw logits [N] (float32, before
        any activation) and the asked feature maps {name: [N, C, H, W]}, in the graph."""
        h, feats = self.penultimate(images, taps=taps)
        return self.logits_of(h, labels), feats

    def penultimate(self, images: Tensor, *, taps: tuple[str, ...] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """What comes into the last layer, h [N, F], and the asked feature maps."""
        raise NotImplementedError

    def logits_of(self, h: Tensor, labels: Tensor | None = None) -> Tensor:
        """h [N, F] -> raw logits [N], float32."""
        raise NotImplementedError

    def last_layer(self, labels: Tensor | None = None) -> Last:
        """The last layer as it acts on samples of these labels, in the graph of D's parameters, float32."""
        raise NotImplementedError
