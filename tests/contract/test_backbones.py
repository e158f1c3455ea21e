"""One suite over every backbone file: whatever a new backbone is, this is what the harness relies on."""

import copy

import pytest
import torch

from backbones import Discriminator, moments
from harness import plugins
from harness.experiment.schema import parse
from harness.rng import Streams, stream
from tests.contract import names

SMALL = {
    "sn_dcgan": {"width": 0.125, "z_dim": 16},
    "sn_resnet": {"width": 0.0625, "z_dim": 16},
    "dcgan": {"width": 0.03125, "z_dim": 16},
    "stylegan2": {"z_dim": 16, "w_dim": 16, "mapping_layers": 2, "channel_base": 256, "channel_max": 16},
    "r3gan": {"z_dim": 16, "embed_dim": 16, "widths": [16, 16, 8, 8]},
}
CASES = [(name, classes) for name in names("backbones") for classes in (0, 10)]


@pytest.fixture(params=CASES, ids=lambda c: f"{c[0]}-{'conditional' if c[1] else 'unconditional'}")
def made(request):
    name, classes = request.param
    module = plugins.find("backbones", name)
    options = parse(module.Options, SMALL.get(name, {}), name)
    torch.manual_seed(0)
    return (*module.build(options, 32, classes), classes, module, options)


def inputs(g, classes, n=4):
    z = g.sample_z(n, stream(0, "z"))
    return z, torch.arange(n) % classes if classes else None


def test_one_channel(made):
    _, _, classes, module, options = made
    torch.manual_seed(0)
    g, d = module.build(options, 32, classes, 1)
    z, labels = inputs(g, classes)
    images, _ = g(z, labels, draws=Streams(0, "t", 0))
    assert images.shape == (4, 1, 32, 32) and d(images, labels)[0].shape == (4,)


def test_shapes_and_ranges(made):
    g, d, classes, *_ = made
    z, labels = inputs(g, classes)
    images, ws = g(z, labels, draws=Streams(0, "t", 0))
    logits, feats = d(images, labels, taps=d.taps)
    assert z.shape == (4, g.z_dim)
    assert images.shape == (4, 3, 32, 32)
    assert images.dtype == torch.float32
    assert ws.shape[0] == 4
    assert logits.shape == (4,)
    assert logits.dtype == torch.float32
    assert {k: v.shape[0::2] for k, v in feats.items()} == {k: (4, int(k)) for k in d.taps}
    assert (g.num_classes, d.num_classes, g.resolution, d.resolution) == (classes, classes, 32, 32)


def test_sites_are_what_modulate_meets(made):
    g, _, classes, *_ = made
    z, labels = inputs(g, classes)
    met = []

    def modulate(site, x):
        met.append(site)
        assert x.shape == ((4, site.channels, site.resolution, site.resolution) if site.resolution else (4, g.z_dim))
        return x

    g(z, labels, modulate=modulate, draws=Streams(0, "t", 0))
    assert tuple(met) == g.sites
    assert met[0].name == "latent"
    assert len({s.name for s in g.sites}) == len(g.sites)


def test_both_networks_have_a_map_at_the_levels_of_the_backbone(made):
    g, d, _, module, _ = made
    assert d.levels and list(d.levels) == sorted(set(d.levels)) and d.levels[-1] < d.resolution
    assert {str(level) for level in d.levels} <= set(d.taps)
    assert set(d.levels) <= {s.resolution for s in g.sites}
    assert getattr(module, "OWN_LEVELS", False) or d.levels == Discriminator.levels


def test_identity_is_the_baseline_bit_for_bit(made):
    g, _, classes, *_ = made
    z, labels = inputs(g, classes)
    twin = copy.deepcopy(g)
    a = g(z, labels, draws=Streams(0, "t", 0)).images
    b = twin(z, labels, modulate=lambda site, x: x, draws=Streams(0, "t", 0)).images
    assert torch.equal(a, b)


def test_modulation_reaches_the_image_and_gets_gradients(made):
    g, _, classes, *_ = made
    z, labels = inputs(g, classes)
    shift = torch.zeros(1, requires_grad=True)
    for name in ("latent", next(s.name for s in g.sites if s.resolution == 8)):
        chosen = name
        images = g(
            z, labels, modulate=lambda s, x, n=chosen: x + shift if s.name == n else x, draws=Streams(0, "t", 0)
        ).images
        (grad,) = torch.autograd.grad(images.square().sum(), shift)
        assert grad.isfinite().all()
        assert grad.abs() > 0


def test_draws_decide_everything_random(made):
    g, _, classes, *_ = made
    z, labels = inputs(g, classes)
    g.eval()
    first, again = (g(z, labels, draws=Streams(0, "t", 0)).images for _ in range(2))
    assert torch.equal(first, again)


def test_labels_matter_only_to_a_conditional_backbone(made):
    g, d, classes, *_ = made
    g.eval(), d.eval()
    z, labels = inputs(g, classes)
    if not classes:
        pytest.skip("unconditional")
    rng = stream(0, "training")
    with torch.no_grad():  # conditional BatchNorm starts equal for all classes
        for p in g.parameters():
            p += 0.1 * torch.randn(p.shape, generator=rng)
    a, b = (g(z, y, draws=Streams(0, "t", 0)).images for y in (labels, labels.roll(1)))
    assert not torch.equal(a, b)
    assert not torch.equal(d(a, labels)[0], d(a, labels.roll(1))[0])


def test_build_is_a_function_of_the_seed(made):
    g, d, classes, module, options = made
    torch.manual_seed(0)
    g2, d2 = module.build(options, 32, classes)
    for a, b in ((g, g2), (d, d2)):
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_r1_needs_second_derivatives(made):
    _, d, classes, *_ = made
    x = torch.rand(4, 3, 32, 32, requires_grad=True)
    (grad,) = torch.autograd.grad(d(x, torch.arange(4) if classes else None)[0].sum(), x, create_graph=True)
    grad.square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in d.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in d.parameters())


def test_it_says_whether_it_keeps_moments(made):
    """And whatever else a forward pass in training mode moves is either `copied` or made anew by averaged weights."""
    g, _, classes, module, _ = made
    assert bool(moments(g)) == module.MOMENTS
    assert set(g.copied) <= {name for name, _ in g.named_buffers()}
    known = {id(buffer) for layer in moments(g) for buffer in layer.buffers()}
    z, labels = inputs(g, classes)
    before = {name: buffer.clone() for name, buffer in g.named_buffers() if id(buffer) not in known}
    g.train()(z, labels, draws=Streams(0, "t", 0))
    moved = {name for name, buffer in g.named_buffers() if name in before and not torch.equal(buffer, before[name])}
    assert moved <= set(g.copied)


def test_an_impossible_resolution_is_refused(made):
    *_, module, options = made
    with pytest.raises(ValueError, match="resolution"):
        module.check(options, 33, 0)


def test_the_last_layer_is_linear_in_what_comes_into_it(made):
    _, d, classes, *_ = made
    if type(d).last_layer is Discriminator.last_layer:
        pytest.skip("its D is written as a whole: no variant can act in its last layer")
    d.eval()
    x, labels = torch.rand(4, 3, 32, 32), torch.arange(4) if classes else None
    h, feats = d.penultimate(x, taps=d.taps[:1])
    logits, same = d(x, labels, taps=d.taps[:1])
    assert torch.equal(d.logits_of(h, labels), logits)
    assert torch.equal(feats[d.taps[0]], same[d.taps[0]])
    weight, bias = d.last_layer(labels)
    assert weight.shape in ((1, h.shape[1]), (4, h.shape[1]))
    torch.testing.assert_close((weight * h).sum(1) + bias, logits)
    assert weight.requires_grad
