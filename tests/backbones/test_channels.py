"""A network of one channel equals one of three that is made from it and fed the grey image thrice."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from backbones import Discriminator, Generator, dcgan, r3gan, sn_dcgan, sn_resnet, stylegan2

TINY = stylegan2.Options(z_dim=8, w_dim=8, mapping_layers=2, channel_base=128, channel_max=8)
BUILDS: dict[str, Callable[[int, int], tuple[Generator, Discriminator]]] = {
    "sn_dcgan": lambda classes, channels: sn_dcgan.build(
        sn_dcgan.Options(z_dim=8, width=0.0625), 32, classes, channels
    ),
    "sn_resnet": lambda classes, channels: sn_resnet.build(
        sn_resnet.Options(z_dim=8, width=0.0625), 32, classes, channels
    ),
    "dcgan": lambda classes, channels: dcgan.build(dcgan.Options(z_dim=8, width=0.03125), 32, classes, channels),
    "stylegan2": lambda classes, channels: stylegan2.build(TINY, 32, classes, channels),
    "r3gan": lambda classes, channels: r3gan.build(r3gan.Options(8, 8, (8, 8, 8, 8)), 32, classes, channels),
}


def widened(g1: Generator, d1: Discriminator, g3: Generator, d3: Discriminator, gain: float) -> None:
    """Fill `g3`, `d3` from `g1`, `d1`: G's last convolutions copied per channel; D's first kernel, times `gain`, in
    channel 0 and zeros in the others."""
    for one, three in ((g1, g3), (d1, d3)):
        state, known = three.state_dict(), one.state_dict()
        for name, tensor in state.items():
            given = known[name]
            if given.shape == tensor.shape:
                tensor.copy_(given)
            elif one is g1:
                tensor.copy_(given.expand_as(tensor))
            else:
                tensor.zero_()  # what reads the other channels comes behind; v of the power iteration is one row
                rows, first = (x.view(-1, x.shape[0] if x.ndim == 1 else x[0].numel()) for x in (tensor, given))
                rows[:, : first.shape[1]] = first * (1.0 if tensor.ndim == 1 else gain)
        three.load_state_dict(state)


def gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("name", BUILDS)
def test_one_channel_equals_three(name: str, classes: int) -> None:
    torch.manual_seed(0)
    (g1, d1), (g3, d3) = (BUILDS[name](classes, channels) for channels in (1, 3))
    with torch.no_grad():
        for p in (*g1.parameters(), *d1.parameters()):
            p.add_(torch.randn_like(p) * 0.02)  # biases and gains off their initial values
        widened(g1, d1, g3, d3, gain=3**0.5 if name == "stylegan2" else 1.0)
    labels = torch.tensor([0, 2, 1, 0]) if classes else None
    z = g1.sample_z(4, torch.Generator().manual_seed(1))

    def draws(stream: str) -> torch.Generator:
        return torch.Generator().manual_seed(len(stream))

    def near(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
        assert torch.allclose(a, b, rtol=tolerance, atol=tolerance * float(b.detach().abs().max() + 1e-8))

    results: list[dict[str, Any]] = []
    for g, d in ((g1, d1), (g3, d3)):
        images = g(z, labels, draws=draws).images
        weights = torch.rand(32, 32, generator=torch.Generator().manual_seed(2))
        (images[:, :1] * weights).sum().backward()
        of_g = gradients(g)
        grey = images[:, :1].detach()
        x = grey.expand(-1, images.shape[1], -1, -1).clone().requires_grad_(True)
        logits, _ = d(x, labels)
        (of_x,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        r1 = of_x.square().sum((1, 2, 3))
        (logits.square().sum() + r1.mean()).backward()
        results.append(
            {"images": images, "logits": logits, "grad": of_x[:, :1], "r1": r1, "g": of_g, "d": gradients(d)}
        )
    one, three = results
    assert one["images"].shape == (4, 1, 32, 32) and three["images"].shape == (4, 3, 32, 32)
    assert torch.equal(three["images"][:, 1], three["images"][:, 2])
    near(three["images"][:, :1], one["images"])
    for key in ("logits", "grad", "r1"):
        near(three[key], one[key])
    for key in ("g", "d"):
        for parameter, expected in one[key].items():
            found = three[key][parameter]
            if found.shape == expected.shape:
                near(found, expected, 1e-4)
            else:
                scale = 3**-0.5 if name == "stylegan2" and key == "d" else 1.0  # by the chain rule: w3 = sqrt 3 w1
                near(found[tuple(slice(n) for n in expected.shape)], expected * scale, 1e-4)
