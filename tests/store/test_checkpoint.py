import pytest
import torch

from harness.store import checkpoint


def save(folder, nimg, value=1.0):
    return checkpoint.save(folder, {"w": torch.full((3,), value)}, {"nimg": nimg, "journal_offset": nimg * 2})


def test_what_is_saved_is_loaded(tmp_path):
    save(tmp_path, 64, 2.5)
    loaded = checkpoint.load_latest(tmp_path)
    assert loaded is not None
    assert torch.equal(loaded.tensors["w"], torch.full((3,), 2.5))
    assert loaded.meta == {"nimg": 64, "journal_offset": 128}


def test_nothing_there_is_none(tmp_path):
    assert checkpoint.load_latest(tmp_path / "missing") is None


def test_the_last_two_are_kept(tmp_path):
    for n in (1, 2, 3):
        save(tmp_path, n)
    assert [p.name[:9] for p in sorted(tmp_path.glob("*.safetensors"))] == ["000000002", "000000003"]


@pytest.mark.parametrize("harm", ["truncate", "flip", "empty", "delete"])
def test_a_broken_checkpoint_falls_back_to_the_one_before(tmp_path, harm):
    save(tmp_path, 1, 1.0)
    path = save(tmp_path, 2, 2.0)
    data = bytearray(path.read_bytes())
    if harm == "truncate":
        path.write_bytes(data[:-3])
    elif harm == "flip":
        data[-1] ^= 1
        path.write_bytes(data)
    elif harm == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    loaded = checkpoint.load_latest(tmp_path)
    assert loaded is not None
    assert loaded.meta["nimg"] == 1


def test_one_that_does_not_fit_falls_back_and_halves_are_cleaned_up(tmp_path):
    save(tmp_path, 1)
    (tmp_path / ".000000002.0123456789abcdef.safetensors.7.part").write_bytes(b"half")
    save(tmp_path, 2)
    assert not list(tmp_path.glob(".*"))
    loaded = checkpoint.load_latest(tmp_path, lambda meta: meta["journal_offset"] < 4)
    assert loaded is not None and loaded.meta["nimg"] == 1


def test_optimizer_state_survives_bitwise():
    def steps(opt, w, n):
        for _ in range(n):
            opt.zero_grad()
            (w**3).sum().backward()
            opt.step()

    w1 = torch.nn.Parameter(torch.arange(4.0))
    opt1 = torch.optim.Adam([w1], lr=0.1, fused=True)
    steps(opt1, w1, 3)
    w2 = torch.nn.Parameter(w1.detach().clone())
    opt2 = torch.optim.Adam([w2], lr=0.1, fused=True)
    packed = {k: v.clone() for k, v in checkpoint.pack_optimizer("o", opt1).items()}
    checkpoint.unpack_optimizer("o", packed, opt2)
    steps(opt1, w1, 2)
    steps(opt2, w2, 2)
    assert torch.equal(w1, w2)


def test_a_file_that_is_no_checkpoint_is_named(tmp_path):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"not one")
    with pytest.raises(ValueError, match="bad.safetensors: not a Nashboard checkpoint"):
        checkpoint.read(path)


def test_a_file_that_is_not_what_its_name_tells_is_refused(tmp_path):
    path = save(tmp_path, 8, 1.0)
    checkpoint.read(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="another checksum"):
        checkpoint.read(path)
