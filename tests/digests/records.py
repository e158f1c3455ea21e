"""Digests and recorded values of tensors: hashes.json holds for its grounds, values.safetensors for all."""

import hashlib
import json
import os
import platform
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

FOLDER = Path(__file__).parent
TOLERANCE = 1e-4  # of a tensor's scale, between grounds
PICKED = 6  # elements of a tensor that are kept, beside its scale and the signed sum of all
_FLOOR = 1e-3  # a tensor's scale is at least this part of the largest of its kind


def ground() -> str:
    """What decides the last bits besides the code, in words that stay the same where they would."""
    text = torch.__config__.show()
    onednn = re.search(r"MKL-DNN (v[\d.]+)", text)
    words = [
        f"torch {torch.__version__}",
        f"numpy {np.__version__}",
        f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        f"oneDNN {onednn[1] if onednn and torch.backends.mkldnn.enabled else 'off'}",
        _processor(),
    ]
    forced = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS")
    return ", ".join([*words, *(f"{name}={os.environ[name]}" for name in forced if name in os.environ)])


def _processor() -> str:
    """Maker, family and model: MKL and oneDNN choose their kernels by them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or "unknown processor"
    found = [re.search(rf"^{key}\s*:\s*(.+)$", text, re.MULTILINE) for key in ("vendor_id", "cpu family", "model")]
    return " ".join(m[1] for m in found if m) or "unknown processor"


def layout(tensors: dict[str, Tensor]) -> str:
    """sha256 of the sorted names, with dtypes and shapes."""
    lines = (f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}\n" for name in sorted(tensors))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def digest(tensors: dict[str, Tensor]) -> str:
    """sha256 of names, dtypes, shapes and every byte."""
    found = hashlib.sha256(layout(tensors).encode())
    for name in sorted(tensors):
        found.update(tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def values(tensors: dict[str, Tensor]) -> Tensor:
    """[tensors in the order of their names, 2 + PICKED]: the largest magnitude, the sum of all elements under signs
    that look arbitrary, and elements at even distances. One element that moves by delta moves the sum by delta."""
    rows = []
    for name in sorted(tensors):
        x = tensors[name].detach().double().flatten()
        signs = torch.sin(12.9898 * torch.arange(1, len(x) + 1, dtype=torch.float64)).sign()
        picked = x[torch.linspace(0, len(x) - 1, PICKED).round().long()]
        rows.append(torch.cat([x.abs().max()[None], (x * signs).sum()[None], picked]))
    return torch.stack(rows).float()


class Found(NamedTuple):
    """The largest difference from the recorded values as a part of its tensor's scale, and in which tensor."""

    relative: float
    tensor: str


def compare(tensors: dict[str, Tensor], recorded: Tensor) -> Found:
    """`tensors`, of the recorded layout, with `recorded` from `values`. What is not finite is infinitely far."""
    names = sorted(tensors)
    kinds = [_kind(name) for name in names]
    largest: dict[str, float] = {}
    for kind, scale in zip(kinds, recorded[:, 0].tolist(), strict=True):
        largest[kind] = max(scale, largest.get(kind, 0.0))
    # Where all is rounding (a second moment of 1e-11), the size of its like says what counts.
    floor = torch.tensor([max(_FLOOR * largest[kind], 1e-30) for kind in kinds])
    scale = torch.maximum(recorded[:, 0], floor)
    apart = (values(tensors).double() - recorded.double()).abs().amax(1) / scale.double()
    apart = apart.nan_to_num(nan=torch.inf, posinf=torch.inf)
    at = int(apart.argmax())
    return Found(apart[at].item(), names[at])


def _kind(name: str) -> str:
    """A network's weights are one kind, of an optimizer each of its moments."""
    head, *rest = name.split("/")
    return f"{head}/{rest[-1]}" if head.startswith("opt_") else head


class Records:
    """Both files of `folder`. `hashes`: {ground: {arm: sha256}}; `layouts`, `values` and `epochs` (those
    above 1, {file: EPOCH}) by arm; `why`: what was said."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder
        self.hashes: dict[str, dict[str, str]] = {}
        self.why: list[dict[str, Any]] = []
        self.layouts: dict[str, str] = {}
        self.epochs: dict[str, dict[str, int]] = {}
        self.values: dict[str, Tensor] = {}
        if (folder / "hashes.json").exists():
            told = json.loads((folder / "hashes.json").read_text())
            self.hashes, self.why, self.layouts = told["grounds"], told["why"], told["layouts"]
            self.epochs = told.get("epochs", {})
            with safe_open(folder / "values.safetensors", "pt") as f:
                self.values = {arm: f.get_tensor(arm) for arm in f.keys()}  # noqa: SIM118 (no mapping)

    def hash(self, ground: str, arm: str) -> str | None:
        return self.hashes.get(ground, {}).get(arm)

    def near(self, arm: str, tensors: dict[str, Tensor]) -> Found:
        """How near `tensors` come to the recorded values; infinitely far where names, dtypes or shapes differ."""
        if layout(tensors) != self.layouts.get(arm):
            return Found(float("inf"), "names, dtypes or shapes")
        return compare(tensors, self.values[arm])

    def same(self, ground: str, arm: str, tensors: dict[str, Tensor]) -> bool:
        """To the bit on a ground with a record, within TOLERANCE on another."""
        known = self.hash(ground, arm)
        return known == digest(tensors) if known else self.near(arm, tensors).relative <= TOLERANCE

    def take(self, ground: str, arm: str, tensors: dict[str, Tensor]) -> None:
        """Record a new hash of an arm here. Where it moved, its values are new too and other grounds' hashes void."""
        if not self.same(ground, arm, tensors):
            for hashes in self.hashes.values():
                hashes.pop(arm, None)
            self.values[arm], self.layouts[arm] = values(tensors), layout(tensors)
        self.hashes.setdefault(ground, {})[arm] = digest(tensors)

    def write(self) -> None:
        told = {"grounds": {k: v for k, v in self.hashes.items() if v}, "layouts": self.layouts, "why": self.why}
        told |= {"epochs": {arm: epochs for arm, epochs in self.epochs.items() if epochs}}
        save_file(self.values, self.folder / "values.safetensors")
        (self.folder / "hashes.json").write_text(json.dumps(told, indent=1) + "\n")
