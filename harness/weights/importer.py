"""Published StyleGAN2 networks as checkpoints: pickle in, safetensors with a resolved config out.

Sizes are read off the tensors; what tensors can't tell (clamp, minibatch group, learning-rate
multiplier) off the recorded arguments. Every name and shape must be met by the networks built from
that, so that what is imported is the published function and not nearly it.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbones import stylegan2
from harness import disk
from harness.errors import UserError, legible
from harness.experiment import loader
from harness.experiment.parse import parse_trial, to_plain
from harness.experiment.spec import Trial
from harness.method.generator import SpatialGenerator
from harness.pickles import Refused
from harness.store import checkpoint
from harness.variants import sel
from harness.weights.published import Network, Published, mapping, read

SHOWN = 3  # of many names, this many are printed

OPTIONS_G = {
    "lr_multiplier": "mapping_lr_mult",
    "w_avg_beta": "w_avg_beta",
    "conv_clamp": "conv_clamp",
    "num_fp16_res": "num_fp16_res",
}
OPTIONS_D = {"mbstd_group_size": "mbstd_group"}
DEFAULTS: dict[str, Any] = {"num_fp16_res": 0}
"""Of arguments that a file doesn't record, where they aren't those of `stylegan2.Options`."""
MUST_G: dict[str, Any] = {"activation": "lrelu", "architecture": "skip", "use_noise": True}
MUST_D: dict[str, Any] = {"activation": "lrelu", "lr_multiplier": 0.01}
# fmt: off
TOLD_BY_TENSORS = frozenset((
    "z_dim", "c_dim", "w_dim", "img_resolution", "img_channels", "num_layers", "num_ws", "channel_base", "channel_max",
    "cmap_dim", "architecture", "embed_features", "layer_features", "mbstd_num_channels", "resample_filter", "use_sel",
    "conv_clamp", "num_fp16_res",
))
# fmt: on
"""Arguments that need no reading: a tensor's shape tells, or G tells for both networks."""


@dataclass(frozen=True)
class Imported:
    """`file`, the checkpoint; `trial`, its resolved config; `networks`, which were in the pickle; `notes`, what
    could not be mapped, a line each."""

    file: Path
    trial: Trial
    resolution: int
    networks: dict[str, int]  # name -> parameters
    notes: list[str]


def import_weights(path: Path, out: Path) -> Imported:
    """Turn the pickle `path` into the checkpoint file `out` (`*.safetensors`), or into one in folder `out`
    as a trial keeps it. Nothing in the pickle is executed. UserError where it can't be mapped whole."""
    if out.absolute() == path.absolute():
        raise UserError(f"{out}: is the pickle itself; choose another --out")
    try:
        published = read(path)
    except Refused as e:
        raise UserError(f"{path}: not a StyleGAN2 pickle that can be imported: {e}") from None
    except OSError as e:
        raise UserError(f"{path}: not readable ({e.strerror}); give a network pickle") from None
    generators = {key: published.networks[key] for key in ("G_ema", "G") if key in published.networks}
    if not generators or "D" not in published.networks:
        lacks = "D" if generators else "G"
        raise UserError(f"{path}: holds no {lacks}; scoring needs a generator and its discriminator")
    d = published.networks["D"]
    notes: list[str] = []
    resolution, classes, raw = describe(published, str(path), notes)
    trial = parse_trial(raw, str(path))
    empty_g, empty_d = _build(trial, resolution, classes, str(path))
    tensors: dict[str, Tensor] = {}
    for key, net in [*generators.items(), ("D", d)]:
        own = _own(net, empty_d if key == "D" else empty_g, f"{path}: {key}", notes)
        tensors |= {f"{key.lower()}/{name}": t for name, t in own.items()}
    notes = list(dict.fromkeys(notes))  # G and G_ema tell the same
    notes += [f"{legible(key)}: not imported" for key, value in published.extras.items() if _left_out(key, value)]
    file = _write(out, tensors, path, trial, notes)
    counts = {key: sum(t.numel() for t in net.tensors.values()) for key, net in published.networks.items()}
    return Imported(file, trial, resolution, counts, notes)


def told(made: Imported, path: Path) -> list[str]:
    """What the pickle `path` held, what was left behind, and how the checkpoint is scored: a line each."""
    parts = " + ".join([made.trial.backbone.name, *(v.name for v in made.trial.variants)])
    kind = "conditional" if made.trial.conditional else "unconditional"
    images = made.trial.dataset.options.path
    return [
        f"{path}: {parts}, {made.resolution}x{made.resolution}, {kind}",
        *(f"  {name}: {count:,} numbers, all names and shapes met" for name, count in made.networks.items()),
        *(f"  {note}" for note in made.notes),
        f"{made.file}: score it with: nashboard eval {made.file} --set dataset.path=FILE (recorded: {images})",
    ]


def describe(published: Published, place: str, notes: list[str]) -> tuple[int, int, dict[str, Any]]:
    """Resolution, number of classes and the raw trial. Adds to `notes` what is not known here."""
    g = next(published.networks[key] for key in ("G_ema", "G") if key in published.networks)
    d = published.networks["D"]
    blocks = [int(m[1]) for name in g.tensors if (m := re.fullmatch(r"synthesis\.b(\d{1,4})\.conv1\.weight", name))]
    resolution = max(blocks, default=0)
    if blocks and sorted(blocks) != [2**i for i in range(2, 2 + len(blocks))] or resolution < 8:
        raise UserError(f"{place}: {g.class_name}: has no blocks from 4x4 up; only StyleGAN2 networks can be imported")
    channels = _shape(g, f"synthesis.b{resolution}.torgb.weight", place)[0]
    if channels not in (1, 3):
        raise UserError(
            f"{place}: its images have {channels} channels; only networks of grey or colour images are known"
        )
    classes = _shape(g, "mapping.embed.weight", place)[1] if "mapping.embed.weight" in g.tensors else 0
    variants = {"sel": {"profile": "release"}} if any(".sel." in name for name in g.tensors) else {}
    raw = {
        "dataset": _dataset(published.extras.get("training_set_kwargs"), resolution, channels),
        "backbone": {"name": "stylegan2", **_sizes(g, d, blocks, classes, place), **_arguments(g, d, place, notes)},
        "conditional": classes > 0,
        "variants": variants,
        "train": {},
        "eval": {"metrics": {"fid": {}, "disequilibrium": {}}},
    }
    return resolution, classes, raw


def _sizes(g: Network, d: Network, blocks: list[int], classes: int, place: str) -> dict[str, Any]:
    """What the shapes tell of `stylegan2.Options`."""
    channels = {r: _shape(g, f"synthesis.b{r}.conv1.weight", place)[0] for r in blocks}
    w_dim, fan_in = _shape(g, "mapping.fc0.weight", place)
    epilogue = _shape(d, "b4.conv.weight", place)
    return {
        "z_dim": fan_in - (w_dim if classes else 0),
        "w_dim": w_dim,
        "mapping_layers": sum(bool(re.fullmatch(r"mapping\.fc\d+\.weight", name)) for name in g.tensors),
        # the least base and limit that give these channels
        "channel_base": max(r * c for r, c in channels.items()),
        "channel_max": channels[4],
        "architecture": "resnet" if any(name.endswith(".skip.weight") for name in d.tensors) else "orig",
        "mbstd_channels": epilogue[1] - epilogue[0],
    }


def _arguments(g: Network, d: Network, place: str, notes: list[str]) -> dict[str, Any]:
    """What the recorded arguments tell of `stylegan2.Options`."""
    options = dict(DEFAULTS)
    for key, net, known, must in (("G", g, OPTIONS_G, MUST_G), ("D", d, OPTIONS_D, MUST_D)):
        for name, value in net.arguments.items():
            last = name.rsplit(".", 1)[-1]
            shown = f"{key}: {legible(name)} = {legible(str(value) if _scalar(value) else type(value).__name__)}"
            if last in must and value not in (must[last], None):
                raise UserError(f"{place}: {shown}: only {must[last]!r} can be imported")
            if last in known:
                if value is not None and type(value) not in (int, float):
                    raise UserError(f"{place}: {shown}: must be a number")
                if value is not None or last in ("conv_clamp", "mbstd_group_size"):  # None turns these off
                    options[known[last]] = value
            elif last not in must and last not in TOLD_BY_TENSORS:
                notes.append(f"{shown}: not known here, ignored")
    clamps = [next((v for k, v in n.arguments.items() if k.endswith("conv_clamp")), None) for n in (g, d)]
    if clamps[0] != clamps[1]:
        raise UserError(f"{place}: conv_clamp of G and D differ; only networks with the same clamp can be imported")
    return options


def _scalar(value: Any) -> bool:
    return value is None or type(value) in (bool, int, float, str)


def _dataset(recorded: Any, resolution: int, channels: int) -> dict[str, Any]:
    """The data that the file says it was trained on: a name to look for, without the folders of its author."""
    told = mapping(recorded) or {}
    path = told.get("path")
    name = re.split(r"[/\\]", path.rstrip("/\\"))[-1] if isinstance(path, str) else ""
    return {
        "name": "image_zip",
        "path": name if name.isprintable() and name not in ("", ".", "..") else "training-images.zip",
        "resolution": resolution,
        "xflip": told.get("xflip") is True,
        **({"channels": channels} if channels != 3 else {}),
    }


def _left_out(key: str, value: Any) -> bool:
    return key != "training_set_kwargs" and value is not None


def _shape(net: Network, name: str, place: str) -> tuple[int, ...]:
    rank = 2 if ".fc" in name or "embed" in name else 4
    if name not in net.tensors:
        raise UserError(f"{place}: {net.class_name}: {name}: missing; only StyleGAN2 networks can be imported")
    if net.tensors[name].ndim != rank:
        raise UserError(f"{place}: {name}: has {net.tensors[name].ndim} dimensions: must have {rank}")
    return tuple(net.tensors[name].shape)


# ── names ────────────────────────────────────────────────────────────────────


def _build(trial: Trial, resolution: int, classes: int, place: str) -> tuple[SpatialGenerator, torch.nn.Module]:
    """The trial's networks as shapes without memory."""
    options = trial.backbone.options
    try:
        with torch.device("meta"):
            channels = trial.dataset.options.channels
            g, d = stylegan2.build(options, resolution, classes, channels)
            placed = trial.variant("sel")
            return SpatialGenerator(g, sel.encoder(g.sites, resolution, placed) if placed else None), d
    except ValueError as e:
        raise UserError(f"{place}: stylegan2: {e}") from None


def _own(net: Network, empty: torch.nn.Module, place: str, notes: list[str]) -> dict[str, Tensor]:
    """The network's tensors under our names, all of them met, of the right shape and finite. A UserError
    lists what is not."""
    names, expected = _names(empty), empty.state_dict()
    given = {name: t for name, t in net.tensors.items() if stylegan2.own_name(name) is not None}
    _check_filters(net, place)
    if names.get("mapping.w_avg") and "mapping.w_avg" not in given and _keeps_no_average(net):
        given["mapping.w_avg"] = torch.zeros(expected[names["mapping.w_avg"]].shape)
        notes.append("mapping.w_avg: the network keeps none, so it can't be truncated (psi 1 only)")
    unused = [name for name in given if name not in names and _UNUSED.match(name)]
    if unused and not any(".sel." in name for name in given):
        notes.append(f"{_some('of a network without SEL, not imported', unused)}")
        given = {name: t for name, t in given.items() if name not in unused}
    problems = (
        _some("missing", [n for n in names if n not in given]),
        _some("unknown", [n for n in given if n not in names]),
        _some(
            "of another shape",
            [
                f"{n} {_size(t)} instead of {_size(expected[names[n]])}"
                for n, t in given.items()
                if n in names and t.shape != expected[names[n]].shape
            ],
        ),
        _some("not finite", [n for n, t in given.items() if not t.isfinite().all()]),
    )
    if any(problems):
        raise UserError(f"{place} ({net.class_name}) is not the network it seems: {'; '.join(filter(None, problems))}")
    return {names[name]: t for name, t in given.items()}


_UNUSED = re.compile(r"synthesis\.hm_conv\d_b\d+\.")  # EqGAN's code builds these even where its SEL is off


def _names(empty: torch.nn.Module) -> dict[str, str]:
    """Names in the pickle -> names in our state, all that the network needs."""
    if not isinstance(empty, SpatialGenerator):
        return {name: name for name in empty.state_dict()}
    names = {name: f"backbone.{name}" for name in empty.backbone.state_dict()}
    if isinstance(empty.encoder, sel.SelEncoder):
        names |= {theirs: f"encoder.{ours}" for ours, theirs in sel.reference_names(empty.encoder).items()}
    return names


def _check_filters(net: Network, place: str) -> None:
    """What is a constant here must have its value there."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    for name, tensor in net.tensors.items():
        same = tensor.shape == (4, 4) and torch.allclose(tensor, torch.outer(taps, taps) / 64, rtol=0, atol=1e-6)
        if stylegan2.own_name(name) is None and not same:
            raise UserError(f"{place}: {legible(name)}: only networks with the filter 1, 3, 3, 1 can be imported")


def _keeps_no_average(net: Network) -> bool:
    return net.arguments.get("mapping_kwargs.w_avg_beta", 0) is None


def _some(what: str, names: list[str]) -> str:
    """ "missing: a, b, c and 5 more", or nothing where there are none."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{what}: {', '.join(legible(n) for n in names[:SHOWN])}{more}" if names else ""


def _size(t: Tensor) -> str:
    return "x".join(str(n) for n in t.shape) or "one number"


# ── output ───────────────────────────────────────────────────────────────────


def _write(out: Path, tensors: dict[str, Tensor], path: Path, trial: Trial, notes: list[str]) -> Path:
    """The checkpoint, as a file or in a folder like a trial's."""
    with path.open("rb") as f:
        source = {"file": path.name, "sha256": hashlib.file_digest(f, "sha256").hexdigest(), "notes": notes}
    meta = {
        "config": to_plain(trial),
        "nimg": _images_seen(path),
        "journal_offset": 0,
        "fingerprint": None,  # the data is not known, only what it was called
        "imported": source,
    }
    try:
        if out.suffix == ".safetensors":
            disk.write_atomic(out, checkpoint.encode(tensors, meta))
            return out
        if any(out.glob("checkpoints/*.safetensors")):
            raise UserError(f"{out}: holds checkpoints already; give a new folder, or a .safetensors file")
        disk.write_atomic(out / "config.yaml", loader.dump_yaml(meta["config"]).encode())
        return checkpoint.save(out / "checkpoints", tensors, meta)
    except OSError as e:
        raise UserError(f"{out}: not writable ({e.strerror}); choose another --out") from None


def _images_seen(path: Path) -> int:
    """Files of the reference are called network-snapshot-<kimg>.pkl; 0 where the name doesn't tell."""
    name = re.fullmatch(r"network-snapshot-(\d{6})\.pkl", path.name)
    return 1000 * int(name[1]) if name else 0
