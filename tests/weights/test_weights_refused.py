"""Network pickles that are refused: in one line, soon, and without running anything of them."""

import os
import pickle
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cli
from harness.errors import UserError
from harness.weights import importer as weights
from harness.weights import published
from tests import network_pickles as pickled
from tests.network_pickles import SIZES, content, eqgan, state


def refused(path: Path, *words: str) -> None:
    """The import ends in one line that holds `words`, soon, and leaves nothing behind."""
    before, start = sorted(path.parent.rglob("*")), time.process_time()
    with pytest.raises(UserError) as error:
        weights.import_weights(path, path.parent / "out.safetensors")
    line = str(error.value)
    assert line.startswith(str(path)) and len(line) < 1000 and line.isprintable(), line
    for word in words:
        assert word in line, line
    assert sorted(path.parent.rglob("*")) == before
    assert time.process_time() - start < 5


@pytest.fixture
def pkl(tmp_path: Path) -> Path:
    return tmp_path / "network.pkl"


def without(tensors: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {k: v for k, v in tensors.items() if k not in names}


G, D = state()
WRONG_NETWORKS: dict[str, tuple[Callable[[], dict[str, Any]], tuple[str, ...]]] = {
    "missing": (
        lambda: content(G_ema=pickled.generator(SIZES, without(G, "synthesis.b8.conv1.bias"))),
        ("G_ema", "missing", "synthesis.b8.conv1.bias"),
    ),
    "extra": (
        lambda: content(G_ema=pickled.generator(SIZES, G | {"synthesis.b8.strange.weight": torch.ones(2)})),
        ("G_ema", "unknown", "synthesis.b8.strange.weight"),
    ),
    "extra in D": (
        lambda: content(D=pickled.discriminator(SIZES, D | {"b16.fromrgb.weight": torch.ones(8, 3, 1, 1)})),
        ("D", "unknown", "b16.fromrgb.weight"),
    ),
    "another shape": (
        lambda: content(G=pickled.generator(SIZES, G | {"synthesis.b16.torgb.weight": torch.ones(3, 7, 1, 1)})),
        ("G ", "synthesis.b16.torgb.weight", "3x7x1x1", "3x8x1x1"),
    ),
    "not finite": (
        lambda: content(G=pickled.generator(SIZES, G | {"synthesis.b16.conv1.bias": torch.full((8,), torch.nan)})),
        ("not finite", "synthesis.b16.conv1.bias"),
    ),
    "another filter": (
        lambda: content(G=pickled.generator(SIZES, G | {"synthesis.b16.conv0.resample_filter": torch.ones(4, 4)})),
        ("filter", "b16.conv0.resample_filter"),
    ),
    "images of two channels": (
        lambda: content(G_ema=pickled.generator(SIZES, G | {"synthesis.b32.torgb.weight": torch.ones(2, 4, 1, 1)})),
        ("2 channels",),
    ),
    "part of SEL": (
        lambda: content(G_ema=pickled.generator(SIZES, without(eqgan(), *list(eqgan())[-3:]))),
        ("missing",),
    ),
    "another generator": (
        lambda: content(G_ema=pickled.network("Generator", {"synthesis.L0_36_512.weight": torch.ones(2)})),
        ("only StyleGAN2",),
    ),
    "another activation": (
        lambda: content(G_ema=pickled.generator(SIZES, G, activation="relu")),
        ("activation = relu", "lrelu"),
    ),
    "clamps differ": (lambda: content(G_ema=pickled.generator(SIZES, G, conv_clamp=256)), ("conv_clamp",)),
    "argument is no number": (lambda: content(G_ema=pickled.generator(SIZES, G, conv_clamp="x\n")), ("conv_clamp",)),
    "argument out of range": (lambda: content(G_ema=pickled.generator(SIZES, G, num_fp16_res=-1)), ("num_fp16_res",)),
    "sizes disagree": (
        lambda: content(D=pickled.discriminator(SIZES, D | {"b16.conv0.weight": torch.ones(4, 4, 3, 3)})),
        ("b16.conv0.weight",),
    ),
    "no D": (lambda: {k: v for k, v in content().items() if k != "D"}, ("no D",)),
    "no G": (lambda: {k: v for k, v in content().items() if "G" not in k}, ("no G",)),
    "G is a number": (lambda: content(G_ema=3), ("G_ema is no network",)),
    "a state dict": (lambda: content(G_ema=G), ("G_ema is no network",)),
}


@pytest.mark.parametrize("case", WRONG_NETWORKS)
def test_networks_that_cannot_be_mapped_are_one_line(case: str, pkl: Path) -> None:
    make, words = WRONG_NETWORKS[case]
    refused(pickled.write(pkl, make()), *words)


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.reduced = function, args

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("place", ["top", "beside", "inside", "instead of a number"])
def test_a_pickle_that_would_run_code_runs_nothing(pkl: Path, protocol: int, place: str) -> None:
    mark = pkl.parent / "mark"
    evil = Call(os.system, f"touch {mark}")
    given: Any = content()
    if place == "top":
        given = evil
    elif place == "beside":
        given["zzz"] = evil
    elif place == "inside":
        given["D"].strange = evil
    else:
        given["G_ema"]._init_kwargs["w_dim"] = evil
    refused(pickled.write(pkl, given, protocol), "system", "nothing was run")
    assert not mark.exists()


@pytest.mark.parametrize("function", [eval, exec, __import__, open, os.remove, torch.load, pickle.loads, print])
def test_no_other_call_is_let_through(pkl: Path, function: Any) -> None:
    refused(pickled.write(pkl, content(zzz=Call(function, "1"))), function.__name__, "nothing was run")


def test_the_result_of_a_harmless_call_cannot_be_called(pkl: Path) -> None:
    """getattr is let through, because hooks are written with it: what it would give is a record, no function."""
    pkl.write_bytes(b"\x80\x02cbuiltins\ngetattr\ncos\nsystem\nU\x08__call__\x86RU\x04true\x85R.")
    refused(pkl, "record where name belongs")


def stored(
    count: int, data: bytes, described: int | None = None, kind: str = "FloatStorage", name: str = "torch"
) -> bytes:
    """A storage as torch.save's older format has it."""
    made = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03."
    made += pickle.dumps({"little_endian": True}, 2)
    made += b"\x80\x02(U\x07storagec" + f"{name}\n{kind}\n".encode() + b"U\x01aU\x03cpu"
    made += b"\x8a\x08" + struct.pack("<q", count if described is None else described) + b"NtQ.\x80\x02]U\x01aa."
    return made + struct.pack("<q", count) + data


def rebuilt(storage: bytes, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> Call:
    load = torch.storage._load_from_bytes
    return Call(torch._utils._rebuild_tensor_v2, Call(load, storage), offset, shape, stride, False, None)


FOUR = bytes(16)
BAD_TENSORS: dict[str, Call] = {
    "count beyond the file": rebuilt(stored(2**50, FOUR), 0, (2**39,), (1,)),
    "counts differ": rebuilt(stored(4, FOUR, described=3), 0, (4,), (1,)),
    "numbers cut": rebuilt(stored(4, FOUR)[:-1], 0, (4,), (1,)),
    "header cut": rebuilt(stored(4, FOUR)[:50], 0, (4,), (1,)),
    "empty": rebuilt(b"", 0, (4,), (1,)),
    "offset beyond": rebuilt(stored(4, FOUR), 1, (4,), (1,)),
    "negative offset": rebuilt(stored(4, FOUR), -1, (4,), (1,)),
    "stride beyond": rebuilt(stored(4, FOUR), 0, (4,), (2,)),
    "expanded": rebuilt(stored(4, FOUR), 0, (2**30, 2**30), (0, 0)),
    "many dimensions": rebuilt(stored(4, FOUR), 0, (1,) * 10_000, (1,) * 10_000),
    "size is text": rebuilt(stored(4, FOUR), 0, ("a",), (1,)),  # type: ignore[arg-type]
    "size is huge": rebuilt(stored(4, FOUR), 0, (2**4000,), (1,)),
    "no storage": Call(torch._utils._rebuild_tensor_v2, b"", 0, (1,), (1,), False, None),
    "integers": rebuilt(stored(2, FOUR, kind="LongStorage"), 0, (2,), (1,)),
    "strange kind": rebuilt(stored(4, FOUR, kind="OddStorage"), 0, (4,), (1,)),
    "code in the header": rebuilt(stored(4, FOUR, kind="system", name="os"), 0, (4,), (1,)),
    "many steps": rebuilt(b"\x80\x02" + b"N0" * 10**4 + b"." + stored(4, FOUR), 0, (4,), (1,)),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_bad_tensors_are_one_line(case: str, pkl: Path) -> None:
    given = content()
    given["G_ema"]._parameters["bad"] = BAD_TENSORS[case]
    refused(pickled.write(pkl, given))


def test_views_of_one_storage_cannot_outgrow_the_file(pkl: Path) -> None:
    given, all_of_it = content(), rebuilt(stored(1000, bytes(4000)), 0, (1000,), (1,))
    for i in range(3000):
        given["G_ema"]._parameters[f"p{i}"] = all_of_it
    refused(pickled.write(pkl, given), "larger than the file")


def test_modules_nested_without_end_are_refused(pkl: Path) -> None:
    given, loop = content(), nn.Sequential()
    loop.add_module("again", loop)
    given["G_ema"].add_module("loop", loop)
    refused(pickled.write(pkl, given), "nested without end")
    doubling: Any = pickled.Persistent("Layer")
    for _ in range(30):
        outer: Any = pickled.Persistent("Layer")
        outer._modules.update(a=doubling, b=doubling)
        doubling = outer
    refused(pickled.write(pkl, content(G_ema=doubling)), "nested without end")


BAD_FILES: dict[str, bytes] = {
    "empty": b"",
    "text": b"hello, world\n",
    "rubbish": bytes(range(256)) * 4,
    "a list": pickle.dumps([1]),
    "zip": b"PK\x03\x04" + bytes(100),
    "length beyond file": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"abc.",
    "long frame": b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"N.",
    "deep lists": b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".",
    "deep tuple as a key": b"\x80\x02})" + b"\x85" * 10**5 + b"K\x01s.",
    "deep tuple in a set": b"\x80\x04\x8f()" + b"\x85" * 10**5 + b"\x90.",
    "holds itself": b"\x80\x02}q\x00U\x01Gh\x00s.",
    "persistent id": b"\x80\x02U\x01aQ.",
    "extension": b"\x80\x02\x82\x01.",
    "old instance": b"(ios\nsystem\n.",
    "name of two lines": b"\x80\x04U\x03a\nbU\x03\x1b[2\x93)R.",
    "persistent object of nothing": b"\x80\x02}U\x01Gctorch_utils.persistence\n_reconstruct_persistent_obj\n)Rs.",
    "rebuilt from nothing": b"\x80\x02}U\x01Gctorch._utils\n_rebuild_tensor_v2\n)Rs.",
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_one_line(case: str, pkl: Path) -> None:
    pkl.write_bytes(BAD_FILES[case])
    refused(pkl)


def test_missing_and_unwritable_are_one_line(pkl: Path) -> None:
    refused(pkl, "not readable")
    pickled.write(pkl, content())
    for out in (pkl, pkl / "a.safetensors", pkl / "folder"):
        with pytest.raises(UserError) as error:
            weights.import_weights(pkl, out)
        assert str(error.value).startswith(str(out)) and "--out" in str(error.value)
    assert cli.main(["import-weights", str(pkl.with_name("other.pkl"))]) == 2


def test_steps_are_bounded(pkl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "MAX_STEPS", 1000)
    refused(pickled.write(pkl, content()), "more than 1000 steps")


@pytest.mark.slow
def test_any_cut_or_broken_byte_is_read_or_refused(pkl: Path) -> None:
    """Fuzz: an import ends in a checkpoint or in one line, never in another exception."""
    good = pickled.write(pkl, content()).read_bytes()
    dice = torch.Generator().manual_seed(0)

    def roll(n: int) -> int:
        return int(torch.randint(n, (), generator=dice))

    ends = {"read": 0, "refused": 0}
    for turn in range(60):
        broken = bytearray(good)
        if turn % 5 == 0:
            del broken[roll(len(good)) :]
        else:
            for _ in range(1 + roll(3)):
                broken[roll(len(good))] = roll(256)
        pkl.write_bytes(broken)
        try:
            weights.import_weights(pkl, pkl.with_suffix(".safetensors"))
            ends["read"] += 1
        except UserError as e:
            assert str(e).isprintable()
            ends["refused"] += 1
    assert min(ends.values()) > 5
