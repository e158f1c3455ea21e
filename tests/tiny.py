"""A trial small enough for a test: what several tests train."""

from typing import Any

from harness.experiment.parse import merge, parse_trial
from harness.experiment.spec import Train, Trial

ARMS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "sel": {"sel": {}},
    "align": {"sel": {}, "align": {}},
    "flatten": {"flatten": {}, "align": {}},
}
BACKBONES: dict[str, dict[str, Any]] = {
    "sn_dcgan": {"name": "sn_dcgan", "width": 0.0625, "z_dim": 8},
    "stylegan2": {
        "name": "stylegan2", "z_dim": 16, "w_dim": 16, "mapping_layers": 2, "channel_base": 128, "channel_max": 8
    },
}  # fmt: skip
OTHERS: dict[str, dict[str, Any]] = {  # that only some tests train
    "sn_resnet": {"name": "sn_resnet", "width": 0.0625, "z_dim": 8},
    "dcgan": {"name": "dcgan", "width": 0.03125, "z_dim": 8},
    "r3gan": {"name": "r3gan", "z_dim": 8, "embed_dim": 8, "widths": [16, 16, 8, 8]},
}
TRAIN: dict[str, dict[str, Any]] = {
    "sn_dcgan": {"total_kimg": 0.064, "batch_size": 8, "tick_kimg": 0.016, "snapshot_kimg": 0.032},
    "stylegan2": {
        "total_kimg": 0.064, "batch_size": 8, "batch_gpu": 4, "tick_kimg": 0.016, "ema_kimg": 0.02, "ema_rampup": 0.5,
        "r1_gamma": 1.0, "r1_interval": 3, "pl_weight": 2.0, "pl_interval": 2, "style_mixing": 0.9,
        "g": {"lr": 2.5e-3, "betas": [0.0, 0.99]}, "d": {"lr": 2.5e-3, "betas": [0.0, 0.99]},
    },
}  # fmt: skip


def trial(backbone: str = "sn_dcgan", arm: str = "baseline", conditional: bool = False, /, **over: Any) -> Trial:
    """A resolved tiny trial; `over` is laid on its plain form, mapping by mapping."""
    raw = {
        "dataset": {"name": "synthetic", "resolution": 32, "num_images": 64},
        "backbone": (BACKBONES | OTHERS)[backbone],
        "conditional": conditional,
        "variants": ARMS[arm],
        "train": TRAIN.get(backbone, TRAIN["sn_dcgan"]),
        "eval": {"num_fakes": 64, "batch_size": 8, "metrics": {"disequilibrium": {}}},
        "seed": 0,
    }
    return parse_trial(merge(raw, over, "test"), "test")


def without(variant: Any) -> dict[str, Any]:
    """What of `train` a variant's file refuses, at its default, which is off."""
    refused = [key.removeprefix("train.") for key in getattr(variant, "CLASHES", ()) if key.startswith("train.")]
    return {key: getattr(Train(), key) for key in refused}
