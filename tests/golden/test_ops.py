"""Layers against recorded values and gradients (`ops*`): every case of the file's own table."""

from typing import Any

import pytest
import torch
from torch import Tensor

from backbones import _fir
from backbones import _layers as L
from tests.golden._golden import OPS, Case, cases, close, gradients

FILTERS: dict[str, dict[str, Any]] = {
    "asym3x5": {},
    "asym3x5_gain2_flip_nonorm": {"gain": 2, "flip": True, "normalize": False},
    "asym4x4": {},
    "f121": {},
    "f1331": {},
    "f1331_separable": {"separable": True},
    "sep12": {},
    "sep12_gain4_flip": {"gain": 4, "flip": True},
}


def _taps(case: Case, name: str) -> Tensor:
    name = name.split("_")[0]
    if name in ("f121", "f1331"):
        return torch.tensor([float(c) for c in name[1:]])
    return case[f"in/filter_raw/{name}"]


def _run(entry: dict[str, Any], t: dict[str, Tensor], f: Tensor | None) -> Tensor:
    args = {k: v for k, v in entry.items() if k not in ("op", "name", "x", "f", "w", "b", "noise", "fused_modconv")}
    match entry["op"]:
        case "upfirdn2d" | "filter2d" | "upsample2d" | "downsample2d" as op:
            return getattr(_fir, op)(t["x"], f, **args)
        case "bias_act":
            return L.bias_act(t["x"], t.get("b"), **args)
        case "conv2d_resample":
            return L.conv2d_resample(t["x"], t["w"], f, **args)
        case "modulated_conv2d":
            return L.modulated_conv2d(
                t["x"], t["w"], t["styles"], f, noise=t.get("noise"), fused=entry["fused_modconv"], **args
            )
        case "mbstd":
            return L.minibatch_stddev(t["x"], **args)
        case "fc":
            layer = L.FullyConnected(
                *reversed(entry["w"]), act=args["act"], lr_mult=args["lr_multiplier"], bias="b" in t
            )
            return torch.func.functional_call(
                layer, {"weight": t["w"], **({"bias": t["b"]} if "b" in t else {})}, t["x"]
            )
        case "normalize_2nd_moment":
            return L.normalize_2nd_moment(t["x"])
    raise AssertionError(f"unknown op {entry['op']}")


@pytest.mark.parametrize(
    ("case", "entry"), cases("ops*", lambda c: [(f"{e['op']}-{e['name']}", e) for e in c.table("op_table")])
)
def test_op(case: Case, entry: dict[str, Any]) -> None:
    place = f"{entry['op']}/{entry['name']}"
    t = case.group(f"in/{place}/")
    dy = t.pop("dy")
    for value in t.values():
        value.requires_grad_()
    default = "f1331" if entry["op"] == "modulated_conv2d" else None
    name = entry.get("f", default)
    f = None if name is None else _fir.setup_filter(_taps(case, name))
    y = _run(entry, t, f)
    close(y, case[f"out/{place}/y"], OPS, "y")
    for key, grad in gradients((y * dy).sum(), t).items():
        close(grad, case[f"out/{place}/grad_{key}"], OPS, f"grad_{key}")


@pytest.mark.parametrize(("case", "name"), cases("ops*", lambda c: [(n, n) for n in c.group("out/setup_filter/")]))
def test_setup_filter(case: Case, name: str) -> None:
    close(_fir.setup_filter(_taps(case, name), **FILTERS[name]), case[f"out/setup_filter/{name}"], OPS)
