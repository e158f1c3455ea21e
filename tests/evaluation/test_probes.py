"""Attention and control measures: known maps, a planted object, and whole arms."""

import copy

import numpy as np
import pytest
import torch

from backbones import Synthesis, sn_dcgan
from harness import plugins
from harness.datasets import synthetic
from harness.errors import Diverged
from harness.evaluation import probes
from harness.experiment.schema import parse
from harness.method import heatmaps
from harness.method.generator import SpatialGenerator
from harness.rng import Streams
from harness.variants import align


@pytest.fixture(scope="module")
def data():
    return synthetic.load(synthetic.Options(num_images=400))


def model(*variants, width=0.125):
    torch.manual_seed(0)
    g, d = sn_dcgan.build(sn_dcgan.Options(width=width, z_dim=16), 32, 0)
    encoder = None
    for name in variants:
        module = plugins.find("harness.variants", name)
        encoder = module.encoder(g.sites, 32, parse(module.Options, {"zero_init": False}, name))
    return SpatialGenerator(g, encoder), d


def test_correlation_of_known_maps():
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = probes.correlation(x, torch.stack([3 * x[0] + 1, -x[1], torch.zeros(1, 8, 8)]))
    assert found[:2] == pytest.approx([1, -1])
    assert np.isnan(found[2])


def test_share_inside_a_box():
    flat, corner = torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    corner[..., 0, 7] = 2
    maps = torch.cat([flat, corner, corner, 0 * flat])
    box = np.array([[0.1, 0.2, 0.6, 1.0], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0, 0, 1, 1]])
    found = probes.inside_share(maps, box)
    assert found[:3] == pytest.approx([0.5 * 0.8, 1, 0])
    assert np.isnan(found[3])


def test_slope_of_known_displacements():
    rng = np.random.default_rng(0)
    shifts = np.broadcast_to(np.array(probes.SHIFTS), (50, len(probes.SHIFTS), 2))
    start = rng.normal(size=(50, 1, 2))
    slopes, explained = probes.slope(shifts, start + 0.7 * shifts)
    assert slopes == pytest.approx(np.full(50, 0.7))
    assert explained == pytest.approx(1)
    slopes, explained = probes.slope(shifts, start + rng.normal(size=shifts.shape))
    assert abs(slopes.mean()) < 0.3
    assert explained < 0.05


def test_the_error_of_the_explained_share_is_its_jackknife():
    rng = np.random.default_rng(0)
    shifts = np.broadcast_to(np.array(probes.SHIFTS), (12, len(probes.SHIFTS), 2))
    places = 0.5 * shifts + 0.2 * rng.normal(size=shifts.shape)
    without = [probes.slope(np.delete(shifts, i, 0), np.delete(places, i, 0))[1] for i in range(12)]
    expected = np.sqrt(11 / 12 * np.square(without - np.mean(without)).sum())
    assert probes.r_squared_error(shifts, places) == pytest.approx(expected)
    assert probes.r_squared_error(shifts[:1], places[:1]) is None


def test_attention_that_equals_its_own_heatmap_is_unlike_the_others(monkeypatch):
    g, d = model("sel")
    aligner = align.Alignment(align.Options(), 32)
    given = g.encoder.sample(16, torch.Generator().manual_seed(0))
    perfect = {k: aligner.target(k, given[k], torch.zeros(16, 1, k, k)) for k in aligner.options.compared}
    monkeypatch.setattr(probes, "maps", lambda *args: perfect)
    found = probes._agreement(d, torch.zeros(16, 3, 32, 32), given, None, aligner)
    for level in (4, 8, 16):
        assert found[f"agreement/correlation/{level}"] == pytest.approx(np.ones(16))
        assert found[f"agreement/l1/{level}"] == pytest.approx(np.zeros(16))
        assert found[f"agreement/others/{level}"].mean() < 0.7
        assert not found[f"agreement/empty/{level}"].any()


def test_the_centre_estimator_finds_known_objects(data):
    """On real images it explains 97 % of where the box is, without bias of scale."""
    size = data.resolution
    known = np.stack([data.boxes[:, [1, 3]].mean(1), data.boxes[:, [0, 2]].mean(1)], 1) / size * 2 - 1
    found = probes.centres(data.images)
    for axis in (0, 1):
        assert np.corrcoef(known[:, axis], found[:, axis])[0, 1] ** 2 > 0.97
        assert np.polyfit(known[:, axis], found[:, axis], 1)[0] == pytest.approx(1, abs=0.03)
    assert np.median(np.linalg.norm(found - known, axis=1)) / 2 < 0.03


class Planted(SpatialGenerator):
    """Draws a disc at `gain` times the level-0 centre: a generator of known control."""

    def __init__(self, g, gain):
        super().__init__(g.backbone, g.encoder)
        self.gain = gain

    def forward(self, z, labels=None, *, draws, heatmaps=None, mixing=0.0):
        h = heatmaps[4][:, 0]
        axis = (2 * torch.arange(4) + 1) / 4 - 1
        # The bump's centre is the vertex of the parabola that its logarithm is.
        rows, columns = h.log().mean(2), h.log().mean(1)
        at = [-np.polyfit(axis, x.numpy().T, 2)[1] / (2 * np.polyfit(axis, x.numpy().T, 2)[0]) for x in (rows, columns)]
        pixel = (2 * torch.arange(32) + 1) / 32 - 1
        y, x = (torch.from_numpy(self.gain * a).float()[:, None] - pixel for a in at)
        disc = (y.square()[:, :, None] + x.square()[:, None, :] < 0.2**2).float() * 2 - 1
        return Synthesis(disc[:, None].repeat(1, 3, 1, 1), z)


@pytest.mark.parametrize("gain", [1.0, 0.4])
def test_planted_control_is_measured(gain, monkeypatch):
    """Centres and shifts stay small enough for the disc to stay in the image."""
    monkeypatch.setattr(probes, "SHIFTS", tuple((a / 2, b / 2) for a, b in probes.SHIFTS))
    g, _ = model("sel")
    options = g.encoder.options.heatmaps
    monkeypatch.setattr(heatmaps, "sample_regions", lambda o, n, rng: _small(options, n, rng))
    draws = Streams(0, "t", 0)
    places = probes._control(Planted(g, gain), torch.zeros(16, 16), None, draws)["control/places"]
    record = probes._summary({"control/places": places})["control/slope"]
    assert record["value"] == pytest.approx(gain, abs=0.03)
    assert record["r_squared"] > 0.97


def _small(options, n, rng):
    drawn = heatmaps.regions(options, heatmaps.draw(options, n, rng))
    return drawn._replace(centers={k: c * 0.3 for k, c in drawn.centers.items()})


@pytest.mark.parametrize("variants", [(), ("sel",)])
def test_a_probe_of_each_arm(variants, data):
    g, d = model(*variants)
    before = {k: v.clone() for k, v in d.state_dict().items()}
    found = probes.probe(g, d, data, count=32, batch_size=16, snapshots={"same": copy.deepcopy(d)})
    assert all(np.isfinite(r["value"]) for r in found.values())
    assert found["consistency/same/8"]["value"] == pytest.approx(1)
    robust = [found[f"robustness/{a}/16"]["value"] for a in probes.AMPLITUDES]
    assert robust[0] > robust[-1]
    assert 0 < found["inside_box/16"]["value"] < 1
    assert found["inside_box/chance"]["value"] == pytest.approx(0.2, abs=0.12)
    assert found["control/estimator_error"]["value"] < 0.04
    assert ("control/slope" in found) == ("agreement/l1/4" in found) == bool(variants)
    assert all(p.grad is None for p in d.parameters())
    assert all(torch.equal(v, before[k]) for k, v in d.state_dict().items())
    again = probes.probe(g, d, data, count=32, batch_size=16)
    assert again.items() <= found.items()


def test_a_discriminator_that_is_not_finite(data):
    g, d = model()
    with torch.no_grad():
        for p in d.parameters():
            p.fill_(float("nan"))
    with pytest.raises(Diverged, match="attention is not finite"):
        probes.probe(g, d, data, count=16, batch_size=16)
