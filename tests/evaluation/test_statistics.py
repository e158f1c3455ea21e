"""Averaged weights have statistics of their own: of every kind of layer, and of nothing else."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from backbones import Generator, Site, Synthesis, moments, sn_dcgan, stylegan2
from harness.evaluation import statistics
from harness.method.generator import SpatialGenerator
from harness.rng import Streams, stream
from harness.training.arm import build, load_data
from tests import tiny

N = 4
LABELS = torch.tensor([1, 1, 1, 2]).numpy()


def settle(g, labels=None, seed=0, beat=lambda: None):
    statistics.settle(g, batch_size=N, seed=seed, labels=labels, beat=beat)
    return g


def spoilt(g):
    """A copy whose floating buffers are those of another network."""
    other = copy.deepcopy(g)
    for buffer in other.buffers():
        if buffer.is_floating_point():
            buffer.mul_(3).add_(1)
    return other


class Own(nn.Module):
    """A norm by somebody else: its own names, its own decay, and no word of torch's."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("stored_mean", torch.zeros(channels))

    def forward(self, x):
        if self.training:
            self.stored_mean.lerp_(x.mean((0, 2, 3)), 0.2)
        return x - self.stored_mean[:, None, None]


def moves(name):
    return any(part in name for part in ("running", "batch.num_batches", "stored", "._u", "._v"))


class Odd(Generator):
    """Every kind of buffer in one small network. The batch norm is passed twice."""

    copied = ("average",)

    def __init__(self):
        super().__init__()
        self.z_dim, self.num_classes, self.resolution = 6, 0, 8
        self.sites = (Site("latent", 6, 0),)
        self.linear = spectral_norm(nn.Linear(6, 3 * 64))
        self.batch = nn.BatchNorm2d(3, momentum=0.01)
        self.instance = nn.InstanceNorm2d(3, track_running_stats=True)
        self.free = nn.InstanceNorm2d(3)
        self.own = Own(3)
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("average", torch.zeros(6))
        self.register_buffer("filter", torch.rand(3))

    def sample_z(self, n, rng):
        return torch.randn(n, self.z_dim, generator=rng, device=rng.device)

    def forward(self, z, labels=None, *, modulate=None, draws=None, mixing=0.0):
        if self.training:
            self.average.lerp_(z.mean(0), 0.1)
        x = self.linear(z).unflatten(1, (3, 8, 8))
        x = self.batch(torch.tanh(self.batch(x)) + 1)
        return Synthesis(self.free(self.own(self.instance(x))) * self.filter[:, None, None], z)


@pytest.fixture
def odd():
    torch.manual_seed(0)
    return SpatialGenerator(Odd())


def test_foreign_statistics_leave_no_trace_whatever_keeps_them(odd):
    before = {k: v.clone() for k, v in odd.state_dict().items()}
    one, other = settle(copy.deepcopy(odd)), settle(spoilt(odd))
    state, theirs = one.state_dict(), other.state_dict()
    for name, value in state.items():
        if name.endswith(("average", "filter")):  # copied, or never moved: as the average has it
            assert torch.equal(value, before[name]) and not torch.equal(theirs[name], value)
        else:  # as far as power iterations have come, by which all others hang
            torch.testing.assert_close(theirs[name], value, rtol=2e-3, atol=2e-3)
        assert torch.equal(before[name], value) == (not moves(name)), name


def test_moments_are_the_plain_mean_over_the_fixed_batches(odd):
    shown = []
    hook = odd.backbone.batch.register_forward_pre_hook(lambda _, args: shown.append(args[0].clone()))
    settle(odd)
    hook.remove()
    assert len(shown) == 2 * statistics.BATCHES >= 200
    layer = odd.backbone.batch
    torch.testing.assert_close(layer.running_mean, torch.stack([x.mean((0, 2, 3)) for x in shown]).mean(0))
    torch.testing.assert_close(layer.running_var, torch.stack([x.var((0, 2, 3)) for x in shown]).mean(0))
    assert layer.momentum == 0.01 and not layer._forward_pre_hooks


@pytest.mark.slow
@pytest.mark.parametrize(("arm", "conditional"), [("baseline", False), ("sel", True)])
def test_a_generator_is_as_it_samples_afterwards(arm, conditional):
    """The mean and variance of its activations in eval mode are those that it now takes for them."""
    trial = tiny.trial("sn_dcgan", arm, conditional)
    data, _ = load_data(trial)
    g, _, _ = build(trial, data, torch.device("cpu"))
    labels = data.labels if conditional else None
    with torch.no_grad():
        for p in g.parameters():
            p += 0.2 * torch.randn(p.shape, generator=stream(0, "trained"))
    statistics.settle(g, batch_size=16, seed=0, labels=labels)
    seen = []
    layer = g.backbone.norm[0].bn
    layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    draws = Streams(5, "other", 0)
    chosen = None if labels is None else torch.from_numpy(labels).repeat(16)[:1024]
    g.eval()(g.backbone.sample_z(1024, draws("z")), chosen, draws=draws)
    (x,) = seen
    x = x.flatten(2) if x.ndim > 2 else x[:, :, None]
    torch.testing.assert_close(layer.running_var, x.var((0, 2)), rtol=0.15, atol=0)
    assert ((layer.running_mean - x.mean((0, 2))).abs() < 0.1 * x.std((0, 2))).all()


def test_labels_are_drawn_as_the_data_has_them():
    torch.manual_seed(0)
    g = SpatialGenerator(sn_dcgan.build(sn_dcgan.Options(width=0.0625, z_dim=8), 32, 10)[0])
    shown = []
    g.backbone.register_forward_pre_hook(lambda _, args: shown.extend(args[1].tolist()))
    settle(g, LABELS)
    assert set(shown) == {1, 2} and shown.count(1) / len(shown) == pytest.approx(0.75, abs=0.08)


def test_it_draws_from_no_stream_but_its_own_and_ends_as_it_began():
    torch.manual_seed(0)
    g = SpatialGenerator(sn_dcgan.build(sn_dcgan.Options(width=0.0625, z_dim=8), 32, 0)[0])
    g.backbone.up.eval()
    modes, before = [m.training for m in g.modules()], torch.get_rng_state()
    first = settle(copy.deepcopy(g))
    assert torch.equal(torch.get_rng_state(), before)
    assert [m.training for m in first.modules()] == modes and all(m.momentum == 0.1 for m in moments(first))
    again, another = settle(copy.deepcopy(first)), settle(copy.deepcopy(g), seed=1)
    assert all(map(torch.equal, first.state_dict().values(), again.state_dict().values()))
    assert not torch.equal(first.backbone.norm[1].bn.running_var, another.backbone.norm[1].bn.running_var)


def test_a_network_without_statistics_is_left_alone_after_one_batch():
    torch.manual_seed(0)
    options = stylegan2.Options(z_dim=8, w_dim=8, mapping_layers=1, channel_base=64, channel_max=8)
    g, beats = SpatialGenerator(stylegan2.build(options, 16, 0)[0]), []
    before = {k: v.clone() for k, v in g.state_dict().items()}
    settle(g, beat=lambda: beats.append(1))
    assert all(torch.equal(v, before[k]) for k, v in g.state_dict().items()) and len(beats) == 1
