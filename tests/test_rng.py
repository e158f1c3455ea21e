import torch

from harness.rng import Streams, derive, stream


def test_a_stream_is_a_function_of_its_purpose():
    a = torch.rand(4, generator=stream(3, "z", 128))
    assert torch.equal(a, torch.rand(4, generator=stream(3, "z", 128)))
    for other in (stream(4, "z", 128), stream(3, "y", 128), stream(3, "z", 129)):
        assert not torch.equal(a, torch.rand(4, generator=other))


def test_streams_of_one_pass_do_not_disturb_each_other():
    draws = Streams(0, "g.0", 64)
    z = torch.rand(4, generator=draws("z"))
    torch.rand(1000, generator=draws("heatmaps"))
    assert torch.equal(z, torch.rand(4, generator=draws("z")))
    assert not torch.equal(z, torch.rand(4, generator=Streams(0, "d.0", 64)("z")))


def test_derived_seeds_are_stable_across_processes_and_versions():
    assert derive(0, "init") == 1749912909633406932
    assert derive(7, "data", 3) == 1628937747903616885
    assert 0 <= derive("a", 1) < 2**63
    assert derive(1, 23) != derive(12, 3)
