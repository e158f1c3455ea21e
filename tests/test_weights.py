"""Network pickles: read as data, mapped whole or refused in one line."""

import io
import json
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
from backbones import stylegan2
from harness import checkpoint, config, pickles, published, weights
from harness.errors import UserError
from harness.heatmaps import RELEASE
from harness.schema import parse
from harness.variants import sel
from tests import network_pickles as pickled

SIZES: dict[str, Any] = {
    "z_dim": 8, "c_dim": 0, "w_dim": 8, "img_resolution": 32, "img_channels": 3, "mapping_num_layers": 2,
    "channel_base": 128, "channel_max": 8, "mbstd_group_size": 4,
}  # fmt: skip


def state(c_dim: int = 0, architecture: Any = "resnet", seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Reference-style states of a small G and D: ours with the filters that are constants here."""
    torch.manual_seed(seed)
    options = stylegan2.Options(8, 8, 2, channel_base=128, channel_max=8, architecture=architecture)
    g, d = stylegan2.build(options, 32, c_dim)
    made = []
    for module in (g, d):
        tensors = {k: torch.randn_like(v) for k, v in module.state_dict().items()}
        filters = {f"{k.removesuffix('weight')}resample_filter": pickled.FILTER for k in tensors if "conv0.weight" in k}
        made.append(tensors | filters)
    return made[0], made[1]


def content(**changes: Any) -> dict[str, Any]:
    """A whole small pickle's content; G_ema is not G."""
    sizes = SIZES | {k: changes.pop(k) for k in ("c_dim",) if k in changes}
    (g, d), (raw, _) = state(sizes["c_dim"]), state(sizes["c_dim"], seed=1)
    return {
        "G": pickled.generator(sizes, raw),
        "D": pickled.discriminator(sizes, d),
        "G_ema": pickled.generator(sizes, g),
        "training_set_kwargs": pickled.easy(
            {"class_name": "training.dataset.ImageFolderDataset", "path": "/a/cats.zip"}
        ),
        "augment_pipe": None,
        **changes,
    }


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


# ── what is imported ─────────────────────────────────────────────────────────


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_tensor_arrives_whatever_the_protocol(pkl: Path, protocol: int) -> None:
    given = content()
    pickled.write(pkl, given, protocol)
    made = weights.import_weights(pkl, pkl.with_suffix(".safetensors"))
    saved = checkpoint.read(made.file)
    for key, head in (("G", "g/backbone."), ("G_ema", "g_ema/backbone."), ("D", "d/")):
        expected = {k: v for k, v in given[key].state_dict().items() if not k.endswith("resample_filter")}
        arrived = {k.removeprefix(head): v for k, v in saved.tensors.items() if k.startswith(head)}
        assert arrived.keys() == expected.keys()
        assert all(torch.equal(arrived[k], expected[k]) for k in expected)
    assert made.notes == [] and saved.meta["imported"]["file"] == "network.pkl"
    assert config.parse_trial(saved.meta["config"], "test") == made.trial
    assert made.trial.dataset.options.path == Path("cats.zip")


def test_recorded_arguments_become_options(pkl: Path) -> None:
    g, d = state()
    net = pickled.generator(SIZES, g, conv_clamp=256, num_fp16_res=4)
    pickled.write(
        pkl, content(G=net, G_ema=net, D=pickled.discriminator(SIZES | {"mbstd_group_size": 8}, d, conv_clamp=256))
    )
    options = weights.import_weights(pkl, pkl.with_suffix(".safetensors")).trial.backbone.options
    assert (options.conv_clamp, options.num_fp16_res, options.mbstd_group) == (256.0, 4, 8)
    assert (options.channel_base, options.channel_max, options.mapping_layers) == (128, 8, 2)


def test_memory_layouts_and_half_precision_keep_values(pkl: Path) -> None:
    given = content()
    net = given["G_ema"]
    conv = net.synthesis.b8.conv1
    conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)
    conv.bias.data = conv.bias.data.half()
    net.synthesis.b8.torgb.weight.data = torch.arange(96.0)[8:56:2].reshape(3, 8, 1, 1)
    pickled.write(pkl, given)
    tensors = checkpoint.read(weights.import_weights(pkl, pkl.with_suffix(".safetensors")).file).tensors
    for name in ("conv1.weight", "conv1.bias", "torgb.weight"):
        expected = net.get_parameter(f"synthesis.b8.{name}").float()
        assert torch.equal(tensors[f"g_ema/backbone.synthesis.b8.{name}"], expected)


def test_the_cifar_recipe_has_a_plain_discriminator_and_keeps_no_average(pkl: Path) -> None:
    g, d = state(architecture="orig")
    del g["mapping.w_avg"]
    net = pickled.generator(SIZES, g)
    net._init_kwargs["mapping_kwargs"]["w_avg_beta"] = None
    pickled.write(pkl, content(G=net, G_ema=net, D=pickled.discriminator(SIZES, d, architecture="orig")))
    made = weights.import_weights(pkl, pkl.with_suffix(".safetensors"))
    assert made.trial.backbone.options.architecture == "orig"
    assert len(made.notes) == 1 and "w_avg" in made.notes[0]


def eqgan(seed: int = 0) -> dict[str, Tensor]:
    """State of a small G with SELs under the released code's names."""
    g, _ = state(seed=seed)
    backbone, _ = stylegan2.build(stylegan2.Options(8, 8, 2, channel_base=128, channel_max=8), 32, 0)
    options = parse(sel.Options, {"profile": "release", **sel.PROFILES["release"], "heatmaps": RELEASE}, "test")
    encoder = sel.encoder(backbone.sites, 32, options)
    assert isinstance(encoder, sel.SelEncoder)
    own = encoder.state_dict()
    return g | {theirs: own[ours] for ours, theirs in sel.reference_names(encoder).items()}


def test_eqgan_becomes_sel_in_its_release_profile(pkl: Path) -> None:
    net = pickled.generator(SIZES, eqgan())
    pickled.write(pkl, content(G=net, G_ema=net))
    made = weights.import_weights(pkl, pkl.with_suffix(".safetensors"))
    assert made.trial.variant("sel").profile == "release" and made.notes == []
    assert any(name.startswith("g_ema/encoder.layers.b4_conv1") for name in checkpoint.read(made.file).tensors)


def test_eqgan_code_without_sel_is_a_baseline(pkl: Path) -> None:
    """That code makes the heatmap encoders even then; they do nothing."""
    tensors = {k: v for k, v in eqgan().items() if ".sel." not in k}
    net = pickled.generator(SIZES, tensors)
    pickled.write(pkl, content(G=net, G_ema=net))
    made = weights.import_weights(pkl, pkl.with_suffix(".safetensors"))
    assert made.trial.variants == () and len(made.notes) == 1 and "hm_conv" in made.notes[0]


def test_what_is_left_behind_is_told(pkl: Path) -> None:
    given = content(augment_pipe=pickled.network("AugmentPipe", {"p": torch.ones(())}), extra=[1, 2])
    given["D"]._init_kwargs["block_kwargs"]["freeze_layers"] = 3
    pickled.write(pkl, given)
    notes = weights.import_weights(pkl, pkl.with_suffix(".safetensors")).notes
    assert [n.split(":")[0] for n in notes] == ["D", "augment_pipe", "extra"]
    assert "freeze_layers = 3" in notes[0]


def test_heatmaps_hooks_and_other_belongings_of_modules_are_passed_over(pkl: Path) -> None:
    given = content()
    d: Any = given["D"]
    d.heatmaps = {"b8": torch.zeros(2, 1, 4, 4)}
    d.register_forward_hook(d.extra_repr)  # pickles as a call of getattr
    d.kinds = {torch.float16, "a"}
    pickled.write(pkl, given)
    assert weights.import_weights(pkl, pkl.with_suffix(".safetensors")).notes == []


def test_a_folder_is_laid_out_like_a_trial(pkl: Path) -> None:
    folder = pickled.write(pkl, content()).parent / "imported"
    made = weights.import_weights(pkl, folder)
    saved = checkpoint.load_latest(folder / "checkpoints")
    assert saved is not None and made.file.parent == folder / "checkpoints"
    with pytest.raises(UserError, match="holds checkpoints already"):
        weights.import_weights(pkl, folder)


def test_images_seen_are_read_off_the_usual_file_name(pkl: Path) -> None:
    path = pickled.write(pkl.with_name("network-snapshot-025000.pkl"), content())
    assert checkpoint.read(weights.import_weights(path, path.with_suffix(".safetensors")).file).meta["nimg"] == 25e6


@pytest.mark.parametrize("arm", ["baseline", "sel", "conditional"])
def test_from_pickle_to_score(pkl: Path, arm: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("NASHBOARD_CACHE", str(pkl.parent / "cache"))
    net = pickled.generator(SIZES, eqgan())
    arms: dict[str, dict[str, Any]] = {"baseline": {}, "sel": {"G": net, "G_ema": net}, "conditional": {"c_dim": 10}}
    pickled.write(pkl, content(**arms[arm]))
    assert cli.main(["import-weights", str(pkl)]) == 0
    file, scored = pkl.with_suffix(".safetensors"), pkl.with_suffix(".json")
    assert str(file) in capsys.readouterr().out
    data = ["--set", "dataset.name=synthetic", "--set", "dataset.num_images=64"]
    words = ["eval", str(file), "--metrics", "disequilibrium", "--num-fakes", "64", "--device", "cpu"]
    assert cli.main([*words, *data, "--out", str(scored)]) == 0
    records = json.loads(scored.read_text())
    assert records["di"]["protocol"]["weights"] == "ema" and records["di"]["value"] != 0
    other = {"sel": "dataset.resolution=64", "baseline": "conditional=true", "conditional": "conditional=false"}[arm]
    assert cli.main([*words, *data, "--set", other]) == 2
    assert "does not fit" in capsys.readouterr().err


# ── what is refused ──────────────────────────────────────────────────────────


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
    "grey images": (
        lambda: content(G_ema=pickled.generator(SIZES, G | {"synthesis.b32.torgb.weight": torch.ones(1, 4, 1, 1)})),
        ("3 channels",),
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


def test_the_reader_agrees_with_python_on_plain_data() -> None:
    """The interpreter against an independent one."""
    value = {"a": [1, -2, 2**70, 1.5, True, None, b"x" * 300], "b": ("t", (), {"k": {}}, "ü"), 3: [[], "long" * 100]}
    value["again"] = value["a"]
    for protocol in (2, 3, 4, 5):
        if protocol == 2:
            value = {k: v for k, v in value.items() if k != "a" and k != "again"}  # bytes are a call there
        assert pickles.Reader(10_000).read(io.BytesIO(pickle.dumps(value, protocol))) == value
    with pytest.raises(pickles.Refused, match="names os.getcwd|names posix.getcwd"):
        pickles.Reader(10).read(pickle.dumps(os.getcwd))
