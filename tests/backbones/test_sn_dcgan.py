import pytest
import torch

from backbones.sn_dcgan import Options, build


def convs(d):
    return [tuple(m.weight.shape) for m in d.modules() if isinstance(m, torch.nn.Conv2d)]


@pytest.mark.parametrize(
    ("layout", "widths"),
    [
        ("A", {3: [64, 128, 256, 512], 4: [128, 256, 512]}),
        ("B", {3: [64, 128, 256, 512], 4: [64, 128, 256]}),
    ],
)
def test_layouts_of_d_as_published(layout, widths):
    _, d = build(Options(d_layout=layout), 32, 0)
    for kernel, expected in widths.items():
        assert [w[0] for w in convs(d) if w[2] == kernel] == expected
    assert d.linear.weight.shape == (1, 8192)
    assert d.taps == ("32", "16", "8", "4")


def test_generator_as_published():
    g, _ = build(Options(), 32, 0)
    assert g.linear.weight.shape == (8192, 128)
    assert [tuple(m.weight.shape[:2]) for m in g.up] == [(512, 256), (256, 128), (128, 64)]
    assert [(s.name, s.channels) for s in g.sites] == [
        ("latent", 128), ("4", 512), ("8", 256), ("16", 128), ("32", 64)
    ]  # fmt: skip
    assert abs(g.up[0].weight.std().item() - 0.02) < 1e-3


def test_64_takes_one_more_stage_each():
    g, d = build(Options(width=0.125), 64, 0)
    images, _ = g(torch.rand(2, 128))
    assert images.shape == (2, 3, 64, 64)
    assert d(images)[0].shape == (2,)
    assert len(g.up) == 4
    assert len(d.down) == 4


def test_spectral_norm_bounds_every_layer_and_freezes_in_eval():
    _, d = build(Options(width=0.25), 32, 0)
    x = torch.rand(2, 3, 32, 32)
    for _ in range(30):
        d(x)
    for layer in [*d.conv, *d.down, d.linear]:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.05)
    before = {k: v.clone() for k, v in d.state_dict().items() if "_u" in k or "_v" in k}
    assert before, "the vectors of power iteration are state"
    d.eval()
    d(x)
    assert all(torch.equal(v, d.state_dict()[k]) for k, v in before.items())
    d.train()
    d(torch.rand(2, 3, 32, 32))
    assert not all(torch.equal(v, d.state_dict()[k]) for k, v in before.items())


def test_conditional_batch_norm_looks_its_gain_up_per_class():
    g, _ = build(Options(width=0.125), 32, 3)
    with torch.no_grad():
        g.norm[0].gain.weight[1] += 1
    g.eval()
    z = torch.rand(1, 128).repeat(3, 1)
    images, _ = g(z, torch.tensor([0, 1, 2]))
    assert torch.equal(images[0], images[2])
    assert not torch.equal(images[0], images[1])


def test_uniform_latents_fill_their_interval():
    g, _ = build(Options(width=0.125), 32, 0)
    z = g.sample_z(1000, torch.Generator().manual_seed(0))
    assert z.min() >= -1
    assert z.max() < 1
    assert z.mean().abs() < 0.02
    assert z.std().item() == pytest.approx(3**-0.5, abs=0.01)
