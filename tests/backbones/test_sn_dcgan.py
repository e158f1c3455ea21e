import copy

import pytest
import torch
from torch.nn.utils import parametrizations

from backbones.sn_dcgan import Options, build
from harness.experiment import files
from harness.experiment.schema import parse


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


@pytest.mark.parametrize("classes", [0, 3])
def test_chainers_first_map_is_normalised_as_the_flat_vector_of_the_companion_code(classes):
    """Each of the 8,192 features over the batch, Chainer's eps, gain and bias likewise; the published preset has it."""
    backbone = files.preset("chainer", "test")["backbone"]
    options = parse(Options, {k: v for k, v in backbone.items() if k != "name"}, "test")
    g, _ = build(options, 32, classes)
    z, labels = g.sample_z(16, torch.Generator().manual_seed(0)), torch.arange(16) % 3 if classes else None
    with torch.no_grad():
        for p in g.norm[0].parameters():
            p += torch.rand(p.shape)
    seen = {}
    g(z, labels, modulate=lambda site, x: seen.setdefault(site.name, x))
    h = g.linear(z)
    h = (h - h.mean(0)) / (h.var(0, correction=0) + 2e-5).sqrt()
    gain, bias = (g.norm[0].gain(labels), g.norm[0].bias(labels)) if classes else g.norm[0].bn.parameters()
    assert gain.shape[-1] == 8192 and seen["4"].shape == (16, 512, 4, 4)
    torch.testing.assert_close(seen["4"], torch.relu(h * gain + bias).unflatten(1, (512, 4, 4)))
    assert all(norm.bn.eps == 2e-5 for norm in g.norm)


def test_options_of_norm_leave_the_paired_first_weights_alone():
    made = []
    for options in (Options(width=0.125), Options(width=0.125, first_norm="vector", norm_eps=2e-5)):
        torch.manual_seed(0)
        made.append([p for net in build(options, 32, 0) for name, p in net.named_parameters() if "norm.0" not in name])
    assert all(map(torch.equal, *made))


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_power_iteration_is_float32_under_autocast(dtype, monkeypatch):
    _, d = build(Options(width=0.125), 32, 3)
    twin, seen, x, labels = copy.deepcopy(d), [], torch.rand(2, 3, 32, 32), torch.tensor([0, 2])
    iterate = parametrizations._SpectralNorm._power_method

    def noted(self, weight, times):
        seen.append((torch.is_autocast_enabled("cpu"), weight.dtype))
        iterate(self, weight, times)

    monkeypatch.setattr(parametrizations._SpectralNorm, "_power_method", noted)
    with torch.autocast("cpu", dtype):
        d(x, labels)
    assert seen == [(False, torch.float32)] * 9, "of 7 convolutions, the last layer and the classes' embedding"
    twin(x, labels)
    for name, value in d.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, twin.state_dict()[name])


def test_spectral_norm_is_torchs_own():
    _, d = build(Options(width=0.125), 32, 0)
    layer = torch.nn.Conv2d(3, 8, 3, padding=1)
    theirs = parametrizations.spectral_norm(layer)
    ours = d.conv[0]
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(2, 3, 8, 8)
    for _ in range(2):
        assert torch.equal(theirs(x), ours(x))


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
