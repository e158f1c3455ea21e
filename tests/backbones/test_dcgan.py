"""DCGAN: the shapes, norms, first weights and recipe of the paper."""

import pytest
import torch
from torch import nn

from backbones.dcgan import Options, build
from harness.experiment import files
from harness.experiment.parse import parse_trial


@pytest.mark.parametrize(("resolution", "widths"), [(32, [1024, 512, 256]), (64, [1024, 512, 256, 128])])
def test_widths_halve_from_1024_and_all_layers_are_strided_5x5(resolution: int, widths: list[int]) -> None:
    g, d = build(Options(width=0.125), resolution, 0)
    assert [(s.resolution, s.channels) for s in g.sites[1:]] == [(4 << i, c // 8) for i, c in enumerate(widths)]
    assert [layer.out_channels for layer in g.up] == [*(c // 8 for c in widths[1:]), 3]
    assert [layer.out_channels for layer in d.down] == [c // 8 for c in widths[::-1]]
    assert all(layer.kernel_size == (5, 5) and layer.stride == (2, 2) for layer in [*g.up, *d.down])
    assert d.taps == tuple(str(s.resolution) for s in g.sites[:0:-1])
    if resolution == 32:
        assert sum(widths) * 16 == 28_672, "the features of section 5.1"


def test_batch_normalisation_but_for_the_output_of_g_and_the_input_of_d() -> None:
    g, d = build(Options(width=0.03125), 32, 0)
    assert len(g.norm) == len(g.up) == 3 and len(d.norm) == len(d.down) - 1 == 2
    assert g.up[-1].bias is not None and d.down[0].bias is not None and d.linear.in_features == 16 * 32
    x = torch.rand(4, 3, 32, 32)
    alone, together = d(x[:2])[0], d(x)[0][:2]
    assert not torch.allclose(alone, together), "in training D normalises by the batch"
    d.eval()
    assert torch.allclose(d(x[:2])[0], d(x)[0][:2], atol=1e-6)


def test_first_weights_and_latents() -> None:
    torch.manual_seed(0)
    g, d = build(Options(width=0.125), 32, 3)
    for layer in (m for net in (g, d) for m in net.modules()):
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05) and layer.weight.mean().abs() < 1e-3
            assert layer.bias is None or not layer.bias.any()
    z = g.sample_z(1000, torch.Generator().manual_seed(0))
    assert z.shape == (1000, 100) and z.min() >= -1 and z.max() < 1 and z.std() == pytest.approx(3**-0.5, abs=0.01)


def test_the_recipe() -> None:
    raw = {"dataset": {"name": "cifar10"}, "eval": {"metrics": {"fid": {}}}, **files.preset("dcgan", "test")}
    trial = parse_trial(raw, "test")
    t = trial.train
    assert (t.batch_size, t.d_steps, t.loss, t.g, t.d) == (128, 1, "logistic", t.d, type(t.d)(2e-4, (0.5, 0.999), 1e-8))
    assert trial.backbone.options == Options()
