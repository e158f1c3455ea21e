"""Pickles in the format of StyleGAN2-ADA-PyTorch, written without its code: stand-ins of the few names
that such files refer to exist while one is written, and never while one is read."""

import pickle
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from backbones import stylegan2
from harness.experiment.schema import parse
from harness.method.heatmaps import RELEASE
from harness.variants import sel

SOURCE = "raise SystemExit('the source in a pickle was run')\n"


class EasyDict(dict):
    """Stands for dnnlib.util.EasyDict."""


def _reconstruct_persistent_obj(meta: Any) -> Any:
    raise SystemExit("a persistent object was made")


EasyDict.__module__ = "dnnlib.util"
_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class Persistent(nn.Module):
    """A module whose pickle is its state beside its source."""

    def __init__(self, class_name: str, **arguments: Any) -> None:
        super().__init__()
        self._class_name = class_name
        self._init_args: tuple[Any, ...] = ()
        self._init_kwargs = easy(arguments)

    def __reduce_ex__(self, protocol: Any) -> Any:
        state = dict(self.__dict__)
        for group in ("_parameters", "_buffers", "_modules"):  # as torch kept them when such files were written
            state[group] = OrderedDict(state[group])
        meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": self._class_name, "state": state}
        return _reconstruct_persistent_obj, (easy(meta),), None


def easy(value: Any) -> Any:
    return EasyDict({k: easy(v) for k, v in value.items()}) if type(value) is dict else value


def network(class_name: str, tensors: dict[str, Tensor], **arguments: Any) -> Persistent:
    """A module with these parameters and buffers. Below a `shared` or `output` are plain modules of torch."""
    root = Persistent(class_name, **arguments)
    for name, tensor in tensors.items():
        *path, last = name.split(".")
        module: nn.Module = root
        for part in path:
            if part not in dict(module.named_children()):
                module.add_module(part, nn.Sequential() if part in ("shared", "output") else Persistent("Layer"))
            module = module.get_submodule(part)
        if last in ("resample_filter", "noise_const", "w_avg"):
            module.register_buffer(last, tensor)
        else:
            module.register_parameter(last, nn.Parameter(tensor, requires_grad=False))
    return root


@contextmanager
def names() -> Iterator[None]:
    """The modules that a pickler must find to write their names."""
    made = {name: ModuleType(name) for name in ("dnnlib", "dnnlib.util", "torch_utils", "torch_utils.persistence")}
    made["dnnlib.util"].EasyDict = EasyDict  # type: ignore[attr-defined]
    persistence: Any = made["torch_utils.persistence"]
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]


def write(path: Path, content: Any, protocol: int = 4) -> Path:
    with names(), path.open("wb") as f:
        pickle.dump(content, f, protocol)
    return path


FILTER = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64


def generator(config: dict[str, Any], tensors: dict[str, Tensor], **synthesis: Any) -> Persistent:
    """G of a recorded configuration, with its arguments as the reference keeps them."""
    sizes = {k: config[k] for k in ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels")}
    channels = {k: config[k] for k in ("channel_base", "channel_max")}
    return network(
        "Generator", tensors, **sizes,
        mapping_kwargs={"num_layers": config["mapping_num_layers"]}, synthesis_kwargs={**channels, **synthesis},
    )  # fmt: skip


def discriminator(config: dict[str, Any], tensors: dict[str, Tensor], **more: Any) -> Persistent:
    keys = ("c_dim", "img_resolution", "img_channels", "channel_base", "channel_max")
    return network(
        "Discriminator", tensors, **{k: config[k] for k in keys}, block_kwargs={}, mapping_kwargs={},
        epilogue_kwargs={"mbstd_group_size": config["mbstd_group_size"]}, **more,
    )  # fmt: skip


# ── a whole small file ───────────────────────────────────────────────────────

SIZES: dict[str, Any] = {
    "z_dim": 8, "c_dim": 0, "w_dim": 8, "img_resolution": 32, "img_channels": 3, "mapping_num_layers": 2,
    "channel_base": 128, "channel_max": 8, "mbstd_group_size": 4,
}  # fmt: skip


def state(
    c_dim: int = 0, architecture: Any = "resnet", seed: int = 0, channels: int = 3
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Reference-style states of a small G and D: ours with the filters that are constants here."""
    torch.manual_seed(seed)
    options = stylegan2.Options(8, 8, 2, channel_base=128, channel_max=8, architecture=architecture)
    g, d = stylegan2.build(options, 32, c_dim, channels)
    made = []
    for module in (g, d):
        tensors = {k: torch.randn_like(v) for k, v in module.state_dict().items()}
        filters = {f"{k.removesuffix('weight')}resample_filter": FILTER for k in tensors if "conv0.weight" in k}
        made.append(tensors | filters)
    return made[0], made[1]


def content(**changes: Any) -> dict[str, Any]:
    """A whole small pickle's content; G_ema is not G."""
    sizes = SIZES | {k: changes.pop(k) for k in ("c_dim", "img_channels") if k in changes}
    kind = {"c_dim": sizes["c_dim"], "channels": sizes["img_channels"]}
    (g, d), (raw, _) = state(**kind), state(**kind, seed=1)
    return {
        "G": generator(sizes, raw),
        "D": discriminator(sizes, d),
        "G_ema": generator(sizes, g),
        "training_set_kwargs": easy({"class_name": "training.dataset.ImageFolderDataset", "path": "/a/cats.zip"}),
        "augment_pipe": None,
        **changes,
    }


def eqgan(seed: int = 0) -> dict[str, Tensor]:
    """State of a small G with SELs under the released code's names."""
    g, _ = state(seed=seed)
    backbone, _ = stylegan2.build(stylegan2.Options(8, 8, 2, channel_base=128, channel_max=8), 32, 0)
    options = parse(sel.Options, {"profile": "release", **sel.PROFILES["release"], "heatmaps": RELEASE}, "test")
    encoder = sel.encoder(backbone.sites, 32, options)
    assert isinstance(encoder, sel.SelEncoder)
    own = encoder.state_dict()
    return g | {theirs: own[ours] for ours, theirs in sel.reference_names(encoder).items()}
