"""Broken models: checkpoints, network pickles and Inception weights."""

import hashlib
import io
import json
import os
import pickle
import random
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load
from safetensors.torch import save as to_bytes
from torch import Tensor

from harness.experiment.parse import to_plain
from harness.experiment.spec import Trial
from harness.store import checkpoint
from harness.training.arm import build, load_data
from harness.training.state import new_state
from tests import network_pickles as pickled
from tests import tiny
from tests.faults.bad_files import Write, cut, flipped, holding, zipped
from tests.faults.bad_input import TOUCH, Case, experiment
from tests.weights.test_weights_refused import BAD_FILES, BAD_TENSORS, WRONG_NETWORKS, Call

# ── checkpoints ──────────────────────────────────────────────────────────────

Tensors = dict[str, Tensor]


@cache
def good_checkpoint() -> bytes:
    """An untrained trial's."""
    t = tiny.trial()
    data, _ = load_data(t)
    g, d, _ = build(t, data, torch.device("cpu"))
    return checkpoint.encode(new_state(g, d, t.train).tensors(), described(t))


def described(t: Trial) -> dict[str, Any]:
    return {"nimg": 8, "journal_offset": 0, "config": to_plain(t)}


def header(text: bytes, body: bytes = b"", size: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if size is None else size) + text + body


def tensor(kind: str = "F32", shape: Any = (2,), offsets: Any = (0, 8), **more: Any) -> bytes:
    return json.dumps({"g/w": {"dtype": kind, "shape": shape, "data_offsets": offsets}, **more}).encode()


def with_meta(meta: str | None) -> bytes:
    return to_bytes({"g/w": torch.zeros(2)}, metadata=None if meta is None else {"meta": meta})


def with_config(**over: Any) -> bytes:
    """The good checkpoint under another trial's options."""
    saved = _good_tensors()
    raw = to_plain(tiny.trial())
    for key, value in over.items():
        *parents, last = key.split("__")
        at = raw
        for parent in parents:
            at = at[parent]
        at[last] = value
    return checkpoint.encode(saved, {"nimg": 8, "journal_offset": 0, "config": raw})


@cache
def _good_tensors() -> Tensors:
    return load(good_checkpoint())


def with_tensors(change: Callable[[Tensors], Tensors]) -> bytes:
    return checkpoint.encode(change(_good_tensors()), described(tiny.trial()))


def _first(tensors: Tensors, head: str = "g/") -> str:
    return next(k for k, v in tensors.items() if k.startswith(head) and v.ndim > 1)


def _broken_first(how: Callable[[Tensor], Tensor], head: str = "g/") -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {_first(tensors, head): how(tensors[_first(tensors, head)])}


LIES: dict[str, bytes] = {
    "empty": b"", "seven bytes": b"\0" * 7, "no header": bytes(8), "rubbish": random.Random(3).randbytes(5000),
    "text": b"hello, world\n" * 50, "a pickle": pickle.dumps({"g": 1}), "a ZIP": zipped({"a": b"b"}),
    "a header without end": header(b"{}", size=2**62), "a header longer than the file": header(b"{}", size=1000),
    "a header of 99 MB": header(b"{}", size=99 * 10**6), "no JSON": header(b"{nope"), "a list": header(b"[]"),
    "deep JSON": header(b"[" * 100_000), "deep objects": header(b'{"a":' * 50_000), "not UTF-8": header(b'{"\xff": 1}'),
    "an unknown type": header(tensor("F99"), bytes(8)),
    "a type of half a byte": header(tensor("F4", (2,), (0, 1)), bytes(1)),
    "beyond the end": header(tensor(offsets=(0, 80)), bytes(8)), "backwards": header(tensor(offsets=(8, 0)), bytes(8)),
    "negative": header(tensor(offsets=(-8, 0)), bytes(8)), "of another size": header(tensor(shape=(3,)), bytes(8)),
    "of huge size": header(tensor(shape=(2**40, 2**40)), bytes(8)),
    "of negative size": header(tensor(shape=(-2,)), bytes(8)),
    "bytes left over": header(tensor(), bytes(80)), "numbers cut": header(tensor(), bytes(4)),
    "a shape as text": header(tensor(shape="2"), bytes(8)),
    "metadata that is no text": header(tensor(__metadata__={"meta": 3}), bytes(8)),
    "no metadata": with_meta(None), "metadata that is no JSON": with_meta("{"), "metadata a list": with_meta("[]"),
    "metadata null": with_meta("null"), "metadata deep": with_meta("[" * 100_000),
    "metadata of digits": with_meta("9" * 5000),
    "no images seen": with_meta('{"config": {}}'), "images seen as text": with_meta('{"nimg": "8", "config": {}}'),
    "no config": with_meta('{"nimg": 8}'), "a config of text": with_meta('{"nimg": 8, "config": "x"}'),
    "an empty config": with_meta('{"nimg": 8, "config": {}}'),
    "a strange config": with_meta('{"nimg": 8, "config": {"a": 1}}'),
}  # fmt: skip
FOREIGN: dict[str, dict[str, Any]] = {
    "an unknown data set": {"dataset": {"name": "x"}},
    "a data set elsewhere": {"dataset": {"name": "image_zip", "path": "gone"}},
    "a data set of a number": {"dataset": 3}, "an unknown backbone": {"backbone": {"name": "x"}},
    "an option more": {"backbone__depth": 3}, "a wider network": {"backbone__width": 0.125},
    "a network wider than memory": {"backbone__width": 64.0}, "an endless network": {"backbone__width": 1e300},
    "endless layers": {"backbone": {"name": "stylegan2", "mapping_layers": 10**9}},
    "latents of 10^9": {"backbone__z_dim": 10**9},
    "latents of 60,000": {"backbone__z_dim": 60_000}, "classes": {"conditional": True},
    "a variant more": {"variants": {"sel": {}}},
    "an unknown variant": {"variants": {"x": {}}}, "variants of a number": {"variants": 3},
    "a seed as text": {"seed": "0"},
    "a negative seed": {"seed": -1}, "no finite number": {"train__total_kimg": float("nan")},
    "no metrics": {"eval__metrics": {}},
    "an unknown metric": {"eval__metrics": {"x": {}}}, "EMA that is not there": {"eval__weights": "ema"},
    "no eval": {"eval": None},
    "other images": {"dataset__resolution": 64},
    "a path by absolute name": {"dataset": {"name": "image_zip", "path": "/etc/passwd"}},
}  # fmt: skip
TENSORS: dict[str, Callable[[Tensors], Tensors]] = {
    "none of G": lambda t: {k: v for k, v in t.items() if not k.startswith("g/")},
    "none of D": lambda t: {k: v for k, v in t.items() if not k.startswith("d/")},
    "one missing": lambda t: {k: v for k, v in t.items() if k != _first(t)},
    "one more": lambda t: t | {"g/strange": torch.zeros(2)},
    "one transposed": _broken_first(lambda v: v.transpose(0, 1).contiguous()),
    "one longer": _broken_first(lambda v: torch.cat([v, v])),
    "one empty": _broken_first(lambda v: v[:0]),
    "NaN in G": _broken_first(lambda v: torch.full_like(v, float("nan"))),
    "infinity in D": _broken_first(lambda v: torch.full_like(v, float("inf")), "d/"),
}


def in_folder(at: Path, data: bytes, named: bytes | None = None) -> None:
    """In a trial's folder, under the checksum of `named`; by default its own, as someone would who means it."""
    (at / "checkpoints").mkdir()
    digest = hashlib.sha256(data if named is None else named).hexdigest()[:16]
    (at / "checkpoints" / f"000000008.{digest}.safetensors").write_bytes(data)


def checkpoint_cases() -> Iterator[Case]:
    score = ("eval", "c.safetensors", "--num-fakes", "64", "--device", "cpu")
    drawn = ("pictures", ".", "--out", "drawn")
    for name, data in LIES.items():
        yield Case(f"checkpoint: {name}", score, "c.safetensors", holding("c.safetensors", lambda data=data: data))
        yield Case(f"checkpoint in a folder: {name}", drawn, "", lambda at, data=data: in_folder(at, data))
    for name, over in FOREIGN.items():
        write = holding("c.safetensors", lambda over=over: with_config(**over))
        yield Case(
            f"checkpoint of {name}", score, "path" if "path" in str(over.get("dataset")) else "c.safetensors", write
        )
    for name, change in TENSORS.items():
        write = holding("c.safetensors", lambda change=change: with_tensors(change))
        yield Case(f"checkpoint with {name}", score, "c.safetensors", write)
    for i in range(12):
        write = holding("c.safetensors", lambda i=i: cut(good_checkpoint(), i))
        yield Case(f"checkpoint cut {i}", score, "c.safetensors", write)
        yield Case(
            f"checkpoint bit {i}",
            drawn,
            "no whole",
            lambda at, i=i: in_folder(at, flipped(good_checkpoint(), i), good_checkpoint()),
        )

    def beside_a_folder(at: Path) -> None:
        (at / "c.safetensors").write_bytes(good_checkpoint())
        (at / "a-folder").mkdir()

    for text, says in {
        "--num-fakes 0": "num_fakes", "--num-fakes -3": "num_fakes", "--num-fakes 3": "more than",
        "--workers 0": "--workers",
        "--metrics fidd": "did you mean", "--metrics ,": "metrics", "--set trian.x=1": "did you mean",
        "--set dataset.path=x": "path", "--set eval.weights=ema": "EMA", "--set backbone.width=1": "does not fit",
        "--out a-folder": "a-folder", "--out c.safetensors/x.json": "c.safetensors",
    }.items():  # fmt: skip
        yield Case(f"eval {text}", ("eval", "c.safetensors", "--device", "cpu", *text.split()), says, beside_a_folder)


# ── pickles ──────────────────────────────────────────────────────────────────


@cache
def good_pickle() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return pickled.write(Path(folder) / "n.pkl", pickled.content()).read_bytes()


def _evil_network(place: str) -> Any:
    code = Call(os.system, TOUCH)
    given: Any = pickled.content()
    if place == "at the top":
        return code
    if place == "beside":
        given["zzz"] = code
    elif place == "inside":
        given["D"].strange = code
    elif place == "instead of a tensor":
        given["G_ema"]._parameters["bad"] = code
    else:
        given["G_ema"]._init_kwargs["w_dim"] = code
    return given


def pickle_cases() -> Iterator[Case]:
    words = ("import-weights", "n.pkl")

    def dumped(make: Callable[[], Any], protocol: int = 4) -> Write:
        return lambda folder: pickled.write(folder / "n.pkl", make(), protocol)

    def with_tensor(bad: Any) -> Any:
        given: Any = pickled.content()
        given["G_ema"]._parameters["bad"] = bad
        return given

    for name, (make, says) in WRONG_NETWORKS.items():
        yield Case(f"pickle: {name}", words, says[0], dumped(make))
    for name, bad in BAD_TENSORS.items():
        yield Case(f"pickle, a tensor: {name}", words, "n.pkl", dumped(lambda bad=bad: with_tensor(bad)))
    for name, data in BAD_FILES.items():
        yield Case(f"pickle, a file: {name}", words, "n.pkl", holding("n.pkl", lambda data=data: data))
    for i in range(15):
        yield Case(f"pickle cut {i}", words, "n.pkl", holding("n.pkl", lambda i=i: cut(good_pickle(), i)))
    for place in ("at the top", "beside", "inside", "instead of a tensor", "instead of a number"):
        for n in (0, 2, 4, 5):
            yield Case(f"pickle with code {place}, protocol {n}", words, "nothing was run",
                       dumped(lambda place=place: _evil_network(place), n))  # fmt: skip
    for function in (eval, exec, __import__, open, print, torch.load, pickle.loads, np.load):
        yield Case(f"pickle that calls {function.__module__}.{function.__name__}", words, "nothing was run",
                   dumped(lambda function=function: pickled.content(zzz=Call(function, "1"))))  # fmt: skip


def inception_cases() -> Iterator[Case]:
    """Weights that torch itself unpickles, with its own reader of plain tensors."""
    code = pickle.dumps(Call(os.system, TOUCH), 2)
    saved = io.BytesIO()
    torch.save({"a": torch.zeros(100)}, saved)
    in_zip = io.BytesIO()
    with zipfile.ZipFile(in_zip, "w") as z:
        z.writestr("archive/data.pkl", code)
        z.writestr("archive/version", "3")
    bad = {
        "empty": b"", "text": b"hello", "rubbish": random.Random(4).randbytes(900), "code": code,
        "code in a ZIP": in_zip.getvalue(),
        "cut": saved.getvalue()[:400], "no stop": b"\x80\x02}", "empty stack": b"\x80\x02tR.",
        "memo": b"\x80\x02h\x05.",
        "deep": b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".", "persistent": b"\x80\x02U\x01aQ.",
    }  # fmt: skip
    for metric, says in (("fid: {}", "SHA-256"), ("fid: {weights: any}", "w.pth")):
        for name, data in bad.items():

            def both(folder: Path, data: bytes = data) -> None:
                experiment(folder)
                (folder / "w.pth").write_bytes(data)

            words = ("matrix", "tiny.yaml", "--local", "--tracking-uri", "off", "--inception-weights", "w.pth")
            yield Case(f"inception, {metric[5:]}: {name}", (*words, "--set", f"eval.metrics={{{metric}}}"), says, both)
