"""SNGAN-ResNet without golden files: shapes of the papers, first weights, the recipe."""

import pytest
import torch

from backbones.sn_resnet import LAYOUTS, ConditionalNorm, Options, build
from harness.experiment import files
from harness.experiment.parse import parse_trial


@pytest.mark.parametrize("resolution", LAYOUTS)
def test_maps_of_both_networks(resolution: int) -> None:
    g, d = build(Options(width=0.0625), resolution, 0)
    images, _ = g(g.sample_z(2, torch.Generator().manual_seed(0)))
    h, feats = d.penultimate(images, taps=d.taps)
    assert images.shape == (2, 3, resolution, resolution)
    sides = {
        32: ([4, 8, 16, 32], [16, 8]),
        48: ([6, 12, 24, 48], [24, 12, 6, 3]),
        64: ([4, 8, 16, 32, 64], [32, 16, 8, 4]),
    }
    assert ([s.resolution for s in g.sites[1:]], [f.shape[-1] for f in feats.values()]) == sides[resolution]
    assert torch.equal(feats[d.taps[-1]].relu().sum((2, 3)), h), "a tap is what the last block of its side gives"


def test_first_weights_are_glorot_uniform_with_the_papers_gains() -> None:
    torch.manual_seed(0)
    g, d = build(Options(width=0.25), 32, 3)
    found = dict(g.named_parameters())
    for layer, gain, fan_in, fan_out in (
        ("block2.c1", 2**0.5, 64 * 9, 64 * 9), ("block3.c2", 2**0.5, 64 * 9, 64 * 9), ("block2.c_sc", 1, 64, 64),
        ("linear", 1, 128, 1024), ("to_rgb", 1, 64 * 9, 3 * 9),
    ):  # fmt: skip
        limit, weight = gain * (6 / (fan_in + fan_out)) ** 0.5, found[f"{layer}.weight"].detach()
        assert 0.98 * limit < weight.abs().max() <= limit
        assert weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.05)
    original = d.block2.c1.parametrizations.weight.original.detach()
    assert original.abs().max().item() == pytest.approx((2 * 6 / (2 * 32 * 9)) ** 0.5, rel=0.02)
    norms = [m.embed.weight.detach() for m in g.modules() if isinstance(m, ConditionalNorm)]
    assert len(norms) == 6 and all((w[:, 64:] == 0).all() for w in norms)
    scales = torch.cat([w[:, :64].flatten() for w in norms])
    assert scales.mean().item() == pytest.approx(1, abs=0.003) and scales.std().item() == pytest.approx(0.02, rel=0.1)


def test_options_of_d_move_no_first_weight_of_g() -> None:
    """Arms of either variant are paired."""
    made = []
    for options in (Options(width=0.0625), Options(width=0.0625, upsample="bilinear", relu_shortcut=True)):
        torch.manual_seed(0)
        made.append([t for net in build(options, 32, 0) for t in net.state_dict().values()])
    assert all(map(torch.equal, *made))


def test_bfloat16_is_near_float32() -> None:
    g, d = build(Options(width=0.0625), 32, 3)
    z, labels = g.sample_z(4, torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])
    g.eval(), d.eval()
    images = g(z, labels).images
    logits = d(images, labels)[0]
    with torch.autocast("cpu", torch.bfloat16):
        low = d(g(z, labels).images, labels)[0]
    assert low.dtype == torch.float32 and (low - logits).abs().max() < 0.05 * logits.abs().max()


def test_the_recipe() -> None:
    """50,000 steps of G, five of D each, 64 images; every key is known."""
    preset = files.preset("sn_resnet", "test")
    trial = parse_trial({"dataset": {"name": "cifar10"}, "eval": {"metrics": {"fid": {}}}, **preset}, "test")
    t = trial.train
    assert t.total_kimg * 1000 / (t.d_steps * t.batch_size) == 50_000
    assert trial.backbone.options == Options() and (t.loss, t.lr_decay, t.d.betas) == ("hinge", "linear", (0.0, 0.9))
